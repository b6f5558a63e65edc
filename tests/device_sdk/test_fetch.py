"""A device fetches what it has missed, and always finds some way to the model of its lease."""

from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest

from device_sdk.actions import Keep
from device_sdk.fetch import MAX_FILTERS, RETRY_CAP_S
from device_sdk.held import MODEL, unpack_held
from protocol.chunks import cut
from protocol.codec import pack
from protocol.messages import MAX_DIFFERENCES, CheckIn, DifferenceChunk, Lease, ModelChunk, Receipt
from protocol.vectors.hidden import (
    advanced,
    difference,
    model_from_bytes,
    model_hash,
    model_to_bytes,
    parse_downlink,
)
from protocol.vectors.layout import Layout, Subset, Tensor
from tests.support.handset import INSTALL, SIZE, Handset
from tests.support.handset import MODEL as SPEC

Vector = npt.NDArray[np.float32]

LAYOUT = Layout((Tensor("0.kernel", (2, 2)), Tensor("0.bias", (2,))))
SUBSET = Subset(LAYOUT, frozenset({"0.kernel", "0.bias"}))
DELTA = [0.5, -1.0, 0.25, 0.0, 2.0, 1.0]


class Line:
    """What an aggregator has published: some versions whole as ``model``, and all differences."""

    def __init__(self, *, keyframes: Sequence[int] = (0,), model: str = "float32") -> None:
        self.model = model
        self.draws = np.random.default_rng(1)
        self.whole: dict[int, bytes] = {}
        self.differences: dict[int, bytes] = {}
        self.held: dict[int, Vector] = {}
        hidden = np.zeros(SIZE, np.float32)
        for version in range(12):
            x = self.draws.standard_normal(SIZE).astype(np.float32)
            told = difference(
                x,
                hidden,
                parse_downlink("topk-0.5/int8"),
                SUBSET,
                task="t",
                version=version,
                model=model if version in keyframes else "float32",
            )
            hidden = advanced(hidden, told, SUBSET, task="t", version=version)
            if version in keyframes:
                self.whole[version] = model_to_bytes(hidden, model, LAYOUT)
                hidden = model_from_bytes(self.whole[version], model, LAYOUT)
            self.differences[version] = pack(told)
            self.held[version] = hidden

    def lease(self, version: int, *, keyframe: int = 0, base: int = -1, number: int = 1) -> Lease:
        whole = self.whole.get(keyframe, b"")
        return Lease(
            number.to_bytes(16, "big"),
            INSTALL,
            version,
            model_hash(self.held[version]),
            len(whole),
            1,
            "dense/float32",
            10_000,
            0,
            600,
            keyframe=-1 if keyframe == version else keyframe,
            model=self.model,
            base=base,
        )

    def deliver(self, device: Handset, *, but: Iterable[int] = ()) -> None:
        """What is retained and subscribed to arrives, but for some differences."""
        for version, whole in self.whole.items():
            if device.topics.model_filter(version) in device.subscribed:
                device.hear(device.topics.model(version, 0), ModelChunk(version, 0, whole))
        for version, data in self.differences.items():
            if device.topics.difference_filter(version) in device.subscribed and version not in but:
                self.send(device, version, data)

    def send(self, device: Handset, version: int, data: bytes, size: int = 60_000) -> None:
        pieces = cut(data, size)
        for index, piece in enumerate(pieces):
            chunk = DifferenceChunk(version, index, len(pieces), piece)
            device.hear(device.topics.difference(version, index), chunk)


def ready(stored: dict[str, bytes] | None = None) -> Handset:
    device = Handset(stored)
    device.connect()
    device.hear_plan()
    return device


def holder(line: Line, version: int) -> Handset:
    """Return a device that has trained a version and got its receipt."""
    device = ready()
    fetch(line, device, line.lease(version, number=100))
    device.trains(DELTA)
    device.hear_in(Receipt((100).to_bytes(16, "big"), version + 1))
    device.said()
    return device


def fetch(line: Line, device: Handset, lease: Lease) -> None:
    device.hear_in(lease)
    line.deliver(device)


def fetching(device: Handset) -> set[str]:
    """What it is subscribed to for a while only."""
    return {topic for topic in device.subscribed if topic.endswith("/+")}


def assert_trains(device: Handset, params: Vector) -> None:
    assert device.training is not None, device.session.counts
    np.testing.assert_array_equal(device.training.assignment.params, params)
    assert not fetching(device), "subscriptions that nobody needs any more"


@pytest.mark.parametrize("model", ["float32", "float16", "int8"])
def test_a_new_device_begins_at_the_keyframe(model: str) -> None:
    line = Line(keyframes=(0, 4), model=model)
    device = ready()
    device.hear_in(line.lease(7, keyframe=4))
    filters = [device.topics.model_filter(4), *map(device.topics.difference_filter, (5, 6, 7))]
    assert fetching(device) == set(filters)
    line.deliver(device)
    assert_trains(device, line.held[7])


