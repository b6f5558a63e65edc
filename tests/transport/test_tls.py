"""TLS: what settings are refused, what a refusal says, and that no handshake holds up a loop."""

import socket
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization

from broker_config.authority import Authority, Issued
from broker_config.files import write_secure_broker
from broker_config.mosquitto import Ports
from broker_config.revoke import revoke
from broker_config.running import free_port, running_secure_broker
from protocol.errors import ConfigError
from tests.support.mosquitto import OPEN, Mosquitto, require_mosquitto
from tests.transport.paho_bus import PahoBus
from transport import Refused, Will
from transport.config import BrokerConfig
from transport.interface import Connected, Event


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tls")


@pytest.fixture(scope="module")
def authority(folder: Path) -> Authority:
    return Authority.create(folder / "ca", "test")


@pytest.fixture(scope="module")
def broker(folder: Path, authority: Authority) -> Iterator[int]:
    require_mosquitto()
    ports = Ports(free_port(), 0, 0)
    write_secure_broker(
        folder / "broker", authority, ["127.0.0.1"], ports=ports, listen="127.0.0.1"
    )
    with running_secure_broker(folder / "broker"):
        yield ports.tls


def config(folder: Path, port: int, issued: Issued | None, **given: Any) -> BrokerConfig:
    """How a device with these credentials connects."""
    files = {}
    if issued is not None:
        (folder / "own.crt").write_bytes(issued.certificate)
        (folder / "own.key").write_bytes(issued.key)
        (folder / "own.key").chmod(0o600)
        files = {
            "certificate_file": str(folder / "own.crt"),
            "key_file": str(folder / "own.key"),
        }
    return BrokerConfig(port=port, **{"ca_file": str(folder / "ca" / "ca.crt"), **files, **given})


def first_event(settings: BrokerConfig) -> Event:
    """What becomes of the first attempt to connect."""
    given = settings.settings("me", username="me", will=Will("w", b""), window=20, queue=100)
    bus = PahoBus(settings.port)
    client = bus.client(replace(given, will=None))
    client.transport.connect()
    bus.until(lambda: bool(client.events))
    bus.close()
    return client.events[0]


@pytest.mark.broker
def test_with_a_certificate_of_the_brokers_authority_one_gets_in(
    folder: Path, authority: Authority, broker: int
) -> None:
    for tls in ("auto", "1.2", "1.3"):
        event = first_event(config(folder, broker, authority.issue_client("a"), tls=tls))
        assert isinstance(event, Connected), (tls, event)


@pytest.mark.broker
def test_a_refusal_says_what_is_wrong_with_the_certificate(
    folder: Path, authority: Authority, broker: int, tmp_path: Path
) -> None:
    past = datetime.now(UTC) - timedelta(days=9)
    other = Authority.create(tmp_path / "ca", "another")
    revoked = authority.issue_client("revoked")
    revoke(authority, "revoked", folder / "broker")
    for issued, reason in [
        (None, "wants a certificate"),
        (authority.issue_client("a", days=2, now=past), "has expired"),
        (other.issue_client("a"), "does not know"),
        (revoked, "was revoked"),
    ]:
        event = first_event(config(folder, broker, issued))
        assert isinstance(event, Refused)
        assert reason in event.reason
        assert not event.permanent


@pytest.mark.broker
def test_a_broker_of_another_authority_or_name_is_not_trusted(
    folder: Path, authority: Authority, broker: int, tmp_path: Path
) -> None:
    other = Authority.create(tmp_path / "ca", "another")
    own = authority.issue_client("a")
    for given in ({"ca_file": str(other.directory / "ca.crt")}, {"host": "localhost"}):
        event = first_event(config(folder, broker, own, **given))
        assert isinstance(event, Refused)
        assert "we do not trust the broker" in event.reason


