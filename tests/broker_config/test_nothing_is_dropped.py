"""What the shipped configuration promises about queues, windows and crashes."""

import os
import signal
import threading
import time
from pathlib import Path

import pytest
from paho.mqtt.enums import MQTTProtocolVersion

from broker_config.accounts import AGGREGATOR, MONITOR
from broker_config.files import BrokerFiles, write_broker
from broker_config.mosquitto import DROPPED_TOPIC
from broker_config.running import Broker, free_port, running_broker
from tests.broker_config.bare_client import (
    DEADLINE_S,
    NOBODY,
    NOT_AUTHORIZED,
    V3,
    V5,
    BareClient,
    Login,
)
from tests.support.mosquitto import Mosquitto, require_mosquitto

pytestmark = pytest.mark.broker

UPDATES = "fedbus/1/t/up/0/a"
BURST = [(UPDATES, number.to_bytes(4, "big") + bytes(1020)) for number in range(6000)]
STOCK = "allow_anonymous true"  # what mosquitto does when told nothing else
WINDOW = 2000  # max_inflight_messages in mosquitto.conf
VERSIONS = pytest.mark.parametrize("protocol", [V5, V3], ids=["5", "3.1.1"])


@pytest.fixture(autouse=True)
def _mosquitto() -> None:
    require_mosquitto()


def login(broker: Broker, account: str) -> Login:
    return account, broker.files.secret(account).read_text().strip()


def burst_at_a_slow_reader(
    port: int,
    protocol: MQTTProtocolVersion,
    writer: Login = NOBODY,
    reader: Login = NOBODY,
    *,
    least: int = 0,
) -> list[tuple[str, bytes]]:
    """Publish `BURST` while the reader is busy with its first message; return what it got.

    It waits for ``least`` messages however slowly they come, and then until there are no more.
    """
    gate = threading.Event()
    with (
        BareClient(port, protocol=protocol, gate=gate, login=reader) as slow,
        BareClient(port, protocol=protocol, login=writer) as fast,
    ):
        slow.subscribe(UPDATES)
        fast.publish_all(BURST)
        gate.set()
        slow.wait_until_quiet(enough=len(BURST), least=least)
        return list(slow.received)


@VERSIONS
def test_a_burst_at_a_slow_reader_arrives_whole_and_in_order(
    tmp_path: Path, protocol: MQTTProtocolVersion
) -> None:
    with running_broker(tmp_path, ["a"], engine="mosquitto") as broker:
        writer, reader = login(broker, "a"), login(broker, AGGREGATOR)
        received = burst_at_a_slow_reader(broker.port, protocol, writer, reader, least=len(BURST))
        assert received == BURST


@VERSIONS
def test_a_stock_broker_loses_most_of_the_same_burst_in_silence(
    tmp_path: Path, protocol: MQTTProtocolVersion
) -> None:
    """The reason for the shipped configuration: every one of these had its PUBACK."""
    with Mosquitto(tmp_path, STOCK) as stock:
        received = burst_at_a_slow_reader(stock.port, protocol)
    assert len(received) < len(BURST) / 2
    assert "being dropped" in stock.log


@VERSIONS
def test_a_reader_that_is_away_finds_the_whole_burst(
    tmp_path: Path, protocol: MQTTProtocolVersion
) -> None:
    with running_broker(tmp_path, ["a"], engine="mosquitto") as broker:
        reader = login(broker, AGGREGATOR)
        away(broker.port, protocol, reader, UPDATES)
        with BareClient(broker.port, login=login(broker, "a")) as writer:
            writer.publish_all(BURST)
        with BareClient(
            broker.port, protocol=protocol, client_id="away", keeps_session=True, login=reader
        ) as back:
            back.wait_until_quiet(enough=len(BURST), least=len(BURST))
            assert back.received == BURST


def away(port: int, protocol: MQTTProtocolVersion, who: Login, *topics: str) -> None:
    """Leave a session behind that wants ``topics``."""
    with BareClient(
        port, protocol=protocol, client_id="away", keeps_session=True, login=who
    ) as client:
        for topic in topics:
            client.subscribe(topic)


@pytest.mark.parametrize(
    ("protocol", "receive_maximum", "window"),
    [(V3, 0, WINDOW), (V5, 0, WINDOW), (V5, 10, 10), (V5, WINDOW + 500, WINDOW + 500)],
)
def test_this_many_messages_reach_a_reader_that_acknowledges_none(
    tmp_path: Path, protocol: MQTTProtocolVersion, receive_maximum: int, window: int
) -> None:
    """A receive maximum replaces max_inflight_messages, also upwards; without one it holds."""
    with (
        running_broker(tmp_path, ["a"], engine="mosquitto") as broker,
        BareClient(
            broker.port,
            protocol=protocol,
            acknowledges=False,
            receive_maximum=receive_maximum,
            login=login(broker, AGGREGATOR),
        ) as reader,
        BareClient(broker.port, login=login(broker, "a")) as writer,
    ):
        reader.subscribe(UPDATES)
        writer.publish_all(BURST[: WINDOW + 1000])
        reader.wait_until_quiet(enough=window + 1, least=window)
        assert reader.received == BURST[:window]