@pytest.mark.parametrize("model", ["float32", "float16", "int8"])
def test_a_device_that_comes_back_fetches_what_it_has_missed(model: str) -> None:
    """And rounds where others begin: version 4 is published whole."""
    line = Line(keyframes=(0, 4), model=model)
    device = holder(line, 3)
    device.hear_in(line.lease(6, keyframe=4, base=3))
    assert fetching(device) == set(map(device.topics.difference_filter, (4, 5, 6)))
    line.deliver(device)
    assert_trains(device, line.held[6])


def test_no_subscription_has_more_filters_than_the_strictest_broker_takes() -> None:
    line = Line()
    device = ready()
    begun = len(device.log)
    fetch(line, device, line.lease(11))
    sizes = [len(act.filters) for act in device.log[begun:] if hasattr(act, "filters")]
    assert sizes == [8, 4, 8, 4]
    assert max(sizes) <= MAX_FILTERS


def test_what_was_fetched_is_kept_over_a_reboot() -> None:
    line = Line(keyframes=(0, 4), model="int8")
    device = holder(line, 3)
    device.reboot()
    device.connect()
    device.wait()
    check_in = next(each for each in device.said() if isinstance(each, CheckIn))
    assert check_in.held_version == 3
    device.hear_plan()
    fetch(line, device, line.lease(5, keyframe=4, base=3))
    assert_trains(device, line.held[5])
    assert unpack_held(device.flash) is not None
    assert len([act for act in device.log if isinstance(act, Keep)]) == 2  # one a version


def test_with_the_model_its_spec_is_kept() -> None:
    line = Line()
    kept = unpack_held(holder(line, 2).flash)
    assert kept is not None
    model, spec = kept
    assert (model.version, spec) == (2, SPEC)
    np.testing.assert_array_equal(model.params, line.held[2])


@pytest.mark.parametrize("rotten", [b"", b"\x93\x01\x02\x03", b"\x94\x01\xc4\x00\xa1{\xc4\x03abc"])
def test_a_kept_model_that_cannot_be_read_is_none(rotten: bytes) -> None:
    device = ready({MODEL: rotten})
    (check_in,) = (each for each in device.said() if isinstance(each, CheckIn))
    assert check_in.held_version == -1


def test_the_plan_may_come_last() -> None:
    line = Line()
    device = Handset()
    device.connect()
    fetch(line, device, line.lease(3))
    assert device.training is None
    device.hear_plan()
    assert_trains(device, line.held[3])


def test_a_device_that_holds_something_else_of_that_number_begins_at_the_keyframe() -> None:
    """As when the aggregator's store was lost, and version numbers began again."""
    line, other = Line(), Line()
    other.held[2] = other.held[2] + 1
    device = holder(line, 3)
    kept = unpack_held(device.flash)
    assert kept is not None
    device.session._work._model = replace(kept[0], params=kept[0].params + 1)
    device.hear_in(line.lease(5, base=3))
    line.deliver(device)
    assert device.session.counts["fetches_failed"] == 1
    assert device.topics.model_filter(0) in device.subscribed
    line.deliver(device)
    assert_trains(device, line.held[5])


def test_a_difference_that_is_gone_is_asked_for_again_then_the_keyframe_is() -> None:
    line = Line(keyframes=(0, 5))
    device = holder(line, 3)
    device.hear_in(line.lease(6, keyframe=5, base=3))
    line.deliver(device, but=[4])
    device.subscribed.clear()
    device.wait()
    assert fetching(device) == {device.topics.difference_filter(4)}  # only what is missing
    device.wait()
    line.deliver(device)
    assert_trains(device, line.held[6])
    assert device.session.counts["fetches_failed"] == 1


def test_a_garbled_difference_sends_the_device_on_at_once() -> None:
    line = Line(keyframes=(0, 5))
    device = holder(line, 3)
    device.hear_in(line.lease(6, keyframe=5, base=3))
    line.differences[4] = b"no msgpack"
    line.deliver(device)
    line.deliver(device)
    assert_trains(device, line.held[6])
    assert device.session.counts["fetches_failed"] == 1


def test_who_can_put_nothing_together_says_so_and_takes_the_model_whole() -> None:
    line = Line()
    device = ready()
    line.differences[2] = b"no msgpack"
    fetch(line, device, line.lease(3))
    (check_in,) = (each for each in device.said() if isinstance(each, CheckIn) and each.unreachable)
    assert device.training is None
    line.whole[3] = model_to_bytes(line.held[3], "float32", LAYOUT)
    device.hear_in(line.lease(3, keyframe=3))
    assert fetching(device) == {device.topics.model_filter(3)}
    line.deliver(device)
    assert_trains(device, line.held[3])
    device.trains(DELTA)
    device.hear_in(Receipt((1).to_bytes(16, "big"), 4))
    check_in = next(each for each in device.said() if isinstance(each, CheckIn))
    assert (check_in.unreachable, check_in.held_version) == (0, 3)


