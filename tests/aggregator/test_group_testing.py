"""Who spoils groups is found from the groups, and honest devices are left alone."""

from collections.abc import Iterator
from itertools import product

import numpy as np
import pytest

from aggregator.conduct.config import ConductConfig
from aggregator.conduct.evidence import GROUP_INFLUENCE, WEIGHTS
from aggregator.robust import Float64
from aggregator.robust.group_testing import (
    Influence,
    Membership,
    Noise,
    Outcomes,
    bch_groups,
    harm,
    influence,
    posterior,
    stand_out,
    suspicion,
)
from aggregator.robust.group_watch import MOST_DEVICES, TESTS_A_DEVICE, GroupWatch, Trial

#: From here on a device is quarantined: so many standard errors beyond the limit.
SURE = ConductConfig().threshold / WEIGHTS[GROUP_INFLUENCE].points
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


def suspects(found: Influence) -> list[int]:
    return np.flatnonzero(suspicion(found)).tolist()


def test_the_same_loss_more_is_as_much_harm_late_as_early_nearly() -> None:
    """A tenth of what is to be learned, once half is learned and once nearly all is."""
    early, late = harm(1.25, 1.0, 2.5), harm(0.30, 0.05, 2.5)
    assert 0.1 < early < late < 2 * early
    assert harm(0.06, 0.05, 2.5) < 0.02  # a fifth more of next to nothing
    assert harm(1.0, 1.0, 2.5) == 0
    assert (harm(1e9, 1.0, 2.5), harm(1e-9, 1e6, 2.5)) == (1.0, -1.0)


def test_who_makes_the_loss_worse_is_suspected_and_nobody_else() -> None:
    for seed in range(10):
        effects = np.random.default_rng(seed).normal(-0.1, 0.05, 15)
        effects[[2, 9]] = 0.3
        groups = drawn(15, 21, 3, seed)
        found = influence(groups, changes(groups, effects, 0.03, seed))
        assert suspects(found) == [2, 9]
        assert (suspicion(found)[[2, 9]] > SURE).all()


def test_the_oddest_of_people_who_all_differ_is_no_attacker() -> None:
    """As one of 17 phones, whose updates are bad for the others' owners: measured, of that kind."""
    effects = np.linspace(-0.15, 0.11, 17)
    effects[4] = 0.2
    groups = drawn(17, 42, 3, 0)
    odd = suspicion(influence(groups, changes(groups, effects, 0.2, 1)))
    effects[4] = 0.8
    attacker = suspicion(influence(groups, changes(groups, effects, 0.2, 1)))
    assert odd.max() < 0.5 * SURE
    assert attacker[4] > SURE
    assert attacker.argmax() == 4


def test_little_harm_is_no_offence_however_sure_it_is() -> None:
    """As honest updates do it when nothing is left to learn."""
    effects = np.random.default_rng(0).normal(0.01, 0.005, 15)
    effects[4] = 0.1
    groups = drawn(15, 100, 3, 0)
    found = influence(groups, changes(groups, effects, 0.001, 0))
    assert found.effects[4] > 10 * found.errors[4]
    assert suspects(found) == []


def test_who_is_never_tested_apart_from_attackers_is_not_named_for_them() -> None:
    """Two attackers whose masks' names always put them beside the same device (docs/adr/0030)."""
    rng = np.random.default_rng(0)
    rows = []
    for _ in range(42):
        others = 3 + rng.permutation(12)
        rows += [[0, 1, 2], *others.reshape(4, 3).tolist()]
    groups = np.zeros((len(rows), 15), np.bool_)
    for row, members in zip(groups, rows, strict=True):
        row[members] = True
    effects = np.full(15, -0.02)
    effects[[1, 2]] = 0.9
    found = influence(groups, changes(groups, effects, 0.05, 1))
    assert found.errors[0] > 10 * found.errors[3:].max()
    assert suspicion(found)[0] < SURE


