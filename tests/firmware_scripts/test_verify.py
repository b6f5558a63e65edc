"""verify: which birth counts, and what is said about the others."""

import json

import pytest

from broker_config.running import free_port
from device_sdk import SDK_VERSION
from firmware_scripts.verify import Expected, Seen, last_boot, watcher
from protocol.topics import Topics
from tests.firmware_scripts.workbench import command
from tests.support.mosquitto import Mosquitto, broker
from transport import BrokerSettings
from transport.config import BrokerConfig
from transport.loop import Loop
from transport.paho import PahoTransport

__all__ = ["broker"]
TOPICS = Topics("fedbus/1", "digits")


def _birth(boot: str = "b1", sdk: str = SDK_VERSION) -> dict[str, str]:
    return {"boot": boot, "sdk": sdk}


HERE = Seen("online", _birth(), connected=True)


@pytest.mark.parametrize(
    "expected", [Expected(), Expected(sdk=SDK_VERSION), Expected(after_boot="b0")]
)
def test_a_birth_counts_if_it_is_new_right_and_online(expected: Expected) -> None:
    assert HERE.fulfils(expected)
    assert "boot b1, state online" in HERE.sentence("device-1", expected)


@pytest.mark.parametrize(
    ("seen", "expected", "words"),
    [
        (HERE, Expected(after_boot="b1"), "from before"),
        (HERE, Expected(sdk="9.9"), "SDK 9.9 expected"),
        (Seen("offline", _birth(), connected=True), Expected(), "state offline"),
        (Seen("online", {}, connected=True), Expected(), "no birth"),
        (Seen(connected=True), Expected(), "no birth"),
        (Seen(trouble="refused"), Expected(), "not reached: refused"),
    ],
)
def test_any_other_does_not_count_and_it_is_said_why(
    seen: Seen, expected: Expected, words: str
) -> None:
    assert not seen.fulfils(expected)
    assert words in seen.sentence("device-1", expected)


class Announcer:
    """Publishes retained messages in a device's place."""

    def __init__(self, port: int) -> None:
        self.loop = Loop()
        settings = BrokerSettings(port=port, client_id="announcer", clean_start=True)
        self.transport = PahoTransport(settings, random=lambda: 0.5)
        self.loop.add(self.transport)
        self.transport.connect()
        while not self.transport.connected:
            self.loop.wait(1.0)

    def say(self, state: bytes, info: bytes) -> None:
        self.transport.publish(TOPICS.state("device-1"), state, retain=True)
        self.transport.publish(TOPICS.info("device-1"), info, retain=True)

    def close(self) -> None:
        self.loop.remove(self.transport)
        self.transport.close()
        self.loop.close()


def _announce(port: int, state: bytes, info: bytes) -> None:
    announcer = Announcer(port)
    announcer.say(state, info)
    announcer.close()


def _verify(port: int, *more: str) -> tuple[int, str]:
    where = ["--port", str(port), "--task", "digits", "--device", "device-1"]
    return command("verify", *where, "--timeout", "1.5", *more)


@pytest.mark.broker
def test_a_device_that_is_there_is_found(broker: Mosquitto) -> None:
    _announce(broker.port, b"online", json.dumps(_birth()).encode())
    status, said = _verify(broker.port, "--sdk-version", SDK_VERSION)
    assert (status, "state online" in said) == (0, True)
    config = BrokerConfig(port=broker.port)
    assert last_boot(watcher(config), TOPICS, "device-1", timeout_s=5).boot == "b1"


@pytest.mark.broker
def test_a_birth_from_before_does_not_count(broker: Mosquitto) -> None:
    _announce(broker.port, b"online", json.dumps(_birth()).encode())
    status, said = _verify(broker.port, "--after-boot", "b1")
    assert (status, "from before" in said) == (1, True)


@pytest.mark.broker
@pytest.mark.parametrize("info", [b"", b"[1]", b"\xff", b"[" * 5000, b"null"])
def test_a_birth_that_is_none_does_not_count(
    broker: Mosquitto,
    info: bytes,
) -> None:
    _announce(broker.port, b"online", info)
    status, said = _verify(broker.port)
    assert (status, "no birth" in said) == (1, True)


def test_no_broker_is_said_so() -> None:
    status, said = _verify(free_port())
    assert (status, "not reached" in said) == (1, True)


def test_a_topic_that_cannot_be_is_refused() -> None:
    status, said = command("verify", "--task", "a/b", "--device", "d", "--timeout", "1")
    assert (status, "task" in said) == (2, True)
