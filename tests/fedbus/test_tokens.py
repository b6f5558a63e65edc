"""One-time tokens: who holds one gets certificates for keys it has made: once, and nobody else."""

import stat
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from broker_config.authority import Authority
from broker_config.files import BrokerFiles, read_entries
from broker_config.running import free_port, running_secure_broker
from device_sdk.identity import read_keys
from device_sdk.redeem import Token, read_token, redeem, request_of
from fedbus.__main__ import main
from fedbus.enrolment import ENROLMENT_PUBLIC
from fedbus.key_files import read_key
from fedbus.listener import Listener
from fedbus.tokens import LINGER_S, Desk
from fedbus.waiting import waiting_in
from fedbus.workplace import Workplace
from protocol.errors import ConfigError, RemoteProtocolError
from protocol.identity import identity_public, open_certificate
from protocol.joining import Reply, open_reply, private_pem, tls_public
from protocol.topics import DEFAULT_PREFIX
from tests.support.mosquitto import require_mosquitto
from transport.settings import Tls

OWN = {
    name: bytes([number]) * 32 for number, name in enumerate(("identity", "tls", "epoch_secret"))
}
OTHER = {name: bytes([9]) * 32 for name in OWN}
ROOT = Path(__file__).parents[2]


def init(folder: Path, *options: str) -> Workplace:
    place = Workplace(folder / "farm")
    assert main(["init", str(place.directory), "--scheme", "none", *options]) == 0
    return place


def carried(place: Workplace, device: str = "ada") -> Path:
    return place.carried(device).with_name(f"{device}.token")


@pytest.fixture(scope="module")
def farm(tmp_path_factory: pytest.TempPathFactory) -> Workplace:
    return init(tmp_path_factory.mktemp("tokens"))


def made(place: Workplace, device: str) -> Token:
    assert main(["enrol", "token", device, "--dir", str(place.directory)]) == 0
    return read_token(carried(place, device))


def reply(place: Workplace, token: Token, own: dict[str, bytes] = OWN) -> Reply:
    said = Desk(place).asked(f"join-{token.device}", request_of(token, own))
    return open_reply(said, token.token, own["identity"])


def test_a_token_gets_certificates_for_the_devices_own_keys(farm: Workplace) -> None:
    token = made(farm, "ada")
    assert stat.S_IMODE(carried(farm).stat().st_mode) == 0o600
    given = reply(farm, token)
    assert given.problem == ""
    certificate = open_certificate(given.certificate, read_key(farm.enrolment / ENROLMENT_PUBLIC))
    assert certificate.identity == identity_public(OWN["identity"])
    [issued] = Authority.open(farm.ca).issued("ada")
    assert issued.public_key().public_bytes_raw() == tls_public(OWN["tls"])  # type: ignore[union-attr] # Ed25519
    assert Authority.open(farm.ca).names().count("ada") == 1


def test_the_same_device_may_ask_again_and_another_may_not(farm: Workplace) -> None:
    token = made(farm, "bob")
    first = reply(farm, token)
    assert reply(farm, token) == first
    assert "another identity" in reply(farm, token, OTHER).problem
    assert len(Authority.open(farm.ca).issued("bob")) == 1


def test_a_token_that_others_may_read_is_redeemed_on_neither_side(tmp_path: Path) -> None:
    place = init(tmp_path)
    token, own = made(place, "gil"), tmp_path / "device"
    carried(place, "gil").chmod(0o644)
    with pytest.raises(ConfigError, match=r"gil\.token: others may read it: chmod 600"):
        redeem(carried(place, "gil"), own, 0.0)
    assert not own.exists()
    (place.enrolment / "tokens" / "gil.json").chmod(0o640)
    with pytest.raises(ConfigError, match=r"gil\.json: others may read it: chmod 600"):
        reply(place, token)


def test_keys_of_a_first_try_that_others_may_read_are_not_taken(farm: Workplace) -> None:
    made(farm, "hal")
    own = farm.directory / "hal"
    own.mkdir()
    (own / "joining.json").write_text("{}")
    (own / "joining.json").chmod(0o644)
    with pytest.raises(ConfigError, match=r"joining\.json: others may read it: chmod 600"):
        redeem(carried(farm, "hal"), own, 0.0)


def test_a_request_that_is_not_the_tokens_gets_no_answer(farm: Workplace) -> None:
    token = made(farm, "cleo")
    desk = Desk(farm)
    for account, data in (
        ("join-cleo", b"garbage"),
        ("join-dora", request_of(token, OWN)),
        ("cleo", request_of(token, OWN)),
        ("join-cleo", request_of(replace(token, token=bytes(32)), OWN)),
        ("join-nobody", request_of(replace(token, device="nobody"), OWN)),
    ):
        with pytest.raises(RemoteProtocolError):
            desk.asked(account, data)
    assert "cleo" in desk.outstanding


