"""A link serialises, loses nothing in silence, breaks after its keepalive, and repeats itself."""

import math
from collections.abc import Callable

import hypothesis
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aggregator.scheduling.buffered import Buffered
from aggregator.task_config import TaskConfig
from protocol.errors import ConfigError
from simulator import (
    BrokerLimits,
    Diurnal,
    DryTrainer,
    Link,
    LinkProfile,
    Outage,
    SimulatedDevice,
    World,
)
from simulator.links import MIN_OPEN_S, SEGMENT_BYTES
from tests.simulation.test_memory_bus import MemoryBus
from tests.support.check_transport import settings
from transport import QueueFullError

SEED = bytes(32)
FLAPS = Outage(every_s=10.0, for_s=3.0)
MODEL = {
    "input": [8],
    "layers": [{"type": "dense", "units": 4}],
    "loss": "softmax_cross_entropy",
}

profiles = st.builds(
    LinkProfile,
    up_bps=st.sampled_from([1e3, 1e6, math.inf]),
    latency_s=st.floats(0, 2),
    jitter_s=st.floats(0, 1),
    loss=st.floats(0, 0.9),
    outages=st.sampled_from([(), (FLAPS,), (Outage(first_s=20.0, for_s=70.0), FLAPS)]),
)
sends = st.lists(st.tuples(st.integers(0, 5_000), st.floats(0, 30)), min_size=1, max_size=20)


def arrivals(profile: LinkProfile, sent: list[tuple[int, float]]) -> list[tuple[float, float]]:
    """Return when each packet (bytes, seconds after the one before) was sent and arrived."""
    link, now, found = Link(profile, SEED), 0.0, []
    for num_bytes, later_s in sent:
        now += later_s
        found.append((now, link.up(num_bytes, now)))
    return found


@hypothesis.settings(max_examples=50, deadline=None)
@given(profiles, sends)
def test_everything_arrives_in_order_and_no_sooner_than_it_can(
    profile: LinkProfile, sent: list[tuple[int, float]]
) -> None:
    found = arrivals(profile, sent)
    assert [at for _, at in found] == sorted(at for _, at in found)
    for (num_bytes, _), (now, at) in zip(sent, found, strict=True):
        assert now + num_bytes * 8 / profile.up_bps + profile.latency_s <= at + 1e-9 < math.inf
    assert found == arrivals(profile, sent)


def test_a_link_is_busy_until_the_last_byte() -> None:
    link = Link(LinkProfile(up_bps=8_000, latency_s=0.5), SEED)
    assert [link.up(1_000, 0.0) for _ in range(3)] == [1.5, 2.5, 3.5]
    assert link.down(1_000_000, 0.0) == 0.5  # the other way is another matter


def test_loss_shows_as_delay_that_doubles() -> None:
    link = Link(LinkProfile(latency_s=0.05, loss=0.5), SEED)
    starts = [1_000.0 * number for number in range(99)]
    delays = sorted({round(link.up(100, start) - start, 6) for start in starts})
    assert [round(delay - delays[0], 6) for delay in delays[:5]] == [0.0, 0.2, 0.6, 1.4, 3.0]


@pytest.mark.parametrize("loss", [0.001, 0.005, 0.02])
def test_a_link_that_loses_is_no_faster_than_tcp_can_be(loss: float) -> None:
    """Mathis et al. 1997: 1.22 segments a round trip over the root of the loss."""
    link = Link(LinkProfile(up_bps=1e9, latency_s=0.05, loss=loss), SEED)
    num_bytes = 10_000_000
    bound_bps = 1.2247 * 8 * SEGMENT_BYTES / (0.1 * math.sqrt(loss))
    assert num_bytes * 8 / link.up(num_bytes, 0.0) == pytest.approx(bound_bps, rel=0.05)


def test_a_line_that_is_slower_than_tcp_could_be_loses_what_is_sent_again() -> None:
    profile = LinkProfile(up_bps=10_000, latency_s=0.05, loss=0.02)
    assert profile.tcp_bps > profile.up_bps
    assert Link(profile, SEED).up(100_000, 0.0) == pytest.approx(80 / 0.98, abs=1.0)


@hypothesis.settings(max_examples=300, deadline=None)
@given(st.floats(0, 100), st.floats(0.02, 100), st.floats(0.01, 0.99), st.integers(0, 10**6))
def test_an_outage_began_before_any_moment_and_the_next_begins_later(
    first_s: float, every_s: float, share: float, number: int
) -> None:
    """At the moments where rounding bites: at a beginning, at an end, and just beside both."""
    for_s = share * (every_s - MIN_OPEN_S)
    outage = Outage(first_s=first_s, every_s=every_s, for_s=for_s)
    start = first_s + number * every_s
    for moment in (start, start + for_s, start + every_s):
        for now in (math.nextafter(moment, -1), moment, math.nextafter(moment, math.inf)):
            if now < first_s:
                continue
            assert outage.start_before(now) <= now < outage.start_after(now)
            assert outage.start_after(now) - outage.start_before(now) == pytest.approx(every_s)


