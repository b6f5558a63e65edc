"""What devices tell of their links, and what becomes of it."""

import json
from collections.abc import Sequence
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aggregator.actions import Action
from aggregator.scheduling.rounds import Rounds
from aggregator.scheduling.selection import SelectionConfig
from aggregator.telemetry import MAX_BYTES, saturated_values, uplink_speed
from protocol.actions import Subscribe
from protocol.errors import RemoteProtocolError
from tests.aggregator.conftest import MakeDesk
from tests.support.desk import Desk


def desk_with(make_desk: MakeDesk, rule: str) -> Desk:
    rounds = Rounds(size=1, quorum=1, deadline_s=20.0, gather_s=4.0)
    return make_desk(mode="rounds", rounds=rounds, selection=SelectionConfig(rule=rule))


def tell(desk: Desk, device: str, **told: object) -> None:
    topics = desk.coordinator.topics
    desk.hear(topics.state(device), b"online")
    desk.hear(topics.telemetry(device), json.dumps(told).encode())


def test_how_fast_a_link_is_its_device_tells(make_desk: MakeDesk) -> None:
    desk = desk_with(make_desk, "hungarian")
    links = desk.coordinator.granting.links
    tell(desk, "a", uplink_bytes_per_s=1)
    tell(desk, "b", uplink_bytes_per_s=1_000_000)
    assert (links.known("a").bytes_per_s, links.known("b").bytes_per_s) == (1, 1_000_000)
    tell(desk, "a", uplink_bytes_per_s=5)
    assert links.known("a").bytes_per_s == pytest.approx(2), "a moving average"


def test_telemetry_without_a_speed_changes_nothing(make_desk: MakeDesk) -> None:
    desk = desk_with(make_desk, "hungarian")
    tell(desk, "a", memory_kib=100)
    assert len(desk.coordinator.granting.links) == 0


def test_a_device_that_never_came_takes_no_memory(make_desk: MakeDesk) -> None:
    desk = desk_with(make_desk, "hungarian")
    topic = desk.coordinator.topics.telemetry("stranger")
    desk.hear(topic, json.dumps({"uplink_bytes_per_s": 9}).encode())
    assert len(desk.coordinator.granting.links) == 0


@pytest.mark.parametrize(("rule", "hears"), [("hungarian", True), ("longest_waiting", False)])
def test_telemetry_is_read_only_where_links_decide(
    make_desk: MakeDesk, rule: str, *, hears: bool
) -> None:
    coordinator = desk_with(make_desk, rule).coordinator
    filters = asked_for(coordinator.start(0.0))
    assert (coordinator.topics.telemetry_filter() in filters) is hears


def test_what_is_always_listened_to_is_asked_for_at_the_start_alone(make_desk: MakeDesk) -> None:
    coordinator = desk_with(make_desk, "hungarian").coordinator
    assert set(coordinator.topics.aggregator_filters()) < asked_for(coordinator.start(0.0))
    for _ in range(2):
        again = asked_for(coordinator.connected(60_000, now=0.0))
        assert again == set(coordinator.topics.own_model_filters())


def asked_for(actions: Sequence[Action]) -> set[str]:
    return {each for one in actions if isinstance(one, Subscribe) for each in one.filters}


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"[1]",
        b"{" * 5_000,
        b'{"uplink_bytes_per_s": "fast"}',
        b'{"uplink_bytes_per_s": true}',
        b'{"uplink_bytes_per_s": -1}',
        b'{"uplink_bytes_per_s": NaN}',
        b'{"uplink_bytes_per_s": 1e999}',
        b'{"uplink_bytes_per_s": 1' + b"0" * 400 + b"}",
        b'{"x": "' + b"y" * MAX_BYTES + b'"}',
    ],
)
def test_what_is_no_speed_is_refused(payload: bytes) -> None:
    with pytest.raises(RemoteProtocolError, match="telemetry"):
        uplink_speed(payload)


@pytest.mark.parametrize("count", ["-1", "1.5", "true", "1" + "0" * 400])
def test_what_is_no_count_is_refused(count: str) -> None:
    with pytest.raises(RemoteProtocolError, match="telemetry"):
        saturated_values(f'{{"saturated_values": {count}}}'.encode())


@given(st.binary(max_size=200) | st.from_regex(rb'\{"uplink_bytes_per_s": .{0,20}\}'))
def test_any_bytes_are_a_speed_or_refused(payload: bytes) -> None:
    with suppress(RemoteProtocolError):
        assert uplink_speed(payload) >= 0
