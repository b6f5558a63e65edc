"""The coordinator: leases, admission, the buffer, receipts and refusals."""

from dataclasses import replace

import numpy as np
import pytest

from aggregator.records import CounterRecord, DeviceRecord
from aggregator.robust.config import RobustConfig
from aggregator.scheduling.buffered import Buffered
from aggregator.scheduling.rounds import Rounds
from aggregator.task_config import StrategyConfig
from protocol import refusals
from protocol.chunks import checksum, cut
from protocol.codec import decode, encode_update
from protocol.messages import (
    AGGREGATOR,
    CheckIn,
    ChunksMissing,
    Held,
    Lease,
    Manifest,
    Receipt,
    Refusal,
    Update,
    UpdateChunk,
)
from tests.aggregator.conftest import MakeDesk
from tests.support.desk import CODECS, Desk, install_id

ONE = [1.0, 0, 0, 0, 0, 0]
TWO = [0, 2.0, 0, 0, 0, 0]


def manifest(desk: Desk) -> Manifest:
    payload = desk.retained[desk.coordinator.topics.manifest()]
    return decode(payload, (Manifest,), task="t", sender=AGGREGATOR)


def goal(number: int, **settings: float) -> Buffered:
    return Buffered(goal=number, **settings)  # type: ignore[arg-type] # whole numbers and seconds


# --- leases ------------------------------------------------------------------------------------


def test_a_device_that_checks_in_gets_a_lease_for_the_current_version(make_desk: MakeDesk) -> None:
    lease = make_desk().lease("a")
    assert (lease.version, lease.codec, lease.num_chunks) == (0, "dense/float32", 1)


def test_checking_in_again_gets_the_same_lease(make_desk: MakeDesk) -> None:
    desk = make_desk()
    assert desk.lease("a").lease_id == desk.lease("a").lease_id


def test_a_restart_keeps_the_lease(make_desk: MakeDesk) -> None:
    desk = make_desk()
    before = desk.lease("a")
    desk.restart()
    assert desk.lease("a").lease_id == before.lease_id


def test_no_more_devices_train_than_concurrency_allows(make_desk: MakeDesk) -> None:
    desk = make_desk(buffered=goal(5, concurrency=1))
    first = desk.lease("a")
    desk.check_in("b")
    assert desk.last("b") is None
    desk.send("a", first, ONE)
    assert isinstance(desk.last("b"), Lease)


def test_a_lease_that_runs_out_frees_its_slot(make_desk: MakeDesk) -> None:
    desk = make_desk(buffered=goal(5, concurrency=1), lease_ttl_s=30)
    desk.lease("a")
    desk.check_in("b")
    desk.wait(31)
    assert isinstance(desk.last("b"), Lease)
    assert desk.coordinator.counts["leases_expired"] == 1


def test_an_update_is_taken_after_its_lease_ran_out(make_desk: MakeDesk) -> None:
    desk = make_desk(buffered=goal(1), lease_ttl_s=30)
    lease = desk.lease("a")
    desk.wait(100)
    desk.send("a", lease, ONE)
    assert manifest(desk).counted == (lease.lease_id,)


def test_a_device_without_its_update_gets_a_new_lease_after_the_old_ran_out(
    make_desk: MakeDesk,
) -> None:
    desk = make_desk(buffered=goal(5), lease_ttl_s=30)
    old = desk.lease("a")
    desk.wait(31)
    new = desk.lease("a")
    assert new.lease_id != old.lease_id
    desk.send("a", old, ONE)  # it was still under way after all
    assert desk.last("a") == Refusal(
        old.lease_id, refusals.SUPERSEDED, refusals.MEANING[refusals.SUPERSEDED]
    )
    assert len(desk.coordinator.buffers) == 0


def test_a_second_installation_of_one_id_is_told_so(make_desk: MakeDesk) -> None:
    desk = make_desk()
    lease = desk.lease("a")
    desk.check_in("a", installation="clone")
    refusal = desk.last("a")
    assert isinstance(refusal, Refusal)
    assert refusal.reason == refusals.DUPLICATE_DEVICE
    assert refusal.install_id.startswith(b"clone")
    assert refusal.install_id != lease.install_id
    assert desk.refused(refusals.DUPLICATE_DEVICE) == 1