@pytest.mark.broker
def test_a_device_cannot_play_the_broker(
    folder: Path, authority: Authority, tmp_path: Path
) -> None:
    """Its certificate is for clients only."""
    require_mosquitto()
    thief, port = authority.issue_client("thief"), free_port()
    (tmp_path / "thief.crt").write_bytes(thief.certificate)
    (tmp_path / "thief.key").write_bytes(thief.key)
    listener = f"listener {port}\ncertfile {tmp_path}/thief.crt\nkeyfile {tmp_path}/thief.key\n"
    with Mosquitto(tmp_path, OPEN + listener):
        event = first_event(config(folder, port, authority.issue_client("a")))
    assert isinstance(event, Refused)
    assert "unsuitable certificate purpose" in event.reason


def test_a_peer_that_never_answers_holds_up_nobody(folder: Path, authority: Authority) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = int(silent.getsockname()[1])
        settings = config(folder, port, authority.issue_client("a")).settings(
            "me", username="me", will=Will("w", b""), window=20, queue=100
        )
        bus = PahoBus(port)
        client = bus.client(replace(settings, connect_timeout_s=0.3))
        begun = time.monotonic()
        client.transport.connect()
        for _ in range(10):
            bus.loop.wait(0.01)
        assert time.monotonic() - begun < 0.25  # 10 waits of 10 ms, and no handshake in them
        bus.until(lambda: bool(client.events))
        assert time.monotonic() - begun > 0.25
        bus.close()


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ({"tls": "1.1"}, "use auto, none, 1.2 or 1.3"),
        ({"tls": "none", "ca_file": "ca.crt"}, "leave out ca_file"),
        ({"certificate_file": "a.crt"}, "one needs the other"),
        ({"key_file": "a.key"}, "one needs the other"),
        ({"password_file": "p", "host": "10.0.0.7"}, "cross the network to 10.0.0.7 in the clear"),
        ({"password_file": "p", "host": "broker.example"}, "in the clear"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(
    given: dict[str, str], problem: str
) -> None:
    with pytest.raises(ConfigError, match=problem):
        BrokerConfig(**given)  # type: ignore[arg-type]  # keys are parametrised


@pytest.mark.parametrize(
    "given",
    [
        {"host": "::1"},
        {"host": "localhost"},
        {"host": "10.0.0.7", "tls": "none"},
        {"host": "10.0.0.7", "tls": "1.2"},
    ],
)
def test_a_password_goes_where_nobody_listens_or_where_one_insists(given: dict[str, str]) -> None:
    settings = BrokerConfig(**{"password_file": "p", **given})  # type: ignore[arg-type] # as above
    assert settings.password_file


def test_files_that_will_not_do_are_named(folder: Path, authority: Authority) -> None:
    good = config(folder, 1, authority.issue_client("a"))
    (folder / "other.key").write_bytes(authority.issue_client("a").key)
    (folder / "other.key").chmod(0o600)
    (folder / "open.key").write_bytes(authority.issue_client("a").key)
    (folder / "open.key").chmod(0o644)
    (folder / "text").write_text("no PEM")
    cases: list[tuple[dict[str, Any], str]] = [
        ({"ca_file": str(folder / "nowhere")}, "broker.ca_file .*nowhere: no such file"),
        ({"ca_file": str(folder / "text")}, "broker.ca_file .*text: .*PEM"),
        ({"certificate_file": str(folder / "nowhere")}, "broker.certificate_file .*no such file"),
        ({"key_file": str(folder / "nowhere")}, "broker.key_file .*nowhere: No such file"),
        ({"key_file": str(folder / "open.key")}, "broker.key_file .*chmod 600"),
        ({"key_file": str(folder / "other.key")}, "broker.certificate_file.*key values mismatch"),
    ]
    for changed, problem in cases:
        with pytest.raises(ConfigError, match=problem):
            replace(good, **changed).settings(
                "me", username="me", will=Will("w", b""), window=1, queue=1
            )


def test_an_encrypted_key_asks_no_terminal(folder: Path, authority: Authority) -> None:
    issued = authority.issue_client("a")
    key = serialization.load_pem_private_key(issued.key, None)
    locked = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(b"secret"),
    )
    with pytest.raises(ConfigError, match=r"broker\.key_file: is encrypted"):
        config(folder, 1, Issued(issued.certificate, locked)).settings(
            "me", username="me", will=Will("w", b""), window=1, queue=1
        )
