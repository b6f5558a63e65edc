"""The session: one device's side of the conversation."""

import dataclasses
from collections.abc import Callable

import numpy as np
import pytest

from device_sdk.actions import Store
from device_sdk.pending import PENDING, RESIDUAL, unpack_pending, unpack_residual
from device_sdk.states import TRANSITIONS, State
from device_sdk.trainer import Trained
from protocol import refusals
from protocol.actions import Publish, Subscribe
from protocol.codec import decode_update, open_envelope
from protocol.messages import (
    COUNTER_START_BITS,
    CheckIn,
    ChunksMissing,
    Held,
    ModelChunk,
    Receipt,
    Refusal,
)
from protocol.vectors import packing
from protocol.vectors.layout import Layout, Tensor
from protocol.vectors.packing import parse_codec
from tests.support.handset import INSTALL, SIZE, Handset

DELTA = [1.0, -2.0, 3.0, 0.0, 0.5, 0.25]


def zeros() -> "np.ndarray[tuple[int], np.dtype[np.float32]]":
    return np.zeros(SIZE, np.float32)


# --- coming and going --------------------------------------------------------------------------


def test_a_device_announces_itself_birth_before_online_then_checks_in() -> None:
    device = Handset()
    device.connect()
    topics = [publish.topic for publish in device.published]
    assert topics == [device.topics.info("a"), device.topics.state("a"), device.topics.out("a")]
    assert device.published[1].payload == b"online"
    assert device.published[0].retain
    assert device.published[1].retain


def test_it_checks_in_again_until_it_gets_a_lease() -> None:
    device = Handset()
    device.connect()
    device.said()
    for _ in range(3):
        device.wait()
        (message,) = device.said()
        assert isinstance(message, CheckIn)
        assert message.pending == b""


def test_it_counts_on_from_where_a_copy_of_its_medium_has_got(
    said_from: Callable[[Handset], int],
) -> None:
    device = Handset()
    device.connect()
    assert said_from(device) == 1
    device.hear_in(Refusal(b"", refusals.OLD_START, "", 0, INSTALL, newest_start=9))
    assert said_from(device) == 10, "it says so at once"
    device.hear_in(Refusal(b"", refusals.OLD_START, "", 0, INSTALL, newest_start=9))
    device.wait()
    assert said_from(device) == 10, "a check-in of old that somebody repeats is no news"
    device.reboot()
    device.connect()
    assert said_from(device) == 11


@pytest.fixture
def said_from() -> Callable[[Handset], int]:
    """Which start of a device its newest message is from."""

    def newest(device: Handset) -> int:
        out = [each for each in device.published if each.topic == device.topics.out("a")]
        return open_envelope(out[-1].payload).counter >> COUNTER_START_BITS

    return newest


def test_it_says_online_again_when_its_twin_s_will_says_offline() -> None:
    device = Handset()
    device.connect()
    device.published.clear()
    device.perform(device.session.message(device.topics.state("a"), b"offline", device.now))
    assert [publish.payload for publish in device.published][-1] == b"online"


def test_it_checks_in_soon_after_the_aggregator_has_started() -> None:
    device = Handset()
    device.connect()
    device.hear_plan(start=1)
    device.wait()
    later = device.session.timer_at
    device.hear_plan(start=1)
    assert device.session.timer_at == later
    device.hear_plan(start=2)
    assert device.session.timer_at <= device.now + 6.0


def test_who_was_turned_away_asks_again_when_the_aggregator_starts_with_other_settings() -> None:
    device = Handset()
    device.connect()
    device.hear_plan(start=1)
    device.hear_in(Refusal(b"", refusals.PRIVACY_SPENT, "", 3_600, INSTALL))
    assert device.session.state is State.AWAY
    device.said()
    device.hear_plan(start=2)
    assert device.session.timer_at <= device.now + 6.0
    device.wait()
    assert [type(each) for each in device.said()] == [CheckIn]


# --- from lease to update ----------------------------------------------------------------------


def test_an_update_is_stored_before_its_first_packet_leaves() -> None:
    device = Handset()
    device.reports(DELTA)
    stored = device.log.index(Store(PENDING, device.flash[PENDING]))
    sent = [
        index
        for index, action in enumerate(device.log)
        if isinstance(action, Publish) and "/up/" in action.topic
    ]
    assert sent
    assert stored < min(sent)