def test_an_id_stays_with_its_installation_after_a_restart(make_desk: MakeDesk) -> None:
    desk = make_desk()
    desk.lease("a")
    desk.restart()
    desk.check_in("a", installation="clone")
    assert desk.refused(refusals.DUPLICATE_DEVICE) == 1


def test_a_released_id_goes_to_the_next_installation(make_desk: MakeDesk) -> None:
    desk = make_desk()
    desk.check_in("a")
    desk.store.commit([DeviceRecord("a", b"")])
    desk.restart()
    desk.wait(601)
    desk.check_in("a", installation="new card")
    assert desk.refused(refusals.DUPLICATE_DEVICE) == 0
    desk.restart()
    desk.check_in("a")
    assert desk.refused(refusals.DUPLICATE_DEVICE) == 1


# --- counting ----------------------------------------------------------------------------------


def test_a_full_buffer_makes_a_version_whose_manifest_holds_the_receipts(
    make_desk: MakeDesk,
) -> None:
    desk = make_desk(buffered=goal(2))
    a, b = desk.lease("a"), desk.lease("b")
    desk.send("a", a, ONE)
    assert desk.coordinator.version == 0
    desk.send("b", b, TWO)
    assert manifest(desk).version == 1
    assert manifest(desk).counted == (a.lease_id, b.lease_id)
    np.testing.assert_allclose(desk.step, [0.5, 1.0, 0, 0, 0, 0], atol=1e-7)


@pytest.mark.parametrize("strategy", ["fedavg", "fedadam"])
def test_only_what_is_trained_travels_and_moves(make_desk: MakeDesk, strategy: str) -> None:
    desk = make_desk(
        buffered=goal(2),
        training={"trainable": ["*.bias"]},
        strategy=StrategyConfig(name=strategy),
    )
    before = desk.coordinator.versions.params.copy()
    a, b = desk.lease("a"), desk.lease("b")
    whole = desk.lease("c")
    desk.send("a", a, [0.5, 0.0])
    desk.restart()
    desk.send("b", b, [0.0, -1.0])
    moved = desk.coordinator.versions.params - before
    assert desk.coordinator.version == 1
    assert np.count_nonzero(moved[:4]) == 0
    if strategy == "fedavg":
        np.testing.assert_allclose(moved[4:], [0.25, -0.5], atol=1e-7)
    assert np.all(np.sign(moved[4:]) == [1, -1])
    update = encode_update(Update(whole.version, whole.codec, 1, bytes(24)))
    desk.send_chunk("c", UpdateChunk(whole.lease_id, checksum(update), 0, 1, update))
    answer = desk.last("c")
    assert isinstance(answer, Refusal)
    assert answer.reason == refusals.WRONG_SHAPE


def test_a_redelivered_update_counts_once(make_desk: MakeDesk) -> None:
    desk = make_desk(buffered=goal(2))
    a, b = desk.lease("a"), desk.lease("b")
    for _ in range(3):
        desk.send("a", a, ONE)
    assert len(desk.coordinator.buffers) == 1
    desk.send("b", b, TWO)
    desk.send("a", a, ONE)
    assert desk.last("a") == Receipt(a.lease_id, 1)
    assert desk.store.counted_ids() == [(1, a.lease_id), (1, b.lease_id)]
    assert len(desk.coordinator.buffers) == 0


@pytest.mark.parametrize("restarts", [False, True])
def test_a_replay_of_the_journal_gives_the_same_bytes(
    make_desk: MakeDesk, *, restarts: bool
) -> None:
    desk = make_desk(buffered=goal(6), weigh_by_samples=True)
    drawn = np.random.default_rng(5)
    for number in range(6):
        lease = desk.lease(f"d{number}")
        desk.send(f"d{number}", lease, list(drawn.normal(size=6)), num_samples=number + 1)
        if restarts:
            desk.restart()
    assert desk.coordinator.version == 1
    expected = make_desk(buffered=goal(6), weigh_by_samples=True)
    drawn = np.random.default_rng(5)
    for number in range(6):
        lease = expected.lease(f"d{number}")
        expected.send(f"d{number}", lease, list(drawn.normal(size=6)), num_samples=number + 1)
    assert desk.params.tobytes() == expected.params.tobytes()


