"""Mutual TLS, asked of a real mosquitto on the generated files: who gets in, and what they may."""

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from paho.mqtt.enums import MQTTProtocolVersion

from broker_config.accounts import AGGREGATOR, MONITOR, Rights
from broker_config.authority import Authority, Issued
from broker_config.files import write_accounts, write_secure_broker
from broker_config.mosquitto import Ports
from broker_config.revoke import allow_device, deny_device, reload_broker, revoke
from broker_config.running import Broker, free_port, running_secure_broker
from protocol.errors import ConfigError
from tests.broker_config.bare_client import (
    DEADLINE_S,
    NOBODY,
    NOT_AUTHORIZED,
    V3,
    V5,
    BareClient,
    Login,
)
from tests.support.mosquitto import require_mosquitto

pytestmark = pytest.mark.broker

RIGHTS = Rights("fedbus/1")
END = "fedbus/1/t/plan"
FOREIGN = [
    "fedbus/1/t/dev/b/out",
    "fedbus/1/t/dev/b/state",
    "fedbus/1/t/dev/b/in",
    "fedbus/1/t/dev/a/in",
    "fedbus/1/t/up/0/b",
    "fedbus/1/t/share/a/b",
    "fedbus/1/t/share/b/a",
    "fedbus/1/t/mon/alerts",
    "fedbus/1/t/model/manifest",
]


@dataclass
class Site:
    """A broker with TLS, its authority, and a folder for what clients hold."""

    broker: Broker
    authority: Authority
    ports: Ports
    folder: Path

    def client(
        self,
        name: str,
        issued: Issued | None = None,
        *,
        protocol: MQTTProtocolVersion = V5,
        port: int = 0,
        login: Login = NOBODY,
    ) -> BareClient:
        """Connect with a certificate (a fresh one of ours if none is given)."""
        issued = issued or self.authority.issue_client(name)
        certificate, key = self.folder / f"{name}.crt", self.folder / f"{name}.key"
        certificate.write_bytes(issued.certificate)
        key.write_bytes(issued.key)
        identity = (self.broker.files.authority, certificate, key)
        return BareClient(port or self.ports.tls, protocol=protocol, identity=identity, login=login)

    def stranger(self, *, login: Login = NOBODY, port: int = 0) -> BareClient:
        """Connect without a certificate."""
        identity = (self.broker.files.authority, None, None)
        return BareClient(port or self.ports.tls, identity=identity, login=login)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    require_mosquitto()
    folder = tmp_path_factory.mktemp("tls")
    authority = Authority.create(folder / "ca", "test")
    ports = Ports(free_port(), free_port(), free_port())
    write_secure_broker(
        folder / "broker", authority, ["127.0.0.1"], ports=ports, listen="127.0.0.1"
    )
    clients = folder / "clients"
    clients.mkdir()
    with running_secure_broker(folder / "broker") as broker:
        yield Site(broker, authority, ports, clients)


def reaches(site: Site, sender: BareClient, topic: str, mark: bytes) -> bool:
    """Whether what ``sender`` publishes arrives at the aggregator."""
    with site.client(AGGREGATOR) as aggregator:
        aggregator.subscribe(topic)
        aggregator.subscribe(END)
        sender.publish(topic, mark)
        aggregator.publish(END, mark)
        aggregator.wait_for_message(END, mark)
        return (topic, mark) in aggregator.received


def test_a_certificate_of_ours_opens_the_account_of_its_name(site: Site) -> None:
    with site.client("a") as device:
        assert not device.refused
        assert reaches(site, device, "fedbus/1/t/dev/a/out", b"mine")


def test_without_a_certificate_nobody_gets_in(site: Site) -> None:
    with site.stranger() as nobody:
        assert nobody.refused
    secret = site.broker.files.secret(MONITOR).read_text().strip()
    with site.stranger(login=(MONITOR, secret)) as nobody:
        assert nobody.refused


