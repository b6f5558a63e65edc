"""``learning``: what the federations learn, on rows and people they never saw.

- The demo, whole, as its users start it (``fedbus demo``): digits, 8 device processes, label skew
  Dirichlet(0.3), the default codec, both modes, three seeds; the accuracy at the end of its run.
- Wearables (`examples.wearables`): a device a person, 17 people train, 6 others test; the product's
  own session and coordinator in virtual time, rounds of everybody, the default codec.
"""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Final

from aggregator.scheduling.rounds import Rounds
from aggregator.task_config import TaskConfig
from benchmarks.report import ROOT, Report, Value, figure
from examples.wearables import HELD_OUT, MODEL, PEOPLE, TRAINING, Person, recordings
from protocol.stream import SEED_BYTES
from simulator.world import World

SENSORS: Final = ("phone", "watch")
MODES: Final = ("buffered", "rounds")
#: Rounds after which a federation of wearables is tested.
NUM_ROUNDS: Final = 60
#: The accuracy at which the demo ends.
TARGET: Final = 0.93
QUICK_DEMO: Final = {"--target": "0.3", "--devices": "1", "--scheme": "none"}
_DEMO_S: Final = 120


def measure(*, quick: bool) -> Report:
    """Run all; quick: a short demo with one device, and one round of two people's wearables."""
    seeds = (0,) if quick else (0, 1, 2)
    modes = MODES[:1] if quick else MODES
    options = QUICK_DEMO if quick else {"--target": str(TARGET)}
    return {
        "demo": {mode: _demos(mode, seeds, options) for mode in modes},
        "wearables": {sensor: _wearable(sensor, seeds, quick=quick) for sensor in SENSORS},
    }


# --- the demo ------------------------------------------------------------------------------------


def _demos(mode: str, seeds: tuple[int, ...], wanted: Mapping[str, str]) -> Report:
    results = [_demo(mode, seed, wanted) for seed in seeds]
    accuracies = [figure(result["accuracy"]) for result in results]
    return {
        "accuracy": accuracies,
        "accuracy_min": min(accuracies),
        "seconds": [figure(result["seconds"], 3) for result in results],
        "versions": [figure(result["versions"]) for result in results],
    }


def _demo(mode: str, seed: int, wanted: Mapping[str, str]) -> dict[str, float]:
    """Run the demo. It ends at the target, or fails."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out.json"
        options = {
            "--mode": mode,
            "--seed": str(seed),
            **wanted,
            "--timeout": str(_DEMO_S),
            "--json": str(out),
        }
        arguments = [part for option in options.items() for part in option]
        subprocess.run(
            [sys.executable, "-m", "fedbus", "demo", *arguments],
            stdout=subprocess.DEVNULL,
            check=False,
            cwd=ROOT,
        )
        result: dict[str, float] = json.loads(out.read_text(encoding="utf-8"))
    return result


# --- wearables -----------------------------------------------------------------------------------


def wearables_folder() -> Path:
    """Return where the wearables' data should be: below ``FEDBUS_DATA``."""
    return Path(os.environ.get("FEDBUS_DATA", ROOT.parent / "shared" / "data")) / "har_phone_watch"


def _wearable(sensor: str, seeds: tuple[int, ...], *, quick: bool) -> Value:
    file = wearables_folder() / f"har_{sensor}.npz"
    if not file.exists():
        return {"skipped": "no data: set FEDBUS_DATA"}
    num_rounds, people = (1, PEOPLE[:2]) if quick else (NUM_ROUNDS, PEOPLE)
    accuracies = [figure(wearable_accuracy(file, seed, num_rounds, people)) for seed in seeds]
    return {
        "accuracy": accuracies,
        "accuracy_median": figure(median(accuracies)),
        "rounds": num_rounds,
        "devices": len(people),
    }


def wearable_accuracy(
    file: Path, seed: int, num_rounds: int = NUM_ROUNDS, people: Sequence[int] = PEOPLE
) -> float:
    """Let the people in ``file`` learn; return the accuracy on the windows of those held out."""
    world = World(wearables_task(seed, len(people)), bytes([seed]) * SEED_BYTES)
    for person in people:
        world.add(f"person-{person}", Person(file, person), lambda _: 1.0)
    coordinator = world.server.coordinator
    if coordinator is None:
        raise RuntimeError("the aggregator did not start")
    if not world.run_until(lambda: coordinator.version >= num_rounds, limit_s=1e6):
        raise RuntimeError(f"stuck at version {coordinator.version}")
    strangers = recordings(file, HELD_OUT)
    metrics = coordinator.model.evaluate(coordinator.versions.params, strangers.x, strangers.y)
    return float(metrics.accuracy or 0.0)


def wearables_task(seed: int, num_people: int = len(PEOPLE)) -> TaskConfig:
    """Return the settings of the wearables' task: the defaults, in rounds of everybody."""
    return TaskConfig(
        task="wearables",
        model=MODEL,
        training=TRAINING,
        mode="rounds",
        rounds=Rounds(size=num_people, gather_s=0.5),
        check_in_s=2,
        init_seed=seed,
    )
