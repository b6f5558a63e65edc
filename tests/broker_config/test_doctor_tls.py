"""`fedbus doctor` over TLS: a good broker passes, each fault is found on a broker that has it."""

import re
import socket
import ssl
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Final

import pytest
from cryptography import x509

from broker_config.accounts import AGGREGATOR
from broker_config.authority import Authority
from broker_config.checks import clock, reach
from broker_config.checks.findings import Finding, Verdict
from broker_config.checks.visitors import Side
from broker_config.files import BrokerFiles, write_secure_broker
from broker_config.mosquitto import Ports
from broker_config.private_files import replace as write
from broker_config.running import free_port, running_secure_broker
from fedbus.__main__ import main
from fedbus.workplace import Workplace
from protocol.topics import DEFAULT_PREFIX, Topics
from tests.support.mosquitto import require_mosquitto
from transport import BrokerSettings, Tls

TOPICS: Final = Topics(DEFAULT_PREFIX, "doctor-test")
DEVICE: Final = "pump-1"
DAY_S: Final = 86_400


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority.create(tmp_path / "ca", "test")


@contextmanager
def secure(
    folder: Path, authority: Authority, edit: Callable[[str], str] = str, days: int = 365
) -> Iterator[int]:
    """Run the shipped mosquitto, after ``edit`` has spoiled its configuration; give its port."""
    require_mosquitto()
    port, directory = free_port(), folder / "broker"
    ports = Ports(port, 0, 0)
    files = write_secure_broker(
        directory, authority, ["127.0.0.1"], ports=ports, listen="127.0.0.1"
    )
    own = authority.issue_server("broker", ["127.0.0.1"], days=days)
    write(files.certificate, own.certificate)
    write(files.key, own.key)
    files.config.write_text(edit(files.config.read_text()))
    with running_secure_broker(directory):
        yield port


def side(folder: Path, authority: Authority, port: int, account: str, **tls: Path) -> Side:
    """Return a side with a certificate of its own."""
    issued = authority.issue_client(tls.pop("named", Path(account)).name)
    certificate, key = folder / f"{account}.crt", folder / f"{account}.key"
    write(certificate, issued.certificate)
    write(key, issued.key)
    ca = tls.get("ca", BrokerFiles(folder / "broker").authority)
    settings = BrokerSettings(port=port, client_id="x", tls=Tls(ca, certificate, key))
    return Side("aggregator" if account == AGGREGATOR else "device", account, settings)


def faults(found: list[Finding]) -> dict[str, str]:
    bad = {Verdict.WARN, Verdict.FAIL}
    return {each.check: each.found for each in found if each.verdict in bad and each.fix}


@pytest.mark.broker
def test_the_folder_of_init_is_all_that_doctor_needs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    require_mosquitto()
    place = Workplace(tmp_path / "fed")
    ports = ["--port", str(free_port()), "--password-port", "0"]
    assert main(["init", str(place.directory), *ports]) == 0
    with running_secure_broker(place.broker):
        assert main(["doctor", str(place.directory)]) == 0
    assert main(["doctor", str(place.directory)]) == 1  # its broker is gone
    said = capsys.readouterr().out
    for check in ("tls", "old-tls", "certificate-broker", "certificate-device", "own-topics"):
        assert re.search(f"ok +{check} ", said), check
    assert re.search("fail +connect-aggregator ", said)


@pytest.mark.broker
def test_a_broker_of_another_authority_is_not_trusted(tmp_path: Path, authority: Authority) -> None:
    other = Authority.create(tmp_path / "other", "test")
    with secure(tmp_path, authority) as port:
        fooled = side(tmp_path, other, port, DEVICE, ca=tmp_path / "other" / "ca.crt")
        found = [*reach.check_tls(fooled), reach.check_connect(fooled)]
    assert faults(found).keys() == {"tls", "connect-device"}
    assert "do not trust" in faults(found)["tls"]


@pytest.mark.broker
def test_a_certificate_without_our_name_for_the_broker_is_told(
    tmp_path: Path, authority: Authority
) -> None:
    with secure(tmp_path, authority) as port:
        device = side(tmp_path, authority, port, DEVICE)
        elsewhere = replace(device, settings=replace(device.settings, host="localhost"))
        found = reach.check_tls(elsewhere)
    assert faults(found).keys() == {"tls"}