def test_the_certificate_of_another_authority_opens_nothing(site: Site, tmp_path: Path) -> None:
    other = Authority.create(tmp_path / "ca", "test")  # the same name, on purpose
    with site.client("a", other.issue_client("a")) as forger:
        assert forger.refused


def test_a_certificate_that_has_ended_opens_nothing(site: Site) -> None:
    before = datetime.now(UTC) - timedelta(days=3)
    with site.client("a", site.authority.issue_client("a", days=2, now=before)) as late:
        assert late.refused
    with site.client("a", site.authority.issue_client("a", days=4, now=before)) as in_time:
        assert not in_time.refused


def test_the_certificate_of_a_broker_is_nobodys_way_in(site: Site) -> None:
    with site.client("a", site.authority.issue_server("a", ["127.0.0.1"])) as confused:
        assert confused.refused


def test_a_key_that_the_device_made_itself_is_certified_and_taken(site: Site) -> None:
    key = Ed25519PrivateKey.generate()
    pem = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    issued = Issued(site.authority.certify("own-key", key.public_key()), pem)
    with site.client("own-key", issued) as device:
        assert not device.refused


@pytest.mark.parametrize("protocol", [V5, V3], ids=["5", "3.1.1"])
def test_a_device_is_confined_to_its_own_topics(site: Site, protocol: MQTTProtocolVersion) -> None:
    """It cannot publish as another, read another's inbox or shares, or subscribe to ``#``."""
    mark = f"{protocol}".encode()
    with ExitStack() as stack:
        device, other, aggregator, monitor = (
            stack.enter_context(site.client(name, protocol=protocol))
            for name in ("a", "b", AGGREGATOR, MONITOR)
        )
        for topic in ("#", "fedbus/#", "fedbus/1/t/dev/b/in", "fedbus/1/t/share/b/+", END):
            device.subscribe(topic)
        for witness in (other, aggregator, monitor):
            for topic in (*FOREIGN, END):
                witness.subscribe(topic)
        for topic in FOREIGN:
            if not RIGHTS.may("a", "write", topic):
                device.publish(topic, b"forged " + mark)
        aggregator.publish("fedbus/1/t/dev/b/in", b"lease " + mark)
        other.publish("fedbus/1/t/dev/b/out", b"own " + mark)
        aggregator.publish(END, mark)
        for client in (device, other, aggregator, monitor):
            client.wait_for_message(END, mark)
        heard = {got for witness in (other, aggregator, monitor) for _, got in witness.received}
        assert b"forged " + mark not in heard
        assert b"lease " + mark in heard
        seen = {topic for topic, got in device.received if got.endswith(mark)}
        assert seen == {END}


def test_the_password_listener_takes_accounts_with_passwords_only(site: Site) -> None:
    secret = site.broker.files.secret(MONITOR).read_text().strip()
    with site.stranger(port=site.ports.password, login=(MONITOR, secret)) as dashboard:
        assert not dashboard.refused
    with site.stranger(port=site.ports.password, login=(AGGREGATOR, "")) as nobody:
        assert nobody.refused
    with site.client("a", port=site.ports.password) as without_password:
        assert without_password.refused


def test_over_websockets_the_same_password_counts_and_the_same_rules(site: Site) -> None:
    secret = site.broker.files.secret(MONITOR).read_text().strip()
    identity = (site.broker.files.authority, None, None)
    with (
        BareClient(
            site.ports.websockets,
            identity=identity,
            login=(MONITOR, secret),
            transport="websockets",
        ) as dashboard,
        site.client(AGGREGATOR) as aggregator,
        site.client("a") as device,
    ):
        for topic in ("#", "fedbus/1/t/mon/rounds", END):
            dashboard.subscribe(topic)
        device.publish("fedbus/1/t/up/0/a", b"an update")
        aggregator.publish("fedbus/1/t/mon/rounds", b"{}")
        aggregator.publish(END, b"ws")
        dashboard.wait_for_message(END, b"ws")
        assert {topic for topic, _ in dashboard.received} == {"fedbus/1/t/mon/rounds", END}
        assert dashboard.publish("fedbus/1/t/mon/rounds", b"forged") == NOT_AUTHORIZED


