"""Who may do what, asked of real brokers: mosquitto (MQTT 5 and 3.1.1) and the embedded one."""

import os
import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest
from paho.mqtt.enums import MQTTProtocolVersion

from broker_config.accounts import AGGREGATOR, MONITOR, Rights, role_of
from broker_config.files import write_accounts
from broker_config.programs import Engine
from broker_config.running import Broker, running_broker
from protocol.topics import grants
from tests.broker_config.bare_client import (
    DEADLINE_S,
    NOT_AUTHORIZED,
    V3,
    V5,
    BareClient,
)
from tests.support.mosquitto import require_mosquitto

pytestmark = pytest.mark.broker

ACCOUNTS = (AGGREGATOR, MONITOR, "a", "b")
RIGHTS = Rights("fedbus/1")
END = "fedbus/1/t/plan"  # everybody may read it, the aggregator writes it last
TOPICS = [
    *(f"fedbus/1/t/dev/{who}/{leaf}" for who in "ab" for leaf in ("state", "info", "tele", "out")),
    *(f"fedbus/1/t/dev/{who}/in" for who in "ab"),
    *(f"fedbus/1/t/up/3/{who}" for who in "ab"),
    "fedbus/1/t/share/a/b",
    "fedbus/1/t/share/b/a",
    "fedbus/1/t/roster/pumps",
    "fedbus/1/t/support",
    "fedbus/1/t/model/manifest",
    "fedbus/1/t/model/7/0",
    "fedbus/1/t/mon/rounds",
    "fedbus/1/t/dev/monitor/state",
    "fedbus/1/t/dev/aggregator/state",
    "fedbus/1/t/up/0/monitor",
]


@dataclass(frozen=True)
class Bus:
    """A broker, and the MQTT version to speak to it."""

    broker: Broker
    protocol: MQTTProtocolVersion

    def client(self, account: str, *, session: str = "") -> BareClient:
        """Connect with the password of ``account``; ``session`` names one that is kept."""
        secret = self.broker.files.secret(account).read_text().strip()
        return BareClient(
            self.broker.port,
            protocol=self.protocol,
            login=(account, secret),
            client_id=session,
            keeps_session=bool(session),
        )

    def stranger(self, account: str, password: str) -> BareClient:
        """Connect with any password."""
        return BareClient(self.broker.port, protocol=self.protocol, login=(account, password))


@pytest.fixture(
    scope="module",
    params=[("mosquitto", V5), ("mosquitto", V3), ("amqtt", V3)],
    ids=["mosquitto-5", "mosquitto-3.1.1", "amqtt-3.1.1"],
)
def bus(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bus]:
    engine: Engine
    engine, protocol = request.param
    if engine == "mosquitto":
        require_mosquitto()
    with running_broker(tmp_path_factory.mktemp(engine), ["a", "b"], engine=engine) as broker:
        yield Bus(broker, protocol)


def own_filters(account: str) -> list[str]:
    granted = grants(role_of(account), "fedbus/1")
    return [grant.filter.format(device=account) for grant in granted if grant.access == "read"]


@pytest.mark.parametrize("writer", ACCOUNTS)
def test_an_account_writes_what_the_rules_say_and_nothing_else(bus: Bus, writer: str) -> None:
    allowed = {topic for topic in TOPICS if RIGHTS.may(writer, "write", topic)}
    mark = f"from {writer}".encode()
    with ExitStack() as stack:
        witnesses = [stack.enter_context(bus.client(account)) for account in ACCOUNTS]
        for account, witness in zip(ACCOUNTS, witnesses, strict=True):
            for topic in own_filters(account):
                assert witness.subscribe(topic) <= 1
        with bus.client(writer) as suspect:
            codes = {topic: suspect.publish(topic, mark) for topic in TOPICS}
        witnesses[0].publish(END, mark)
        for witness in witnesses:
            witness.wait_for_message(END, mark)
        seen = {topic for witness in witnesses for topic, got in witness.received if got == mark}
    assert seen - {END} == allowed
    if bus.protocol == V5:
        assert {topic for topic in TOPICS if codes[topic] != NOT_AUTHORIZED} == allowed


