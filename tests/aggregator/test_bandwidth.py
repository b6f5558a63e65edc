"""A lease names the richest codec that its device understands and that fits what may travel."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aggregator.bandwidth import (
    LADDER,
    BandwidthConfig,
    budget_bytes,
    choose_codec,
    largest_budget,
)
from aggregator.scheduling.buffered import Buffered
from device_sdk.abilities import CODECS
from protocol import refusals
from protocol.errors import ConfigError
from protocol.messages import CheckIn, Lease, Refusal, UpdateChunk
from protocol.vectors.layout import Layout, Tensor
from protocol.vectors.packing import CodecSpec, parse_codec
from tests.aggregator.conftest import MakeDesk
from tests.support.desk import MODEL, Desk, install_id, task_config

LAYOUT = Layout((Tensor("w", (64, 300)), Tensor("b", (300,))))
WORDS = frozenset(CODECS)
#: What devices said before there were coarser levels.
OLD_WORDS = frozenset({"dense", "topk", "randk", "float32", "float16", "int8", "calibrated"})
SIZES = {text: budget_bytes(parse_codec(text), LAYOUT) for text in LADDER}
codecs = st.sampled_from([*LADDER, "randk-0.1/int4", "topk-0.3/float16"]).map(parse_codec)


def chosen(
    codec: str,
    config: BandwidthConfig | None = None,
    *,
    words: frozenset[str] = WORDS,
    limit_bytes: int = 0,
) -> str:
    found = choose_codec(
        parse_codec(codec), words, config or BandwidthConfig(), LAYOUT, limit_bytes=limit_bytes
    )
    return str(found)


def test_the_ladder_leads_from_rich_to_frugal() -> None:
    assert list(SIZES.values()) == sorted(SIZES.values(), reverse=True)
    assert len(set(SIZES.values())) == len(LADDER)


def test_without_a_budget_a_lease_names_the_tasks_codec() -> None:
    assert chosen("randk-0.1/float16") == "randk-0.1/float16"
    assert chosen("topk-0.05/int4", words=frozenset()) == "None"


def test_a_budget_takes_the_richest_that_fits() -> None:
    for text, num_bytes in SIZES.items():
        assert chosen("dense/float32", BandwidthConfig(uplink_bytes=num_bytes)) == text
        assert chosen("dense/float32", limit_bytes=num_bytes) == text
    tight = BandwidthConfig(uplink_bytes=SIZES["topk-0.1/int4"])
    assert chosen("dense/float32", tight, limit_bytes=SIZES["dense/int8"]) == "topk-0.1/int4"


@given(codecs, st.integers(1, 200_000), st.sets(st.sampled_from(sorted(WORDS))))
def test_what_is_chosen_is_understood_and_fits(
    codec: CodecSpec, limit: int, words: set[str]
) -> None:
    config = BandwidthConfig(uplink_bytes=limit)
    found = choose_codec(codec, words, config, LAYOUT, limit_bytes=2 * limit)
    if found is None:
        return
    assert found.words <= words
    assert budget_bytes(found, LAYOUT) <= limit
    if codec.words <= words:
        assert budget_bytes(found, LAYOUT) <= budget_bytes(codec, LAYOUT)


def test_no_richer_codec_than_the_tasks_is_chosen_unless_it_is_named() -> None:
    generous = BandwidthConfig(uplink_bytes=1 << 20)
    assert chosen("topk-0.01/int4", generous) == "topk-0.01/int4"
    asked = BandwidthConfig(uplink_bytes=1 << 20, uplink_codecs=("dense/int8", "topk-0.1/int4"))
    assert chosen("topk-0.01/int4", asked) == "dense/int8"
    some = BandwidthConfig(uplink_codecs=asked.uplink_codecs, uplink_bytes=SIZES["topk-0.05/int8"])
    assert chosen("topk-0.01/int4", some) == "topk-0.01/int4"
    assert largest_budget(parse_codec("topk-0.01/int4"), asked, LAYOUT) == SIZES["dense/int8"]


def test_a_device_of_old_gets_a_codec_that_it_understands() -> None:
    assert chosen("topk-0.05/int4", words=OLD_WORDS) == "topk-0.02/int8"
    assert chosen("topk-0.001/ternary", words=OLD_WORDS) == "topk-0.01/int8"  # the least there is
    assert chosen("topk-0.05/int4", words=frozenset({"dense", "float32"})) == "dense/float32"


def test_no_lease_where_nothing_is_understood_that_is_allowed() -> None:
    tight = BandwidthConfig(uplink_bytes=min(SIZES.values()))
    assert chosen("dense/int8", tight) == "topk-0.001/ternary"
    assert chosen("dense/int8", tight, words=OLD_WORDS) == "None"
    assert chosen("dense/int8", words=frozenset({"nothing"})) == "None"


def test_a_link_that_seems_to_carry_nothing_gets_the_least() -> None:
    """Once its updates took too long; without a lease nothing would ever show that it got well."""
    assert chosen("dense/int8", limit_bytes=1) == "topk-0.001/ternary"
    assert chosen("dense/int8", words=OLD_WORDS, limit_bytes=1) == "topk-0.01/int8"
    some = BandwidthConfig(uplink_bytes=SIZES["topk-0.1/int8"], uplink_codecs=("topk-0.1/int8",))
    assert chosen("dense/int8", some, limit_bytes=1) == "topk-0.1/int8"


def test_all_codecs_of_a_calibrated_task_are_calibrated() -> None:
    config = BandwidthConfig(uplink_bytes=SIZES["topk-0.1/int4"])
    assert chosen("dense/float32/calibrated", config) == "topk-0.1/int4/calibrated"


def test_a_slow_link_has_so_many_bytes_in_its_time() -> None:
    assert BandwidthConfig(uplink_s=30).link_bytes(100.0) == 3_000
    assert BandwidthConfig(uplink_s=30).link_bytes(0.0) == 1  # next to nothing is not "no limit"
    assert BandwidthConfig(uplink_s=0).link_bytes(100.0) == 0


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"uplink_bytes": -1}, "uplink_bytes"),
        ({"uplink_s": -1.0}, "uplink_s"),
        ({"uplink_s": float("nan")}, "uplink_s"),
        ({"uplink_codecs": ("dense/int8", "topk-0.1/int3")}, r"^uplink_codecs\[1\]: codec.*int3"),
        ({"uplink_codecs": ("dense/seedmask",)}, r"^uplink_codecs\[0\]: .*support and type only"),
        ({"differences": "foo"}, "^differences: codec 'foo'"),
        (
            {"differences": "dense/seedmask"},
            "^differences: 'dense/seedmask': differences are public",
        ),
        ({"model": "foo"}, "^model: 'foo'"),
        ({"uplink_codecs": ("dense/int8/calibrated",)}, "support and type only"),
    ],
)
def test_wrong_settings_are_named(settings: dict[str, object], problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        BandwidthConfig(**settings)  # type: ignore[arg-type]  # that is what is tested


def test_a_budget_that_no_codec_fits_is_refused_and_names_the_smallest() -> None:
    least = SIZES["topk-0.001/ternary"]
    BandwidthConfig(uplink_bytes=least).check(parse_codec("dense/int8"), LAYOUT)
    with pytest.raises(ConfigError, match=f"topk-0.001/ternary, needs {least}"):
        BandwidthConfig(uplink_bytes=least - 1).check(parse_codec("dense/int8"), LAYOUT)
    named = BandwidthConfig(uplink_bytes=least, uplink_codecs=("dense/int4",))
    with pytest.raises(ConfigError, match="dense/int4"):
        named.check(parse_codec("dense/int8"), LAYOUT)


# --- at the aggregator ---------------------------------------------------------------------------


def ask(desk: Desk, device: str, words: frozenset[str]) -> Lease | Refusal:
    message = CheckIn(install_id(device), -1, 10, tuple(sorted(words)))
    desk.hear(desk.coordinator.topics.out(device), desk.sealed(device, message))
    answer = desk.last(device)
    assert isinstance(answer, Lease | Refusal), answer
    return answer


def test_updates_of_different_codecs_are_counted_in_one_buffer(make_desk: MakeDesk) -> None:
    desk = make_desk(codec="topk-1/int4", buffered=Buffered(goal=2, concurrency=2))
    new, old = ask(desk, "new", WORDS), ask(desk, "old", OLD_WORDS)
    assert isinstance(new, Lease)
    assert isinstance(old, Lease)
    assert new.codec == "topk-1/int4"
    assert parse_codec(old.codec).words <= OLD_WORDS
    desk.send("new", new, [7, 0, 0, 0, 0, 0])
    desk.send("old", old, [0, 0, 0, 0, 0, 12.7])
    assert desk.coordinator.version == 1
    assert desk.step[[0, 5]].tolist() == pytest.approx([3.5, 6.35], rel=1e-3)


def test_an_update_larger_than_its_own_lease_is_refused(make_desk: MakeDesk) -> None:
    desk = make_desk(codec="dense/float32", bandwidth=BandwidthConfig(uplink_bytes=200))
    lease = ask(desk, "a", WORDS)
    assert isinstance(lease, Lease)
    assert lease.budget_bytes <= 200
    chunk = UpdateChunk(lease.lease_id, 0, 0, 1, bytes(lease.budget_bytes + 1))
    desk.send_chunk("a", chunk)
    assert desk.refused(refusals.OVERSIZE) == 1


def test_a_device_that_understands_no_codec_that_fits_is_turned_away(make_desk: MakeDesk) -> None:
    desk = make_desk(codec="dense/int8", bandwidth=BandwidthConfig(uplink_bytes=200))
    turned_away = ask(desk, "a", frozenset({"dense", "float32"}))
    assert isinstance(turned_away, Refusal)
    assert turned_away.reason == refusals.WRONG_CODEC


@pytest.mark.parametrize(
    ("codec", "size", "kind", "expected"),
    [
        ("topk-0.01/int4", 2_000, "plain", ("topk-0.05/int4", "int8")),
        ("topk-0.2/int8", 2_000, "plain", ("topk-0.2/int4", "int8")),
        ("topk-0.05/int4", 999, "plain", ("none", "float32")),
        ("dense/int8", 2_000, "plain", ("none", "float32")),
        ("topk-0.05/int4", 2_000, "masked", ("none", "float32")),
    ],
)
def test_models_go_down_as_differences_where_updates_name_what_they_move(
    codec: str, size: int, kind: str, expected: tuple[str, str]
) -> None:
    settled = BandwidthConfig().settled(parse_codec(codec), size, masked=kind == "masked")
    assert (settled.differences, settled.model) == expected


@pytest.mark.parametrize(
    ("layer", "training", "expected"),
    [
        ({"type": "relu"}, {}, "int8"),
        ({"type": "relu"}, {"trainable_last": 1}, "float16"),
        ({"type": "batch_norm"}, {}, "float16"),
        ({"type": "batch_norm"}, {"trainable_last": 1}, "float16"),
    ],
)
def test_what_eight_bits_would_spoil_for_good_is_published_in_sixteen(
    layer: dict[str, str], training: dict[str, int], expected: str
) -> None:
    """Of frozen tensors no difference takes the error back, and small variances would be 0."""
    dense = {"type": "dense", "units": 40}
    model = {**MODEL, "input": [40], "layers": [dense, layer, dense]}
    config = task_config(model=model, training=training, codec="topk-0.05/int4")
    assert config.settled(masked=False).bandwidth.model == expected
    asked = replace(config, bandwidth=BandwidthConfig(model="int8"))
    if layer["type"] != "batch_norm":
        asked.check()
        return
    with pytest.raises(ConfigError, match="running variances"):
        asked.check()


def test_what_is_asked_for_down_stays_so() -> None:
    asked = BandwidthConfig(differences="dense/int8", model="float16")
    assert asked.settled(parse_codec("dense/int8"), 10, masked=True) == asked
