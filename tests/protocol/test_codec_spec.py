"""A codec is spelled in one way, checked once, and keeps exactly as many numbers as it says."""

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol import refusals
from protocol.errors import ConfigError, LocalProtocolError, RemoteProtocolError
from protocol.vectors.layout import Layout, Tensor
from protocol.vectors.levels import INT8
from protocol.vectors.packing import (
    DENSE,
    PLAN,
    RANDK,
    SCHEMES,
    TOPK,
    CodecSpec,
    decode,
    encode,
    max_body_bytes,
    parse_codec,
)
from protocol.vectors.values import DTYPES

open_specs = st.builds(
    CodecSpec,
    st.sampled_from((TOPK, RANDK)),
    st.floats(1e-9, 1),
    st.sampled_from(DTYPES),
    st.booleans(),
)
masked_specs = st.builds(
    CodecSpec,
    st.sampled_from((PLAN, RANDK)),
    st.floats(1e-9, 1),
    st.sampled_from(SCHEMES),
    st.booleans(),
)
specs = st.one_of(open_specs, masked_specs)


@pytest.mark.parametrize(
    "text",
    [
        "dense/float32",
        "dense/float16",
        "dense/int8",
        "topk-0.01/int8",
        "randk-0.05/float16",
        "topk-0.05/int4",
        "dense/ternary",
        "dense/seedmask",
        "randk-0.1/lightsecagg",
        "plan-0.1/pairwise",
        "dense/float32/calibrated",
        "plan-0.1/seedmask/calibrated",
    ],
)
def test_codecs_are_spelled_as_documented(text: str) -> None:
    assert str(parse_codec(text)) == text


@given(specs)
def test_parse_inverts_str(spec: CodecSpec) -> None:
    assert parse_codec(str(spec)) == spec
    assert len(str(spec)) <= 64  # what a lease has room for


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "write it like"),
        ("topk-0.01", "write it like"),
        ("topk-1e-2/int8", "write it like"),
        ("topk--1/int8", "write it like"),
        ("topk-nan/int8", "write it like"),
        ("topk-0.01/int8 ", "write it like"),
        ("topk-" + "1" * 100 + "/int8", "write it like"),
        ("topk/int8", "need a fraction"),
        ("dense-0.5/int8", "dense takes none"),
        ("topk-0/int8", "fraction 0.0"),
        ("topk-1.5/int8", "fraction 1.5"),
        ("randk-0.0000000001/int8", "fraction 1e-10"),
        ("best-0.01/int8", "'best'"),
        ("topk-0.01/int2", "'int2'"),
        ("dense/int8/", "write it like"),
        ("dense/int8/later", "write it like"),
        ("dense/int8/calibrated/calibrated", "write it like"),
        ("plan-0.1/float32", "do not go together"),
        ("topk-0.1/seedmask", "do not go together"),
    ],
)
def test_a_wrong_codec_is_named(text: str, problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        parse_codec(text)


def test_dense_has_no_fraction_and_no_fraction_is_nan() -> None:
    with pytest.raises(ConfigError, match="dense"):
        CodecSpec(DENSE, 0.5, INT8)
    with pytest.raises(ConfigError, match="nan"):
        CodecSpec(TOPK, math.nan, INT8)


@given(st.integers(1, 10_000), st.integers(1, 1 << 28))
def test_the_kept_count_is_exact(per_myriad: int, size: int) -> None:
    spec = CodecSpec(TOPK, per_myriad / 10_000, INT8)
    assert spec.num_kept(size) == max(1, math.ceil(Fraction(per_myriad, 10_000) * size))


def test_the_kept_count_has_no_float_surprises() -> None:
    assert math.ceil(0.07 * 100) == 8  # what floats would say
    assert parse_codec("topk-0.07/int8").num_kept(100) == 7
    assert parse_codec("topk-0.01/int8").num_kept(2_410) == 25
    assert parse_codec("topk-0.01/int8").num_kept(1) == 1


@pytest.mark.parametrize(
    ("text", "contractive"),
    [
        ("topk-0.1/int8", True),
        ("plan-0.1/seedmask", True),
        ("randk-0.1/int8", False),
        ("randk-0.1/seedmask", False),
        ("dense/int8", False),
        ("dense/ternary", False),
        ("topk-0.1/ternary", True),
        ("dense/seedmask", False),
        ("randk-0.1/int8/calibrated", True),
        ("dense/seedmask/calibrated", True),
    ],
)
def test_some_codecs_send_later_what_they_do_not_send(text: str, contractive: bool) -> None:  # noqa: FBT001
    assert parse_codec(text).contractive is contractive


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_masked_codec_never_encodes_or_decodes_in_the_open(scheme: str) -> None:
    spec, layout = parse_codec(f"dense/{scheme}"), Layout((Tensor("w", (4,)),))
    delta, seed = np.zeros(4, np.float32), bytes(32)
    with pytest.raises(LocalProtocolError):
        encode(delta, spec, layout, rounding_seed=seed, support_seed=seed)
    with pytest.raises(LocalProtocolError):
        max_body_bytes(spec, layout)
    with pytest.raises(RemoteProtocolError) as refused:
        decode(bytes(16), spec, layout, support_seed=seed)
    assert refused.value.reason == refusals.WRONG_CODEC
