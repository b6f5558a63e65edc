"""A codec is spelled in one way, checked once, and keeps exactly as many numbers as it says."""

import math
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.errors import ConfigError
from protocol.vectors.packing import DENSE, INT8, RANDK, TOPK, CodecSpec, parse_codec

specs = st.builds(
    CodecSpec,
    st.sampled_from((TOPK, RANDK)),
    st.floats(1e-9, 1),
    st.sampled_from(("float32", "float16", "int8")),
)


@pytest.mark.parametrize(
    "text", ["dense/float32", "dense/float16", "dense/int8", "topk-0.01/int8", "randk-0.05/float16"]
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
        ("topk-0.01/int4", "'int4'"),
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


def test_only_top_k_keeps_a_residual() -> None:
    assert [
        parse_codec(t).contractive for t in ("topk-0.1/int8", "randk-0.1/int8", "dense/int8")
    ] == [
        True,
        False,
        False,
    ]
