"""Updates that come in part."""

import random
from typing import Any

import numpy as np
import pytest

from aggregator.assembly import Partials
from aggregator.scheduling.buffered import Buffered
from protocol import refusals
from protocol.chunks import checksum, cut
from protocol.messages import ChunksMissing, Lease, Receipt, UpdateChunk
from tests.aggregator.conftest import MakeDesk
from tests.support.desk import Desk

#: 402 params, 1,608 bytes: 6 chunks of 300 bytes.
WIDE: dict[str, Any] = {
    "input": [200],
    "layers": [{"type": "dense", "units": 2}],
    "loss": "softmax_cross_entropy",
}


def chunks(desk: Desk, lease: Lease) -> list[UpdateChunk]:
    delta = np.arange(402, dtype=np.float32)
    return cut_at(desk.update(lease, delta), lease, 300)


def cut_at(update: bytes, lease: Lease, size: int) -> list[UpdateChunk]:
    pieces = list(enumerate(cut(update, size)))
    return [
        UpdateChunk(lease.lease_id, checksum(update), i, len(pieces), piece) for i, piece in pieces
    ]


def wide(make_desk: MakeDesk, **settings: Any) -> Desk:
    return make_desk(model=WIDE, buffered=Buffered(goal=1), **settings)


@pytest.mark.parametrize("seed", range(5))
def test_chunks_in_any_order_twice_over_count_once(make_desk: MakeDesk, seed: int) -> None:
    desk = wide(make_desk)
    lease = desk.lease("a")
    delivered = chunks(desk, lease) * 2
    random.Random(seed).shuffle(delivered)  # noqa: S311 - an order, not a secret
    for chunk in delivered:
        desk.send_chunk("a", chunk)
    assert desk.store.counted_ids() == [(1, lease.lease_id)]
    np.testing.assert_allclose(desk.step, np.arange(402), rtol=1e-5, atol=1e-5)


def test_missing_chunks_are_asked_for_and_complete_the_update(make_desk: MakeDesk) -> None:
    desk = wide(make_desk, chunk_patience_s=5.0)
    lease = desk.lease("a")
    pieces = chunks(desk, lease)
    for chunk in (pieces[0], pieces[3]):
        desk.send_chunk("a", chunk)
    desk.wait(6)
    missing = desk.last("a")
    assert isinstance(missing, ChunksMissing)
    assert missing.indices == (1, 2, 4, 5)
    for index in missing.indices:
        desk.send_chunk("a", pieces[index])
    assert desk.coordinator.version == 1


def test_what_stays_incomplete_is_given_up_and_can_begin_again(make_desk: MakeDesk) -> None:
    desk = wide(make_desk, chunk_patience_s=5.0)
    lease = desk.lease("a")
    desk.send_chunk("a", chunks(desk, lease)[0])
    desk.wait(200)
    assert desk.refused(refusals.INCOMPLETE) == 1
    assert len(desk.coordinator.partials) == desk.coordinator.partials.num_bytes == 0
    desk.check_in("a", lease.lease_id)
    assert desk.last("a") == ChunksMissing(lease.lease_id, ())
    for chunk in chunks(desk, lease):
        desk.send_chunk("a", chunk)
    desk.check_in("a", lease.lease_id)
    assert desk.last("a") == Receipt(lease.lease_id, 1)


def test_a_restart_forgets_half_an_update_and_says_so_when_asked(make_desk: MakeDesk) -> None:
    desk = wide(make_desk)
    lease = desk.lease("a")
    desk.send_chunk("a", chunks(desk, lease)[0])
    desk.restart()
    desk.check_in("a", lease.lease_id)
    assert desk.last("a") == ChunksMissing(lease.lease_id, ())


def test_a_thousand_updates_that_never_complete_stay_within_memory(make_desk: MakeDesk) -> None:
    desk = wide(make_desk, max_assembly_bytes=1 << 16, chunk_patience_s=5.0)
    desk.coordinator._progress.scheduling = Buffered(goal=1, concurrency=2_000)
    for number in range(1_000):
        device = f"d{number}"
        desk.send_chunk(device, chunks(desk, desk.lease(device))[0])
        assert desk.coordinator.partials.num_bytes <= 1 << 16
    assert desk.refused(refusals.BUSY) == 1_000 - (1 << 16) // 300
    desk.wait(200)
    assert len(desk.coordinator.partials) == 0
    last = desk.lease("late")
    for chunk in chunks(desk, last):
        desk.send_chunk("late", chunk)
    assert desk.coordinator.version == 1


