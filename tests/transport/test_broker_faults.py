"""A real mosquitto that dies, comes back, refuses; real processes that are killed."""

import dataclasses
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from broker_config.running import free_port
from tests.support.check_transport import Client, settings
from tests.support.mosquitto import (
    OPEN,
    Mosquitto,
    broker,
    persistent_broker,
    require_mosquitto,
)
from tests.transport.paho_bus import PahoBus
from transport import (
    BrokerSettings,
    Connected,
    Disconnected,
    PacketTooLargeError,
    PublishRefused,
    Refused,
    Tls,
)
from transport.paho import PahoTransport

__all__ = ["broker", "persistent_broker"]

pytestmark = pytest.mark.broker

ROOT = Path(__file__).parents[2]


@pytest.fixture
def bus(broker: Mosquitto) -> Iterator[PahoBus]:
    running = PahoBus(broker.port)
    yield running
    running.close()


def test_all_come_back_after_the_broker_was_killed(broker: Mosquitto, bus: PahoBus) -> None:
    reader = bus.connected(settings("reader"), "a")
    writer = bus.connected(settings("writer"))
    broker.kill()
    bus.until(lambda: reader.num_disconnects == writer.num_disconnects == 1)
    broker.start()
    bus.until(lambda: reader.transport.connected and writer.transport.connected)
    bus.settle(reader)
    writer.transport.publish("a", b"back")
    bus.until(lambda: reader.payloads == [b"back"])
    assert [e.protocol for e in reader.events if isinstance(e, Connected)] == ["5", "5"]


def test_a_persistent_session_survives_the_broker(persistent_broker: Mosquitto) -> None:
    bus = PahoBus(persistent_broker.port)
    reader = bus.connected(settings("reader"), "a")
    persistent_broker.stop()
    bus.until(lambda: reader.num_disconnects == 1)
    persistent_broker.start()
    bus.until(lambda: reader.transport.connected)
    assert [e.session_present for e in reader.events if isinstance(e, Connected)] == [False, True]
    bus.close()


