"""Chen et al.'s matching of devices and upload slots, and the floor under it."""

import itertools

import numpy as np
import pytest

from aggregator.scheduling.hungarian import Hungarian, assign, objective
from aggregator.scheduling.links import Links
from aggregator.scheduling.queues import Queues
from aggregator.scheduling.rules import Knowledge, Moment, Seat
from aggregator.scheduling.turns import Turns
from protocol.stream import Stream

SITES = [""]


class Rounds:
    """Devices that wait all the time but in the round they are chosen for."""

    def __init__(
        self, num_devices: int, num_slots: int, every: int, freshness: float = 0.0
    ) -> None:
        self.devices = [f"d{index:02}" for index in range(num_devices)]
        self.links = Links(num_slots, 1.0)
        self.turns = Turns(every, 1000, 0)
        self.queues = Queues()
        self.queues.turns = self.turns
        known = Knowledge(self.queues, self.links, self.turns, Stream(bytes(32)), lambda _: 10.0)
        self.rule = Hungarian(known, freshness)
        self.seats = [Seat(slot, slot) for slot in range(num_slots)]
        for device in self.devices:
            self.queues.add(device, "")

    def choose(self, left_s: float = 100.0) -> dict[str, int]:
        """Play a round; return who was chosen, for which slot."""
        moment = Moment(self.turns.version, left_s, len(self.seats), 100)
        picks = self.rule.pick(self.seats, SITES, moment)
        for pick in picks:
            self.queues.remove(pick.device)
            self.turns.chosen(pick.device)
        self.turns.version += 1
        for pick in picks:
            self.queues.add(pick.device, "")
        return {pick.device: pick.seat for pick in picks}


def drawn(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Samples, losses and deadlines of 6 devices and 4 slots."""
    loss = rng.uniform(0, 0.5, (6, 4))
    return rng.integers(1, 500, 6).astype(np.float64), loss, rng.random((6, 4)) < 0.8


def cost(costs: np.ndarray, devices: tuple[int, ...]) -> float:
    return sum(float(costs[device, slot]) for slot, device in enumerate(devices))


def test_the_matching_costs_exactly_what_the_best_of_all_costs_and_less_than_random_ones() -> None:
    rng = np.random.default_rng(4)
    for _ in range(100):
        costs = objective(*drawn(rng))
        found = {slot: device for device, slot in assign(costs)}
        ours = cost(costs, tuple(found[slot] for slot in range(4)))
        assert ours == min(cost(costs, each) for each in itertools.permutations(range(6), 4))
        assert ours <= cost(costs, tuple(rng.permutation(6)[:4].tolist()))


def test_an_edge_costs_samples_times_arrival_or_nothing_beyond_the_deadline() -> None:
    costs = objective(
        np.array([10.0, 20.0]), np.array([[0.1, 0.5], [0.0, 0.2]]), np.array([[1, 1], [0, 1]]) > 0
    )
    np.testing.assert_allclose(costs, [[-9.0, -5.0], [0.0, -16.0]])


def test_devices_get_the_slots_in_which_least_is_lost() -> None:
    rounds = Rounds(2, 2, every=0)
    rounds.links.teach("d00", np.array([0.5, 0.0]))
    rounds.links.teach("d01", np.array([0.1, 0.5]))
    assert rounds.choose() == {"d00": 1, "d01": 0}


def test_who_would_be_too_late_is_not_chosen_where_there_are_others() -> None:
    rounds = Rounds(3, 2, every=0)
    rounds.links.arrived("d01", 0, elapsed_s=60.0, upload_after_s=0.0, in_time=True)
    assert rounds.choose(left_s=30.0).keys() == {"d00", "d02"}
    assert "d01" in rounds.choose(left_s=90.0)
    few = Rounds(1, 2, every=0)
    few.links.arrived("d00", 0, elapsed_s=60.0, upload_after_s=0.0, in_time=True)
    assert few.choose(left_s=30.0).keys() == {"d00"}, "there is nobody else"


@pytest.mark.parametrize("freshness", [0.0, 1.0])
def test_poor_links_are_chosen_once_in_r_rounds_and_good_ones_more_often(freshness: float) -> None:
    every, poor = 6, {f"d{index:02}" for index in range(12)}
    rounds = Rounds(20, 5, every, freshness)
    for device in rounds.devices:
        rounds.links.teach(device, np.full(5, 0.95 if device in poor else 0.05))
    history = [rounds.choose() for _ in range(40)]
    assert all(len(chosen) == 5 for chosen in history)
    for start in range(40 - every + 1):
        seen = set().union(*(chosen.keys() for chosen in history[start : start + every]))
        assert seen == set(rounds.devices), f"rounds {start} to {start + every - 1}"
    counts = {each: sum(each in chosen for chosen in history) for each in rounds.devices}
    assert min(counts[each] for each in rounds.devices if each not in poor) >= max(
        counts[each] for each in poor
    )


def test_without_a_floor_poor_links_are_never_chosen() -> None:
    rounds = Rounds(8, 4, every=0)
    for index, device in enumerate(rounds.devices):
        rounds.links.teach(device, np.full(4, 0.9 if index < 4 else 0.1))
    assert set().union(*(rounds.choose() for _ in range(20))) == set(rounds.devices[4:])


def test_where_the_floor_cannot_be_kept_half_of_the_seats_still_go_to_the_best() -> None:
    rounds = Rounds(60, 4, every=3)
    good = set(rounds.devices[:4])
    for device in rounds.devices:
        rounds.links.teach(device, np.full(4, 0.05 if device in good else 0.9))
    history = [rounds.choose() for _ in range(20)]
    assert sum(len(good & chosen.keys()) for chosen in history) >= 40 - 4
    assert len(set().union(*history) - good) >= 30


def test_devices_beyond_the_candidates_are_chosen_too() -> None:
    rounds = Rounds(2000, 4, every=0)
    chosen = set().union(*(rounds.choose() for _ in range(30)))
    assert len(chosen) > 100
    assert len({each[:3] for each in chosen}) > 15, "from everywhere among those who wait"