def test_a_reply_that_somebody_changed_is_not_believed(farm: Workplace) -> None:
    token = made(farm, "dora")
    said = Desk(farm).asked("join-dora", request_of(token, OWN))
    changed = said.replace(read_key(farm.enrolment / ENROLMENT_PUBLIC), bytes(32))
    for data, identity in ((changed, OWN["identity"]), (said, OTHER["identity"]), (b"", b"x" * 32)):
        with pytest.raises(RemoteProtocolError):
            open_reply(data, token.token, identity)


def test_a_token_that_is_over_gets_nothing_and_its_account_and_file_go(farm: Workplace) -> None:
    token = made(farm, "emil")
    entries = BrokerFiles(farm.broker).passwords
    assert "join-emil" in read_entries(entries)
    later = Desk(farm, now=lambda: 4e9)
    given = open_reply(
        later.asked("join-emil", request_of(token, OWN)), token.token, OWN["identity"]
    )
    assert "over" in given.problem
    assert given.certificate == b""
    later.tidy()
    assert "join-emil" not in read_entries(entries)
    assert not carried(farm, "emil").exists()
    assert "monitor" in read_entries(entries)


def test_account_and_file_of_a_redeemed_token_stay_a_while_and_go(farm: Workplace) -> None:
    token = made(farm, "finn")
    entries = BrokerFiles(farm.broker).passwords
    Desk(farm, now=lambda: 1000.0).asked("join-finn", request_of(token, OWN))
    Desk(farm, now=lambda: 999.0 + LINGER_S).tidy()
    assert "join-finn" in read_entries(entries)
    assert carried(farm, "finn").exists(), "an answer that got lost can be asked for again"
    Desk(farm, now=lambda: 1001.0 + LINGER_S).tidy()
    assert "join-finn" not in read_entries(entries)
    assert not carried(farm, "finn").exists()


@pytest.mark.parametrize("name", ["device-1", "operator", "join-x", "a/b"])
def test_a_name_that_is_taken_or_reserved_gets_no_token(
    farm: Workplace, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["enrol", "token", name, "--dir", str(farm.directory)]) == 2
    assert name in capsys.readouterr().err


def test_where_updates_are_masked_the_device_waits_for_the_next_epoch(tmp_path: Path) -> None:
    place = Workplace(tmp_path / "farm")
    assert main(["init", str(place.directory)]) == 0
    assert main(["enrol", "--token", "ada", "--dir", str(place.directory)]) == 0
    token = read_token(carried(place))
    assert (token.cohort, token.epoch) == ("all", 2)
    assert reply(place, token).problem == ""
    [member] = waiting_in(place.enrolment / "waiting" / "all")
    assert (member.device, member.identity) == ("ada", identity_public(OWN["identity"]))


def test_a_key_in_pem_is_the_one_it_was_made_from() -> None:
    from cryptography.hazmat.primitives.serialization import load_pem_private_key  # noqa: PLC0415

    key = load_pem_private_key(private_pem(OWN["tls"]), None)
    assert key.public_key().public_bytes_raw() == tls_public(OWN["tls"])  # type: ignore[union-attr] # Ed25519


@pytest.mark.broker
def test_a_device_redeems_over_a_real_broker_and_gets_in_with_what_it_got(tmp_path: Path) -> None:
    require_mosquitto()
    ports = {"--port": free_port(), "--password-port": free_port()}
    place = init(tmp_path, *(str(part) for pair in ports.items() for part in pair))
    made(place, "ada")
    own = tmp_path / "device"
    command = [sys.executable, "-m", "device_sdk", "redeem", "--token", str(carried(place))]
    with running_secure_broker(place.broker):
        with subprocess.Popen(
            [*command, "--dir", str(own), "--deadline", "40"], cwd=ROOT, stdout=subprocess.PIPE
        ) as device:
            assert main(["enrol", "redeem", "--dir", str(place.directory)]) == 0
            assert device.wait(40) == 0
        assert not carried(place).exists()
        assert {path.name for path in own.iterdir()} == {
            *("keys.json", "device.crt", "device.key", "ca.crt", "device.toml")
        }
        assert stat.S_IMODE((own / "device.key").stat().st_mode) == 0o600
        keys = read_keys(own / "keys.json", task="digits", device="ada")
        public = read_key(place.enrolment / ENROLMENT_PUBLIC)
        assert open_certificate(keys.certificate, public).device == "ada"
        listener = Listener(
            host="127.0.0.1",
            port=ports["--port"],
            prefix=DEFAULT_PREFIX,
            task="digits",
            tls=Tls(own / "ca.crt", own / "device.crt", own / "device.key"),
        )
        with listener:
            assert listener.listen_until(lambda: listener.connected, 10.0), listener.problem