@pytest.mark.broker
def test_an_open_door_and_a_certificate_that_ends_soon_are_told(
    tmp_path: Path, authority: Authority
) -> None:
    def open_up(config: str) -> str:
        assert "require_certificate true" in config
        return (
            config.replace("require_certificate true", "require_certificate false")
            .replace("allow_anonymous false", "allow_anonymous true")
            .replace("use_identity_as_username true\n", "")
        )

    with secure(tmp_path, authority, open_up, days=10) as port:
        device = side(tmp_path, authority, port, DEVICE)
        found = [*reach.check_tls(device), *reach.check_strangers(device)]
    assert faults(found).keys() == {"certificate-broker", "strangers"}


def test_a_listener_that_takes_tls_1_1_is_found_out(tmp_path: Path, authority: Authority) -> None:
    """A listener of Python's, for Debian's mosquitto cannot be made to."""
    issued = authority.issue_server("broker", ["127.0.0.1"])
    write(tmp_path / "crt", issued.certificate)
    write(tmp_path / "key", issued.key)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        context.minimum_version = ssl.TLSVersion.TLSv1
    context.set_ciphers("ALL:@SECLEVEL=0")
    context.load_cert_chain(tmp_path / "crt", tmp_path / "key")
    settings = BrokerSettings(client_id="x", tls=Tls(tmp_path / "ca" / "ca.crt"))
    with socket.create_server(("127.0.0.1", 0)) as door:
        keeper = threading.Thread(target=_shake_hands, args=(door, context), daemon=True)
        keeper.start()
        here = replace(settings, port=door.getsockname()[1])
        found = reach.check_tls(Side("device", DEVICE, here))
        keeper.join(5)
    assert faults(found) == {"old-tls": "the broker takes TLSv1.1, which is broken"}


def _shake_hands(door: socket.socket, context: ssl.SSLContext) -> None:
    for _ in range(2):
        wire, _ = door.accept()
        with context.wrap_socket(wire, server_side=True):
            pass


def test_a_certificate_for_another_name_is_told(tmp_path: Path, authority: Authority) -> None:
    stray = side(tmp_path, authority, 1, DEVICE, named=Path("pump-2"))
    found = reach.check_own_certificate(stray)
    assert found is not None
    assert found.verdict is Verdict.FAIL
    assert "CN=pump-2" in found.found


@pytest.mark.parametrize(
    ("days", "verdict", "word"),
    [
        (-5, Verdict.FAIL, "not valid yet"),
        (0, Verdict.OK, "lasts"),
        (300, Verdict.OK, "lasts"),
        (340, Verdict.WARN, "lasts"),
        (366, Verdict.FAIL, "ended"),
    ],
)
def test_a_certificate_is_judged_by_this_machines_clock(
    authority: Authority, days: int, verdict: Verdict, word: str
) -> None:
    issued = authority.issue_client(DEVICE, days=365)
    certificate = x509.load_pem_x509_certificate(issued.certificate)
    start = certificate.not_valid_before_utc.timestamp() if days < 0 else time.time()
    found = reach.check_lifetime("c", certificate, start + days * DAY_S)
    assert (found.verdict, word in found.found) == (verdict, True)


def test_a_network_without_tls_fails_and_loopback_needs_none() -> None:
    settings = BrokerSettings(client_id="x", host="192.0.2.1")
    assert [each.verdict for each in reach.check_tls(Side("device", DEVICE, settings))] == [
        Verdict.FAIL
    ]
    here = Side("device", DEVICE, replace(settings, host="localhost"))
    assert [each.verdict for each in reach.check_tls(here)] == [Verdict.OK]


@pytest.mark.parametrize(
    ("state", "verdict"),
    [(0, Verdict.OK), (1, Verdict.OK), (5, Verdict.WARN), (None, Verdict.SKIP)],
)
def test_a_clock_that_nothing_keeps_right_is_told(state: int | None, verdict: Verdict) -> None:
    assert clock.check_clock(lambda: state).verdict is verdict


def test_the_kernel_can_be_asked_for_its_clock() -> None:
    assert clock.kernel_state() in {None, *range(6)}
