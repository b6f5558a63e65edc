"""A body is the codec's C(delta) to the last bit, or it is refused with its reason."""

import contextlib
import math

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from protocol import refusals
from protocol.errors import LocalProtocolError, RemoteProtocolError
from protocol.stream import SEED_BYTES, Stream, derive
from protocol.vectors import quantise, sparse
from protocol.vectors.layout import Layout, Tensor
from protocol.vectors.levels import GRIDS, INT8, TERNARY
from protocol.vectors.packing import (
    DENSE,
    RANDK,
    TOPK,
    CodecSpec,
    SparseDelta,
    decode,
    encode,
    max_body_bytes,
    parse_codec,
)
from protocol.vectors.values import DTYPES, FLOAT16, FLOAT32

SEED = bytes(SEED_BYTES)
OTHER_SEED = derive(SEED, "other")


def mlp(inputs: int, hidden: int, outputs: int) -> Layout:
    first = (Tensor("w1", (inputs, hidden)), Tensor("b1", (hidden,)))
    return Layout((*first, Tensor("w2", (hidden, outputs)), Tensor("b2", (outputs,))))


MLP = mlp(64, 32, 10)
LARGE = mlp(898, 110, 10)
SMALL = Layout((Tensor("w", (3, 2)), Tensor("b", (2,))))

Floats = npt.NDArray[np.float32]
fractions = st.one_of(
    st.just(1.0), st.integers(1, 1000).map(lambda permille: permille / 1000), st.floats(1e-9, 1)
)
dense_specs = st.builds(
    CodecSpec, st.just(DENSE), st.just(1.0), st.sampled_from(DTYPES), st.booleans()
)
sparse_specs = st.builds(
    CodecSpec, st.sampled_from((TOPK, RANDK)), fractions, st.sampled_from(DTYPES), st.booleans()
)
specs = st.one_of(dense_specs, sparse_specs)
layouts = st.lists(
    npst.array_shapes(min_dims=0, max_dims=2, max_side=9), min_size=1, max_size=6
).map(lambda shapes: Layout(tuple(Tensor(str(i), shape) for i, shape in enumerate(shapes))))


@st.composite
def deltas(draw: st.DrawFn) -> tuple[Floats, Layout]:
    layout = draw(layouts)
    elements = st.one_of(st.just(0.0), st.floats(-1e6, 1e6, width=32))
    return draw(npst.arrays(np.float32, layout.size, elements=elements)), layout


def gaussian(size: int, index: int = 0) -> Floats:
    """Like a delta: many small numbers, few large ones."""
    uniform = Stream(derive(SEED, "gaussian", index)).uniform(12 * size).reshape(12, size)
    total: Floats = uniform.sum(axis=0)
    return (total - 6) * np.float32(0.01)


def round_trip(
    delta: Floats, spec: CodecSpec, layout: Layout, rounding_seed: bytes = SEED
) -> SparseDelta:
    body = encode(delta, spec, layout, rounding_seed=rounding_seed, support_seed=OTHER_SEED)
    return decode(body, spec, layout, support_seed=OTHER_SEED)


def slow_numbers(
    values: list[np.float32],
    uniform: list[np.float32],
    spec: CodecSpec,
    unbiased: bool,  # noqa: FBT001 - a helper
) -> list[np.float32]:
    """What the numbers of one group are after a journey."""
    if spec.dtype == FLOAT32:
        return values
    if spec.dtype == FLOAT16:
        return [np.float32(np.float16(min(65_504.0, max(-65_504.0, float(x))))) for x in values]
    largest = GRIDS[spec.dtype].largest
    magnitudes = [abs(float(value)) for value in values]
    scale = np.float32(max(magnitudes) / largest)
    if float(scale) * largest < max(magnitudes):
        scale = np.nextafter(scale, np.float32(np.inf))
    if spec.dtype == TERNARY and not unbiased:
        scale = np.float32(math.fsum(magnitudes) / len(magnitudes))
    rounded = []
    for value, u in zip(values, uniform, strict=True):
        exact = float(value) / float(scale) if scale else 0.0
        level = math.floor(exact + u) if unbiased else round(exact)
        rounded.append(np.float32(max(-largest, min(largest, level))) * scale)
    return rounded