@hypothesis.settings(max_examples=50, deadline=None)
@given(st.floats(0, 20), st.floats(0.05, 50), st.floats(0.01, 0.99))
@hypothesis.example(0.0, 0.7, 0.15)
@hypothesis.example(5.0, 9.9, 0.3)
@hypothesis.example(0.0, 60.1, 0.08)
def test_a_link_that_is_always_busy_moves_on_whatever_the_period_of_its_outages(
    first_s: float, every_s: float, share: float
) -> None:
    for_s = share * (every_s - MIN_OPEN_S)
    outage = Outage(first_s=first_s, every_s=every_s, for_s=for_s)
    link = Link(LinkProfile(up_bps=1e4, latency_s=0.0, outages=(outage,)), SEED)
    found = [link.up(500, 0.0) for _ in range(100)]
    assert found == sorted(set(found))
    assert 40.0 - 1e-6 <= found[-1] < math.inf


@hypothesis.settings(max_examples=50, deadline=None)
@given(st.floats(0, 200), st.integers(0, 5_000))
def test_nothing_passes_during_an_outage(now: float, num_bytes: int) -> None:
    profile = LinkProfile(up_bps=8_000, latency_s=0.0, outages=(FLAPS,))
    at = Link(profile, SEED).up(num_bytes, now)
    assert (at % FLAPS.every_s >= FLAPS.for_s - 1e-6) or at % FLAPS.every_s < 1e-6
    num_open_s = num_bytes * 8 / profile.up_bps
    assert at >= now + num_open_s


