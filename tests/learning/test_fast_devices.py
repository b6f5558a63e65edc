"""Fast devices have seen another world than the slow ones, who are to have their say.

Each device minimises a convex function of its own; the fleet should minimise their mean. A plain
buffer takes whoever comes, and the fast ones come far more often.
"""

from functools import partial

import numpy as np
import numpy.typing as npt
import pytest

from aggregator.robust.config import RobustConfig
from aggregator.scheduling.buffered import Buffered
from aggregator.task_config import StalenessConfig, StrategyConfig, TaskConfig
from device_sdk.trainer import Assignment, Trained, Trainer
from protocol.stream import Stream, derive
from simulator import World

Float64 = npt.NDArray[np.float64]

SIZE = 16
MODEL = {
    "input": [SIZE // 2 - 1],
    "layers": [{"type": "dense", "units": 2}],
    "loss": "softmax_cross_entropy",
}
#: Seconds that a training takes, by device.
FAST, SLOW = (0.8, 0.9, 1.0, 1.1, 1.2), (16.0, 20.0, 24.0)
LIMIT_S = 160.0


class Bowl(Trainer):
    """Gradient steps on sum(curvature * (params - target)**2) / 2, of which no two are alike."""

    def __init__(self, seed: bytes, centre: float) -> None:
        uniform = Stream(seed).uniform(2 * SIZE).astype(np.float64)
        self.target = centre + uniform[:SIZE] - 0.5
        self.curvature = 0.5 + uniform[SIZE:]

    def num_samples(self) -> int:
        return 10

    def train(self, assignment: Assignment) -> Trained:
        params = assignment.params.astype(np.float64)
        for _ in range(3):
            params += 0.02 * self.curvature * (self.target - params)
        return Trained(params.astype(np.float32), 10, {})


def takes(duration_s: float, _assignment: Assignment) -> float:
    return duration_s


def distance(strategy: str, codec: str, seed: bytes) -> float:
    """Return how far from the fleet's optimum the last versions are, on average.

    The slow ones' updates are several times longer here, which robust rules distrust: no rule.
    """
    config = TaskConfig(
        task="bowls",
        model=MODEL,
        codec=codec,
        buffered=Buffered(goal=4, concurrency=8, max_wait_s=30.0, min_contributors=4),
        staleness=StalenessConfig(rule="constant"),
        strategy=StrategyConfig(name=strategy),
        robust=RobustConfig(rule="mean"),
        weigh_by_samples=False,
        max_staleness=1_000,
        check_in_s=600,
    )
    world = World(config, seed)
    bowls = []
    for index, duration_s in enumerate(FAST + SLOW):
        centre = 1.0 if duration_s in FAST else -1.0
        bowls.append(Bowl(derive(seed, "bowl", index), centre))
        world.add(f"d{index}", bowls[-1], partial(takes, duration_s))
    curvatures = np.array([bowl.curvature for bowl in bowls])
    targets = np.array([bowl.target for bowl in bowls])
    optimum = (curvatures * targets).sum(axis=0) / curvatures.sum(axis=0)
    world.run_for(LIMIT_S)
    params = []
    for _ in range(20):
        world.run_for(2.0)
        assert world.server.coordinator is not None
        params.append(world.server.coordinator.versions.params.astype(np.float64))
    return float(np.linalg.norm(np.mean(params, axis=0) - optimum) / np.sqrt(SIZE))


@pytest.mark.parametrize(("codec", "number"), [("dense/float32", 0), ("topk-0.25/int8", 2)])
def test_calibrated_the_slow_ones_count_as_much(codec: str, number: int) -> None:
    seed = derive(bytes(32), "fast devices", number)
    plain, calibrated = distance("fedavg", codec, seed), distance("calibrated", codec, seed)
    assert plain > 0.5  # alone, the fast ones would go 0.75 away
    assert calibrated < plain / 10


def test_stratified_as_by_default_half_of_the_lean_is_gone() -> None:
    seed = derive(bytes(32), "fast devices", 0)
    plain, default = (distance(name, "dense/float32", seed) for name in ("fedbuff", "auto"))
    assert default < 0.6 * plain