def slow_codec(delta: Floats, spec: CodecSpec, layout: Layout) -> Floats:
    """C(delta), tensor by tensor, without any bytes."""
    size = layout.size
    kept = spec.num_kept(size)
    indices = np.arange(size)
    if spec.support == TOPK:
        indices = sparse.top_k(delta, kept)
    elif spec.support == RANDK:
        indices = sparse.rand_k(OTHER_SEED, size, kept)
    unbiased = spec.support != TOPK and not spec.calibrated
    factor = np.float32(size / kept) if unbiased else np.float32(1)
    uniform = Stream(SEED).uniform(kept) if unbiased else np.zeros(kept, np.float32)
    result = np.zeros(size, np.float32)
    block = GRIDS[spec.dtype].block if spec.dtype in GRIDS else 0
    for start, end in zip(layout.bounds[:-1].tolist(), layout.bounds[1:].tolist(), strict=True):
        inside = [(place, int(i)) for place, i in enumerate(indices) if start <= i < end]
        for first in range(0, len(inside), block or size):
            group = inside[first : first + (block or size)]
            values = [np.float32(delta[i] * factor) for _, i in group]
            rounded = slow_numbers(values, [uniform[place] for place, _ in group], spec, unbiased)
            for (_, index), value in zip(group, rounded, strict=True):
                result[index] = value
    return result


# --- encode and decode


@given(deltas(), specs)
def test_a_body_is_the_codecs_delta_to_the_last_bit(
    case: tuple[Floats, Layout], spec: CodecSpec
) -> None:
    delta, layout = case
    body = encode(delta, spec, layout, rounding_seed=SEED, support_seed=OTHER_SEED)
    assert len(body) <= max_body_bytes(spec, layout)
    decoded = decode(body, spec, layout, support_seed=OTHER_SEED)
    assert decoded.size == layout.size
    assert decoded.values.dtype == np.float32
    assert np.array_equal(decoded.dense(), slow_codec(delta, spec, layout))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("support", ["dense", "topk-0.1", "randk-0.1"])
def test_a_body_of_uneven_numbers_is_the_codecs_delta_too(support: str, dtype: str) -> None:
    spec, delta = parse_codec(f"{support}/{dtype}"), gaussian(MLP.size)
    assert np.array_equal(round_trip(delta, spec, MLP).dense(), slow_codec(delta, spec, MLP))


@given(deltas(), fractions, st.sampled_from(DTYPES))
def test_top_k_is_contractive(case: tuple[Floats, Layout], fraction: float, dtype: str) -> None:
    delta, layout = case
    sent = round_trip(delta, CodecSpec(TOPK, fraction, dtype), layout).dense().astype(np.float64)
    assert (np.abs(delta - sent) <= np.abs(delta) * (1 + 1e-7)).all()


@pytest.mark.parametrize(
    "text",
    [
        "dense/int8",
        "dense/int4",
        "topk-0.1/int8",
        "topk-0.1/ternary",
        "randk-0.1/float32",
        "randk-1/int8",
    ],
)
def test_calibrated_what_was_counted_comes_ever_closer_to_the_delta(text: str) -> None:
    """With rand-k of a tenth that is enlarged, it would be nine times further off each time."""
    spec, delta = parse_codec(f"{text}/calibrated"), gaussian(MLP.size)
    cache, distance = np.zeros_like(delta), np.abs(delta)
    for index in range(200):
        seeds = {"rounding_seed": SEED, "support_seed": derive(OTHER_SEED, index)}
        body = encode(delta - cache, spec, MLP, **seeds)
        cache += decode(body, spec, MLP, support_seed=seeds["support_seed"]).dense()
        assert (np.abs(delta - cache) <= distance * (1 + 1e-6)).all()
        distance = np.abs(delta - cache)
    assert distance.max() < 1e-6


@given(deltas(), fractions)
def test_residual_and_sent_are_the_delta_exactly_in_float32(
    case: tuple[Floats, Layout], fraction: float
) -> None:
    delta, layout = case
    sent = round_trip(delta, CodecSpec(TOPK, fraction, FLOAT32), layout).dense()
    residual = delta - sent
    assert np.array_equal(residual + sent, delta)


@pytest.mark.parametrize("dtype", DTYPES)
def test_nothing_is_lost_over_many_updates(dtype: str) -> None:
    spec = CodecSpec(TOPK, 0.01, dtype)
    residual = np.zeros(MLP.size)  # float64, so that the sums below can be compared
    deltas_sum, sent_sum = np.zeros(MLP.size), np.zeros(MLP.size)
    for index in range(30):
        delta = gaussian(MLP.size, index)
        deltas_sum += delta
        wanted = residual + delta
        sent = round_trip(wanted.astype(np.float32), spec, MLP)
        sent.add_to(sent_sum, 1.0)
        residual = wanted - sent.dense()
    assert np.abs(residual).max() > 0
    assert np.abs(residual + sent_sum - deltas_sum).max() < 1e-10