def test_an_update_cut_anew_replaces_the_half_that_came_before(make_desk: MakeDesk) -> None:
    desk = wide(make_desk)
    lease = desk.lease("a")
    desk.send_chunk("a", chunks(desk, lease)[0])
    for chunk in cut_at(desk.update(lease, np.arange(402, dtype=np.float32)), lease, 500):
        desk.send_chunk("a", chunk)
    assert desk.coordinator.version == 1


@pytest.mark.parametrize("place", [0, 1])
@pytest.mark.parametrize("sizes", [(1_000, 1_500), (1_500, 1_000)])
def test_a_broker_with_another_packet_size_half_way_frames_nobody(
    make_desk: MakeDesk, place: int, sizes: tuple[int, int]
) -> None:
    """As many chunks of the same update, cut elsewhere: what does not fit is sent again."""
    desk = wide(make_desk)
    lease = desk.lease("a")
    update = desk.update(lease, np.arange(402, dtype=np.float32))
    before, after = (cut_at(update, lease, size) for size in sizes)
    assert len(before) == len(after)
    for chunk in (before[0], after[place]):
        desk.send_chunk("a", chunk)
    assert desk.coordinator.conduct.score("a") == 0
    for chunk in after:
        desk.send_chunk("a", chunk)
    assert desk.coordinator.version == 1


def test_more_bytes_than_the_lease_allows_are_refused(make_desk: MakeDesk) -> None:
    desk = wide(make_desk)
    lease = desk.lease("a")
    desk.send_chunk("a", UpdateChunk(lease.lease_id, 0, 0, 1, bytes(lease.budget_bytes + 1)))
    assert desk.refused(refusals.OVERSIZE) == 1
    assert desk.coordinator.version == 0


def test_a_slow_uplink_completes_and_is_asked_once_at_most(make_desk: MakeDesk) -> None:
    desk = wide(make_desk, chunk_patience_s=5.0, lease_ttl_s=10_000)
    lease = desk.lease("a")
    for chunk in chunks(desk, lease):
        desk.send_chunk("a", chunk)
        desk.wait(60)
    assert desk.coordinator.version == 1
    assert len([m for _, m in desk.said if isinstance(m, ChunksMissing)]) == 1


def test_two_trainings_under_one_lease_are_never_mixed(make_desk: MakeDesk) -> None:
    """A device that lost its update trains again: the first one's chunks are of no use."""
    desk = wide(make_desk)
    lease = desk.lease("a")
    first = cut_at(desk.update(lease, np.ones(402, np.float32)), lease, 300)
    second = cut_at(desk.update(lease, -np.ones(402, np.float32)), lease, 300)
    for chunk in (first[0], first[3], *second):
        desk.send_chunk("a", chunk)
    np.testing.assert_allclose(desk.step, -1, rtol=1e-6)


def test_an_idle_check_in_forgets_half_an_update(make_desk: MakeDesk) -> None:
    desk = wide(make_desk)
    lease = desk.lease("a")
    desk.send_chunk("a", chunks(desk, lease)[0])
    assert desk.lease("a").lease_id == lease.lease_id
    assert len(desk.coordinator.partials) == 0


def test_an_update_without_its_checksum_is_refused(make_desk: MakeDesk) -> None:
    desk = wide(make_desk)
    lease = desk.lease("a")
    update = desk.update(lease, np.ones(402, np.float32))
    desk.send_chunk("a", UpdateChunk(lease.lease_id, checksum(update) ^ 1, 0, 1, update))
    assert desk.refused(refusals.MALFORMED) == 1
    assert desk.coordinator.version == 0


def test_what_is_due_is_asked_for_whatever_the_last_bit_says() -> None:
    """A deadline that is never reached would wake the service for ever."""
    drawn = np.random.default_rng(1)
    for since, patience in drawn.uniform(0.1, 1e5, size=(2_000, 2)):
        partials = Partials(1 << 20, float(patience))
        partials.add("a", UpdateChunk(bytes(16), 0, 0, 2, b"x"), 1_000, float(since))
        deadline = partials.next_deadline()
        assert deadline is not None
        assert partials.to_ask_for(deadline)