def test_an_outage_that_never_lets_a_retry_through_ends_all_the_same() -> None:
    """Retries at fixed distances could meet every one of the outages."""
    profile = LinkProfile(latency_s=0.0, outages=(Outage(every_s=60.0, for_s=59.9),))
    assert Link(profile, SEED).up(1, 0.0) < 1_000.0


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: LinkProfile(up_bps=0), "up_bps must be 1 or more"),
        (lambda: LinkProfile(loss=1.0), "loss must be from 0 to 0.9"),
        (lambda: LinkProfile(latency_s=-1), "latency_s must be 0 or more"),
        (lambda: LinkProfile(jitter_s=math.nan), "jitter_s must be 0 or more"),
        (lambda: Outage(for_s=0), "for_s must be above 0"),
        (lambda: Outage(for_s=5, every_s=5.001), "every_s must be above for_s"),
        (lambda: LinkProfile(outages=(FLAPS, FLAPS)), "at most one may repeat"),
    ],
)
def test_an_impossible_link_is_refused(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make()


# --- connections over links -------------------------------------------------------------------


def deliver(outage: Outage) -> tuple[list[bytes], list[bytes], int]:
    """Send a message a second; return what was sent and what came, and how often it broke."""
    bus = MemoryBus(LinkProfile(latency_s=0.02, outages=(outage,)))
    writer = bus.connected(settings("writer", keepalive_s=20))
    reader = bus.connected(settings("reader", keepalive_s=20), "a")
    sent = []
    for number in range(100):
        if writer.transport.connected:
            sent.append(b"%d" % number)
            writer.transport.publish("a", sent[-1])
        bus.queue.run_until(bus.queue.now + 1.0)
    bus.queue.run_until(bus.queue.now + 100.0)
    bus.step()
    return sent, reader.payloads, reader.num_disconnects


def test_a_link_that_flaps_delays_and_neither_breaks_nor_loses() -> None:
    sent, came, num_breaks = deliver(Outage(first_s=5.0, every_s=10.0, for_s=3.0))
    assert came == sent
    assert num_breaks == 0


def test_a_connection_that_was_silent_for_its_keepalive_breaks_and_loses_nothing() -> None:
    sent, came, num_breaks = deliver(Outage(first_s=30.0, for_s=40.0))
    assert num_breaks == 1
    assert len(sent) < 100  # while it knew that it was offline
    assert list(dict.fromkeys(came)) == sent
    assert len(came) > len(sent)  # at least once: nobody knows which of them had arrived


def test_who_vanishes_is_noticed_when_it_has_been_silent_for_too_long() -> None:
    world = World(TaskConfig(task="t", model=MODEL), SEED)
    device = world.add("d", DryTrainer(), lambda _: 1.0, link=LinkProfile())
    world.run_for(5.0)
    device.lose_power()
    state = world.topics.state("d")
    world.run_for(80.0)
    assert world.broker.retained[state] == b"online"
    world.run_for(20.0)
    assert world.broker.retained[state] == b"offline"


def test_what_waits_for_a_slow_link_is_bounded() -> None:
    bus = MemoryBus(LinkProfile(up_bps=1e3))
    writer = bus.connected(settings("writer", max_queued=2))
    writer.transport.publish("a", b"1")
    writer.transport.publish("a", b"2")
    with pytest.raises(QueueFullError):
        writer.transport.publish("a", b"3")


# --- federations over links -------------------------------------------------------------------


def federation(link: LinkProfile, seed: bytes = SEED) -> World:
    """Return a world in which four devices on such links have trained for ten minutes."""
    config = TaskConfig(
        task="t", model=MODEL, buffered=Buffered(goal=2, max_wait_s=30.0), check_in_s=6
    )
    world = World(config, seed)
    for number in range(4):
        world.add(f"d{number}", DryTrainer(), lambda _: 10.0, link=link)
    world.run_for(600.0)
    return world


NARROW = LinkProfile(up_bps=2e4, down_bps=5e4, latency_s=0.3, jitter_s=0.2, loss=0.05)
FLAPPING = LinkProfile(latency_s=0.05, outages=(FLAPS,))
BREAKING = LinkProfile(latency_s=0.05, outages=(Outage(first_s=60.0, every_s=200.0, for_s=100.0),))


@pytest.mark.parametrize("link", [NARROW, FLAPPING, BREAKING], ids=["narrow", "flaps", "breaks"])
def test_over_a_bad_link_every_device_is_served_and_nothing_counts_twice(link: LinkProfile) -> None:
    world = federation(link)
    assert min(device.counts["receipts"] for device in world.devices.values()) >= 5
    counted = [lease_id for _, lease_id in world.server.store.counted_ids()]
    assert len(counted) == len(set(counted))


def test_the_same_seed_gives_the_same_bytes_over_links() -> None:
    one, same, other = federation(NARROW), federation(NARROW), federation(NARROW, bytes([1] * 32))
    assert one.server.store.snapshot() == same.server.store.snapshot()
    assert one.queue.num_events == same.queue.num_events != other.queue.num_events


def test_a_fleet_that_lost_its_broker_comes_back_spread_out() -> None:
    world = World(TaskConfig(task="t", model=MODEL), SEED)
    for number in range(40):
        world.add(f"d{number}", DryTrainer(), lambda _: 1e6, link=LinkProfile())
    world.run_for(20.0)
    world.broker.restart(down_s=20.0, forget=False)
    came_back = []
    for _ in range(300):
        world.run_for(0.5)
        came_back.append(sum(is_online(device) for device in world.devices.values()))
    assert came_back[0] == 0
    assert came_back[-1] == 40
    assert len(set(came_back)) > 12  # in so many half seconds, and not all in one


def is_online(device: SimulatedDevice) -> bool:
    return device.transport is not None and device.transport.connected


@pytest.mark.parametrize("seed", range(2))
def test_with_links_hours_limits_and_restarts_at_once_nothing_is_lost_or_counts_twice(
    seed: int,
) -> None:
    config = TaskConfig(
        task="t",
        model=MODEL,
        buffered=Buffered(goal=3, max_wait_s=20.0),
        check_in_s=6,
        lease_ttl_s=60,
    )
    world = World(config, bytes([seed] * 32), limits=BrokerLimits.stock())
    links = (NARROW, FLAPPING, BREAKING, None)
    for number in range(8):
        hours = Diurnal(period_s=150.0, on_fraction=0.7, phase=number / 8, drops=0.5)
        world.add(
            f"d{number:02}",
            DryTrainer(),
            lambda _: 5.0,
            link=links[number % 4],
            availability=hours,
            updates_per_wake=number % 3,
        )
    for number in range(6):
        world.run_for(150.0)
        world.broker.restart(down_s=10.0, forget=number % 2 == 0)
        world.server.lose_power(after=3 * number, down_s=5.0)
    world.run_for(600.0)
    counted = [lease_id for _, lease_id in world.server.store.counted_ids()]
    assert len(counted) == len(set(counted))
    receipts = {name: device.counts["receipts"] for name, device in world.devices.items()}
    assert min(receipts.values()) >= 4, receipts
    # A receipt is lost only with the power of a device that had not stored it: it asks again.
    assert sum(receipts.values()) <= len(counted) + 8