@pytest.mark.parametrize(
    "text", ["randk-0.1/float32", "randk-0.1/int4", "dense/int8", "dense/ternary"]
)
def test_unbiased_codecs_are_unbiased(text: str) -> None:
    spec = parse_codec(text)
    delta = gaussian(MLP.size)
    num_seeds = 1_000
    total, squares, largest = np.zeros(MLP.size), np.zeros(MLP.size), 0.0
    for index in range(num_seeds):
        rounding, support = derive(SEED, "r", index), derive(SEED, "s", index)
        body = encode(delta, spec, MLP, rounding_seed=rounding, support_seed=support)
        sent = decode(body, spec, MLP, support_seed=support).dense().astype(np.float64)
        total += sent
        squares += sent**2
        largest = max(largest, float(np.abs(sent).max()))
    squares += largest**2  # what is rare may never have happened: as if once more
    mean = total / num_seeds
    error = np.sqrt(np.maximum(squares / num_seeds - mean**2, 0) / num_seeds)
    assert (np.abs(mean - delta) <= 5 * error + 1e-5).all()
    slope = float(mean @ delta / (delta @ delta))
    assert abs(slope - 1) < 0.02  # a forgotten d/k or a one-sided rounding is far outside


def test_sizes_on_the_wire() -> None:
    spec = parse_codec("topk-0.01/int8")
    body = encode(gaussian(LARGE.size), spec, LARGE, rounding_seed=SEED, support_seed=SEED)
    small = encode(gaussian(MLP.size), spec, MLP, rounding_seed=SEED, support_seed=SEED)
    assert LARGE.size == 100_000
    assert len(body) <= 2_450
    assert len(small) <= 90


def test_scales_travel_only_for_tensors_that_send_something() -> None:
    delta = np.zeros(MLP.size, np.float32)
    delta[-10:] = 1
    spec = CodecSpec(TOPK, 0.004, INT8)  # 10 of 2,410
    body = encode(delta, spec, MLP, rounding_seed=SEED, support_seed=SEED)
    assert len(body) == 10 + len(sparse.encode_indices(np.arange(2400, 2410), 2410)) + 4


def test_dense_float32_is_read_without_a_copy() -> None:
    body = encode(
        gaussian(8), parse_codec("dense/float32"), SMALL, rounding_seed=SEED, support_seed=SEED
    )
    values = decode(body, parse_codec("dense/float32"), SMALL, support_seed=SEED).values
    assert np.shares_memory(values, np.frombuffer(body, np.uint8))


def test_numbers_are_little_endian_whatever_the_machine() -> None:
    delta = np.array([1, 0, 0, 0, 0, 0, 0, -2], np.float32)

    def body(text: str) -> str:
        return encode(delta, parse_codec(text), SMALL, rounding_seed=SEED, support_seed=SEED).hex()

    assert body("topk-0.25/float32") == "0000803f000000c0" + "0081"
    assert body("topk-0.25/float16") == "003c00c0" + "0081"
    assert body("topk-0.25/int8") == "7f81" + "0081" + "0502013c" + "0502813c"
    assert body("dense/float16") == "003c" + "0000" * 6 + "00c0"


# --- what is refused


@given(st.binary(max_size=60), specs, layouts)
def test_garbage_is_finite_numbers_or_is_refused(
    body: bytes, spec: CodecSpec, layout: Layout
) -> None:
    with contextlib.suppress(RemoteProtocolError):  # never any other error
        dense = decode(body, spec, layout, support_seed=SEED).dense()
        assert dense.shape == (layout.size,)
        assert np.isfinite(dense).all()


@given(deltas(), specs, st.data())
def test_a_damaged_body_is_finite_numbers_or_is_refused(
    case: tuple[Floats, Layout], spec: CodecSpec, data: st.DataObject
) -> None:
    delta, layout = case
    body = bytearray(encode(delta, spec, layout, rounding_seed=SEED, support_seed=SEED))
    body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(RemoteProtocolError):
        assert np.isfinite(decode(bytes(body), spec, layout, support_seed=SEED).dense()).all()


@given(deltas(), specs, st.binary(min_size=1, max_size=5))
def test_a_longer_or_shorter_body_is_refused(
    case: tuple[Floats, Layout], spec: CodecSpec, more: bytes
) -> None:
    delta, layout = case
    body = encode(delta, spec, layout, rounding_seed=SEED, support_seed=SEED)
    for wrong in (body + more, body[:-1], b""):
        with pytest.raises(RemoteProtocolError) as refusal:
            decode(wrong, spec, layout, support_seed=SEED)
        assert refusal.value.reason in {refusals.WRONG_SHAPE, refusals.MALFORMED}