def test_a_replay_adds_in_journal_order(make_desk: MakeDesk) -> None:
    """Large numbers that cancel leave the small one in this order, and lose it in the other."""
    desk = make_desk(buffered=goal(4), robust=RobustConfig(rule="mean"))
    for device, value in (("a", 1e20), ("b", -1e20), ("c", 4.0)):
        desk.send(device, desk.lease(device), [value, 0, 0, 0, 0, 0])
    desk.restart()
    desk.send("d", desk.lease("d"), [0.0] * 6)
    np.testing.assert_allclose(desk.step[0], 1.0, atol=1e-6)


def test_an_update_that_new_settings_have_no_use_for_is_not_held_against_its_device(
    make_desk: MakeDesk,
) -> None:
    desk = make_desk(buffered=goal(2))
    lease = desk.lease("a")
    desk.send("a", lease, ONE)
    desk.config = replace(desk.config, training={"trainable": ["*.bias"]})
    desk.restart()
    assert len(desk.coordinator.buffers) == 0
    assert desk.refused(refusals.WRONG_SHAPE) == 1
    assert desk.coordinator.conduct.score("a") == 0
    told = desk.last("a")
    assert isinstance(told, Refusal)
    assert (told.lease_id, told.reason) == (lease.lease_id, refusals.WRONG_SHAPE)


def test_a_buffer_closes_after_max_wait_with_enough_contributors(make_desk: MakeDesk) -> None:
    desk = make_desk(buffered=goal(10, max_wait_s=60.0, min_contributors=2))
    desk.send("a", desk.lease("a"), ONE)
    desk.wait(100)
    assert desk.coordinator.version == 0
    desk.send("b", desk.lease("b"), ONE)
    assert desk.coordinator.version == 1


def test_sample_weights_make_the_weighted_mean(make_desk: MakeDesk) -> None:
    unlimited = RobustConfig(samples_ratio=0.0)
    desk = make_desk(buffered=goal(2), weigh_by_samples=True, robust=unlimited)
    a, b = desk.lease("a"), desk.lease("b")
    desk.send("a", a, ONE, num_samples=3)
    desk.send("b", b, TWO, num_samples=1)
    np.testing.assert_allclose(desk.step, [0.75, 0.5, 0, 0, 0, 0], atol=1e-7)


@pytest.mark.parametrize(("normalise", "divisor"), [("weights", 1 + 0.5**0.5), ("goal", 2.0)])
def test_a_stale_update_weighs_less_by_the_convention_named(
    make_desk: MakeDesk, normalise: str, divisor: float
) -> None:
    """The two conventions of `aggregator.buffer`: sum of weights, or number of updates."""
    fedbuff = StrategyConfig(name="fedbuff")
    desk = make_desk(buffered=goal(1), normalise=normalise, strategy=fedbuff)
    slow = desk.lease("slow")
    desk.send("a", desk.lease("a"), [0.0] * 6)
    desk.coordinator._progress.scheduling = goal(2)
    desk.send("slow", slow, ONE)
    desk.send("b", desk.lease("b"), TWO)
    weight = 0.5**0.5
    np.testing.assert_allclose(desk.step[:2], [weight / divisor, 2 / divisor], rtol=1e-5)


def test_with_every_device_in_every_buffer_fedbuff_is_fedavg(make_desk: MakeDesk) -> None:
    """Exact: K = N, no delay, equal sample counts."""
    drawn = np.random.default_rng(3).normal(size=(3, 4, 6)).astype(np.float32)
    desks = [make_desk(buffered=goal(4)), make_desk(mode="rounds", rounds=rounds_of(4))]
    for deltas in drawn:
        for desk in desks:
            for number in range(4):
                desk.check_in(f"d{number}")
            for number, delta in enumerate(deltas):
                lease = desk.last(f"d{number}")
                assert isinstance(lease, Lease)
                desk.send(f"d{number}", lease, list(delta))
    assert desks[0].coordinator.version == desks[1].coordinator.version == 3
    assert desks[0].params.tobytes() == desks[1].params.tobytes()


def rounds_of(size: int) -> Rounds:
    return Rounds(size=size)


def test_after_a_restart_no_check_in_leads_to_a_second_lease(make_desk: MakeDesk) -> None:
    """Whoever recorded it, the broker first of all, could say it again at each restart."""
    desk = make_desk(buffered=goal(1))
    topic = desk.coordinator.topics.out("a")
    recorded = desk.sealed("a", CheckIn(install_id("a"), -1, 10, CODECS))
    desk.hear(topic, recorded)
    lease = desk.last("a")
    assert isinstance(lease, Lease)
    desk.send("a", lease, ONE)
    desk.restart()
    desk.hear(topic, recorded)
    assert (desk.coordinator.counts["duplicates"], desk.coordinator.leases.num_active) == (1, 0)
    assert isinstance(desk.lease("a"), Lease)


