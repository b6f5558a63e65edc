"""The broker holds and drops what a real one does, and looks topics up as MQTT says."""

from pathlib import Path

import hypothesis
import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.errors import ConfigError
from simulator import Broker, BrokerLimits, EventQueue, MemoryTransport
from simulator.retained import Retained
from simulator.subscriptions import Subscriptions
from tests.support.check_transport import settings
from transport import BrokerSettings, Message

CONFIG = Path(__file__).parents[2] / "broker_config" / "mosquitto.conf"
NUM_SENT = 3_000


class Bus:
    """A writer, and a reader of everything that may stop reading."""

    def __init__(self, limits: BrokerLimits | None) -> None:
        self.queue = EventQueue()
        self.broker = Broker(self.queue, latency_s=0.01, limits=limits)
        self.reader = self.client(settings("reader", session_expiry_s=3_600))
        self.reader.subscribe(["a"])
        self.writer = self.client(settings("writer"))
        self.run_for(1.0)
        self.reader.events()

    def client(self, its: BrokerSettings) -> MemoryTransport:
        client = MemoryTransport(self.broker, self.queue, its)
        client.connect()
        return client

    def run_for(self, seconds: float) -> None:
        self.queue.run_until(self.queue.now + seconds)

    def send(self, count: int = NUM_SENT, size: int = 10) -> None:
        for number in range(count):
            self.writer.publish("a", b"%d" % number + b" " * size)

    def take(self) -> list[int]:
        """Let the reader acknowledge whatever comes; return the numbers."""
        numbers: list[int] = []
        while True:
            self.run_for(0.1)
            messages = [event for event in self.reader.events() if isinstance(event, Message)]
            if not messages:
                return numbers
            for message in messages:
                self.reader.acknowledge(message)
                numbers.append(int(message.payload))

    def come_back(self) -> None:
        self.reader = self.client(settings("reader", session_expiry_s=3_600))


def test_without_limits_nothing_is_dropped() -> None:
    bus = Bus(None)
    bus.reader.close()
    bus.send()
    bus.come_back()
    assert bus.take() == list(range(NUM_SENT))


def test_stock_keeps_the_first_thousand_for_a_reader_that_is_away() -> None:
    """As measured on mosquitto 2.0.11: the oldest are kept, and nobody is told."""
    bus = Bus(BrokerLimits.stock())
    bus.reader.close()
    bus.send()
    assert bus.broker.dropped == NUM_SENT - 1_000
    assert bus.writer.counters.published == NUM_SENT
    bus.come_back()
    assert bus.take() == list(range(1_000))


def test_stock_drops_for_a_slow_reader_that_is_online() -> None:
    bus = Bus(BrokerLimits.stock())
    bus.send()
    assert len(bus.broker.flights) == 20
    assert bus.take() == list(range(1_020))
    assert bus.broker.dropped == NUM_SENT - 1_020


def test_what_acknowledges_makes_room() -> None:
    bus = Bus(BrokerLimits.stock())
    numbers = []
    for start in range(0, 3_000, 1_000):
        bus.send(1_000)
        numbers += [start + number for number in bus.take()]
    assert numbers == list(range(3_000))
    assert bus.broker.dropped == 0


def test_bytes_that_wait_are_bounded_too() -> None:
    bus = Bus(BrokerLimits(max_queued_bytes=10_000))
    bus.reader.close()
    bus.send(200, size=95)
    bus.come_back()
    kept = bus.take()
    assert kept == list(range(len(kept)))
    assert 100 <= len(kept) <= 110
    assert bus.broker.dropped == 200 - len(kept)


def test_a_client_may_ask_for_less_under_way_than_the_broker_allows() -> None:
    bus = Bus(BrokerLimits.shipped())
    bus.reader.close()
    bus.reader = bus.client(settings("reader", receive_maximum=5))
    bus.run_for(1.0)
    bus.send(100)
    assert len(bus.broker.flights) == 5
    assert bus.take() == list(range(100))


@pytest.mark.parametrize(("away_s", "num_kept"), [(3_000.0, 5), (4_000.0, 0)])
def test_a_session_ends_when_its_client_stays_away(away_s: float, num_kept: int) -> None:
    bus = Bus(BrokerLimits())
    bus.reader.close()
    bus.send(5)
    bus.run_for(away_s)
    assert bus.broker.has_session("reader") == bool(num_kept)
    bus.come_back()
    assert len(bus.take()) == num_kept