def test_the_update_is_the_delta_against_the_leased_params() -> None:
    device = Handset()
    device.connect()
    device.hear_plan()
    base = np.arange(SIZE, dtype=np.float32)
    lease = device.lease(base, number=4)
    device.hear_in(lease)
    device.deliver_model(lease, base)
    device.trains(DELTA)
    (chunk,) = device.chunks()
    update = decode_update(chunk.data)
    assert (chunk.lease_id, update.base_version, update.num_samples) == (lease.lease_id, 4, 5)
    assert np.frombuffer(update.body, "<f4").tolist() == DELTA


def test_only_what_is_trained_is_sent() -> None:
    device = Handset()
    device.connect()
    device.hear_plan("topk-0.5/float32", training='{"trainable": ["*.bias"]}')
    base = np.arange(SIZE, dtype=np.float32)
    lease = device.lease(base, codec="topk-0.5/float32")
    device.hear_in(lease)
    device.deliver_model(lease, base)
    device.trains(DELTA)
    (chunk,) = device.chunks()
    spec, biases = parse_codec("topk-0.5/float32"), Layout((Tensor("0.dense.bias", (2,)),))
    body = decode_update(chunk.data).body
    sent = packing.decode(body, spec, biases, support_seed=bytes(32)).dense()
    assert np.count_nonzero(sent) == 1
    device.hear_in(Receipt(lease.lease_id, 2))
    assert device.session.residual is not None
    left = np.frombuffer(device.session.residual.values, "<f4")
    np.testing.assert_allclose(sent + left, DELTA[-2:], atol=1e-6)


def test_a_plan_that_trains_nothing_is_refused() -> None:
    device = Handset()
    device.connect()
    device.hear_plan(training='{"trainable": ["*.scale"]}')
    assert device.session.counts["refused_malformed"] == 1


def test_a_held_version_is_not_fetched_again() -> None:
    device = Handset()
    lease = device.reports(DELTA)
    device.hear_in(Receipt(lease.lease_id, 2))
    device.subscribed.clear()
    again = dataclasses.replace(lease, lease_id=bytes(16))
    device.hear_in(again)
    assert device.training is not None
    assert not [topic for topic in device.subscribed if "/model/1/" in topic]


def test_a_model_with_another_hash_is_not_trained_and_is_asked_for_again() -> None:
    device = Handset()
    device.connect()
    device.hear_plan()
    lease = device.lease(zeros())
    device.hear_in(lease)
    device.deliver_model(lease, zeros() + 1)
    assert device.training is None
    assert device.session.counts["refused_malformed"] == 1
    device.subscribed.clear()
    device.wait()
    assert device.topics.model_filter(1) in device.subscribed
    device.deliver_model(lease, zeros())
    assert device.training is not None


def test_chunks_of_another_cut_do_not_spoil_a_download() -> None:
    device = Handset()
    device.connect()
    device.hear_plan()
    lease = device.lease(zeros())
    device.hear_in(lease)
    device.hear(device.topics.model(1, 3), ModelChunk(1, 3, b"left over"))
    device.hear(device.topics.model(1, 0), ModelChunk(1, 0, b"left over"))
    device.deliver_model(lease, zeros())
    assert device.training is not None


def test_a_device_that_may_not_train_asks_for_no_work_and_counts_why() -> None:
    device = Handset()
    device.declines = "not_charging"
    device.connect()
    assert device.said() == []
    device.wait()
    device.declines = "too_hot"
    device.wait()
    assert device.said() == []
    assert device.session.counts == {"declined_not_charging": 2, "declined_too_hot": 1}
    device.declines = ""
    device.wait()
    (message,) = device.said()
    assert isinstance(message, CheckIn)


def test_a_device_that_may_not_train_still_asks_after_its_update() -> None:
    device = Handset()
    device.reports(DELTA)
    device.said()
    device.declines = "battery_low"
    device.wait()
    (message,) = device.said()
    assert isinstance(message, CheckIn)
    assert message.pending
    assert not device.session.counts["declined_battery_low"]


def test_training_that_is_abandoned_is_counted_by_its_reason_and_tried_again() -> None:
    device = Handset()
    device.connect()
    device.hear_plan()
    lease = device.lease(zeros())
    device.hear_in(lease)
    device.deliver_model(lease, zeros())
    assert device.training is not None
    assert device.training.ends_at == device.now + lease.ttl_s
    device.perform(device.session.failed(lease.lease_id, device.now, abandoned="not_charging"))
    assert device.session.counts == {"abandoned_not_charging": 1}
    device.said()
    device.wait()
    (message,) = device.said()
    assert isinstance(message, CheckIn)
    device.hear_in(lease)
    device.trains(DELTA)
    assert device.session.state is State.REPORTING


