"""Sums unmask bit for bit whoever drops out, in rounds as in buffers."""

import random

import numpy as np
import pytest

from protocol import refusals
from protocol.errors import LocalProtocolError, RemoteProtocolError
from protocol.secagg import lightsecagg
from protocol.secagg.field import P16, Elements, uniform
from protocol.secagg.parameters import LIGHTSECAGG, Parameters
from protocol.secagg.shares import TEST_COLUMNS, RecoveryError
from protocol.stream import derive
from tests.support.enrolment import parameters
from tests.support.masked_sums import (
    COHORTS,
    PUBLIC,
    RATES,
    SEED,
    STAGES,
    Dealt,
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


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("percent", RATES)
@pytest.mark.parametrize("num_devices", COHORTS)
def test_the_sum_is_exact_whoever_drops_out(num_devices: int, percent: int, stage: str) -> None:
    given = cohort(LIGHTSECAGG, num_devices)
    sums, plain = sums_of(given, story(given, stage, num_dropped(given, percent)))
    np.testing.assert_array_equal(sums, plain)
    assert lightsecagg.noise_bound(given, num_devices) == 0


@pytest.mark.parametrize("first", range(4))
def test_any_answers_give_the_sum(first: int) -> None:
    given = cohort(LIGHTSECAGG, 10)
    everybody = list(range(10))
    sums, plain = sums_of(given, Story(everybody, everybody, list(range(first, first + 7))))
    np.testing.assert_array_equal(sums, plain)


def interpolated(known: dict[int, list[int]], target: int) -> list[int]:
    """Polynomials through ``known`` (point -> a value of each), at ``target``: Lagrange."""
    total = [0] * len(next(iter(known.values())))
    for x, values in known.items():
        above = below = 1
        for other in known.keys() - {x}:
            above = above * (target - other) % P16
            below = below * (x - other) % P16
        factor = above * pow(below, -1, P16)
        total = [(sum_ + factor * value) % P16 for sum_, value in zip(total, values, strict=True)]
    return total


def in_one_round(given: Parameters, dealt: dict[int, Dealt]) -> Elements:
    """LightSecAgg as its paper has it (synchronous, Python integers): all N, then one decoding."""
    members = range(given.num_devices)
    masked = [values_of(given, i).astype(object) + dealt[i].secret for i in members]
    shares = [dealt[i].shares[:, :-TEST_COLUMNS].astype(object) for i in members]
    answers = {
        given.num_answers + 1 + j: list(sum(row[j] for row in shares) % P16)
        for j in range(given.num_answers)
    }
    targets = range(1, given.num_answers - given.num_noise + 1)
    mask = [value for target in targets for value in interpolated(answers, target)]
    sums = (sum(masked) - np.array(mask[: given.size], dtype=object)) % P16
    return np.array([z - P16 if z > P16 // 2 else z for z in sums], dtype=np.int64)


@pytest.mark.parametrize("num_devices", [3, 10])
def test_a_full_round_is_what_a_buffer_gives_in_any_order(num_devices: int) -> None:
    given = cohort(LIGHTSECAGG, num_devices, size=101)
    dealt = {device: deal(given, device) for device in range(num_devices)}
    in_round = in_one_round(given, dealt)
    order = list(range(num_devices))
    random.Random(3).shuffle(order)  # noqa: S311 - an order, not a secret
    early, late = order[: num_devices // 2], order[num_devices // 2 :]
    total = masked_total(given, dealt, early) + masked_total(given, dealt, late)
    holders = range(num_devices - given.num_answers, num_devices)
    mask = recovered(given, dealt, order, holders)
    sums = lightsecagg.unmask(given, PUBLIC, total, num_devices, mask)
    np.testing.assert_array_equal(sums, in_round)


def test_integer_weights_add_an_update_as_often() -> None:
    given = parameters(10, scheme=LIGHTSECAGG, max_weight=8, samples_cap=100)
    given.check()
    weights = [1, 8, 3, 1, 2, 8, 1, 1, 4, 5]
    dealt = {device: deal(given, device) for device in range(10)}
    total = np.zeros(given.size, np.int64)
    for device, weight in enumerate(weights):
        for _ in range(weight):
            lightsecagg.add(given, total, body_of(given, dealt, device))
    mask = recovered(given, dealt, range(10), range(8), weights)
    sums = lightsecagg.unmask(given, PUBLIC, total, sum(weights), mask)
    plain = np.array(weights) @ [values_of(given, device) for device in range(10)]
    np.testing.assert_array_equal(sums, plain)


@pytest.mark.parametrize("most", [3, 10, 50, 128])
@pytest.mark.parametrize("sign", [-1, 1])
def test_worst_signs_of_a_full_buffer_decode_right(most: int, sign: int) -> None:
    given = parameters(
        128, scheme=LIGHTSECAGG, num_malicious=0, min_contributors=2, max_contributors=most
    )
    given.check()
    values = np.full(given.size, sign * given.limit)
    values[-1] = given.levels * given.step
    total, masks = np.zeros(given.size, np.int64), np.zeros(given.size, np.int64)
    for device in range(most):
        seed = derive(SEED, device)
        secret = lightsecagg.secret(given, seed)
        lightsecagg.add(given, total, lightsecagg.mask(given, PUBLIC, secret, values, seed))
        masks += secret
    sums = lightsecagg.unmask(given, PUBLIC, total, most, masks % P16)
    np.testing.assert_array_equal(sums, most * values)
    assert given.weight_of(int(sums[-1])) == most


def test_a_wrong_sum_of_masks_is_noticed() -> None:
    given = cohort(LIGHTSECAGG, 10)
    dealt = {device: deal(given, device) for device in range(10)}
    total = masked_total(given, dealt, range(10))
    right = recovered(given, dealt, range(10), range(7))
    for wrong in (
        np.zeros_like(right),
        (right - dealt[0].secret) % P16,
        (right + dealt[0].secret) % P16,
        uniform(SEED, (given.size,), P16),
    ):
        with pytest.raises(RecoveryError, match="not a sum of 10 updates"):
            lightsecagg.unmask(given, PUBLIC, total, 10, wrong)


def test_one_answer_fewer_than_needed_decodes_nothing() -> None:
    given = cohort(LIGHTSECAGG, 10)
    dealt = {device: deal(given, device) for device in range(10)}
    with pytest.raises(RecoveryError, match="6 answers, but 7 are needed"):
        recovered(given, dealt, range(10), range(6))


def test_the_seed_decides_the_mask_and_another_gives_another() -> None:
    given = cohort(LIGHTSECAGG, 10)
    mask = lightsecagg.secret(given, SEED)
    np.testing.assert_array_equal(mask, lightsecagg.secret(given, SEED))
    assert (mask != lightsecagg.secret(given, derive(SEED, "other"))).mean() > 0.99


@pytest.mark.parametrize("sign", [-1, 0, 1])
def test_masked_values_look_uniform_whatever_they_are(sign: int) -> None:
    given = parameters(10, scheme=LIGHTSECAGG, size=20_000)
    values = np.full(given.size, sign * given.limit)
    body = lightsecagg.mask(given, PUBLIC, lightsecagg.secret(given, SEED), values, SEED)
    counts = np.histogram(np.frombuffer(body, "<u2"), 16, (0, P16))[0]
    expected = given.size / 16
    assert ((counts - expected) ** 2 / expected).sum() < CHI_SQUARE_15_AT_0_001


def test_a_body_that_is_not_elements_is_malformed_and_adds_nothing() -> None:
    given = parameters(10, scheme=LIGHTSECAGG)
    secret, values = lightsecagg.secret(given, SEED), np.zeros(101, np.int64)
    body = lightsecagg.mask(given, PUBLIC, secret, values, SEED)
    assert len(body) == given.body_bytes
    total = np.zeros(101, np.int64)
    beyond = P16.to_bytes(2, "little")
    for wrong in (b"", body[:-1], body + b"\0", body[:-2] + beyond):
        with pytest.raises(RemoteProtocolError) as refusal:
            lightsecagg.add(given, total, wrong)
        assert refusal.value.reason == refusals.MALFORMED
    assert not total.any()


def test_values_that_could_overflow_are_not_masked() -> None:
    given = parameters(10, scheme=LIGHTSECAGG)
    secret, values = lightsecagg.secret(given, SEED), np.zeros(101, np.int64)
    values[7] = given.limit + 1
    with pytest.raises(LocalProtocolError, match="beyond"):
        lightsecagg.mask(given, PUBLIC, secret, values, SEED)


@pytest.mark.parametrize("size", [2, (1 << 14) - 1, 1 << 14, (1 << 14) + 1, 40_000])
def test_a_body_has_values_plus_mask_modulo_p_at_every_size(size: int) -> None:
    """The extremes on both sides of p, wherever they stand."""
    given = parameters(50, scheme=LIGHTSECAGG, size=size)
    values = np.resize([given.limit, -given.limit, 0, 1, -1], size)
    secret = np.resize([0, P16 - 1, 1, P16 // 2, P16 - given.limit, given.limit - 1, 7], size)
    body = lightsecagg.mask(given, PUBLIC, secret, values, SEED)
    assert np.frombuffer(body, "<u2").tolist() == [
        (x + z) % P16 for x, z in zip(values.tolist(), secret.tolist(), strict=True)
    ]