@pytest.mark.parametrize("reader", ACCOUNTS)
def test_an_account_reads_what_the_rules_say_and_nothing_else(bus: Bus, reader: str) -> None:
    """Retained or not, subscribed to by name or by ``#``."""
    writable = [(who, topic) for who in ACCOUNTS for topic in TOPICS if may_write(who, topic)]
    allowed = {topic for _, topic in writable if RIGHTS.may(reader, "read", topic)}
    with ExitStack() as stack:
        clients = {account: stack.enter_context(bus.client(account)) for account in ACCOUNTS}
        for who, topic in writable:
            clients[who].publish(topic, b"kept", retain=True)
        suspect = stack.enter_context(bus.client(reader))
        for topic in ("#", "fedbus/1/+/dev/+/in", "fedbus/1/t/#", *TOPICS, END):
            suspect.subscribe(topic)
        for who, topic in writable:
            clients[who].publish(topic, b"live")
        clients[AGGREGATOR].publish(END, b"live")
        suspect.wait_for_message(END, b"live")
        for payload in (b"kept", b"live"):
            assert {t for t, got in suspect.received if got == payload} - {END} == allowed


@pytest.mark.parametrize(
    ("topic", "writer", "readers"),
    [
        ("fedbus/1/t/share/b/a", "a", {"b"}),  # to b, from a: not even the aggregator sees it
        ("fedbus/1/t/share/a/b", "b", {"a"}),
        ("fedbus/1/t/roster/pumps", AGGREGATOR, set(ACCOUNTS)),
        ("fedbus/1/t/support", AGGREGATOR, set(ACCOUNTS)),
    ],
)
def test_nobody_deals_or_enrols_in_anothers_name(
    bus: Bus, topic: str, writer: str, readers: set[str]
) -> None:
    """As the other two, but spelled out here, and not taken from the rules that are tested."""
    with ExitStack() as stack:
        clients = {account: stack.enter_context(bus.client(account)) for account in ACCOUNTS}
        for client in clients.values():
            client.subscribe(topic)
            client.subscribe("fedbus/1/t/#")
            client.subscribe(END)
        marks = {account: f"{topic} by {account}".encode() for account in ACCOUNTS}
        for account, client in clients.items():
            client.publish(topic, marks[account])
        clients[AGGREGATOR].publish(END, topic.encode())
        for account, client in clients.items():
            client.wait_for_message(END, topic.encode())
            heard = {payload for name, payload in client.received if name == topic}
            expected = {marks[writer]} if account in readers else set()
            assert heard & set(marks.values()) == expected, account


def may_write(who: str, topic: str) -> bool:
    return RIGHTS.may(who, "write", topic)


@pytest.mark.parametrize(
    ("account", "password"),
    [("", ""), ("a", ""), ("a", "wrong"), ("nobody", "wrong"), (AGGREGATOR, "wrong")],
)
def test_without_the_right_password_nobody_gets_in(bus: Bus, account: str, password: str) -> None:
    with bus.stranger(account, password) as stranger:
        assert stranger.refused


def test_a_password_opens_its_own_account_only(bus: Bus) -> None:
    secret = bus.broker.files.secret("a").read_text().strip()
    with bus.stranger(AGGREGATOR, secret) as stranger:
        assert stranger.refused


def test_a_device_is_added_and_removed_without_a_restart(bus: Bus, tmp_path: Path) -> None:
    with running_broker(tmp_path, engine="amqtt" if bus.broker.embedded else "mosquitto") as broker:
        own = Bus(broker, bus.protocol)
        with own.client(MONITOR) as before:
            write_accounts(tmp_path, ["late"])
            os.kill(broker.pid, signal.SIGHUP)
            wait_for_login(own, "late", allowed=True)
            lines = broker.files.passwords.read_text().splitlines(keepends=True)
            broker.files.passwords.write_text("".join(x for x in lines if "late:" not in x))
            os.kill(broker.pid, signal.SIGHUP)
            wait_for_login(own, "late", allowed=False)
            assert not before.gone.is_set()


def test_taking_over_a_client_id_does_not_give_its_messages(bus: Bus) -> None:
    """It disconnects the other and empties its queue; amqtt may hand the messages over."""
    into_b = "fedbus/1/t/dev/b/in"
    with bus.client("b", session="b") as device:
        device.subscribe(into_b)
    with bus.client(AGGREGATOR) as aggregator:
        aggregator.publish(into_b, b"for b")
    with bus.client("a", session="b") as thief:
        thief.wait_until_quiet(enough=1)
        if not bus.broker.embedded:
            assert thief.received == []


def wait_for_login(bus: Bus, account: str, *, allowed: bool) -> None:
    """The broker reads its files soon after the signal: knock until it has."""
    until = time.monotonic() + DEADLINE_S
    while time.monotonic() < until:
        with bus.client(account) as knocking:
            if knocking.refused is not allowed:
                return
    pytest.fail(f"{account}: still {'refused' if allowed else 'let in'}")