def test_a_plan_that_cannot_be_trained_by_is_not_tried_again_until_there_is_another() -> None:
    device = Handset()
    device.connect()
    device.hear_plan()
    lease = device.lease(zeros())
    device.hear_in(lease)
    device.deliver_model(lease, zeros())
    why = "memory budget of 5 bytes: this model needs at least 9"
    device.perform(device.session.failed(lease.lease_id, device.now, why=why, is_plan_unfit=True))
    assert device.session.failure == why
    device.said()
    device.training = None
    device.hear_plan(start=2)  # the same again
    device.wait()
    device.hear_in(lease)
    device.wait()
    assert device.said() == []
    assert device.training is None
    assert device.session.counts == {"trainings_failed": 1, "declined_unfit_plan": 2}
    device.hear_plan(start=2, training='{"batch_size": 1}')
    device.wait()
    (message,) = device.said()
    assert isinstance(message, CheckIn)
    assert device.session.failure == why
    device.hear_in(lease)
    device.trains(DELTA)
    assert device.session.failure == ""


def test_a_plan_that_came_during_training_is_not_the_one_that_was_unfit() -> None:
    device = Handset()
    device.connect()
    device.hear_plan()
    lease = device.lease(zeros())
    device.hear_in(lease)
    device.deliver_model(lease, zeros())
    device.hear_plan(training='{"batch_size": 1}')
    device.perform(device.session.failed(lease.lease_id, device.now, is_plan_unfit=True))
    device.said()
    device.wait()
    assert len(device.said()) == 1


def test_why_training_failed_is_told_in_a_few_words() -> None:
    device = Handset()
    device.connect()
    device.hear_plan()
    lease = device.lease(zeros())
    device.hear_in(lease)
    device.deliver_model(lease, zeros())
    device.perform(device.session.failed(lease.lease_id, device.now, why="x" * 9999))
    assert device.session.failure == "x" * 200


def test_skipped_steps_are_counted_over_time() -> None:
    device = Handset()
    for number in (1, 2):
        lease = device.reports(DELTA, number=number, skipped=2)
        device.hear_in(Receipt(lease.lease_id, 2))
    assert device.session.counts["skipped_steps"] == 4


def test_without_samples_it_does_not_ask_for_work() -> None:
    device = Handset(num_samples=0)
    device.connect()
    assert device.said() == []
    device.wait()
    assert device.said() == []


def test_a_plan_that_comes_after_the_model_still_leads_to_training() -> None:
    device = Handset()
    device.connect()
    lease = device.lease(zeros())
    device.hear_in(lease)
    device.deliver_model(lease, zeros())
    assert device.training is None
    device.hear_plan()
    assert device.training is not None


def test_a_plan_that_got_lost_is_asked_for_again() -> None:
    device = Handset()
    device.connect()
    lease = device.lease(zeros())
    device.hear_in(lease)
    device.deliver_model(lease, zeros())
    device.subscribed.clear()
    device.wait()
    assert device.topics.plan() in device.subscribed


def test_a_newer_manifest_does_not_interrupt_training() -> None:
    device = Handset()
    device.connect()
    device.hear_plan()
    lease = device.lease(zeros())
    device.hear_in(lease)
    device.deliver_model(lease, zeros())
    device.hear_manifest(2)
    assert device.session.state is State.TRAINING
    device.trains(DELTA)
    assert len(device.chunks()) == 1


def test_a_lease_that_runs_out_while_the_model_does_not_come_is_given_up() -> None:
    device = Handset()
    device.connect()
    device.hear_plan()
    device.hear_in(device.lease(zeros()))
    for _ in range(10):
        if device.session.state is State.IDLE:
            break
        device.wait()
    assert device.session.state is State.IDLE
    assert device.session.counts["leases_lost"] == 1
    assert device.topics.model_filter(1) not in device.subscribed


@pytest.mark.parametrize("bad", [np.nan, np.inf, 3e38])
def test_a_delta_that_is_no_number_never_leaves(bad: float) -> None:
    device = Handset()
    device.connect()
    device.hear_plan()
    lease = device.lease(zeros())
    device.hear_in(lease)
    device.deliver_model(lease, zeros())
    assert device.training is not None
    params = zeros()
    params[2] = bad
    trained = _unchecked(params)
    device.perform(device.session.trained(lease.lease_id, trained, device.now))
    assert device.chunks() == []
    assert PENDING not in device.flash
    assert device.session.state is State.IDLE


def _unchecked(params: "np.ndarray[tuple[int], np.dtype[np.float32]]") -> Trained:
    trained = object.__new__(Trained)
    for name, value in {"params": params, "num_samples": 1, "metrics": {}}.items():
        object.__setattr__(trained, name, value)
    return trained


