"""What all devices hold is the same to the last bit, and nothing that is left out adds up."""

from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol import refusals
from protocol.codec import pack, unpack
from protocol.errors import ConfigError, RemoteProtocolError
from protocol.messages import Difference
from protocol.vectors.hidden import (
    MODEL_TYPES,
    advanced,
    check_model_type,
    difference,
    max_model_bytes,
    model_from_bytes,
    model_hash,
    model_to_bytes,
    parse_downlink,
    rounded,
)
from protocol.vectors.layout import Layout, Subset, Tensor

Vector = npt.NDArray[np.float32]

LAYOUT = Layout((Tensor("w", (5, 4)), Tensor("b", (4,)), Tensor("s", ())))
CODECS = ("topk-0.1/int8", "topk-0.3/float16", "randk-0.2/int8", "dense/int8", "dense/float32")
SUBSETS = (
    Subset(LAYOUT, frozenset({"w", "b", "s"})),
    Subset(LAYOUT, frozenset({"w"})),
    Subset(LAYOUT, frozenset({"b", "s"})),
)
#: From nothing at all to the largest there is.
NUMBERS = st.floats(-(2.0**127), 2.0**127, width=32) | st.floats(-1, 1, width=32)
VECTORS = st.lists(NUMBERS, min_size=LAYOUT.size, max_size=LAYOUT.size).map(
    lambda values: np.array(values, np.float32)
)


@given(
    st.lists(VECTORS, min_size=2, max_size=5),
    st.sampled_from(CODECS),
    st.sampled_from(SUBSETS),
    st.sampled_from(MODEL_TYPES),
)
@settings(max_examples=40, deadline=None)
def test_by_differences_or_whole_a_device_holds_what_the_aggregator_says(
    line: list[Vector], spelled: str, subset: Subset, model: str
) -> None:
    first = model_to_bytes(line[0], model, LAYOUT)
    hidden = held = model_from_bytes(first, model, LAYOUT)
    for version, params in enumerate(line[1:], start=1):
        told = difference(
            params, hidden, parse_downlink(spelled), subset, task="t", version=version, model=model
        )
        hidden = advanced(hidden, told, subset, task="t", version=version)
        whole = model_to_bytes(hidden, model, LAYOUT)
        hidden = model_from_bytes(whole, model, LAYOUT)
        heard = unpack(pack(told), Difference)
        held = rounded(advanced(held, heard, subset, task="t", version=version), model, LAYOUT)
        assert np.isfinite(hidden).all()
        assert model_hash(held) == model_hash(hidden)
        assert len(whole) <= max_model_bytes(model, LAYOUT)


@pytest.mark.parametrize("spelled", CODECS)
def test_what_a_difference_leaves_out_is_in_the_next(spelled: str) -> None:
    """The params stay; the differences go on until they are there."""
    params = np.random.default_rng(7).standard_normal(LAYOUT.size).astype(np.float32)
    hidden = np.zeros(LAYOUT.size, np.float32)
    codec = parse_downlink(spelled)
    for version in range(1, 60):
        told = difference(params, hidden, codec, SUBSETS[0], task="t", version=version)
        hidden = advanced(hidden, told, SUBSETS[0], task="t", version=version)
    np.testing.assert_allclose(hidden, params, atol=1e-4)


def test_what_is_not_trained_does_not_move() -> None:
    hidden = np.arange(LAYOUT.size, dtype=np.float32)
    told = difference(
        hidden + 1, hidden, parse_downlink("dense/int8"), SUBSETS[1], task="t", version=1
    )
    moved = advanced(hidden, told, SUBSETS[1], task="t", version=1)
    np.testing.assert_allclose(moved[:20], hidden[:20] + 1, rtol=1e-6)
    np.testing.assert_array_equal(moved[20:], hidden[20:])


@given(st.binary(max_size=80), st.sampled_from([*CODECS, "dense", "plan-0.1/seedmask", "x/y"]))
def test_garbage_is_a_difference_or_refused(body: bytes, codec: str) -> None:
    hidden = np.zeros(LAYOUT.size, np.float32)
    try:
        moved = advanced(hidden, Difference(codec, "x", body), SUBSETS[0], task="t", version=1)
    except RemoteProtocolError:
        return
    assert np.isfinite(moved).all()


@given(st.binary(max_size=120), st.sampled_from([*MODEL_TYPES, "int4", "seedmask", ""]))
def test_garbage_is_a_model_or_refused(data: bytes, model: str) -> None:
    try:
        assert np.isfinite(model_from_bytes(data, model, LAYOUT)).all()
    except RemoteProtocolError:
        return


def test_a_number_type_that_is_none_is_refused_with_what_goes() -> None:
    with pytest.raises(ConfigError, match="float32, float16, int8"):
        check_model_type("int4")
    with pytest.raises(RemoteProtocolError) as caught:
        rounded(np.zeros(LAYOUT.size, np.float32), "int4", LAYOUT)
    assert caught.value.reason == refusals.WRONG_CODEC


@pytest.mark.parametrize("spelled", ["plan-0.1/seedmask", "dense/int8/calibrated", "dense"])
def test_a_codec_that_is_not_for_everybody_is_refused(spelled: str) -> None:
    with pytest.raises(ConfigError):
        parse_downlink(spelled)


def test_differences_are_rounded_to_the_nearest_and_nothing_is_enlarged() -> None:
    codec = parse_downlink("randk-0.2/int8")
    assert codec == replace(codec, calibrated=True)
    assert str(codec) == "randk-0.2/int8/calibrated"