def test_where_nobody_does_harm_nobody_is_suspected() -> None:
    """Somebody always helps least: that is no offence."""
    effects = np.full(15, -0.1)
    effects[4] = -0.02
    groups = drawn(15, 21, 3, 0)
    assert suspects(influence(groups, changes(groups, effects, 0.001, 0))) == []
    assert suspects(Influence(np.zeros(3), np.ones(3))) == []


# --- the watch -----------------------------------------------------------------------------------


def buffers(effects: Float64, count: int, noise: float, seed: int) -> Iterator[list[Trial]]:
    """Iterate over the tests of so many buffers of everybody."""
    size = len(effects)
    groups = drawn(size, count, 3, seed)
    told = changes(groups, effects, noise, seed)
    trials = [
        Trial(tuple(f"d{place:02}" for place in np.flatnonzero(row)), float(change))
        for row, change in zip(groups, told, strict=True)
    ]
    for at in range(0, len(trials), size // 3):
        yield trials[at : at + size // 3]


def test_the_watch_judges_once_there_are_enough_groups_and_again_and_again() -> None:
    watch = GroupWatch()
    effects = np.full(15, -0.1)
    effects[[0, 8]] = 0.3
    judged = {}
    for number, tests in enumerate(buffers(effects, 63, 0.01, 0), start=1):
        if found := watch.seen([*tests, Trial(("d00",), float("nan"))]):
            judged[number] = {name for name, sure in found.items() if sure > 0}
    assert list(judged) == list(range(21, 64, 3))
    assert TESTS_A_DEVICE * 15 == 21 * 5
    assert all(names == {"d00", "d08"} for names in judged.values())
    assert len(watch) == 2 * TESTS_A_DEVICE * 15


def test_who_does_harm_no_longer_is_cleared() -> None:
    watch = GroupWatch()
    before, after = np.full(15, -0.1), np.full(15, -0.1)
    before[3] = 0.3
    sure = [watch.seen(tests).get("d03", 0.0) for tests in buffers(before, 21, 0.01, 0)]
    assert sure[-1] > SURE
    sure = [watch.seen(tests).get("d03", 1.0) for tests in buffers(after, 45, 0.01, 1)]
    assert sure[-1] == 0.0


def test_who_is_released_begins_anew() -> None:
    watch = GroupWatch()
    effects = np.full(15, -0.1)
    effects[3] = 0.3
    for tests in buffers(effects, 21, 0.01, 0):
        watch.seen(tests)
    num_tests = len(watch)
    watch.forget("d03")
    assert len(watch) == num_tests - 21
    effects[3] = -0.1
    judgements = [found for tests in buffers(effects, 21, 0.01, 1) if (found := watch.seen(tests))]
    assert judgements
    assert not any(found["d03"] for found in judgements)


def test_in_hundreds_of_buffers_no_honest_device_is_quarantined_and_attackers_are() -> None:
    """Honest updates as uneven as those of Dirichlet(0.1), measured at the end of training.

    What is held is what the tests say at the time: a device near the limit is suspected now and
    then, for ever, and never adds up.
    """
    for seed in range(3):
        effects = np.random.default_rng(seed).normal(0.0, 0.03, 15)
        effects[4] = 0.13
        watch, suspected, most = GroupWatch(), 0, 0.0
        for tests in buffers(effects, 600, 0.05, seed):
            found = watch.seen(tests)
            suspected += found.get("d04", 0.0) > 0
            most = max([most, *found.values()])
        assert suspected > 20
        assert most < SURE
        effects[9] = 0.4
        named = {
            name
            for tests in buffers(effects, 42, 0.05, seed + 10)
            for name, sure in watch.seen(tests).items()
            if sure >= SURE
        }
        assert named == {"d09"}


def test_more_devices_than_can_be_judged_are_not_and_take_no_memory() -> None:
    watch = GroupWatch()
    for number in range(9_000):
        pair = number % (2 * MOST_DEVICES)
        assert watch.seen([Trial((f"a{pair}", f"b{pair}"), 0.5)]) == {}
    assert len(watch) <= 2 * TESTS_A_DEVICE * MOST_DEVICES
