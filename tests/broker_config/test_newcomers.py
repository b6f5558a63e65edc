"""What the account of a one-time token may do at a real mosquitto, and that it goes."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from broker_config.accounts import AGGREGATOR, MONITOR, Rights
from broker_config.files import BrokerFiles, read_entries
from broker_config.mosquitto import confine, denied, password_entry, render_acl, unconfine
from broker_config.newcomers import accounts_of_tokens, admit, dismiss
from broker_config.running import Broker, running_broker
from protocol.errors import ConfigError
from tests.broker_config.bare_client import NOT_AUTHORIZED, V5, BareClient
from tests.support.mosquitto import require_mosquitto

ACCOUNT = "join-t1"
SECRET = "carried to the device"  # noqa: S105 - of a test
ENTRY = password_entry(ACCOUNT, SECRET, bytes(12))
ASKS, ANSWER = f"fedbus/1/t/share/operator/{ACCOUNT}", f"fedbus/1/t/share/{ACCOUNT}/operator"
PLAN = "fedbus/1/t/plan"
#: What an aggregator or a person would hear, and what only devices are told.
SHUT_OUT = (
    *(f"fedbus/1/t/dev/{ACCOUNT}/{leaf}" for leaf in ("state", "info", "tele", "out")),
    f"fedbus/1/t/up/0/{ACCOUNT}",
)
FOR_DEVICES = (PLAN, "fedbus/1/t/model/manifest", "fedbus/1/t/model/7/0", "fedbus/1/t/roster/all")


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Broker]:
    require_mosquitto()
    with running_broker(tmp_path, ["operator", "device-1"], engine="mosquitto") as running:
        admit(running.files.directory, ACCOUNT, ENTRY)
        yield running


def client(broker: Broker, account: str) -> BareClient:
    file = broker.files.secret(account)
    secret = file.read_text().strip() if file.exists() else SECRET
    return BareClient(broker.port, protocol=V5, login=(account, secret))


@pytest.mark.broker
def test_a_token_asks_and_hears_its_answer_and_nothing_else(broker: Broker) -> None:
    with (
        client(broker, AGGREGATOR) as aggregator,
        client(broker, MONITOR) as monitor,
        client(broker, "operator") as operator,
        client(broker, "device-1") as device,
        client(broker, ACCOUNT) as newcomer,
    ):
        for topic in FOR_DEVICES:
            aggregator.publish(topic, b"for devices", retain=True)
        for topic in ("fedbus/1/t/#", *FOR_DEVICES, ANSWER):
            newcomer.subscribe(topic)
        for topic in ("fedbus/1/+/dev/+/state", "fedbus/1/+/dev/+/out", "fedbus/1/+/up/+/+", PLAN):
            aggregator.subscribe(topic)
        for topic in ("fedbus/1/+/dev/+/info", "fedbus/1/+/dev/+/tele", PLAN):
            monitor.subscribe(topic)
        operator.subscribe("fedbus/1/t/share/operator/+")
        assert [newcomer.publish(topic, b"{}") for topic in SHUT_OUT] == [NOT_AUTHORIZED] * 5
        assert newcomer.publish(ASKS, b"ask") != NOT_AUTHORIZED
        operator.wait_for_message(ASKS, b"ask")
        operator.publish(ANSWER, b"answer")
        newcomer.wait_for_message(ANSWER, b"answer")
        assert {topic for topic, _ in newcomer.received} == {ANSWER}
        aggregator.publish(PLAN, b"last")
        for witness in (aggregator, monitor):
            witness.wait_for_message(PLAN, b"last")
            assert {topic for topic, _ in witness.received} == {PLAN}
        assert device.publish("fedbus/1/t/dev/device-1/out", b"{}") != NOT_AUTHORIZED
        assert dismiss(broker.files.directory, {ACCOUNT}) == {ACCOUNT}
        assert newcomer.gone.wait(10), "its connection ends with its account"
        assert not device.gone.is_set()


def test_rules_for_a_token_come_and_go_and_leave_the_others_as_they_are() -> None:
    rules = render_acl("farm/2")
    confined = confine(confine(rules, ACCOUNT), "join-t2")
    assert f"topic deny farm/2/+/up/+/{ACCOUNT}" in confined.splitlines()
    assert not [line for line in confined.splitlines() if "deny" in line and "share/+/join" in line]
    assert confine(confined, ACCOUNT) == confined
    assert denied(confined) == set(), "an aggregator's denials are something else"
    assert unconfine(unconfine(confined, ACCOUNT), "join-t2") == rules


def test_the_rights_of_the_embedded_broker_say_the_same() -> None:
    rights = Rights("fedbus/1")
    assert rights.may(ACCOUNT, "write", ASKS)
    assert rights.may(ACCOUNT, "read", ANSWER)
    assert not any(rights.may(ACCOUNT, "write", topic) for topic in SHUT_OUT)
    assert not any(rights.may(ACCOUNT, "read", topic) for topic in FOR_DEVICES)


def test_a_folder_that_is_no_brokers_is_told_and_nobody_gets_in(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="acl"):
        admit(tmp_path, ACCOUNT, ENTRY)
    assert read_entries(BrokerFiles(tmp_path).passwords) == {}
    assert accounts_of_tokens(tmp_path) == set()