def test_a_password_that_is_taken_away_ends_the_connection(site: Site) -> None:
    files = write_accounts(site.broker.files.directory, ["by-password"])
    secret = files.secret("by-password").read_text().strip()
    reload_broker(files.directory)

    def login() -> BareClient:
        return site.stranger(port=site.ports.password, login=("by-password", secret))

    def lets_in() -> bool:
        with login() as client:
            return not client.refused

    until(lets_in)
    with login() as device:
        deny_device(files.directory, "by-password")
        until(device.gone.is_set)
    assert not lets_in()


@pytest.mark.parametrize("name", ["", "../a", "A", "a/b", "a" * 65])
def test_no_certificate_is_given_for_a_name_that_no_account_can_have(site: Site, name: str) -> None:
    with pytest.raises(ConfigError, match="a-z 0-9"):
        site.authority.issue_client(name)


def test_who_is_revoked_is_cut_off_at_once_and_does_not_come_back(site: Site) -> None:
    with site.client("gone") as device, site.client("stays") as bystander:
        topic = "fedbus/1/t/dev/gone/out"
        assert reaches(site, device, topic, b"before")
        begun = time.monotonic()
        told = revoke(site.authority, "gone", site.broker.files.directory)
        assert told.certificates >= 1
        assert told.reloaded
        until(lambda: not reaches(site, device, topic, b"%d" % time.monotonic_ns()))
        assert time.monotonic() - begun < 5
        assert reaches(site, bystander, "fedbus/1/t/dev/stays/out", b"after")
    # the old certificate, not a fresh one
    with BareClient(site.ports.tls, identity=held(site, "gone")) as again:
        assert again.refused
    with BareClient(site.ports.tls, identity=held(site, "stays")) as again:
        assert not again.refused


def test_a_second_revocation_counts_too_and_the_first_is_kept(site: Site) -> None:
    """Mosquitto keeps the lists that it has read: the newest one must win."""
    for name in ("first", "second"):
        site.client(name).close()
    for name in ("first", "second"):
        revoke(site.authority, name, site.broker.files.directory)
    for name in ("first", "second"):
        until(partial(is_refused, site, name))


def test_a_device_that_is_denied_stays_connected_in_vain_until_it_is_allowed(site: Site) -> None:
    topic = "fedbus/1/t/dev/noisy/out"
    with site.client("noisy") as device:
        assert deny_device(site.broker.files.directory, "noisy")
        until(lambda: not reaches(site, device, topic, b"%d" % time.monotonic_ns()))
        assert allow_device(site.broker.files.directory, "noisy")
        until(lambda: reaches(site, device, topic, b"%d" % time.monotonic_ns()))
        assert not device.gone.is_set()


def test_a_service_is_never_denied(site: Site) -> None:
    with pytest.raises(ConfigError, match="service"):
        deny_device(site.broker.files.directory, AGGREGATOR)
    with pytest.raises(ConfigError, match="service"):
        revoke(site.authority, MONITOR, site.broker.files.directory)


def held(site: Site, name: str) -> tuple[Path, Path, Path]:
    return site.broker.files.authority, site.folder / f"{name}.crt", site.folder / f"{name}.key"


def is_refused(site: Site, name: str) -> bool:
    with BareClient(site.ports.tls, identity=held(site, name)) as client:
        return client.refused


def until(done: Callable[[], bool]) -> None:
    """The broker reads its files soon after the signal: look again until it has."""
    deadline = time.monotonic() + DEADLINE_S
    while not done():
        assert time.monotonic() < deadline, "never"
