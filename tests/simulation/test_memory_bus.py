"""The in-memory broker is held to what every transport must do, and its faults do what they say."""

from collections.abc import Callable

import pytest

from protocol.stream import derive
from simulator import Broker, EventQueue, Link, LinkProfile, MemoryTransport
from tests.support.check_transport import CHECKS, Bus, Client, settings, the_queue_is_bounded
from transport import BrokerSettings, Message

#: A publish is at the broker at once, so that nothing ever waits in a queue.
APPLICABLE = [check for check in CHECKS if check is not the_queue_is_bounded]


class MemoryBus(Bus):
    """Clients of one broker in memory; a step is a twentieth of a virtual second.

    With a ``profile`` each is behind a link like that.
    """

    def __init__(self, profile: LinkProfile | None = None) -> None:
        self.queue = EventQueue()
        self.broker = Broker(self.queue, latency_s=0.01)
        self._profile = profile
        self._clients: list[tuple[MemoryTransport, Client]] = []

    def client(self, settings: BrokerSettings) -> Client:
        seed = derive(bytes(32), settings.client_id)
        link = None if self._profile is None else Link(self._profile, seed)
        transport = MemoryTransport(self.broker, self.queue, settings, link=link)
        client = Client(settings.client_id, transport)
        self._clients.append((transport, client))
        return client

    def step(self) -> None:
        self.queue.run_until(self.queue.now + 0.05)
        for transport, client in self._clients:
            client.events += transport.events()

    def cut(self, client: Client) -> None:
        self.broker.lose(client.client_id, "cut")


@pytest.mark.parametrize("check", APPLICABLE, ids=lambda check: check.__name__)
def test_conformance(check: Callable[[Bus], None]) -> None:
    check(MemoryBus())


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_conformance_over_a_narrow_link_that_loses(check: Callable[[Bus], None]) -> None:
    check(MemoryBus(LinkProfile(up_bps=1e6, down_bps=1e6, latency_s=0.02, jitter_s=0.05, loss=0.1)))


@pytest.fixture
def bus() -> MemoryBus:
    return MemoryBus()


def sent(bus: MemoryBus, *payloads: bytes) -> Client:
    """Return a reader to whom these are under way."""
    reader = bus.connected(settings("reader"), "a")
    writer = bus.connected(settings("writer"))
    for payload in payloads:
        writer.transport.publish("a", payload)
    return reader


def test_a_dropped_message_never_comes(bus: MemoryBus) -> None:
    reader = sent(bus, b"1", b"2")
    bus.broker.drop(bus.broker.flights[0])
    bus.step()
    bus.reconnected(reader)
    assert set(reader.payloads) == {b"2"}


def test_a_duplicate_comes_later_again(bus: MemoryBus) -> None:
    reader = sent(bus, b"1", b"2")
    bus.broker.duplicate(bus.broker.flights[0], 0.005)
    bus.step()
    assert reader.payloads == [b"1", b"2", b"1"]


def test_a_delayed_message_is_overtaken(bus: MemoryBus) -> None:
    reader = sent(bus, b"1", b"2")
    bus.broker.delay(bus.broker.flights[0], 0.005)
    bus.step()
    assert reader.payloads == [b"2", b"1"]


def test_a_message_landed_by_hand_overtakes(bus: MemoryBus) -> None:
    reader = sent(bus, b"1", b"2")
    bus.broker.land(bus.broker.flights[1])
    bus.step()
    assert reader.payloads == [b"2", b"1"]


def test_a_route_decides_about_every_copy(bus: MemoryBus) -> None:
    def route(_client_id: str, message: Message) -> list[float]:
        return {b"lost": [], b"twice": [0.001, 0.002]}.get(message.payload, [0.003])

    bus.broker.route = route
    reader = sent(bus, b"once", b"lost", b"twice")
    bus.step()
    assert reader.payloads == [b"twice", b"twice", b"once"]


def test_a_broker_that_forgets_has_nothing_retained_and_no_sessions(bus: MemoryBus) -> None:
    reader = sent(bus)
    reader.transport.publish("state", b"kept", retain=True)
    bus.broker.restart(forget=True, down_s=1.0)
    bus.until(lambda: reader.num_connects == 2)
    assert bus.broker.retained == {}
    bus.settle(reader)  # it has subscribed again


def test_of_restarts_that_overlap_the_longest_counts(bus: MemoryBus) -> None:
    bus.broker.restart(down_s=300.0)
    bus.queue.run_until(10.0)
    bus.broker.restart(down_s=30.0)
    bus.queue.run_until(299.0)
    assert not bus.broker.available
    bus.queue.run_until(301.0)
    assert bus.broker.available


def test_a_broker_that_remembers_delivers_after_its_restart(bus: MemoryBus) -> None:
    reader = sent(bus, b"under way")
    bus.broker.retained["state"] = b"kept"
    bus.broker.restart(forget=False, down_s=1.0)
    bus.until(lambda: reader.num_connects == 2)
    bus.step()
    assert reader.payloads == [b"under way"]
    assert bus.broker.retained == {"state": b"kept"}