@VERSIONS
def test_retained_and_queued_messages_survive_kill_9_once_saved(
    tmp_path: Path, protocol: MQTTProtocolVersion
) -> None:
    """Saved means: the broker began to write its file after the message. It does every 2 s."""
    plan, manifest = "fedbus/1/t/plan", "fedbus/1/t/model/manifest"
    with running_broker(tmp_path, ["a"], engine="mosquitto") as broker:
        reader = login(broker, AGGREGATOR)
        away(broker.port, protocol, reader, UPDATES)
        with (
            BareClient(broker.port, login=login(broker, "a")) as device,
            BareClient(broker.port, login=reader) as aggregator,
        ):
            device.publish_all(BURST[:100])
            aggregator.publish(plan, b"p", retain=True)
            aggregator.publish(manifest, b"m", retain=True)
            wait_for_saves(broker.files, 2)
            os.kill(broker.pid, signal.SIGKILL)
            aggregator.gone.wait(DEADLINE_S)
    with running_broker(tmp_path, ["a"], engine="mosquitto", port=broker.port) as again:
        with BareClient(
            again.port, protocol=protocol, client_id="away", keeps_session=True, login=reader
        ) as back:
            back.wait_until_quiet(enough=100, least=100)
            assert back.received == BURST[:100]
        with BareClient(again.port, protocol=protocol, login=reader) as fresh:
            fresh.subscribe(plan)
            fresh.subscribe(manifest)
            fresh.wait_for_message(plan, b"p")
            fresh.wait_for_message(manifest, b"m")


def test_everything_is_saved_when_the_broker_is_stopped(tmp_path: Path) -> None:
    with (
        running_broker(tmp_path, engine="mosquitto") as broker,
        BareClient(broker.port, login=login(broker, AGGREGATOR)) as aggregator,
    ):
        aggregator.publish("fedbus/1/t/plan", b"p", retain=True)
    with (
        running_broker(tmp_path, engine="mosquitto") as again,
        BareClient(again.port, login=login(again, AGGREGATOR)) as aggregator,
    ):
        aggregator.subscribe("fedbus/1/t/plan")
        aggregator.wait_for_message("fedbus/1/t/plan", b"p")


def wait_for_saves(files: BrokerFiles, count: int) -> None:
    """Wait until the broker has replaced its file ``count`` times."""
    database = files.data / "mosquitto.db"
    seen = {saved_at(database)}
    until = time.monotonic() + DEADLINE_S
    while len(seen) <= count:
        assert time.monotonic() < until, "the broker does not save"
        time.sleep(0.02)  # a file has no way to call us
        seen.add(saved_at(database))


def saved_at(database: Path) -> int:
    return database.stat().st_mtime_ns if database.exists() else 0


def test_no_limit_on_the_count_would_cost_a_denied_publisher_its_connection(tmp_path: Path) -> None:
    """Why the configuration has a large number and not the 0 that means none."""
    rules = tmp_path / "nothing"
    rules.write_text("topic read allowed\n")
    config = f"{STOCK}\nacl_file {rules}\nmax_queued_messages "
    with Mosquitto(tmp_path, config + "1000000") as patient, BareClient(patient.port) as client:
        assert client.publish("denied") == NOT_AUTHORIZED
        assert client.publish("denied") == NOT_AUTHORIZED
        assert not client.gone.is_set()
    with Mosquitto(tmp_path, config + "0") as hasty, BareClient(hasty.port) as client:
        assert client.publish("denied") == NOT_AUTHORIZED
        assert client.gone.wait(DEADLINE_S)


def test_a_memory_limit_would_shut_out_the_reader_that_could_free_it(tmp_path: Path) -> None:
    """Why the configuration has none: the broker stays full."""
    config = f"{STOCK}\nmax_queued_messages 1000000\nmemory_limit 10000000"
    big = [(UPDATES, bytes(60_000))] * 400
    with Mosquitto(tmp_path, config) as broker:
        away(broker.port, V3, NOBODY, UPDATES)
        with (
            BareClient(broker.port, protocol=V3) as writer,
            pytest.raises(AssertionError, match="disconnected"),
        ):
            writer.publish_all(big)
        with BareClient(broker.port, protocol=V3, client_id="away", keeps_session=True) as reader:
            assert reader.gone.wait(DEADLINE_S)
    assert "disconnected due to out of memory" in broker.log


def test_the_monitor_can_read_how_many_messages_were_dropped(tmp_path: Path) -> None:
    port = free_port()
    files = write_broker(tmp_path, port=port)
    config = files.config.read_text().replace("sys_interval 10", "sys_interval 1")
    secret = files.secret(MONITOR).read_text().strip()
    with (
        Mosquitto(tmp_path, config, port=port),
        BareClient(port, login=(MONITOR, secret)) as monitor,
    ):
        monitor.subscribe(DROPPED_TOPIC)
        monitor.wait_for_message(DROPPED_TOPIC, b"0")
