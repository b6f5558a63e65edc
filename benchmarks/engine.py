"""``engine``: what training costs with the SDK's own engine, beside PyTorch where it is installed.

- Steps: batches of 32 through the product's trainer (`NumpyTrainer.train`), CPU time; PyTorch runs
  the same spec with the same loss and optimiser in the loop that its tutorials have. Rounds of the
  two alternate, one thread each.
- Accuracy: central training on public data (below ``FEDBUS_DATA``) from the same first params, with
  the same seeds and steps.
- Memory: the whole process tree of a device that trains in a real federation.
"""

import importlib
import importlib.util
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from typing import Final

import numpy as np
import numpy.typing as npt

from benchmarks import engine_accuracy, engine_memory
from benchmarks.report import Report, median, ratio_of_medians, spread, within
from device_sdk.engine import Model, parse_spec
from device_sdk.engine.specs import named_spec
from device_sdk.trainer import Assignment, NumpyTrainer
from protocol.stream import Stream

Float32 = npt.NDArray[np.float32]
Labels = npt.NDArray[np.int64]

BATCH: Final = 32
SEED: Final = bytes(range(32))
RATE: Final = 0.01
HAS_TORCH: Final = importlib.util.find_spec("torch") is not None


@dataclass(frozen=True, slots=True)
class Case:
    """A named spec, how many steps a round has, and the most that the ratio should be."""

    name: str
    steps: int
    reach: float


CASES: Final = (
    Case("mlp", 200, 0.5),
    Case("cnn", 20, 1.1),
    Case("gru", 10, 0.45),
    Case("ds_cnn", 4, 2.0),
)


def measure(*, quick: bool) -> Report:
    """Measure all three."""
    rounds = 3 if quick else 21
    return {
        "batch": BATCH,
        "rounds": rounds,
        "torch": version("torch") if HAS_TORCH else "not installed",
        "steps": {case.name: _steps(case, rounds, quick=quick) for case in CASES},
        "memory": engine_memory.measure(quick=quick),
        "accuracy": engine_accuracy.measure(has_torch=HAS_TORCH, quick=quick),
    }


def _steps(case: Case, rounds: int, *, quick: bool) -> Report:
    steps = 1 if quick else case.steps
    model = Model(parse_spec(named_spec(case.name)))
    shape = (steps * BATCH, *model.spec.input)
    x = Stream(SEED).uniform(int(np.prod(shape))).reshape(shape)
    y = np.arange(len(x)) % model.spec.shapes[-1][0]
    ours = _ours(case.name, model, x, y)
    theirs = _theirs(model, x, y)
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(rounds + 1):
        for run, found in zip((ours, theirs), times, strict=True):
            if run is not None:
                start = time.process_time()
                run()
                found.append(1e3 * (time.process_time() - start) / steps)
    numpy_ms, torch_ms = (found[1:] for found in times)  # the first warms up
    report: Report = {
        "params": model.layout.size,
        "ms": median(numpy_ms),
        "ms_range": spread(numpy_ms),
    }
    if not torch_ms:
        return report
    pairs = [one / other for one, other in zip(numpy_ms, torch_ms, strict=True)]
    return {
        **report,
        "torch_ms": median(torch_ms),
        "torch_ms_range": spread(torch_ms),
        "ratio_range": spread(pairs),
        "ratio": within(ratio_of_medians(numpy_ms, torch_ms), case.reach),
    }


def _ours(name: str, model: Model, x: Float32, y: Labels) -> Callable[[], object]:
    trainer = NumpyTrainer(data=(x, y))
    settings = {"batch_size": BATCH, "learning_rate": RATE}
    assignment = Assignment(model.init(SEED), 0, named_spec(name), settings, SEED)
    return lambda: trainer.train(assignment)


def _theirs(model: Model, x: Float32, y: Labels) -> Callable[[], object] | None:
    if not HAS_TORCH:
        return None
    twins = importlib.import_module("benchmarks.engine_torch")
    run: Callable[[], object] = twins.torch_steps(model, x, y, batch=BATCH, rate=RATE, seed=SEED)
    return run