def test_an_update_larger_than_a_packet_is_cut_to_fit() -> None:
    device = Handset()
    device.connect(1024)
    device.hear_plan()
    device.perform(device.session.connected(1024, device.now))
    lease = device.reports(DELTA)
    chunks = device.chunks()
    assert {chunk.lease_id for chunk in chunks} == {lease.lease_id}
    assert all(len(chunk.data) <= 512 for chunk in chunks)


# --- receipts, refusals, questions -------------------------------------------------------------


@pytest.mark.parametrize("by_manifest", [True, False])
def test_a_receipt_ends_it_and_the_next_check_in_follows(*, by_manifest: bool) -> None:
    device = Handset()
    lease = device.reports(DELTA)
    device.said()
    if by_manifest:
        device.hear_manifest(2, bytes(16), lease.lease_id)
    else:
        device.hear_in(Receipt(lease.lease_id, 2))
    assert PENDING not in device.flash
    (message,) = device.said()
    assert isinstance(message, CheckIn)
    assert message.pending == b""


def test_without_a_receipt_it_asks_and_sends_nothing_again_unasked() -> None:
    device = Handset()
    lease = device.reports(DELTA)
    device.said()
    waits = []
    for _ in range(6):
        before = device.now
        device.wait()
        waits.append(device.now - before)
        (message,) = device.said()
        assert isinstance(message, CheckIn)
        assert message.pending == lease.lease_id
    assert waits[-1] > 4 * waits[0]
    device.hear_in(Held(lease.lease_id))
    assert device.said() == []


def test_the_chunks_that_are_missing_are_sent_again_the_same_bytes() -> None:
    device = Handset()
    lease = device.reports(DELTA)
    first = device.chunks()
    device.hear_in(ChunksMissing(lease.lease_id, ()))
    assert device.chunks() == first
    device.hear_in(ChunksMissing(lease.lease_id, (0,)))
    assert device.chunks() == first


def test_after_a_reboot_exactly_the_stored_bytes_are_sent() -> None:
    device = Handset()
    lease = device.reports(DELTA)
    first = device.chunks()
    device.reboot()
    device.connect()
    (message,) = device.said()
    assert isinstance(message, CheckIn)
    assert message.pending == lease.lease_id
    device.hear_in(ChunksMissing(lease.lease_id, ()))
    assert device.chunks() == first


def test_a_reboot_while_training_leads_to_a_new_check_in() -> None:
    device = Handset()
    device.connect()
    device.hear_plan()
    lease = device.lease(zeros())
    device.hear_in(lease)
    device.deliver_model(lease, zeros())
    device.reboot()
    assert device.session.state is State.IDLE


def test_after_busy_the_update_is_kept() -> None:
    device = Handset()
    lease = device.reports(DELTA)
    device.hear_in(Refusal(lease.lease_id, refusals.BUSY, "", 5))
    assert PENDING in device.flash
    assert device.session.state is State.REPORTING


def test_a_receipt_for_another_update_changes_nothing() -> None:
    device = Handset()
    device.reports(DELTA)
    device.hear_in(Receipt(bytes(16), 2))
    assert device.session.state is State.REPORTING


# --- residual ----------------------------------------------------------------------------------


def residual_of(device: Handset) -> list[float]:
    values = np.frombuffer(unpack_residual(device.flash[RESIDUAL]).values, "<f4")
    return [float(value) for value in values]


def test_the_residual_is_committed_on_the_receipt_and_not_before() -> None:
    device = Handset()
    lease = device.reports(DELTA, codec="topk-0.3/float32")
    assert RESIDUAL not in device.flash
    device.hear_in(Receipt(lease.lease_id, 2))
    assert residual_of(device) == [1.0, 0.0, 0.0, 0.0, 0.5, 0.25]


def test_the_residual_is_added_to_the_next_delta() -> None:
    device = Handset()
    lease = device.reports(DELTA, codec="topk-0.3/float32")
    device.hear_in(Receipt(lease.lease_id, 2))
    device.said()
    device.reports([4.0, 0, 0, 0, 0, 0], codec="topk-0.3/float32", number=2)
    (chunk,) = device.chunks()
    assert np.frombuffer(decode_update(chunk.data).body[:8], "<f4").tolist() == [5.0, 0.5]


@pytest.mark.parametrize("reason", sorted(refusals.FOLDED))
def test_a_refusal_that_faults_nobody_folds_the_delta_into_the_residual(reason: str) -> None:
    device = Handset()
    lease = device.reports(DELTA, codec="topk-0.3/float32")
    device.hear_in(Refusal(lease.lease_id, reason, ""))
    assert residual_of(device) == DELTA
    assert PENDING not in device.flash


