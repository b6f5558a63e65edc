"""Ten attackers, and how each ends: bounded by a robust rule, refused, or shown to the operator.

20 devices on the digits, 4 of them attackers. What the plain mean makes of the same is beside it.
"""

import functools
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from aggregator.conduct.evidence import UNPROVEN
from aggregator.records import Standing
from aggregator.robust.config import AUTO
from protocol import refusals
from simulator.attackers import BACKDOOR_LABEL, stamped
from simulator.fleet import Fleet
from simulator.scenario import Scenario, load_scenario
from simulator.trainers import Trainers

TEXT = """\
name = "attackers"
duration_s = 40

[data]
source = "digits"
split = "dirichlet"
alpha = 10.0

[task]
check_in_s = 5
codec = "dense/float32"
weigh_by_samples = false
max_devices = 40
lease_ttl_s = 15
[task.model]
input = [64]
layers = [{ type = "dense", units = 32 }, { type = "relu" }, { type = "dense", units = 10 }]
loss = "softmax_cross_entropy"
[task.training]
epochs = 2
batch_size = 16
learning_rate = 0.2
[task.buffered]
goal = 10
concurrency = 20
[robust]
rule = "RULE"
[conduct]
burst = 200

[[class]]
name = "honest"
count = 16
training = { seconds = 3, law = "uniform", spread = 0.5 }

[[class]]
name = "attacker"
count = 4
training = { seconds = 3, law = "uniform", spread = 0.5 }
ATTACK
"""


def scenario(folder: Path, attack: str, rule: str, *lines: str) -> Scenario:
    path = folder / f"{attack}-{rule}.toml"
    text = TEXT.replace("RULE", rule)
    path.write_text(text.replace("ATTACK", "\n".join([f'attack = "{attack}"', *lines])))
    return load_scenario(path)


class Ended:
    """What is left of a run."""

    def __init__(self, of: Scenario) -> None:
        self.trainers = Trainers(of, 0)
        self.fleet = Fleet(of, 0, self.trainers)
        self.fleet.world.run_for(of.duration_s)
        coordinator = self.fleet.world.server.coordinator
        assert coordinator is not None
        self.coordinator = coordinator

    def predicted(self, x: "np.typing.NDArray[np.float32]") -> "np.typing.NDArray[np.intp]":
        logits = self.coordinator.model.predict(self.coordinator.versions.params, x)
        labels: np.typing.NDArray[np.intp] = np.argmax(logits, axis=1)
        return labels

    @property
    def accuracy(self) -> float:
        x, y = self.trainers.held_out(has_drifted=False)
        return float(np.mean(self.predicted(x) == y))

    @property
    def backdoor(self) -> float:
        """How often the trigger makes another digit the attacker's."""
        x, y = self.trainers.held_out(has_drifted=False)
        others = y != BACKDOOR_LABEL
        return float(np.mean(self.predicted(stamped(x))[others] == BACKDOOR_LABEL))

    def refused(self, reason: str) -> int:
        return self.coordinator.counts[f"refused_{reason}"]

    def standing(self, device: str = "attacker-0") -> Standing:
        return self.coordinator.conduct.standing(device)

    def kinds(self, device: str = "attacker-0") -> set[str]:
        return {reason.kind for reason in self.coordinator.conduct.reasons(device)}


@functools.cache
def ended(folder: Path, attack: str, rule: str, *lines: str) -> Ended:
    return Ended(scenario(folder, attack, rule, *lines))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("attackers")


@pytest.fixture(scope="module")
def honest(folder: Path) -> float:
    """What is reached when nobody lies: attackers of strength 1 that scale by it."""
    return ended(folder, "scale", "mean", "strength = 1.0").accuracy


BOUNDED = {"sign_flip": 5.0, "scale": 20.0, "noise": 20.0, "label_flip": 1.0, "free_rider": 1.0}


@pytest.mark.parametrize("attack", BOUNDED)
def test_what_lies_about_its_update_is_bounded(folder: Path, honest: float, attack: str) -> None:
    robust = ended(folder, attack, "geometric_median", f"strength = {BOUNDED[attack]}")
    assert robust.accuracy >= honest - 0.05


@pytest.mark.parametrize("attack", ["sign_flip", "label_flip"])
def test_the_rule_that_nobody_chose_bounds_it_too(folder: Path, honest: float, attack: str) -> None:
    default = ended(folder, attack, AUTO, f"strength = {BOUNDED[attack]}")
    assert default.accuracy >= honest - 0.05


def test_the_mean_is_ruined_by_flipped_signs(folder: Path, honest: float) -> None:
    plain = ended(folder, "sign_flip", "mean", "strength = 5.0")
    assert plain.accuracy < honest - 0.1


def test_a_backdoor_opens_under_the_mean_and_not_under_a_robust_rule(
    folder: Path, honest: float
) -> None:
    plain = ended(folder, "backdoor", "mean", "strength = 5.0")
    robust = ended(folder, "backdoor", "geometric_median", "strength = 5.0")
    assert plain.backdoor > 0.8
    assert robust.backdoor < plain.backdoor / 2
    assert robust.accuracy >= honest - 0.05


def test_nan_is_refused_and_whoever_sends_it_is_quarantined(folder: Path) -> None:
    run = ended(folder, "nan", "mean")
    assert run.refused(refusals.NOT_FINITE) >= 3 * 4
    assert run.standing() is Standing.QUARANTINED
    assert run.standing("honest-00") is Standing.ADMITTED
    assert run.coordinator.counts["leases_given"] < 2000
    assert run.accuracy > 0.8


def test_a_replay_counts_once_and_is_refused_from_then_on(folder: Path) -> None:
    run = ended(folder, "replay", "mean")
    assert run.refused(refusals.WRONG_BASE) > 0
    assert run.standing() is Standing.QUARANTINED
    assert run.kinds() >= {refusals.WRONG_BASE}
    counted = [lease_id for _, lease_id in run.fleet.world.server.store.counted_ids()]
    assert len(counted) == len(set(counted))
    assert run.accuracy > 0.8


def test_a_flood_is_cut_off_and_the_others_train_on(folder: Path) -> None:
    run = Ended(replace(scenario(folder, "flood", "mean", "messages_per_s = 150"), duration_s=20))
    assert run.coordinator.conduct.cut_off == [f"attacker-{number}" for number in range(4)]
    assert run.accuracy > 0.7


def test_sybils_are_no_more_than_there_may_be_devices(folder: Path) -> None:
    run = ended(folder, "sybil", "mean", "messages_per_s = 20", "joins_at_s = 5")
    assert run.coordinator.fleet.num_registered == 40
    assert run.refused(refusals.BUSY) > 0
    assert run.accuracy > 0.8


def test_no_honest_device_is_kept_out_beside_attackers(folder: Path) -> None:
    for attack in ("nan", "replay"):
        run = ended(folder, attack, "mean")
        kept_out = {record.device.partition("-")[0] for record in run.coordinator.conduct.standings}
        assert kept_out == {"attacker"}
        assert UNPROVEN not in run.kinds("honest-00")


def test_a_run_with_attackers_is_the_same_again(folder: Path) -> None:
    of = replace(scenario(folder, "replay", "mean"), duration_s=10)
    first, second = Ended(of), Ended(of)
    assert first.coordinator.versions.newest == second.coordinator.versions.newest