@pytest.mark.parametrize(
    ("text", "body", "reason"),
    [
        ("dense/float32", "00" * 31, refusals.WRONG_SHAPE),
        ("dense/float32", "00" * 33, refusals.WRONG_SHAPE),
        ("dense/float32", "00" * 28 + "0000c07f", refusals.NOT_FINITE),
        ("dense/float32", "0100a07f" + "00" * 28, refusals.NOT_FINITE),  # signalling NaN
        ("dense/float16", "00" * 14 + "007c", refusals.NOT_FINITE),
        ("dense/float16", "007d" + "00" * 14, refusals.NOT_FINITE),
        ("dense/int8", "00" * 8 + "0000803f" + "0000807f", refusals.NOT_FINITE),
        ("dense/int8", "00" * 8 + "0000803f" + "0100a07f", refusals.NOT_FINITE),
        ("dense/int8", "00" * 8 + "0000803f" + "000080bf", refusals.MALFORMED),
        ("dense/int8", "00" * 8 + "0000803f" + "0100807b", refusals.MALFORMED),  # > 2**120
        ("dense/int8", "80" + "00" * 7 + "0000803f" * 2, refusals.MALFORMED),
        ("dense/int8", "00" * 8 + "0000803f", refusals.WRONG_SHAPE),
        ("topk-0.25/int8", "7f81" + "0081" + "0502013c", refusals.WRONG_SHAPE),
        ("topk-0.25/int8", "7f81" + "0083" + "0502013c" * 2, refusals.MALFORMED),
        ("topk-0.25/int8", "7f81" + "0381" + "0502013c" * 2, refusals.MALFORMED),
        ("topk-0.25/int8", "7f", refusals.WRONG_SHAPE),
        ("topk-0.25/float32", "0000803f000000c0" + "0081" + "00", refusals.WRONG_SHAPE),
        ("topk-0.25/float32", "0000803f0000807f" + "0081", refusals.NOT_FINITE),
        ("randk-0.25/float16", "00" * 6, refusals.WRONG_SHAPE),
        ("randk-0.25/float16", "000000fc", refusals.NOT_FINITE),
    ],
)
def test_bad_bodies_are_refused_with_their_reason(text: str, body: str, reason: str) -> None:
    with pytest.raises(RemoteProtocolError) as refusal:
        decode(bytes.fromhex(body), parse_codec(text), SMALL, support_seed=SEED)
    assert refusal.value.reason == reason


@pytest.mark.parametrize("number", [np.nan, np.inf, -np.inf, 3e38])
@pytest.mark.parametrize(
    "text", ["dense/float32", "dense/int8", "topk-0.5/float16", "randk-1.0/int8"]
)
def test_numbers_without_meaning_do_not_leave(number: float, text: str) -> None:
    delta = np.full(8, number, np.float32)
    with pytest.raises(LocalProtocolError):
        encode(delta, parse_codec(text), SMALL, rounding_seed=SEED, support_seed=SEED)


def test_rand_k_does_not_enlarge_a_number_to_infinity() -> None:
    delta = np.full(8, quantise.LARGEST, np.float32)
    with pytest.raises(LocalProtocolError, match="diverged"):
        encode(
            delta, parse_codec("randk-0.1/float32"), SMALL, rounding_seed=SEED, support_seed=SEED
        )


def test_a_delta_of_another_size_is_our_mistake() -> None:
    spec = parse_codec("dense/int8")
    for delta in (np.zeros(7, np.float32), np.zeros((8, 1), np.float32)):
        with pytest.raises(LocalProtocolError):
            encode(delta, spec, SMALL, rounding_seed=SEED, support_seed=SEED)


# --- adding up


@given(deltas(), specs, st.floats(0, 10))
def test_add_to_is_the_sum_in_float64(
    case: tuple[Floats, Layout], spec: CodecSpec, weight: float
) -> None:
    delta, layout = case
    decoded = round_trip(delta, spec, layout)
    total = np.linspace(-1, 1, layout.size)
    expected = total + weight * decoded.dense().astype(np.float64)
    decoded.add_to(total, weight)
    assert np.array_equal(total, expected)


def test_a_weight_is_not_rounded_to_float32() -> None:
    total = np.zeros(8)
    SparseDelta(np.array([3]), np.ones(1, np.float32), 8).add_to(total, 1 / 3)
    assert total[3] == 1 / 3