@pytest.mark.parametrize("reason", sorted(set(refusals.MEANING) - refusals.FOLDED - {"busy"}))
def test_any_other_refusal_discards_the_delta(reason: str) -> None:
    device = Handset()
    lease = device.reports(DELTA, codec="topk-0.3/float32")
    device.hear_in(Refusal(lease.lease_id, reason, ""))
    assert residual_of(device) == []
    assert PENDING not in device.flash


def test_power_lost_between_the_two_writes_of_a_receipt_counts_it_once() -> None:
    device = Handset()
    lease = device.reports(DELTA, codec="topk-0.3/float32")
    pending = device.flash[PENDING]
    device.hear_in(Receipt(lease.lease_id, 2))
    device.flash[PENDING] = pending  # the deletion did not reach the medium
    device.reboot()
    assert device.session.state is State.IDLE
    assert PENDING not in device.flash
    assert residual_of(device) == [1.0, 0.0, 0.0, 0.0, 0.5, 0.25]


def test_an_unbiased_codec_keeps_no_residual() -> None:
    device = Handset()
    lease = device.reports(DELTA, codec="dense/int8")
    assert unpack_pending(device.flash[PENDING]).residual == b""
    device.hear_in(Refusal(lease.lease_id, refusals.TOO_STALE, ""))
    assert residual_of(device) == []


def test_a_refusal_that_comes_before_the_plan_is_not_final() -> None:
    """Folding needs the plan; the answer comes again when the device asks again."""
    device = Handset()
    lease = device.reports(DELTA, codec="topk-0.3/float32")
    device.reboot()
    device.connect()
    device.hear_in(Refusal(lease.lease_id, refusals.TOO_STALE, ""))
    assert PENDING in device.flash
    device.hear_plan("topk-0.3/float32")
    device.hear_in(Refusal(lease.lease_id, refusals.TOO_STALE, ""))
    assert residual_of(device) == DELTA


def test_a_late_copy_of_a_settled_lease_is_not_trained_again() -> None:
    device = Handset()
    lease = device.reports(DELTA)
    device.hear_in(Receipt(lease.lease_id, 2))
    device.reboot()
    device.connect()
    device.hear_plan()
    device.hear_in(lease)
    assert device.session.state is State.IDLE


def test_a_lease_that_allows_too_few_bytes_is_a_training_that_failed() -> None:
    device = Handset()
    device.connect()
    device.hear_plan()
    lease = dataclasses.replace(device.lease(zeros()), budget_bytes=3)
    device.hear_in(lease)
    device.deliver_model(lease, zeros())
    device.trains(DELTA)
    assert device.session.state is State.IDLE
    assert device.session.counts["trainings_failed"] == 1


# --- twins and garbage -------------------------------------------------------------------------


def test_what_is_meant_for_its_twin_is_not_for_it() -> None:
    device = Handset()
    device.connect()
    device.hear_plan()
    device.hear_in(dataclasses.replace(device.lease(zeros()), install_id=b"installation-two"))
    assert device.session.state is State.IDLE
    twin = Refusal(b"", refusals.DUPLICATE_DEVICE, "", 60, b"installation-two")
    device.hear_in(twin)
    assert device.session.state is State.IDLE


def test_a_device_that_is_turned_away_stays_away_and_then_asks_again() -> None:
    device = Handset()
    device.connect()
    device.said()
    device.hear_in(Refusal(b"", refusals.DUPLICATE_DEVICE, "clone", 3600, INSTALL))
    assert device.session.state is State.AWAY
    assert "duplicate_device" in device.session.turned_away
    asked_at = device.now
    device.wait()
    assert device.now - asked_at > 2000
    assert len(device.said()) == 1


def test_chunks_of_another_version_are_ignored() -> None:
    device = Handset()
    device.connect()
    device.hear_plan()
    device.hear_in(device.lease(zeros()))
    device.hear(device.topics.model(7, 0), ModelChunk(7, 0, bytes(24)))
    assert device.session.state is State.FETCHING


def test_every_state_can_be_left() -> None:
    for state in State:
        assert [1 for (origin, _), target in TRANSITIONS.items() if origin is state != target]


def test_it_subscribes_once_as_the_transport_does_it_again() -> None:
    device = Handset()
    device.connect()
    assert any(isinstance(action, Subscribe) for action in device.log)
    device.log.clear()
    device.perform(device.session.disconnected())
    device.connect()
    assert not any(isinstance(action, Subscribe) for action in device.log)
    device.perform(device.session.asleep())
    device.connect()
    assert device.topics.plan() in device.subscribed
