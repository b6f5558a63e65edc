"""A residual is sent sooner or later, once, and counts less the longer its device was away."""

import msgpack
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from device_sdk.feedback import DECAY, OPEN, feedback
from device_sdk.pending import RESIDUAL, Residual, pack_residual, unpack_residual
from protocol import refusals
from protocol.codec import decode_update
from protocol.messages import Receipt, Refusal
from protocol.vectors.layout import Layout, Tensor
from protocol.vectors.packing import decode, parse_codec
from tests.support.handset import SIZE, Handset

TOP_2 = "topk-0.3/float32"
DENSE = "dense/float32"
DELTA = [1.0, 4.0, 0.0, -3.0, 0.5, 0.25]
NOTHING = [0.0] * SIZE
LAYOUT = Layout((Tensor("all", (SIZE,)),))  # of floats only the size counts

Vector = npt.NDArray[np.float32]


def residual_of(device: Handset) -> list[float]:
    values = np.frombuffer(unpack_residual(device.flash[RESIDUAL]).values, "<f4")
    return [float(value) for value in values]


def sent_by(device: Handset) -> Vector:
    (chunk,) = device.chunks()
    update = decode_update(chunk.data)
    return decode(update.body, parse_codec(update.codec), LAYOUT, support_seed=bytes(32)).dense()


def counted(device: Handset, delta: list[float], *, codec: str, number: int, in_: int) -> Vector:
    """Let a delta to version ``number`` be counted in another; return what was sent of it."""
    lease = device.reports(delta, codec=codec, number=number)
    sent = sent_by(device)
    device.hear_in(Receipt(lease.lease_id, in_))
    device.said()
    return sent


# --- decay ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("missed", "too_many"), [(0, 0), (1, 0), (20, 0), (21, 1), (500, 480)])
def test_a_residual_decays_with_the_versions_that_were_missed(missed: int, too_many: int) -> None:
    device = Handset()
    counted(device, DELTA, codec=TOP_2, number=1, in_=5)
    sent = counted(device, NOTHING, codec=TOP_2, number=5 + missed, in_=600)
    left = np.float32(DECAY**too_many)
    assert sent.tolist() == [left, 0, 0, 0, np.float32(0.5) * left, 0]


def test_a_slow_device_that_was_never_away_loses_nothing() -> None:
    """Its update took ninety versions; the receipt, and the next lease, came in the same."""
    device = Handset()
    counted(device, DELTA, codec=TOP_2, number=1, in_=91)
    sent = counted(device, NOTHING, codec=TOP_2, number=91, in_=182)
    assert sent.tolist() == [1, 0, 0, 0, 0.5, 0]
    assert residual_of(device) == [0, 0, 0, 0, 0, 0.25]


def test_a_receipt_in_a_manifest_says_the_version_too() -> None:
    device = Handset()
    lease = device.reports(DELTA, codec=TOP_2)
    device.hear_manifest(7, lease.lease_id)
    assert unpack_residual(device.flash[RESIDUAL]).version == 7


@pytest.mark.parametrize(
    ("reason", "version"), [(refusals.TOO_STALE, 3), (refusals.RECOVERY_FAILED, -1)]
)
def test_a_delta_that_came_too_late_is_as_old_as_its_base(reason: str, version: int) -> None:
    device = Handset()
    lease = device.reports(DELTA, codec=TOP_2, number=3)
    device.hear_in(Refusal(lease.lease_id, reason, ""))
    assert residual_of(device) == DELTA
    assert unpack_residual(device.flash[RESIDUAL]).version == version


@pytest.mark.parametrize("num_fields", [2, 3])
def test_a_residual_that_an_older_sdk_stored_is_read_and_does_not_decay(num_fields: int) -> None:
    values = np.array(DELTA, np.float32)
    fields = [bytes(16), values.tobytes(), b""]
    stored = msgpack.packb(fields[:num_fields])
    assert unpack_residual(stored) == Residual(bytes(16), values.tobytes())
    device = Handset({RESIDUAL: stored})
    sent = counted(device, NOTHING, codec=TOP_2, number=900, in_=901)
    assert sent.tolist() == [0, 4, 0, -3, 0, 0]


def test_what_is_stored_comes_back() -> None:
    residual = Residual(b"lease", b"values", b"epoch", 12)
    assert unpack_residual(pack_residual(residual)) == residual


def test_a_cache_does_not_decay() -> None:
    codec = parse_codec(f"{TOP_2}/calibrated")
    cache = Residual(bytes(16), np.ones(SIZE, np.float32).tobytes(), OPEN, 1)
    back = feedback(np.zeros(SIZE, np.float32), codec, cache, version=1_000)
    assert back.wanted.tolist() == [-1.0] * SIZE


# --- nothing is lost -----------------------------------------------------------------------------


def test_an_unbiased_update_leaves_the_residual_for_the_next_contractive_one() -> None:
    device = Handset()
    counted(device, DELTA, codec=TOP_2, number=1, in_=2)
    left = residual_of(device)
    assert counted(device, DELTA, codec=DENSE, number=2, in_=3).tolist() == DELTA
    assert residual_of(device) == left
    assert unpack_residual(device.flash[RESIDUAL]).version == 3  # it was there all the time
    device.reboot()
    device.connect()
    device.hear_plan()
    sent = counted(device, NOTHING, codec=TOP_2, number=24, in_=25)
    assert sent.tolist() == [np.float32(DECAY), 0, 0, 0, np.float32(DECAY * 0.5), 0]


def test_a_refused_unbiased_update_leaves_it_too() -> None:
    device = Handset()
    counted(device, DELTA, codec=TOP_2, number=1, in_=2)
    left = residual_of(device)
    lease = device.reports(DELTA, codec=DENSE, number=2)
    device.hear_in(Refusal(lease.lease_id, refusals.TOO_STALE, ""))
    assert residual_of(device) == left


whole = st.lists(st.integers(-99, 99).map(float), min_size=SIZE, max_size=SIZE)  # adds up exactly
steps = st.lists(
    st.tuples(whole, st.sampled_from(["topk", "topk refused", "dense"])), min_size=1, max_size=12
)


@given(steps)
def test_residual_and_sent_are_the_sum_of_all_deltas(
    history: list[tuple[list[float], str]],
) -> None:
    device = Handset()
    total, sent_sum = np.zeros(SIZE), np.zeros(SIZE)
    for number, (delta, event) in enumerate(history, 1):
        total += delta
        if event != "topk refused":
            codec = DENSE if event == "dense" else TOP_2
            sent_sum += counted(device, delta, codec=codec, number=number, in_=number + 1)
            continue
        lease = device.reports(delta, codec=TOP_2, number=number)
        device.hear_in(Refusal(lease.lease_id, refusals.SUPERSEDED, ""))
        device.said()
    kept = residual_of(device) or NOTHING
    assert (sent_sum + kept).tolist() == total.tolist()
