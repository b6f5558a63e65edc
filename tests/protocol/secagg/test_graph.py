"""The graph of a round: sparse enough to be cheap, and no t devices can part the others."""

from fractions import Fraction
from itertools import combinations
from math import comb

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.secagg.graph import MAX_FAILURE, Graph, few_left, graph, plan

SEED = bytes(range(32))
SIZES = ((51, 5, 36), (64, 6, 45), (100, 10, 70), (100, 10, 90), (128, 12, 96))


def is_connected(net: Graph, devices: set[int]) -> bool:
    """Whether a walk over neighbours among ``devices`` reaches all of them."""
    reached = {min(devices)}
    edge = set(reached)
    while edge:
        edge = {near for device in edge for near in net.holders(device)} & devices - reached
        reached |= edge
    return reached == devices


def can_be_cut(net: Graph, survivors: set[int], num_malicious: int) -> bool:
    """By trying everybody."""
    return any(
        not is_connected(net, survivors - set(malicious))
        for malicious in combinations(sorted(survivors), num_malicious)
        if len(survivors) > num_malicious
    )


@pytest.mark.parametrize(("num_devices", "majority"), [(3, 3), (10, 6), (50, 28)])
def test_up_to_50_devices_the_graph_is_complete(num_devices: int, majority: int) -> None:
    num_malicious = max(1, num_devices // 10)
    net = graph(SEED, num_devices, num_malicious, num_devices - num_devices // 4)
    assert (net.degree, net.threshold) == (num_devices - 1, majority)
    assert net.holders(0) == tuple(range(num_devices))
    assert not net.is_cuttable(range(num_malicious + 2), num_malicious)


@pytest.mark.parametrize(("num_devices", "num_malicious", "num_answers"), SIZES)
def test_neighbours_are_mutual_and_as_many_as_planned(
    num_devices: int, num_malicious: int, num_answers: int
) -> None:
    net = graph(SEED, num_devices, num_malicious, num_answers)
    assert net.degree < num_devices - 1
    holders = [set(net.holders(device)) for device in range(num_devices)]
    for device, near in enumerate(holders):
        assert device in near
        assert len(near) == net.degree + 1
        assert all(device in holders[other] for other in near)


def test_the_order_of_the_ring_depends_on_the_seed() -> None:
    rings = {graph(bytes([n]) * 32, 64, 6, 45).ring for n in range(4)}
    assert len(rings) == 4
    assert all(sorted(ring) == list(range(64)) for ring in rings)


@given(st.data())
def test_what_can_be_cut_is_found(data: st.DataObject) -> None:
    size = data.draw(st.integers(5, 12))
    degree = data.draw(st.sampled_from(range(2, size - 1, 2)))
    net = Graph(tuple(data.draw(st.permutations(range(size)))), degree, threshold=1)
    survivors = data.draw(st.sets(st.integers(0, size - 1), min_size=2))
    num_malicious = data.draw(st.integers(0, 3))
    if can_be_cut(net, survivors, num_malicious):
        assert net.is_cuttable(survivors, num_malicious)


@given(st.data())
def test_nothing_else_is_refused_while_all_survive(data: st.DataObject) -> None:
    size = data.draw(st.integers(5, 12))
    degree = data.draw(st.sampled_from(range(2, size - 1, 2)))
    net = Graph(tuple(range(size)), degree, threshold=1)
    num_malicious = data.draw(st.integers(0, 4))
    everybody = set(range(size))
    refused = net.is_cuttable(everybody, num_malicious)
    assert refused == (num_malicious >= degree)
    if num_malicious <= size - 2:
        assert refused == can_be_cut(net, everybody, num_malicious)


@pytest.mark.parametrize("victim", [0, 17, 99])
def test_an_aggregator_cannot_drop_whoever_surrounds_a_device(victim: int) -> None:
    net = graph(SEED, 100, 10, 70)
    others = set(net.holders(victim)) - {victim}
    everybody = set(range(100))
    assert not net.is_cuttable(everybody, 10)
    assert net.is_cuttable(everybody - others, 0)
    spared = set(sorted(others)[:10])  # they may all be the aggregator's
    assert net.is_cuttable(everybody - others | spared, 10)


@given(st.integers(1, 9), st.data())
def test_tails_are_exact(size: int, data: st.DataObject) -> None:
    alive, chosen, at_most = (data.draw(st.integers(0, size)) for _ in range(3))
    few = sum(
        sum(device < alive for device in subset) <= at_most
        for subset in combinations(range(size), chosen)
    )
    assert few_left(size, alive, chosen, at_most) == Fraction(few, comb(size, chosen))


@pytest.mark.parametrize(("num_devices", "num_malicious", "num_answers"), SIZES)
def test_the_degree_is_the_smallest_that_keeps_the_bound(
    num_devices: int, num_malicious: int, num_answers: int
) -> None:
    degree, threshold = plan(num_devices, num_malicious, num_answers)

    def failure(degree: int) -> Fraction:
        num_pairs = Fraction(num_devices * (num_devices - degree - 1), 2)
        return num_pairs * few_left(num_devices, num_answers, degree, num_malicious)

    assert failure(degree) <= MAX_FAILURE < failure(degree - 2)
    assert threshold > num_malicious
    lost = few_left(num_devices - 1, num_answers - 1, degree, threshold - 1)
    assert num_devices * lost <= MAX_FAILURE


def test_plans_are_frozen() -> None:
    """All parties compute them: a change parts those that have it from those that have not."""
    assert [plan(*size) for size in SIZES] == [(22, 7), (26, 7), (38, 12), (22, 12), (40, 14)]


@pytest.mark.parametrize(("num_devices", "num_malicious", "num_answers"), SIZES)
def test_random_dropouts_leave_a_round_that_completes(
    num_devices: int, num_malicious: int, num_answers: int
) -> None:
    net = graph(SEED, num_devices, num_malicious, num_answers)
    holders = np.array([net.holders(device) for device in range(num_devices)])
    draw = np.random.default_rng(1)
    for _ in range(100):
        alive = np.zeros(num_devices, dtype=np.int64)
        alive[draw.permutation(num_devices)[:num_answers]] = 1
        assert not net.is_cuttable(np.flatnonzero(alive).tolist(), num_malicious)
        assert (alive[holders].sum(axis=1) - alive).min() >= net.threshold


def test_a_cohort_too_small_for_a_sparse_graph_gets_the_complete_one() -> None:
    assert plan(51, 30, 31) == (50, 41)
