"""Who spoils groups is found from the groups, and honest devices are left alone."""

from itertools import product

import numpy as np
import pytest

from aggregator.robust import Float64
from aggregator.robust.group_testing import (
    Influence,
    Membership,
    Noise,
    Outcomes,
    bch_groups,
    influence,
    posterior,
    stand_out,
    suspects,
)
from aggregator.robust.group_watch import TESTS_A_DEVICE, GroupWatch, Trial

NOISE = Noise(prevalence=0.1, false_alarm=0.05, miss=0.2)


def drawn(num_devices: int, num_buffers: int, group: int, seed: int) -> Membership:
    """Return groups of successive buffers of everybody."""
    rng = np.random.default_rng(seed)
    rows = []
    for _ in range(num_buffers):
        order = rng.permutation(num_devices)
        for at in range(0, num_devices - group + 1, group):
            row = np.zeros(num_devices, np.bool_)
            row[order[at : at + group]] = True
            rows.append(row)
    return np.array(rows)


def noisy(groups: Membership, malicious: set[int], seed: int) -> Outcomes:
    hit = groups[:, sorted(malicious)].any(axis=1)
    chance = np.where(hit, 1 - NOISE.miss, NOISE.false_alarm)
    return np.asarray(np.random.default_rng(seed).random(len(groups)) < chance)


def test_the_posterior_is_that_of_bayes_rule() -> None:
    """Four devices, by hand: every set of malicious ones, its prior, and what it makes likely."""
    groups = np.array([[1, 1, 0, 0], [0, 1, 1, 0], [0, 0, 1, 1]], np.bool_)
    outcomes = np.array([True, True, False])
    total, of = 0.0, np.zeros(4)
    for members in product((False, True), repeat=4):
        chance = float(np.prod(np.where(members, NOISE.prevalence, 1 - NOISE.prevalence)))
        for group, outcome in zip(groups, outcomes, strict=True):
            positive = 1 - NOISE.miss if (group & members).any() else NOISE.false_alarm
            chance *= positive if outcome else 1 - positive
        total += chance
        of += chance * np.array(members)
    np.testing.assert_allclose(posterior(groups, outcomes, NOISE), of / total, rtol=1e-9)


@pytest.mark.parametrize("num_devices", [15, 48])
def test_two_malicious_devices_are_decoded_from_noisy_tests(num_devices: int) -> None:
    """Exactly up to 18 devices, by belief propagation beyond."""
    for seed in range(5):
        malicious = {1, num_devices - 2}
        groups = drawn(num_devices, 14, 3, seed)
        found = posterior(groups, noisy(groups, malicious, seed), NOISE)
        assert set(np.flatnonzero(found > 0.9)) == malicious


def test_belief_propagation_agrees_with_enumeration(monkeypatch: pytest.MonkeyPatch) -> None:
    groups = drawn(12, 6, 3, 0)
    outcomes = noisy(groups, {3, 7}, 1)
    exact = posterior(groups, outcomes, NOISE)
    monkeypatch.setattr("aggregator.robust.group_testing.MOST_EXACT", 0)
    np.testing.assert_allclose(posterior(groups, outcomes, NOISE), exact, atol=0.1)


def test_the_groups_of_fedgt_are_parity_checks_of_a_code_of_minimum_distance_five() -> None:
    groups = bch_groups().astype(int)
    assert groups.shape == (8, 15)
    words = np.array(list(product((0, 1), repeat=15)), np.int8)
    codewords = words[~((words @ groups.T) % 2).any(axis=1)]
    weights = codewords.sum(axis=1)
    assert len(codewords) == 2**7
    assert weights[weights > 0].min() == 5


def test_a_group_stands_out_if_it_is_worse_than_most() -> None:
    found = stand_out([1.0, 1.1, 0.9, 2.0, 1.05], 3.0)
    np.testing.assert_array_equal(found, [False, False, False, True, False])
    assert not stand_out([1.0, 1.0, 1.0], 3.0).any()


# --- influence -----------------------------------------------------------------------------------


def changes(groups: Membership, effects: Float64, noise: float, seed: int) -> Float64:
    shares = groups / groups.sum(axis=1, keepdims=True)
    return np.asarray(shares @ effects + np.random.default_rng(seed).normal(0, noise, len(groups)))


def test_influence_is_what_each_device_did_to_the_loss() -> None:
    effects = np.random.default_rng(0).normal(-0.1, 0.05, 15)
    groups = drawn(15, 40, 3, 0)
    found = influence(groups, changes(groups, effects, 0.001, 1))
    np.testing.assert_allclose(found.effects, effects, atol=0.02)


def test_who_makes_the_loss_worse_is_suspected_and_nobody_else() -> None:
    for seed in range(10):
        effects = np.random.default_rng(seed).normal(-0.1, 0.05, 15)
        effects[[2, 9]] = 0.3
        groups = drawn(15, 21, 3, seed)
        found = suspects(influence(groups, changes(groups, effects, 0.03, seed)))
        assert found.tolist() == [2, 9]


def test_little_harm_is_no_offence_however_sure_it_is() -> None:
    """As honest updates do it when nothing is left to learn."""
    effects = np.random.default_rng(0).normal(0.01, 0.005, 15)
    effects[4] = 0.15
    groups = drawn(15, 100, 3, 0)
    found = influence(groups, changes(groups, effects, 0.001, 0))
    assert found.effects[4] > 10 * found.errors[4]
    assert suspects(found).size == 0


def test_where_nobody_does_harm_nobody_is_suspected() -> None:
    """Somebody always helps least: that is no offence."""
    effects = np.full(15, -0.1)
    effects[4] = -0.02
    groups = drawn(15, 21, 3, 0)
    assert suspects(influence(groups, changes(groups, effects, 0.001, 0))).size == 0
    assert suspects(Influence(np.zeros(3), np.ones(3))).size == 0


def test_the_watch_judges_once_there_are_enough_groups_and_begins_anew() -> None:
    watch = GroupWatch()
    groups = drawn(15, 63, 3, 0)
    effects = np.full(15, -0.1)
    effects[[0, 8]] = 0.3
    found = []
    for at in range(0, len(groups), 5):
        part = groups[at : at + 5]
        told = changes(part, effects, 0.01, at)
        tests = [
            Trial(tuple(f"d{place:02}" for place in np.flatnonzero(row)), float(change))
            for row, change in zip(part, told, strict=True)
        ]
        found.append(watch.seen([*tests, Trial(("d00",), float("nan"))]))
    assert [at + 1 for at, each in enumerate(found) if each] == [21, 42, 63]
    assert TESTS_A_DEVICE * 15 == 21 * 5
    assert set(found) == {(), ("d00", "d08")}
    assert len(watch) == 0