def test_a_check_in_delivered_again_is_old_news(make_desk: MakeDesk) -> None:
    desk = make_desk(buffered=goal(5), lease_ttl_s=30)
    message = CheckIn(install_id("a"), -1, 10, CODECS)
    first = desk.sealed("a", message)
    desk.hear(desk.coordinator.topics.out("a"), first)
    lease = desk.last("a")
    assert isinstance(lease, Lease)
    desk.wait(31)
    desk.hear(desk.coordinator.topics.out("a"), first)
    desk.send("a", lease, ONE)
    assert len(desk.coordinator.buffers) == 1


def test_a_device_without_samples_gets_no_lease(make_desk: MakeDesk) -> None:
    desk = make_desk()
    message = CheckIn(install_id("a"), -1, 0, CODECS)
    desk.hear(desk.coordinator.topics.out("a"), desk.sealed("a", message))
    assert desk.last("a") is None


def test_the_weight_of_claimed_samples_is_capped(make_desk: MakeDesk) -> None:
    desk = make_desk(buffered=goal(2), weigh_by_samples=True, samples_cap=1)
    a, b = desk.lease("a"), desk.lease("b")
    desk.send("a", a, ONE, num_samples=1 << 39)
    desk.send("b", b, TWO)
    np.testing.assert_allclose(desk.step[:2], [0.5, 1.0], rtol=1e-6)


def test_it_outlives_a_million_starts(make_desk: MakeDesk) -> None:
    """The counter in the envelope has room for more starts than a crash loop makes in a life."""
    desk = make_desk()
    desk.store.commit([CounterRecord({"starts": 1 << 20})])
    desk.restart()
    assert isinstance(desk.lease("a"), Lease)


# --- refusals ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("other", "reason"),
    [
        ({"base_version": 7}, refusals.FUTURE_VERSION),
        ({"codec": "dense/float16"}, refusals.WRONG_CODEC),
        ({"body": bytes(20)}, refusals.WRONG_SHAPE),
        ({"body": np.full(6, np.nan, "<f4").tobytes()}, refusals.NOT_FINITE),
        ({"body": np.full(6, np.inf, "<f4").tobytes()}, refusals.NOT_FINITE),
    ],
)
def test_a_bad_update_is_refused_with_its_reason_and_the_model_stays(
    make_desk: MakeDesk, other: dict[str, object], reason: str
) -> None:
    desk = make_desk(buffered=goal(1))
    before = desk.params.tobytes()
    lease = desk.lease("a")
    desk.send("a", lease, ONE, **other)
    refusal = desk.last("a")
    assert isinstance(refusal, Refusal)
    assert (refusal.lease_id, refusal.reason) == (lease.lease_id, reason)
    assert desk.refused(reason) == 1
    assert (desk.coordinator.version, desk.params.tobytes()) == (0, before)
    desk.send("a", lease, ONE)  # the lease is closed: the right bytes come too late
    assert desk.coordinator.version == 0
    assert desk.lease("a").lease_id != lease.lease_id


def test_an_update_beyond_max_staleness_is_refused(make_desk: MakeDesk) -> None:
    desk = make_desk(buffered=goal(1), max_staleness=2)
    slow = desk.lease("slow")
    for _ in range(3):
        desk.send("a", desk.lease("a"), ONE)
    desk.send("slow", slow, TWO)
    refusal = desk.last("slow")
    assert isinstance(refusal, Refusal)
    assert refusal.reason == refusals.TOO_STALE
    assert desk.coordinator.version == 3


def test_another_devices_lease_is_unknown_and_unharmed(make_desk: MakeDesk) -> None:
    desk = make_desk(buffered=goal(1))
    lease = desk.lease("a")
    desk.check_in("b")
    desk.send("b", lease, TWO)
    refusal = desk.last("b")
    assert isinstance(refusal, Refusal)
    assert refusal.reason == refusals.UNKNOWN_LEASE
    desk.send("a", lease, ONE)
    assert manifest(desk).counted == (lease.lease_id,)