def test_who_is_stuck_takes_the_next_lease_if_the_first_has_ended() -> None:
    """The aggregator's time of a lease ends first; it gives the next one, for a whole model."""
    line = Line()
    device = ready()
    line.differences[2] = b"no msgpack"
    fetch(line, device, line.lease(3))
    line.whole[4] = model_to_bytes(line.held[4], "float32", LAYOUT)
    device.subscribed.clear()
    device.hear_in(replace(line.lease(2, keyframe=2), lease_id=bytes(16)))  # a late copy
    assert not fetching(device)
    device.hear_in(replace(line.lease(4, keyframe=4), lease_id=bytes(range(16))))
    line.deliver(device)
    assert_trains(device, line.held[4])


def test_who_is_stuck_says_so_again_ever_more_rarely_and_fetches_nothing_meanwhile() -> None:
    line = Line()
    device = ready()
    line.differences[2] = b"no msgpack"
    fetch(line, device, line.lease(3))
    device.subscribed.clear()
    waits = []
    for _ in range(3):
        before = device.now
        device.wait()
        waits.append(device.now - before)
    assert waits[0] < waits[1] < waits[2]
    assert not fetching(device)


def test_a_link_that_breaks_again_and_again_leaves_no_device_waiting_for_years() -> None:
    """It asks with each connection; were each to double the wait, no timer would ever come."""
    line = Line()
    device = ready()
    device.hear_in(line.lease(3))
    for _ in range(40):
        device.perform(device.session.disconnected())
        device.connect()
    assert device.session.timer_at - device.now <= 2 * RETRY_CAP_S
    line.deliver(device)
    assert_trains(device, line.held[3])


def test_a_lease_that_ran_out_over_it_is_told_with_the_next_check_in() -> None:
    line = Line()
    device = ready()
    device.hear_in(replace(line.lease(3), ttl_s=12))
    line.deliver(device, but=[2])
    device.said()
    device.wait()
    device.wait()
    (check_in,) = (each for each in device.said() if isinstance(each, CheckIn))
    assert check_in.unreachable == 1
    assert not fetching(device)


def test_every_other_check_in_can_be_read_by_an_aggregator_of_old() -> None:
    """It knows no such field, drops the message, and would never again give this device a lease."""
    line = Line()
    device = ready()
    device.hear_in(replace(line.lease(0), ttl_s=12))
    device.said()
    told = []
    for _ in range(6):
        device.wait()
        told += [each.unreachable for each in device.said() if isinstance(each, CheckIn)]
    assert told[:4] == [1, 0, 1, 0]


def test_a_difference_may_come_in_pieces_in_any_order_cut_anew() -> None:
    line = Line()
    device = ready()
    device.hear_in(line.lease(2))
    line.send(device, 1, line.differences[1], size=7)
    pieces = cut(line.differences[2], 9)
    device.hear(device.topics.difference(2, 1), DifferenceChunk(2, 1, len(pieces), pieces[1]))
    line.send(device, 2, line.differences[2], size=5)
    line.deliver(device, but=[1, 2])
    assert_trains(device, line.held[2])


def test_a_lease_with_more_differences_than_there_can_be_is_refused() -> None:
    line = Line()
    device = ready()
    lease = replace(line.lease(11), version=MAX_DIFFERENCES + 1)
    device.hear_in(lease)
    assert device.session.counts["refused_malformed"] == 1
    assert not fetching(device)


def test_differences_take_no_more_memory_than_a_few_models() -> None:
    line = Line()
    device = ready()
    device.hear_in(line.lease(2))
    for index in range(4):
        device.hear(device.topics.difference(2, index), DifferenceChunk(2, index, 9, bytes(50_000)))
    assert device.session.counts["refused_oversize"] == 3


def test_an_update_is_stored_at_once_and_sent_when_its_lease_says() -> None:
    line = Line()
    device = ready()
    fetch(line, device, replace(line.lease(0), upload_after_s=300))
    came_at = device.now
    device.now += 40
    device.trains(DELTA)
    assert "pending" in device.flash
    assert device.chunks() == []
    device.hear_plan(start=2)  # the aggregator has started: that hurries nobody
    device.wait()
    assert device.said() == []
    device.wait()
    assert device.now == came_at + 300
    assert len(device.chunks()) == 1
    device.wait()
    assert any(isinstance(each, CheckIn) and each.pending for each in device.said())


def test_an_update_that_is_held_back_is_sent_when_due_whatever_the_connection_did() -> None:
    line = Line()
    device = ready()
    fetch(line, device, replace(line.lease(0), upload_after_s=300))
    device.trains(DELTA)
    device.session.disconnected()
    device.now += 100
    device.connect()
    assert device.chunks() == []
    device.session.disconnected()
    device.now += 300
    device.connect()
    assert len(device.chunks()) == 1


def test_after_a_reboot_an_update_that_was_held_back_is_asked_after_at_once() -> None:
    line = Line()
    device = ready()
    fetch(line, device, replace(line.lease(0), upload_after_s=300))
    device.trains(DELTA)
    device.reboot()
    device.connect()
    (check_in,) = (each for each in device.said() if isinstance(each, CheckIn))
    assert check_in.pending
