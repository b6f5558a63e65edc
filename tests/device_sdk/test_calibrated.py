"""A calibrated device sends the difference to what was counted of it, and nothing else counts."""

import numpy as np
import numpy.typing as npt
import pytest

from device_sdk.feedback import OPEN, feedback
from device_sdk.pending import PENDING, RESIDUAL, Residual, unpack_residual
from protocol import refusals
from protocol.codec import decode_update
from protocol.messages import Receipt, Refusal
from protocol.vectors.packing import parse_codec
from protocol.vectors.quantise import LARGEST
from tests.support.handset import Handset

DENSE = "dense/float32/calibrated"
TOP_2 = "topk-0.3/float32/calibrated"
DELTA = [1.0, 4.0, 0.0, 0.0, 0.5, 0.25]
NEXT = [2.0, 4.0, 0.0, -1.0, 0.5, 0.0]


def cache_of(device: Handset) -> list[float]:
    cache = unpack_residual(device.flash[RESIDUAL])
    assert cache.cache_of == OPEN
    values = np.frombuffer(cache.values, "<f4")
    return [float(value) for value in values]


def sent_by(device: Handset, num_values: int = 6) -> list[float]:
    (chunk,) = device.chunks()
    body = decode_update(chunk.data).body
    return [float(value) for value in np.frombuffer(body, "<f4", num_values)]


def counted(device: Handset, codec: str) -> None:
    """Let DELTA be counted."""
    lease = device.reports(DELTA, codec=codec)
    device.hear_in(Receipt(lease.lease_id, 2))
    device.said()


def test_the_first_update_is_the_delta_and_the_next_the_difference() -> None:
    device = Handset()
    lease = device.reports(DELTA, codec=DENSE)
    assert sent_by(device) == DELTA
    assert RESIDUAL not in device.flash
    device.hear_in(Receipt(lease.lease_id, 2))
    assert cache_of(device) == DELTA
    device.said()
    lease = device.reports(NEXT, codec=DENSE, number=2)
    assert sent_by(device) == [1.0, 0.0, 0.0, -1.0, 0.0, -0.25]
    device.hear_in(Receipt(lease.lease_id, 3))
    assert cache_of(device) == NEXT


def test_what_the_codec_did_not_send_was_not_counted_and_is_sent_later() -> None:
    device = Handset()
    counted(device, TOP_2)
    assert cache_of(device) == [1.0, 4.0, 0.0, 0.0, 0.0, 0.0]
    lease = device.reports(DELTA, codec=TOP_2, number=2)
    assert sent_by(device, 2) == [0.5, 0.25]
    device.hear_in(Receipt(lease.lease_id, 3))
    assert cache_of(device) == DELTA


@pytest.mark.parametrize("codec", [DENSE, TOP_2])
@pytest.mark.parametrize("reason", sorted(set(refusals.MEANING) - {"busy"}))
def test_no_refusal_changes_the_cache(reason: str, codec: str) -> None:
    device = Handset()
    counted(device, codec)
    before = cache_of(device)
    lease = device.reports(NEXT, codec=codec, number=2)
    device.hear_in(Refusal(lease.lease_id, reason, ""))
    assert cache_of(device) == before
    assert PENDING not in device.flash


def test_a_refusal_needs_no_plan_since_nothing_is_folded() -> None:
    device = Handset()
    lease = device.reports(DELTA, codec=TOP_2)
    device.reboot()
    device.connect()
    device.hear_in(Refusal(lease.lease_id, refusals.TOO_STALE, ""))
    assert PENDING not in device.flash


@pytest.mark.parametrize("is_counted", [True, False])
@pytest.mark.parametrize("power", [0, 1, 2])
def test_power_lost_at_any_write_of_an_answer_leaves_one_of_two_caches(
    power: int,
    is_counted: bool,  # noqa: FBT001 - from parametrize
) -> None:
    device = Handset()
    counted(device, DENSE)
    lease = device.reports(NEXT, codec=DENSE, number=2)
    answer = (
        Receipt(lease.lease_id, 3)
        if is_counted
        else Refusal(lease.lease_id, refusals.TOO_STALE, "")
    )
    device.power = power
    device.hear_in(answer)
    device.reboot()
    device.connect()
    device.hear_in(answer)
    device.hear_in(answer)
    assert PENDING not in device.flash
    assert cache_of(device) == (NEXT if is_counted else DELTA)


def test_a_residual_is_no_cache_and_a_cache_no_residual() -> None:
    device = Handset()
    counted(device, "topk-0.3/float32")  # the residual is half of DELTA
    lease = device.reports(DELTA, codec=DENSE, number=2)
    assert sent_by(device) == DELTA
    device.hear_in(Receipt(lease.lease_id, 3))
    device.said()
    device.reports(DELTA, codec="topk-0.3/float32", number=3)
    assert sent_by(device, 2) == [1.0, 4.0]


# --- what is fed back ----------------------------------------------------------------------------


def vector(*values: float) -> npt.NDArray[np.float32]:
    return np.array(values, np.float32)


def test_a_cache_of_another_epoch_or_another_model_counts_as_zero() -> None:
    codec = parse_codec("dense/seedmask/calibrated")
    cache = Residual(bytes(16), vector(1, 2).tobytes(), b"this roster")
    assert feedback(vector(3, 3), codec, cache, b"this roster", version=9).wanted.tolist() == [2, 1]
    assert feedback(vector(3, 3), codec, cache, b"the next", version=9).wanted.tolist() == [3, 3]
    assert feedback(vector(3, 3, 3), codec, cache, b"this roster", version=9).wanted.tolist() == [
        3,
        3,
        3,
    ]


def test_a_difference_that_is_too_large_to_be_sent_is_sent_in_parts() -> None:
    codec = parse_codec(DENSE)
    cache = Residual(bytes(16), vector(LARGEST).tobytes(), OPEN)
    back = feedback(vector(-LARGEST), codec, cache, version=9)
    assert back.wanted.tolist() == [-LARGEST]
    cache = Residual(bytes(16), back.after(back.wanted), back.cache_of)
    assert feedback(vector(-LARGEST), codec, cache, version=9).wanted.tolist() == [-LARGEST]
