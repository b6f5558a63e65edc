"""Whom an aggregator wants denied is denied by the broker, and whom it releases is let in again."""

import time
from pathlib import Path

import pytest

from benchmarks.flooder import flood, lets_in
from benchmarks.raw_publisher import connect_packet
from broker_config.files import BrokerFiles, write_broker
from broker_config.revoke import denied_devices, deny_device
from fedbus.__main__ import main
from fedbus.denials import Denials, password_listener, start_following
from fedbus.load_scratch import TASK, running_scratch
from protocol.errors import ConfigError
from protocol.topics import DEFAULT_PREFIX, Topics
from tests.support.mosquitto import require_mosquitto

#: How soon a flood must end.
CUT_OFF_S = 5.0
TOPIC = "fedbus/1/digits/mon/denied"


@pytest.fixture
def files(tmp_path: Path) -> BrokerFiles:
    return write_broker(tmp_path, ["ada", "bob", "eve"], port=1)


def test_whom_it_names_is_denied_and_comes_back_with_its_password(files: BrokerFiles) -> None:
    denials = Denials(files.directory)
    before = files.passwords.read_text()
    assert denials.said(TOPIC, b'{"devices": ["eve"]}') == ["eve is denied"]
    assert denied_devices(files.directory) == {"eve"}
    assert "eve:" not in files.passwords.read_text()
    assert denials.said(TOPIC, b'{"devices": ["eve"]}') == []
    assert denials.said(TOPIC, b'{"devices": []}') == ["eve is let in again"]
    assert denied_devices(files.directory) == set()
    assert {line.partition(":")[0] for line in files.passwords.read_text().splitlines()} == {
        line.partition(":")[0] for line in before.splitlines()
    }


def test_what_an_operator_denied_is_left_alone(files: BrokerFiles) -> None:
    deny_device(files.directory, "bob")
    denials = Denials(files.directory)
    denials.said(TOPIC, b'{"devices": ["eve"]}')
    denials.said(TOPIC, b'{"devices": []}')
    assert denied_devices(files.directory) == {"bob"}


def test_what_an_operator_denied_stays_so_when_an_aggregator_takes_its_own_word_back(
    files: BrokerFiles,
) -> None:
    """As one does that begins anew with an empty store."""
    deny_device(files.directory, "bob")
    denials = Denials(files.directory)
    denials.said(TOPIC, b'{"devices": ["bob", "eve"]}')
    denials.said(TOPIC, b"")
    assert denied_devices(files.directory) == {"bob"}
    assert "bob:" not in files.passwords.read_text()


def test_a_device_that_two_tasks_deny_comes_back_when_both_release_it(files: BrokerFiles) -> None:
    denials = Denials(files.directory)
    other = TOPIC.replace("digits", "other")
    denials.said(TOPIC, b'{"devices": ["eve"]}')
    denials.said(other, b'{"devices": ["eve"]}')
    denials.said(TOPIC, b'{"devices": []}')
    assert denied_devices(files.directory) == {"eve"}
    denials.said(other, b"")
    assert denied_devices(files.directory) == set()


def test_who_was_denied_before_a_restart_is_released_after_it(files: BrokerFiles) -> None:
    Denials(files.directory).said(TOPIC, b'{"devices": ["eve"]}')
    Denials(files.directory).said(TOPIC, b'{"devices": []}')
    assert denied_devices(files.directory) == set()


@pytest.mark.parametrize(
    "payload", [b"[]", b"{}", b"\xff", b'{"devices": ["a/b"]}', b"7", b"[" * 100_000]
)
def test_a_report_that_is_none_changes_nothing(files: BrokerFiles, payload: bytes) -> None:
    with pytest.raises(ConfigError):
        Denials(files.directory).said(TOPIC, payload)
    assert denied_devices(files.directory) == set()


def test_a_service_is_never_denied(files: BrokerFiles) -> None:
    assert Denials(files.directory).said(TOPIC, b'{"devices": ["aggregator", "monitor"]}') == []


@pytest.mark.broker
def test_a_flooder_is_cut_off_within_seconds_and_let_in_again_when_released(
    tmp_path: Path,
) -> None:
    require_mosquitto()
    with running_scratch(tmp_path, ["ada", "eve"]) as running:
        files, port = running.broker.files, running.broker.port
        connect = connect_packet("eve", files.secret("eve").read_text().strip())
        end = start_following(running.broker, lambda _line: None)
        try:
            topic = Topics(DEFAULT_PREFIX, TASK).update(0, "eve")
            _, cut_off_s = flood(port, connect, topic, seconds=20.0)
            assert cut_off_s is not None
            assert cut_off_s < CUT_OFF_S
            assert not lets_in(port, connect)
            assert main(["devices", "release", "eve", "--config", str(running.config)]) == 0
            until = time.monotonic() + CUT_OFF_S
            while not lets_in(port, connect):
                assert time.monotonic() < until, "not let in again"
                time.sleep(0.05)  # nobody tells us when the broker has read its files
        finally:
            end()


def test_the_listener_for_passwords_is_found(files: BrokerFiles) -> None:
    assert password_listener(files) == (1, False)
    files.config.write_text(
        "listener 8883\nrequire_certificate true\ncertfile x\n"
        "listener 9001\nprotocol websockets\ncertfile x\nlistener 8884\ncertfile x\n"
    )
    assert password_listener(files) == (8884, True)
