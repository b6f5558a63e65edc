"""``trust``, part privacy: what client-level differential privacy costs, and what it hides.

Digits, softmax regression (650 params), label skew Dirichlet(0.3), 8 rounds of all devices in
virtual time with the product's own sessions and coordinator. Epsilon is that of a device that sends
all of its 8 updates, at delta 1e-5, as the aggregator tells it. ``central``: noise of the
aggregator; ``distributed``: of the devices, under `seedmask`, N, t, T, U as by default and
min_contributors = N, so that no device adds much more than its part.

The noise of a mean is the smaller the more devices are in it: by the same epsilon 24 devices learn
far less than 80, of 18 samples each. Both are shown.

Membership of a *device*, which is what is promised to hide: half of twice as many candidates are
drawn to take part, in 16 federations, each attacked with the other 15 as shadows: LiRA (Carlini et
al. 2022) on the mean loss of a candidate's samples. And of single samples, by their loss. 0.5 is a
guess. ``distributed`` noise is attacked in fewer federations, since masks take most of the time;
its control are as many without noise.
"""

from collections.abc import Callable, Sequence
from functools import cache
from statistics import median
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from aggregator.coordinator import Coordinator
from aggregator.privacy.config import CENTRAL, DISTRIBUTED, NONE, PrivacyConfig
from aggregator.scheduling.rounds import Rounds
from aggregator.secure_config import SecureConfig
from aggregator.task_config import TaskConfig
from benchmarks.report import Report, figure, within
from device_sdk.trainer import NumpyTrainer
from fedbus.audit.membership import by_loss, likelihood_ratios, sample_losses, separation
from fedbus.datasets import Dataset, Part, load, split
from protocol.stream import SEED_BYTES, derive
from simulator.enrolment import enrol
from simulator.world import World

Flags = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]

DELTA: Final = 1e-5
EPSILONS: Final = (8.0, 2.0)
STRICT: Final = 2.0
FEW, MANY = 24, 80
SEEDS: Final = 3
#: Updates that each device sends, one a round.
UPDATES: Final = 8
CLIP: Final = 1.5
ALPHA: Final = 0.3
MOST_AUC: Final = 0.55
SHADOWS: Final = 16
MASKED_SHADOWS: Final = 10
#: A round takes a few virtual seconds.
_LIMIT_S: Final = 1e5


class Setting(NamedTuple):
    """Who adds the noise for which epsilon; ``none``: nobody."""

    mechanism: str = NONE
    epsilon: float = 8.0

    def privacy(self) -> PrivacyConfig:
        """Return the table that a user would write."""
        updates = 0 if self.mechanism == NONE else UPDATES
        return PrivacyConfig(
            mechanism=self.mechanism,
            epsilon=self.epsilon,
            delta=DELTA,
            updates=updates,
            clip=CLIP,
        )


def measure(*, quick: bool) -> Report:
    """Measure all. ``quick``: so few that no attacked federation has less than three."""
    few, many, seeds, shadows = (7, 8, 1, 4) if quick else (FEW, MANY, SEEDS, SHADOWS)
    return {
        "accuracy": {
            f"{num_devices} devices": {
                _name(setting): _accuracies(setting, num_devices, seeds)
                for setting in _settings(masked=num_devices == few)
            }
            for num_devices in (few, many)
        },
        "membership_of_devices": {
            f"{num_devices} devices": _membership(device_auc, num_devices, shadows)
            for num_devices in (few, many)
        },
        "membership_of_devices_distributed": {
            f"{few} devices": _membership(
                device_auc, few, min(shadows, MASKED_SHADOWS), mechanism=DISTRIBUTED
            ),
        },
        "membership_of_samples": {
            f"{few} devices": _membership(sample_auc, few, seeds),
        },
        "delta": DELTA,
        "updates_a_device": UPDATES,
        "noise_multipliers": {
            f"epsilon {epsilon:g}": Setting(CENTRAL, epsilon).privacy().multiplier
            for epsilon in EPSILONS
        },
        "seeds": seeds,
        "federations_attacked": shadows,
    }


def _membership(
    auc: Callable[[Setting, int, int], float],
    num_devices: int,
    times: int,
    *,
    mechanism: str = CENTRAL,
) -> Report:
    hidden = figure(auc(Setting(mechanism, STRICT), num_devices, times))
    return {
        "no privacy": figure(auc(Setting(), num_devices, times)),
        f"epsilon {STRICT:g}": within(hidden, MOST_AUC),
    }


@cache
def _digits() -> Dataset:
    return load(None)


def _settings(*, masked: bool) -> list[Setting]:
    mechanisms = (CENTRAL, DISTRIBUTED) if masked else (CENTRAL,)
    private = [Setting(each, epsilon) for each in mechanisms for epsilon in EPSILONS]
    return [Setting(), *private]