def test_who_has_no_session_any_more_is_queued_nothing() -> None:
    bus = Bus(BrokerLimits(session_expiry_s=60.0))
    bus.reader.close()
    bus.run_for(61.0)
    bus.send(5)
    bus.come_back()
    assert bus.take() == []


@pytest.mark.parametrize(
    ("limits", "is_kept"), [(BrokerLimits.stock(), False), (BrokerLimits.shipped(), True)]
)
def test_a_restart_forgets_without_persistence(limits: BrokerLimits, *, is_kept: bool) -> None:
    bus = Bus(limits)
    bus.writer.publish("state", b"kept", retain=True)
    bus.broker.restart(down_s=1.0)
    assert ("state" in bus.broker.retained) == is_kept


def test_the_shipped_limits_are_those_of_the_shipped_file() -> None:
    lines = [line.split() for line in CONFIG.read_text(encoding="utf-8").splitlines()]
    told = {words[0]: words[1] for words in lines if len(words) == 2}
    shipped = BrokerLimits.shipped()
    assert shipped.max_queued_messages == int(told["max_queued_messages"])
    assert shipped.max_queued_bytes == int(told["max_queued_bytes"])
    assert shipped.max_inflight_messages == int(told["max_inflight_messages"])
    assert shipped.persistence == (told["persistence"] == "true")
    assert told["persistent_client_expiration"] == f"{shipped.session_expiry_s / 86_400:.0f}d"


def test_negative_limits_are_refused() -> None:
    with pytest.raises(ConfigError, match="max_queued_messages must be 0"):
        BrokerLimits(max_queued_messages=-1)
    with pytest.raises(ConfigError, match="session_expiry_s must be above 0"):
        BrokerLimits(session_expiry_s=0)


# --- topics -----------------------------------------------------------------------------------

levels = st.sampled_from(["a", "b", "", "c1"])
topics = st.lists(levels, min_size=1, max_size=4).map("/".join).filter(bool)
filters = st.builds(
    lambda parts, end: "/".join([*parts, *end]),
    st.lists(st.sampled_from(["a", "b", "", "+"]), min_size=1, max_size=4),
    st.sampled_from([[], ["#"]]),
).filter(bool)


def matches(topic_filter: str, topic: str) -> bool:
    """Whether a filter takes a topic, as MQTT 5 says (4.7), one level after the other."""
    pattern, parts = topic_filter.split("/"), topic.split("/")
    if pattern[-1] == "#":
        pattern, parts = pattern[:-1], parts[: len(pattern) - 1]
    return len(pattern) == len(parts) and all(
        wanted in ("+", level) for wanted, level in zip(pattern, parts, strict=True)
    )


@hypothesis.settings(deadline=None)
@given(st.lists(st.tuples(st.sampled_from("xyz"), filters, st.booleans())), topics)
def test_whoever_wants_a_topic_gets_it_once(steps: list[tuple[str, str, bool]], topic: str) -> None:
    subscriptions, wanted = Subscriptions(), set[tuple[str, str]]()
    for client, topic_filter, is_added in steps:
        (subscriptions.add if is_added else subscriptions.remove)(client, topic_filter)
        (wanted.add if is_added else wanted.discard)((client, topic_filter))
    found = subscriptions.of(topic)
    assert len(found) == len(set(found))
    assert set(found) == {client for client, each in wanted if matches(each, topic)}


@hypothesis.settings(deadline=None)
@given(st.lists(st.tuples(topics, st.booleans())), filters)
def test_what_is_retained_is_found_in_the_order_in_which_it_came(
    steps: list[tuple[str, bool]], topic_filter: str
) -> None:
    retained, expected = Retained(), dict[str, bytes]()
    for topic, is_kept in steps:
        for kept in (retained, expected):
            if is_kept:
                kept[topic] = b"x"
            else:
                kept.pop(topic, None)
    assert retained == expected
    assert retained.taken(topic_filter) == [
        each for each in expected if matches(topic_filter, each)
    ]