def test_the_will_of_a_killed_process_is_published(broker: Mosquitto, bus: PahoBus) -> None:
    reader = bus.connected(settings("reader"), "state")
    process = subprocess.Popen(
        [sys.executable, str(Path(__file__).with_name("dying_client.py")), str(broker.port), "d"],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == b"connected\n"
        assert reader.messages == []
    finally:
        process.kill()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()
    bus.until(lambda: reader.payloads == [b"offline"])


def takeovers(client: Client) -> list[bool]:
    return [event.taken_over for event in client.events if isinstance(event, Disconnected)]


def test_twins_slow_down_and_are_told_why(bus: PahoBus) -> None:
    """Mosquitto 2.0.11 says nothing; after three quick closes it is clear enough."""
    slow = dataclasses.replace(settings("twin"), backoff_first_s=0.01, backoff_cap_s=1_000.0)
    twins = [bus.client(slow), bus.client(slow)]
    for twin in twins:
        twin.transport.connect()
    bus.until(lambda: any(True in takeovers(twin) for twin in twins))
    loser = next(twin for twin in twins if True in takeovers(twin))
    assert takeovers(loser) == [False, False, True]
    assert isinstance(loser.transport, PahoTransport)
    wait_s = loser.transport.deadline - time.monotonic()
    assert 400.0 < wait_s <= 1_000.0


def test_an_oversize_publish_does_not_wedge_the_client(tmp_path: Path) -> None:
    require_mosquitto()
    with Mosquitto(tmp_path, OPEN + "max_packet_size 5000\n") as strict:
        bus = PahoBus(strict.port)
        client = bus.connected(settings("a"), "a")
        assert client.transport.max_packet_bytes == 5_000
        with pytest.raises(PacketTooLargeError, match="5000"):
            client.transport.publish("a", b"x" * 6_000)
        client.transport.publish("a", b"small")
        bus.until(lambda: client.payloads == [b"small"])
        assert client.num_disconnects == 0
        bus.close()


@pytest.mark.parametrize("protocol", ["5", "3.1.1"])
def test_a_wrong_password_is_refused_for_good(tmp_path: Path, protocol: str) -> None:
    require_mosquitto()
    (tmp_path / "passwords").touch(mode=0o600)
    subprocess.run(
        ["mosquitto_passwd", "-b", str(tmp_path / "passwords"), "me", "right"], check=True
    )
    config = f"allow_anonymous false\npassword_file {tmp_path / 'passwords'}\n"
    with Mosquitto(tmp_path, config) as strict:
        bus = PahoBus(strict.port, protocol)
        wrong = bus.client(account("wrong", "wrong"))
        right = bus.client(account("right", "right"))
        wrong.transport.connect()
        right.transport.connect()
        bus.until(lambda: bool(wrong.events) and right.transport.connected)
        assert isinstance(wrong.events[0], Refused)
        assert wrong.events[0].permanent
        bus.close()


def account(client_id: str, password: str) -> BrokerSettings:
    return dataclasses.replace(settings(client_id), username="me", password=password)


def test_a_denied_publish_is_reported_on_version_5(tmp_path: Path) -> None:
    require_mosquitto()
    (tmp_path / "acl").write_text("topic read #\ntopic write probe/#\n")
    (tmp_path / "acl").chmod(0o600)
    with Mosquitto(tmp_path, OPEN + f"acl_file {tmp_path / 'acl'}\n") as strict:
        bus = PahoBus(strict.port)
        client = bus.connected(settings("a"))
        client.transport.publish("forbidden", b"x")
        bus.until(lambda: client.transport.counters.refused_by_broker == 1)
        bus.settle(client)
        assert PublishRefused("forbidden", "Not authorized") in client.events
        bus.close()


@pytest.mark.slow
def test_one_loop_drives_more_clients_than_select_can(bus: PahoBus) -> None:
    clients = [bus.client(settings(f"c{number}")) for number in range(1_100)]
    for client in clients:
        client.transport.subscribe([client.probe])
        client.transport.connect()
    bus.until(lambda: all(client.transport.connected for client in clients))
    for client in clients:
        client.transport.publish(client.probe, b"x")
    bus.until(lambda: all(client.transport.counters.received for client in clients))


def make_certificate(folder: Path) -> tuple[Path, Path]:
    key, certificate = folder / "key.pem", folder / "certificate.pem"
    asked = "-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 1 -subj /CN=broker"
    asked += " -addext subjectAltName=IP:127.0.0.1"
    subprocess.run(
        ["openssl", "req", "-x509", *asked.split(), "-keyout", key, "-out", certificate],
        check=True,
        capture_output=True,
    )
    return key, certificate


def test_tls_carries_it_and_a_stranger_is_not_trusted(tmp_path: Path) -> None:
    require_mosquitto()
    key, certificate = make_certificate(tmp_path)
    port = free_port()
    secure = f"listener {port} 127.0.0.1\ncertfile {certificate}\nkeyfile {key}\n"
    with Mosquitto(tmp_path, OPEN + secure):
        bus = PahoBus(port)
        trusting = bus.client(dataclasses.replace(settings("a"), tls=Tls(ca=certificate)))
        wary = bus.client(dataclasses.replace(settings("b"), tls=Tls()))
        trusting.transport.subscribe(["a"])
        trusting.transport.connect()
        wary.transport.connect()
        bus.until(lambda: trusting.transport.connected and bool(wary.events))
        assert isinstance(wary.events[0], Refused)
        payloads = [b"%d" % number * 20_000 for number in range(10)]
        for payload in payloads:
            trusting.transport.publish("a", payload)
        bus.until(lambda: len(trusting.messages) == 10)
        assert trusting.payloads == payloads
        bus.close()
