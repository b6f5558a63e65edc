"""Sums unmask within the bound whoever drops out; a secret that is not theirs is noticed."""

from functools import cache

import numpy as np
import numpy.typing as npt
import pytest

from protocol import refusals
from protocol.errors import LocalProtocolError, RemoteProtocolError
from protocol.secagg import seedmask
from protocol.secagg.field import Q31, Elements, inverse, uniform
from protocol.secagg.fixedpoint import pack, unpack
from protocol.secagg.parameters import MAX_ERROR, SEEDMASK, Parameters
from protocol.secagg.ring import DEGREE, intt, multiply, negacyclic_product, ntt
from protocol.secagg.seedmask import small
from protocol.secagg.shares import RecoveryError
from protocol.stream import Stream, derive
from tests.support.enrolment import parameters
from tests.support.masked_sums import (
    COHORTS,
    PUBLIC,
    RATES,
    SEED,
    STAGES,
    Story,
    body_of,
    cohort,
    deal,
    masked_total,
    num_dropped,
    recovered,
    story,
    sums_of,
    values_of,
)

CHI_SQUARE_15_AT_0_001 = 37.7
VARIANCE = 8 * (256**2 - 1) / 12  # of eight uniform bytes


def public_polynomials(given: Parameters) -> Elements:
    """a, by its definition, as coefficients."""
    num_blocks = -(-given.size // DEGREE)
    seed = derive(PUBLIC, "seedmask a", DEGREE, Q31)
    return intt(uniform(seed, (num_blocks, DEGREE), Q31))


@cache
def slow_product(a: bytes, secret: bytes) -> Elements:
    """Schoolbook: once for whatever is made of it."""
    return negacyclic_product(np.frombuffer(a, np.int64), np.frombuffer(secret, np.int64))


def masked_slowly(
    given: Parameters, secret: Elements, values: Elements, errors: Elements
) -> Elements:
    """The definition, x + a s + e mod q without its lowest bits: schoolbook products."""
    blocks = [slow_product(a.tobytes(), secret.tobytes()) for a in public_polynomials(given)]
    whole = (np.concatenate(blocks)[: given.size] + values + errors) % Q31
    return whole >> given.shift


def secret_giving(given: Parameters, product: Elements) -> Elements:
    """The secret for which a times it is ``product``, of one block."""
    a_hat = ntt(public_polynomials(given))
    padded = np.zeros(DEGREE, dtype=np.int64)
    padded[: given.size] = product
    secrets = intt(multiply(ntt(padded % Q31)[np.newaxis], inverse(a_hat, Q31)))
    return secrets.reshape(DEGREE)


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("percent", RATES)
@pytest.mark.parametrize("num_devices", COHORTS)
def test_the_sum_is_within_the_bound_whoever_drops_out(
    num_devices: int, percent: int, stage: str
) -> None:
    given = cohort(SEEDMASK, num_devices)
    left = story(given, stage, num_dropped(given, percent))
    sums, plain = sums_of(given, left)
    num_updates = len(left.contributors)
    bound = seedmask.noise_bound(given, num_updates)
    assert bound == num_updates * given.noise
    errors = (sums - plain)[:-1]
    assert np.abs(errors).max() <= bound
    # Far within it, in fact: rounding and errors of different devices are independent.
    spread = np.sqrt(num_updates * (VARIANCE + 4**given.shift / 12))
    assert 0.9 * spread < errors.std() < 1.1 * spread
    exact = plain[-1] / (given.step * given.levels)
    assert given.weight_of(int(sums[-1])) == pytest.approx(exact, rel=1e-12)


def test_any_answers_give_the_same_sum() -> None:
    given = cohort(SEEDMASK, 10)
    stories = [
        Story(list(range(10)), list(range(10)), list(range(first, first + 7))) for first in range(4)
    ]
    first, *others = [sums_of(given, left)[0] for left in stories]
    for sums in others:
        np.testing.assert_array_equal(first, sums)


def test_integer_weights_add_an_update_as_often() -> None:
    given = parameters(10, size=2_500, bits=20, max_weight=8, samples_cap=100)
    given.check()
    weights = [1, 8, 3, 1, 2, 8, 1, 1, 4, 5]
    dealt = {device: deal(given, device) for device in range(10)}
    total = np.zeros(given.size, np.int64)
    for device, weight in enumerate(weights):
        for _ in range(weight):
            seedmask.add(given, total, body_of(given, dealt, device))
    secret = recovered(given, dealt, range(10), range(8), weights)
    sums = seedmask.unmask(given, PUBLIC, total, sum(weights), secret)
    plain = np.array(weights) @ [values_of(given, device) for device in range(10)]
    assert np.abs(sums - plain).max() <= seedmask.noise_bound(given, sum(weights))
    assert round(int(sums[-1]) / given.step) == plain[-1] // given.step


@pytest.mark.parametrize(
    ("num_updates", "bits"), [*((10, bits) for bits in range(8, 25)), (128, 16), (128, 24)]
)
def test_worst_signs_and_worst_errors_of_a_full_buffer_decode_right(
    num_updates: int, bits: int
) -> None:
    given = parameters(num_updates, size=1_000, bits=bits)
    given.check()
    sign = np.resize([1, -1, 1], given.size)
    values = given.limit * sign
    values[-1] = given.step * given.levels
    total, secret_sum = np.zeros(given.size, np.int64), np.zeros(DEGREE, np.int64)
    for device in range(num_updates):
        secret = seedmask.secret(given, derive(SEED, device % 10))  # ten masks, again and again
        elements = masked_slowly(given, secret, values, MAX_ERROR * sign)
        seedmask.add(given, total, pack(elements, bits))
        secret_sum = (secret_sum + secret) % Q31
    sums = seedmask.unmask(given, PUBLIC, total, num_updates, secret_sum)
    errors = (sums - num_updates * values) * sign
    assert np.abs(errors).max() <= seedmask.noise_bound(given, num_updates)
    rounding = 2**given.shift * np.sqrt(num_updates / 12 / given.size)
    assert abs(errors.mean() - num_updates * MAX_ERROR) < 4 * rounding + num_updates
    assert given.weight_of(int(sums[-1])) == num_updates


@pytest.mark.parametrize("most", [3, 8, 10])
@pytest.mark.parametrize("bits", [8, 16, 24])
def test_sums_are_accepted_up_to_the_bound_and_not_beyond(bits: int, most: int) -> None:
    given = parameters(10, size=4, bits=bits, max_contributors=most)
    given.check()
    bound = most * (given.limit + given.noise)
    count = most * given.levels * given.step
    middle = most << given.shift >> 1  # what an empty total decodes to
    for highest, lowest in ((bound, -bound), (bound + 1, 0), (0, -bound - 1)):
        wanted = np.array([highest, 0, lowest, count])
        secret = secret_giving(given, middle - wanted)
        total = np.zeros(given.size, np.int64)
        if max(highest, -lowest) <= bound:
            sums = seedmask.unmask(given, PUBLIC, total, most, secret)
            assert sums.tolist() == wanted.tolist()
            continue
        with pytest.raises(RecoveryError):
            seedmask.unmask(given, PUBLIC, total, most, secret)


@pytest.mark.parametrize("bits", range(8, 25))
def test_the_largest_remainder_fits_the_bits(bits: int) -> None:
    """Masked values of q - 1: rounding them to the nearest would give 2**bits."""
    given = parameters(3, size=1_500, bits=bits)
    values = -1 - small(derive(SEED, "errors"), given.size)
    values[-1] = given.levels * given.step
    no_secret = np.zeros(DEGREE, np.int64)
    body = seedmask.mask(given, PUBLIC, no_secret, values, SEED)
    assert set(unpack(body, bits, given.size)[:-1].tolist()) == {(Q31 - 1) >> given.shift}
    total = np.zeros(given.size, np.int64)
    seedmask.add(given, total, body)
    sums = seedmask.unmask(given, PUBLIC, total, 1, no_secret)
    assert np.abs(sums - values).max() <= given.noise


def test_an_update_is_the_one_of_the_definition() -> None:
    given = parameters(10, size=2_500, bits=24)
    secret, values = seedmask.secret(given, SEED), values_of(given, 0)
    errors = small(derive(SEED, "errors"), given.size)
    body = seedmask.mask(given, PUBLIC, secret, values, SEED)
    np.testing.assert_array_equal(
        unpack(body, 24, given.size), masked_slowly(given, secret, values, errors)
    )
    assert len(body) == given.body_bytes


def wrong_secrets(right: Elements, dealt: list[Elements]) -> list[Elements]:
    one_off = right.copy()
    one_off[5] = (one_off[5] + 1) % Q31
    return [
        one_off,
        np.zeros_like(right),
        (right - dealt[0]) % Q31,
        (right + dealt[0]) % Q31,
        (right - dealt[1] + seedmask.secret(cohort(SEEDMASK, 10), bytes(32))) % Q31,
        uniform(SEED, (DEGREE,), Q31),
    ]


def test_a_wrong_sum_of_secrets_is_noticed() -> None:
    given = cohort(SEEDMASK, 10)
    dealt = {device: deal(given, device) for device in range(10)}
    total = masked_total(given, dealt, range(10))
    right = recovered(given, dealt, range(10), range(7))
    seedmask.unmask(given, PUBLIC, total, 10, right)
    for wrong in wrong_secrets(right, [each.secret for each in dealt.values()]):
        with pytest.raises(RecoveryError, match="not a sum of 10 updates"):
            seedmask.unmask(given, PUBLIC, total, 10, wrong)


def test_another_roster_unmasks_nothing() -> None:
    given = cohort(SEEDMASK, 10)
    dealt = {device: deal(given, device) for device in range(10)}
    total = masked_total(given, dealt, range(10))
    right = recovered(given, dealt, range(10), range(7))
    with pytest.raises(RecoveryError):
        seedmask.unmask(given, derive(SEED, "another roster"), total, 10, right)


def test_one_answer_fewer_than_needed_decodes_nothing() -> None:
    given = cohort(SEEDMASK, 10)
    dealt = {device: deal(given, device) for device in range(10)}
    with pytest.raises(RecoveryError, match="6 answers, but 7 are needed"):
        recovered(given, dealt, range(10), range(6))


def test_small_numbers_are_sums_of_eight_bytes_around_their_mean() -> None:
    data = np.frombuffer(Stream(SEED).bytes(8 * 5_000), np.uint8).reshape(-1, 8)
    np.testing.assert_array_equal(small(SEED, 5_000), data.sum(axis=1, dtype=np.int64) - 1_020)
    np.testing.assert_array_equal(small(SEED, 100), small(SEED, 5_000)[:100])


def test_small_numbers_have_the_moments_that_security_rests_on() -> None:
    count = 1_000_000
    numbers = small(SEED, count).astype(np.float64)
    assert np.abs(numbers).max() <= MAX_ERROR
    assert abs(numbers.mean()) < 4 * np.sqrt(VARIANCE / count)
    assert round(VARIANCE) == 43_690
    assert numbers.var() == pytest.approx(VARIANCE, rel=4 * np.sqrt(2 / count))
    assert abs((numbers**3).mean() / VARIANCE**1.5) < 4 * np.sqrt(15 / count)
    kurtosis = 3 - 1.2 / 8 * (256**2 + 1) / (256**2 - 1)  # of a sum of eight
    assert (numbers**4).mean() / VARIANCE**2 == pytest.approx(kurtosis, rel=0.01)


def correlation(a: npt.NDArray[np.int64], b: npt.NDArray[np.int64]) -> float:
    return float(np.corrcoef(a, b)[0, 1])


def test_secrets_and_errors_are_independent_even_of_one_seed() -> None:
    given = parameters(10, size=1_024)
    secrets, errors = [], []
    for device in range(200):
        seed = derive(SEED, device)
        secret = seedmask.secret(given, seed)
        secrets.append(np.where(secret > Q31 // 2, secret - Q31, secret))
        errors.append(small(derive(seed, "errors"), DEGREE))
    s, e = np.array(secrets), np.array(errors)
    assert np.abs(s).max() <= MAX_ERROR
    bound = 4 / np.sqrt(s.size)
    assert abs(correlation(s.ravel(), e.ravel())) < bound
    assert abs(correlation(s[:-1].ravel(), s[1:].ravel())) < bound
    assert abs(correlation(e[:-1].ravel(), e[1:].ravel())) < bound
    assert abs(correlation(s[:, :-1].ravel(), s[:, 1:].ravel())) < bound
    assert abs(correlation(e[:, :-1].ravel(), e[:, 1:].ravel())) < bound
    assert abs(correlation(np.abs(s).ravel(), np.abs(e).ravel())) < bound


def test_errors_of_different_blocks_differ() -> None:
    errors = small(derive(SEED, "errors"), 4 * DEGREE).reshape(4, DEGREE)
    for block in range(3):
        assert abs(correlation(errors[block], errors[block + 1])) < 4 / np.sqrt(DEGREE)


def test_the_seed_decides_everything_and_another_gives_other_bytes() -> None:
    given = cohort(SEEDMASK, 10)
    values, other = values_of(given, 0), derive(SEED, "other")
    secret = seedmask.secret(given, SEED)
    np.testing.assert_array_equal(secret, seedmask.secret(given, SEED))
    assert (secret != seedmask.secret(given, other)).mean() > 0.99
    body = seedmask.mask(given, PUBLIC, secret, values, SEED)
    assert body == seedmask.mask(given, PUBLIC, secret, values, SEED)
    assert body != seedmask.mask(given, PUBLIC, secret, values, other)
    assert body != seedmask.mask(given, other, secret, values, SEED)
    assert body != seedmask.mask(given, PUBLIC, seedmask.secret(given, other), values, SEED)


def test_masked_values_look_uniform_whatever_they_are() -> None:
    given = parameters(10, size=20_000, bits=16)
    values = np.full(given.size, given.limit, dtype=np.int64)
    body = seedmask.mask(given, PUBLIC, seedmask.secret(given, SEED), values, SEED)
    elements = unpack(body, 16, given.size)
    counts = np.histogram(elements, 16, (0, Q31 / 2**given.shift))[0]
    expected = given.size / 16
    assert ((counts - expected) ** 2 / expected).sum() < CHI_SQUARE_15_AT_0_001


def test_masking_changes_neither_secret_nor_values() -> None:
    given = cohort(SEEDMASK, 10)
    secret, values = seedmask.secret(given, SEED), values_of(given, 0)
    before = secret.copy(), values.copy()
    seedmask.mask(given, PUBLIC, secret, values, SEED)
    np.testing.assert_array_equal(before[0], secret)
    np.testing.assert_array_equal(before[1], values)


def test_what_is_public_is_no_ones_to_change() -> None:
    """An a of zeros would lay the values open: it is derived, kept and never written to."""
    blocks = seedmask._public(PUBLIC, 3)
    assert not blocks.flags.writeable
    assert blocks.all()
    np.testing.assert_array_equal(blocks, seedmask._public(PUBLIC, 5)[:3])


@pytest.mark.parametrize("bits", [8, 11, 16, 17, 24])
def test_a_body_of_another_length_is_malformed_and_adds_nothing(bits: int) -> None:
    given = parameters(10, size=101, bits=bits)
    body = seedmask.mask(given, PUBLIC, seedmask.secret(given, SEED), np.zeros(101, np.int64), SEED)
    total = np.zeros(101, np.int64)
    for wrong in (b"", body[:-1], body + b"\0", body * 2):
        with pytest.raises(RemoteProtocolError) as refusal:
            seedmask.add(given, total, wrong)
        assert refusal.value.reason == refusals.MALFORMED
    assert not total.any()


@pytest.mark.parametrize("bits", [16, 20, 24])
def test_an_element_that_is_no_remainder_is_malformed(bits: int) -> None:
    given = parameters(10, bits=bits)
    highest = (Q31 - 1) >> given.shift
    total = np.zeros(101, np.int64)
    seedmask.add(given, total, pack(np.full(101, highest), bits))
    assert set(total.tolist()) == {highest}
    with pytest.raises(RemoteProtocolError, match="no remainder"):
        seedmask.add(given, total, pack(np.full(101, highest + 1), bits))
    assert set(total.tolist()) == {highest}


def test_values_that_could_overflow_are_not_masked() -> None:
    given = parameters(10)
    secret, values = seedmask.secret(given, SEED), np.zeros(101, np.int64)
    for value in (given.limit + 1, -given.limit - 1):
        values[7] = value
        with pytest.raises(LocalProtocolError, match="beyond"):
            seedmask.mask(given, PUBLIC, secret, values, SEED)
    with pytest.raises(LocalProtocolError, match="values, not 101"):
        seedmask.mask(given, PUBLIC, secret, values[:-1], SEED)
