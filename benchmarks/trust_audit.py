"""``trust``, part audit: gradient inversion and membership on what a task shows.

Real handwritten digits (64 numbers) and an MLP 64-32-10; windows of real people's phones (384
numbers) and an MLP 384-32-5. The correlation of unrelated numbers has a mean size of about
``0.8 / sqrt(how many)``: 0.100 for digits, 0.041 for windows.

``single``: the update of one sample after one step, in the open: the control, which must succeed.
Then the same update under a mask, attacked the same way, with one guess a trial: the mean over all
trials, and the mean size. ``audit``: what `fedbus audit` finds of digits with the default codec
and 8 samples, by formula and by search.
"""

import os
from functools import cache
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from aggregator.config import AggregatorConfig
from aggregator.scheduling.buffered import Buffered
from aggregator.secure_config import SecureConfig
from aggregator.task_config import TaskConfig
from benchmarks.report import ROOT, Report, figure
from fedbus.audit import attacks, inversion
from fedbus.audit.figures import correlation
from fedbus.audit.scene import Data, Scene
from fedbus.datasets import load
from protocol.stream import derive

DIGITS, WINDOWS = _DATA = ("digits", "har_phone_watch")
TRAINING: Final = {"epochs": 2, "batch_size": 16, "learning_rate": 0.1}
NUM_SAMPLES: Final = 8
SEEDS: Final = 3
TRIALS: Final = 50
MOST_MASKED: Final = 0.1
LEAST_PLAIN: Final = 0.99
SCHEMES: Final = ("seedmask", "lightsecagg")


def measure(*, quick: bool) -> Report:
    """Measure every row. ``quick``: two trials, to see that it runs."""
    trials, seeds = (2, 1) if quick else (TRIALS, SEEDS)
    rows: Report = {}
    for data in _DATA:
        plain = [each for seed in range(seeds) for each in single(data, seed, trials)]
        rows[f"inversion_single_sample_{data}"] = {
            "measured": figure(float(np.mean(plain))),
            "worst": figure(min(plain)),
            "reach": LEAST_PLAIN,
            "met": min(plain) > LEAST_PLAIN,
        }
        for scheme in SCHEMES:
            masked = [each for seed in range(seeds) for each in under(scheme, data, seed, trials)]
            mean = abs(float(np.mean(masked)))
            rows[f"inversion_{scheme}_{data}"] = {
                "measured": figure(mean),
                "mean_size": figure(float(np.mean(np.abs(masked)))),
                "reach": MOST_MASKED,
                "met": mean < MOST_MASKED,
            }
    return {
        **rows,
        "audit": {
            scheme: [_row(found) for found in configured(scheme, 2 if quick else 10, quick=quick)]
            for scheme in ("none", "seedmask")
        },
    }


def single(data: str, seed: int, trials: int) -> list[float]:
    """Correlations of samples with what an open update of one shows."""
    where = scene("none", data, seed)
    found = []
    for trial in range(trials):
        sent = where.train(where.first, where.rows_of(trial, 0, 1), once=True)
        guess = inversion.analytic(where.model, sent.delta)[0]
        found.append(correlation(guess, sent.data.x[0].astype(np.float64)))
    return found


def under(scheme: str, data: str, seed: int, trials: int) -> list[float]:
    """The same of masked updates: one guess each, through the unit whose bias moved most."""
    where = scene(scheme, data, seed)
    found = []
    for trial in range(trials):
        sent = where.train(where.first, where.rows_of(trial, 0, 1), once=True)
        seen = where.under_the_mask(sent, trial % where.num_devices)
        guess = inversion.analytic(where.model, seen)[0]
        found.append(correlation(guess, sent.data.x[0].astype(np.float64)))
    return found


def configured(scheme: str, trials: int, *, quick: bool) -> list[attacks.Finding]:
    """What `fedbus audit` finds."""
    search = inversion.Search(steps=20 if quick else 300)
    effort = attacks.Effort(trials=trials, search=search, versions=2 if quick else 20)
    return list(attacks.audit(scene(scheme, DIGITS, 0), effort))


def scene(scheme: str, name: str, seed: int) -> Scene:
    """Return a task on one of the data sets, masked by ``scheme``."""
    data = Data(*_samples(name), is_real=True)
    units = int(data.y.max()) + 1
    model = {
        "input": [data.x.shape[1]],
        "layers": [
            {"type": "dense", "units": 32},
            {"type": "relu"},
            {"type": "dense", "units": units},
        ],
        "loss": "softmax_cross_entropy",
    }
    task = TaskConfig(
        task="audit", model=model, training=TRAINING, buffered=Buffered(min_contributors=3)
    )
    config = AggregatorConfig(state_dir="unused", task=task, secure=SecureConfig(scheme=scheme))
    return Scene(config, data, num_samples=NUM_SAMPLES, seed=derive(bytes(32), "audit", seed))


@cache
def _samples(name: str) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    if name == DIGITS:
        digits = load(None)
        return digits.x, digits.y
    folder = Path(os.environ.get("FEDBUS_DATA", ROOT.parent / "shared" / "data")) / WINDOWS
    with np.load(folder / "har_phone.npz", allow_pickle=False) as arrays:
        x, y = arrays["x"].astype(np.float32), arrays["y"].astype(np.int64)
    return (x / x.std()).reshape(len(x), -1), y


def _row(found: attacks.Finding) -> Report:
    return {
        "attack": found.attack,
        "seen": found.seen,
        "value": figure(found.value),
        "by_chance": figure(found.by_chance),
        "psnr": None if found.psnr is None else figure(found.psnr),
        "verdict": found.verdict,
    }