def _name(setting: Setting) -> str:
    if setting.mechanism == NONE:
        return "no privacy"
    return f"{setting.mechanism}, epsilon {setting.epsilon:g}"


def _accuracies(setting: Setting, num_devices: int, seeds: int) -> Report:
    """Return the accuracies on held-out digits, and the largest epsilon that was told."""
    found, epsilons = [], []
    for seed in range(seeds):
        parts = split(_digits(), devices=num_devices, alpha=ALPHA, seed=seed)
        done = learned(setting, parts.devices, seed)
        metrics = done.model.evaluate(done.versions.params, parts.held_out.x, parts.held_out.y)
        found.append(figure(metrics.accuracy or 0.0))
        epsilons.append(done.privacy.epsilon)
    told = {} if setting.mechanism == NONE else {"epsilon": figure(max(epsilons))}
    return {"accuracy": found, "accuracy_median": figure(median(found)), **told}


def learned(setting: Setting, parts: Sequence[Part], seed: int) -> Coordinator:
    """Let these devices learn; return the coordinator at the end."""
    task = _task(setting, len(parts), seed)
    names = [f"device-{number:03}" for number in range(len(parts))]
    start = bytes([seed]) * SEED_BYTES
    enrolled = None
    if setting.mechanism == DISTRIBUTED:
        secure = SecureConfig(scheme="seedmask", bits=20, min_contributors=len(parts))
        secure.check(task)
        roster = secure.parameters(task, len(parts), task.trained().layout.size)
        enrolled = enrol(secure, roster, task.task, names, derive(start, "enrol"))
    world = World(task, start, enrolment=None if enrolled is None else enrolled.enrolment)
    for name, part in zip(names, parts, strict=True):
        keys = None if enrolled is None else enrolled.keys[name]
        world.add(name, NumpyTrainer(data=(part.x, part.y)), lambda _: 1.0, keys=keys)
    coordinator = world.server.coordinator
    if coordinator is None or not world.run_until(
        lambda: coordinator.version >= UPDATES, limit_s=_LIMIT_S
    ):
        raise RuntimeError("the federation is stuck")
    return coordinator


def _task(setting: Setting, num_devices: int, seed: int) -> TaskConfig:
    return TaskConfig(
        task="privacy",
        codec="dense/float32",
        init_seed=seed,
        mode="rounds",
        rounds=Rounds(size=num_devices, quorum=num_devices, gather_s=0.5),
        check_in_s=2,
        weigh_by_samples=False,
        privacy=setting.privacy(),
        model={
            "input": [64],
            "layers": [{"type": "dense", "units": 10}],
            "loss": "softmax_cross_entropy",
        },
        training={"epochs": 5, "batch_size": 16, "learning_rate": 0.3},
    )


# --- attacks -------------------------------------------------------------------------------------


def device_auc(setting: Setting, num_devices: int, federations: int) -> float:
    """Return how well LiRA tells who took part, over all federations and candidates."""
    candidates = split(_digits(), devices=2 * num_devices, alpha=ALPHA, seed=0).devices
    rng = np.random.default_rng(0)
    # Each candidate takes part in one half of the federations.
    halves = np.arange(federations)[:, None] % 2 == 0
    took_part = rng.permuted(np.repeat(halves, len(candidates), axis=1), axis=0)
    scores = np.array([_scores(setting, candidates, part, at) for at, part in enumerate(took_part)])
    ratios = np.empty_like(scores)
    for at in range(federations):
        others = np.arange(federations) != at
        known = took_part[others]
        told = known.any(axis=0) & ~known.all(axis=0)
        ratios[at] = np.nan
        ratios[at, told] = likelihood_ratios(
            scores[at, told], scores[others][:, told], known[:, told]
        )
    sure = ~np.isnan(ratios)
    return separation(ratios[took_part & sure], ratios[~took_part & sure]).auc


def _scores(setting: Setting, candidates: Sequence[Part], took_part: Flags, seed: int) -> Floats:
    """Return the score of each candidate in one federation of some of them."""
    members = [part for part, took in zip(candidates, took_part, strict=True) if took]
    done = learned(setting, members, seed)
    params = done.versions.params
    losses = [sample_losses(done.model, params, each.x, each.y).mean() for each in candidates]
    return -np.array(losses)


def sample_auc(setting: Setting, num_devices: int, seeds: int) -> float:
    """Return how well the loss of a digit tells that it was trained on: the mean over seeds."""
    found = []
    for seed in range(seeds):
        parts = split(_digits(), devices=num_devices, alpha=ALPHA, seed=seed)
        done = learned(setting, parts.devices, seed)
        members = (
            np.concatenate([part.x for part in parts.devices]),
            np.concatenate([part.y for part in parts.devices]),
        )
        others = parts.held_out.x, parts.held_out.y
        found.append(by_loss(done.model, done.versions.params, members, others).auc)
    return float(np.mean(found))
