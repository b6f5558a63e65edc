"""What would break an invariant is refused, exactly at its boundary, with the reason."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from protocol.errors import ConfigError, LocalProtocolError
from protocol.secagg import scheme
from protocol.secagg.field import P16, Q31
from protocol.secagg.parameters import (
    LIGHTSECAGG,
    MAX_ERROR,
    MAX_SHARE_BYTES,
    MIN_STALENESS_WEIGHT,
    PAIRWISE,
    SEEDMASK,
    Parameters,
    defaults,
)
from protocol.secagg.shares import TEST_COLUMNS, RecoveryError
from protocol.staleness import parse_staleness
from tests.support.enrolment import parameters

SHARED = parameters(8, scheme="lightsecagg")
SCHEMES = [SEEDMASK, LIGHTSECAGG, PAIRWISE]


def accepts(given: Parameters) -> bool:
    try:
        given.check()
    except ConfigError:
        return False
    return True


def worst_sum(given: Parameters, limit: int) -> int:
    """How far from zero a full buffer of the largest weights may be, noise included."""
    return given.max_contributors * given.max_weight * (limit + given.noise)


@pytest.mark.parametrize("name", SCHEMES)
@pytest.mark.parametrize("num_devices", range(3, 129))
def test_the_defaults_keep_every_invariant(num_devices: int, name: str) -> None:
    malicious, noise, answers = defaults(num_devices)
    given = parameters(
        num_devices,
        scheme=name,
        num_malicious=malicious,
        num_noise=noise,
        num_answers=answers,
        bits=18,
        samples_cap=1000,
    )
    given.check()
    assert answers == num_devices or answers == max(noise + 2, -(-3 * num_devices // 4))


def test_the_smallest_cohorts_have_no_room_for_dropouts() -> None:
    assert [defaults(n) for n in (3, 4, 5, 6, 8)] == [
        (1, 2, 3), (1, 2, 4), (1, 3, 5), (1, 3, 5), (1, 4, 6),
    ]  # fmt: skip


@settings(max_examples=300)
@given(
    st.sampled_from(SCHEMES),
    st.integers(3, 128),
    st.integers(8, 24),
    st.integers(1, 8),
)
def test_the_limit_is_the_largest_that_cannot_overflow(
    name: str, most: int, bits: int, weight: int
) -> None:
    weight = 1 if name == PAIRWISE else weight
    given = parameters(
        128, scheme=name, bits=bits, max_weight=weight, min_contributors=2, max_contributors=most
    )
    given = replace(given, num_malicious=0)
    assume(accepts(given))
    room = given.modulus / 2 * (1 if name == PAIRWISE else 15 / 16)
    # Of 2**32 itself half is one too many; an odd modulus has no such value.
    assert worst_sum(given, given.limit) < room <= worst_sum(given, given.limit + 1)
    # Also the count at its highest, and what rounding and errors do to one element.
    assert given.levels * given.step <= given.limit
    assert (given.modulus - 1) >> given.shift < 1 << given.width
    assert given.step > 2 * most * weight * given.noise


def test_the_noise_is_the_largest_error_and_half_of_what_is_cut_off() -> None:
    given = parameters(10, bits=16)
    assert given.noise == MAX_ERROR + 2**14
    assert given.limit == 15 * Q31 // 32 // 10 - 1020 - 2**14
    assert (given.modulus, given.width, given.body_bytes) == (Q31, 16, 202)
    light = parameters(10, scheme=LIGHTSECAGG, bits=9)
    assert (light.noise, light.step, light.modulus) == (0, 1, P16)
    assert (light.limit, light.width, light.body_bytes) == (3071, 16, 202)
    plain = parameters(10, scheme=PAIRWISE)
    assert (plain.noise, plain.modulus, plain.width, plain.body_bytes) == (0, 1 << 32, 32, 404)
    assert 10 * plain.limit < 1 << 31


def test_one_contributor_more_than_the_noise_allows_is_refused() -> None:
    # bits 8 leave a noise of 4,195,324: eight updates have room for one level of count above it.
    given = parameters(128, bits=8, num_malicious=0, min_contributors=2, max_contributors=10)
    given.check()
    assert given.levels == 1
    with pytest.raises(ConfigError, match="raise bits, or lower the goal"):
        replace(given, max_contributors=11).check()


@pytest.mark.parametrize("most", [3, 10, 50, 100, 128])
def test_there_is_a_fewest_bits_for_a_goal_and_one_less_is_refused(most: int) -> None:
    given = parameters(128, num_malicious=0, min_contributors=2, max_contributors=most)
    taken = [bits for bits in range(8, 25) if accepts(replace(given, bits=bits))]
    assert taken == list(range(taken[0], 25))
    assert (taken[0] > 8) == (most > 10)
    weighed = [b for b in taken if accepts(replace(given, bits=b, samples_cap=9))]
    assert weighed == list(range(weighed[0], 25))
    assert replace(given, bits=weighed[0]).levels >= 4
    if weighed[0] > taken[0]:
        assert replace(given, bits=weighed[0] - 1).levels < 4


def test_weights_that_would_overflow_are_refused() -> None:
    given = parameters(128, scheme=LIGHTSECAGG, max_weight=8)
    given.check()
    with pytest.raises(ConfigError, match="max_weight"):
        replace(given, max_weight=9).check()
    with pytest.raises(ConfigError, match="overflow"):
        parameters(128, bits=10, max_weight=8).check()


BAD: list[tuple[str, dict[str, object], str]] = [
    ("no such scheme", {"scheme": "none"}, "use one of seedmask, lightsecagg, pairwise"),
    ("two devices", {"num_devices": 2}, "3 to 128 devices"),
    ("too many devices", {"num_devices": 129}, "3 to 128 devices"),
    ("t below zero", {"num_malicious": -1}, "malicious"),
    ("T one too small", {"num_noise": 4}, "at least 5"),
    ("T as large as U", {"num_noise": 8}, "must be above noise"),
    ("U above N", {"num_answers": 11}, "at most N = 10"),
    ("t + 1 contributors", {"min_contributors": 2}, "shows one device's update"),
    ("fewer than min_contributors", {"max_contributors": 2}, "from min_contributors = 3"),
    ("more than N", {"max_contributors": 11}, "to the cohort's 10 devices"),
    ("no weight", {"max_weight": 0}, "max_weight"),
    ("a weight in pairwise", {"scheme": PAIRWISE, "max_weight": 2}, "max_weight must be 1 to 1"),
    ("no value", {"size": 1}, "at least one value"),
    ("no clip", {"clip": 0.0}, "clip"),
    ("clip not a number", {"clip": float("nan")}, "clip"),
    ("clip infinite", {"clip": float("inf")}, "clip"),
    ("bits 7", {"bits": 7}, "bits must be 8 to 24"),
    ("bits 25", {"bits": 25}, "bits must be 8 to 24"),
    ("cap below zero", {"samples_cap": -1}, "samples_cap"),
    ("too few levels", {"bits": 8, "samples_cap": 10}, "weigh_by_samples = false"),
]


@pytest.mark.parametrize(("_what", "change", "reason"), BAD, ids=[what for what, *_ in BAD])
def test_what_breaks_an_invariant_is_refused(
    _what: str, change: dict[str, object], reason: str
) -> None:
    sound = parameters(10)
    sound.check()
    with pytest.raises(ConfigError, match=reason):
        replace(sound, **change).check()  # type: ignore[arg-type]  # wrong on purpose


@pytest.mark.parametrize("num_devices", [3, 10, 11, 64])
@pytest.mark.parametrize("malicious", [0, 1, 3])
def test_split_views_are_ruled_out_by_noise_alone(num_devices: int, malicious: int) -> None:
    """Whatever U: of two groups of T + 1 holders an honest one is in both."""
    for noise in range(1, num_devices):
        given = parameters(
            num_devices,
            num_malicious=malicious,
            num_noise=noise,
            num_answers=num_devices,
            min_contributors=malicious + 2,
        )
        if malicious + 2 <= num_devices:
            assert accepts(given) == (2 * (noise + 1) > num_devices + malicious)


@pytest.mark.parametrize("name", [SEEDMASK, LIGHTSECAGG])
def test_a_level_is_rounded_up_and_capped(name: str) -> None:
    given = parameters(10, scheme=name, bits=14, samples_cap=1000)
    given.check()
    levels = given.levels
    lowest = -(-levels // 1000)
    assert [given.level(n) for n in (0, 1, 1000, 1001, 10**12)] == [lowest] * 2 + [levels] * 3
    assert given.level(500) == -(-levels // 2)
    assert replace(given, samples_cap=0).level(1) == levels


@pytest.mark.parametrize("name", [SEEDMASK, LIGHTSECAGG])
def test_a_late_update_has_a_lower_level_but_never_below_an_eighth(name: str) -> None:
    given = parameters(10, scheme=name, staleness="polynomial-0.5")
    given.check()
    levels = given.levels
    by_staleness = [given.level(1, late) for late in (0, 3, 8)]
    assert by_staleness == [levels, round(levels / 2), round(levels / 3)]
    assert given.level(1, 10**6) == round(levels * MIN_STALENESS_WEIGHT)
    weighted = replace(given, samples_cap=1000)
    assert weighted.level(10, 3) == max(1, round(weighted.level(10) / 2))
    assert replace(given, staleness="constant").level(1, 10**6) == levels


def test_weights_for_staleness_need_levels() -> None:
    given = parameters(100, bits=16, staleness="polynomial-0.5")
    with pytest.raises(ConfigError, match="fewer than 8: raise bits, or lower the goal, or leave"):
        given.check()
    replace(given, bits=20).check()


@settings(max_examples=50)
@given(
    st.sampled_from([SEEDMASK, LIGHTSECAGG]),
    st.lists(st.tuples(st.integers(1, 2_000), st.integers(0, 20)), min_size=3, max_size=10),
    st.sampled_from(["polynomial-0.5", "hinge-0.2-4"]),
)
def test_the_mean_is_weighted_by_staleness(
    name: str, updates: list[tuple[int, int]], rule: str
) -> None:
    given = parameters(10, scheme=name, size=41, clip=0.5, samples_cap=700, staleness=rule)
    given.check()
    values = np.random.default_rng(1).uniform(-0.5, 0.5, (len(updates), 40)).astype(np.float32)
    encoded = [given.encode(row, *one)[0] for row, one in zip(values, updates, strict=True)]
    sums = np.sum(encoded, axis=0)
    given.check_sums(sums, len(updates))
    total = given.weight_of(int(sums[-1]))
    weigh = parse_staleness(rule)
    weights = [min(n, 700) / 700 * weigh(late) for n, late in updates]
    # A level is off by one for the samples, by a half for the staleness.
    assert abs(total - sum(weights)) <= 1.5 * len(updates) / given.levels
    levels = [given.level(n, late) / given.levels for n, late in updates]
    mean = sums[:-1] / (given.scale * total)
    error = len(updates) / 2 / (given.scale * total)
    assert np.abs(mean - np.average(values, axis=0, weights=levels)).max() <= error * 1.001


@settings(max_examples=50)
@given(
    st.sampled_from(SCHEMES),
    st.lists(st.integers(1, 2_000), min_size=3, max_size=10),
    st.sampled_from([0, 700]),
)
def test_the_weighted_mean_follows_from_the_sums(
    name: str, samples: list[int], samples_cap: int
) -> None:
    given = parameters(10, scheme=name, size=41, clip=0.5, samples_cap=samples_cap)
    given.check()
    values = np.random.default_rng(1).uniform(-0.5, 0.5, (len(samples), 40)).astype(np.float32)
    encoded = [given.encode(row, n) for row, n in zip(values, samples, strict=True)]
    assert all(num_saturated == 0 for _, num_saturated in encoded)
    for elements, _ in encoded:
        given.check_values(elements)
    sums = np.sum([elements for elements, _ in encoded], axis=0)
    given.check_sums(sums, len(samples))
    weights = [given.level(n) / given.levels for n in samples]
    assert given.weight_of(int(sums[-1])) == pytest.approx(sum(weights), rel=1e-12)
    mean = sums[:-1] / (given.scale * given.weight_of(int(sums[-1])))
    error = len(samples) / 2 / (given.scale * sum(weights))  # half a unit each
    assert np.abs(mean - np.average(values, axis=0, weights=weights)).max() <= error * 1.001


def test_values_beyond_the_clip_are_cut_to_it_whatever_the_weight() -> None:
    given = parameters(10, size=4, clip=0.5, samples_cap=700)
    values = np.array([0.5, -0.75, 100], dtype=np.float32)
    for samples in (1, 350, 700):
        elements, num_saturated = given.encode(values, samples)
        assert num_saturated == 2
        part = given.level(samples) / given.levels
        assert np.abs(elements[:-1] - np.array([1, -1, 1]) * given.limit * part).max() <= 1


def test_noise_within_the_bound_does_not_touch_the_count() -> None:
    given = parameters(10, samples_cap=700)
    noise = given.max_contributors * given.noise
    for total in (10, 11, 10 * given.levels):
        for error in (-noise, noise):
            assert given.weight_of(total * given.step + error) * given.levels == total


@pytest.mark.parametrize("name", SCHEMES)
def test_sums_that_no_updates_have_are_noticed(name: str) -> None:
    given = parameters(10, scheme=name, size=3)
    highest = 4 * (given.limit + given.noise)
    count = 4 * given.levels * given.step
    for value in (highest, -highest, 0):
        given.check_sums(np.array([value, 0, count]), 4)
    for row in (
        (highest + 1, 0, count),
        (0, -highest - 1, count),
        (0, 0, count + given.step),
        (0, 0, 3 * given.step),
        (0, 0, 0),
        (0, 0, -count),
    ):
        with pytest.raises(RecoveryError, match="not a sum of 4 updates"):
            given.check_sums(np.array(row), 4)


def test_values_to_be_masked_must_fit() -> None:
    given = parameters(10, size=3)
    given.check_values(np.array([given.limit, -given.limit, 0]))
    for row in ([given.limit + 1, 0, 0], [0, -given.limit - 1, 0], [0, 0]):
        with pytest.raises(LocalProtocolError):
            given.check_values(np.array(row))


def test_the_schemes_of_buffers_are_two() -> None:
    assert scheme(SEEDMASK).secret_size(parameters(10)) == 1024
    assert scheme(LIGHTSECAGG).secret_size(parameters(10)) == 101
    for name in (PAIRWISE, "none", "codec"):
        with pytest.raises(ConfigError, match="use seedmask or lightsecagg"):
            scheme(name)


def test_a_share_that_no_message_can_carry_is_refused() -> None:
    blocks = SHARED.num_answers - SHARED.num_noise
    largest = blocks * (MAX_SHARE_BYTES // 2 - TEST_COLUMNS)
    replace(SHARED, size=largest).check()
    with pytest.raises(ConfigError, match="does not fit into a message: use seedmask"):
        replace(SHARED, size=largest + 1).check()
    replace(SHARED, size=largest + 1, scheme="seedmask").check()