def test_a_lease_nobody_gave_is_unknown(make_desk: MakeDesk) -> None:
    desk = make_desk()
    desk.send_chunk("a", UpdateChunk(bytes(16), 0, 0, 1, b"x"))
    refusal = desk.last("a")
    assert isinstance(refusal, Refusal)
    assert refusal.reason == refusals.UNKNOWN_LEASE


def test_a_step_that_would_not_be_finite_is_abandoned_and_its_members_told(
    make_desk: MakeDesk,
) -> None:
    desk = make_desk(buffered=goal(2), normalise="goal")
    huge = [1e37] * 6
    for round_number in range(40):  # each step is finite, until the sum is not
        for device in ("a", "b"):
            desk.send(device, desk.lease(device), huge)
        if desk.refused(refusals.NOT_FINITE):
            break
        assert round_number < 39
    assert np.isfinite(desk.params).all()
    assert desk.refused(refusals.NOT_FINITE) == 2
    assert len(desk.coordinator.buffers) == 0
    desk.restart()
    assert len(desk.coordinator.buffers) == 0


# --- chunks ------------------------------------------------------------------------------------


def chunks_of(desk: Desk, lease: Lease) -> list[UpdateChunk]:
    update = desk.update(lease, ONE)
    pieces = list(enumerate(cut(update, 13)))
    return [
        UpdateChunk(lease.lease_id, checksum(update), i, len(pieces), piece) for i, piece in pieces
    ]


def test_an_update_too_finely_cut_is_refused(make_desk: MakeDesk) -> None:
    desk = make_desk(buffered=goal(1))
    lease = desk.lease("a")
    desk.send_chunk("a", chunks_of(desk, lease)[0])
    assert desk.refused(refusals.OVERSIZE) == 1


# --- asking after an update --------------------------------------------------------------------


def test_asking_after_an_update_says_where_it_is(make_desk: MakeDesk) -> None:
    desk = make_desk(buffered=goal(2))
    a, b = desk.lease("a"), desk.lease("b")
    desk.check_in("a", a.lease_id)
    assert desk.last("a") == ChunksMissing(a.lease_id, ())
    desk.send("a", a, ONE)
    desk.check_in("a", a.lease_id)
    assert desk.last("a") == Held(a.lease_id)
    desk.send("b", b, ONE)
    desk.check_in("a", a.lease_id)
    assert desk.last("a") == Receipt(a.lease_id, 1)
    desk.restart()
    desk.check_in("a", a.lease_id)
    assert desk.last("a") == Receipt(a.lease_id, 1)


def test_asking_after_a_refused_update_is_refused_for_the_same_reason(make_desk: MakeDesk) -> None:
    desk = make_desk()
    lease = desk.lease("a")
    desk.send("a", lease, ONE, body=bytes(20))
    desk.check_in("a", lease.lease_id)
    refusal = desk.last("a")
    assert isinstance(refusal, Refusal)
    assert refusal.reason == refusals.WRONG_SHAPE


# --- publication -------------------------------------------------------------------------------


def test_old_versions_are_cleared_but_not_one_that_a_lease_names(make_desk: MakeDesk) -> None:
    desk = make_desk(buffered=goal(1), keep_versions=2)
    desk.lease("slow")
    for _ in range(5):
        desk.send("a", desk.lease("a"), ONE)
    kept = {topic for topic in desk.retained if "/model/" in topic and "manifest" not in topic}
    topics = desk.coordinator.topics
    assert kept == {topics.model(0, 0), topics.model(4, 0), topics.model(5, 0)}


def test_retained_chunks_left_behind_are_cleared_after_a_connect(make_desk: MakeDesk) -> None:
    desk = make_desk(buffered=goal(1))
    topics = desk.coordinator.topics
    left_over = [topics.model(0, 7), topics.model(99, 0)]
    for topic in (*left_over, topics.model(0, 0)):
        desk.retained.setdefault(topic, b"x")
        desk.hear(topic, desk.retained[topic])
    assert not set(left_over) & set(desk.retained)
    assert topics.model(0, 0) in desk.retained


def test_a_broker_that_forgot_hears_everything_again(make_desk: MakeDesk) -> None:
    desk = make_desk(buffered=goal(1))
    desk.send("a", desk.lease("a"), ONE)
    before = set(desk.retained)
    desk.retained.clear()
    desk.perform(desk.coordinator.connected(65_536, desk.now))
    assert set(desk.retained) == before
