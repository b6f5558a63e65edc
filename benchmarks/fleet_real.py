"""``real``: the simulator against reality, the same scenario in both.

Eight devices with real digits and different speeds, as processes on mosquitto and in virtual time
(`benchmarks.fleet_real_runs`). The virtual runs get the overheads that were measured in the real
ones, and the same durations of trainings. Compared are the first updates that were counted:

- accuracy, the mean over the last versions that they lead to (one version alone may be some
  hundredths off): the difference of the means is at most `ACCURACY`;
- participation (updates a device) and staleness (updates a staleness): Pearson's chi-square test of
  homogeneity does not reject at `P_VALUE`, and the total variation distance is at most `DISTANCE`.
  Updates follow each other with less chance than independent draws would, so the test rejects less
  often than its p-value says: hence the distance, and the control.

``control`` is the same comparison with virtual devices that are all equally fast: it must fail.
"""

import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean, median
from typing import Final

import numpy as np
from scipy import stats

from benchmarks.fleet_real_runs import DEVICES, SPEEDS, Run, real_run, virtual_run
from benchmarks.fleet_real_watch import Overheads
from benchmarks.report import Report, figure, within

SEEDS: Final = 5
UPDATES: Final = 400
#: Virtual runs of each seed: they cost nothing, and make the comparison sharper.
REPETITIONS: Final = 4
#: Of 45, five that a busy machine lets trade places would be more than a tenth.
QUICK_UPDATES: Final = 120
ACCURACY: Final = 0.01
P_VALUE: Final = 0.01
DISTANCE: Final = 0.1
#: Bins of a chi-square test hold at least so many on average; rarer ones are put together.
_LEAST: Final = 5.0


def measure(*, quick: bool) -> Report:
    """Run both with each seed. Quick: one seed, few updates."""
    seeds = range(1 if quick else SEEDS)
    num_updates = QUICK_UPDATES if quick else UPDATES
    real, found = [], []
    for seed in seeds:
        with tempfile.TemporaryDirectory() as folder:
            run, overheads = real_run(Path(folder), seed, num_updates)
        real.append(run)
        found.append(overheads)
    shared = Overheads(
        median(one.latency_s for one in found), median(one.device_s for one in found)
    )
    virtual = [
        virtual_run(seed, num_updates, shared, repetition=repetition)
        for seed in seeds
        for repetition in range(REPETITIONS)
    ]
    equal = [fmean(SPEEDS)] * len(SPEEDS)
    control = [virtual_run(seed, num_updates, shared, speeds=equal) for seed in seeds]
    return {
        "devices": len(DEVICES),
        "seeds": len(seeds),
        "updates": num_updates,
        "latency_ms": figure(1e3 * shared.latency_s),
        "device_overhead_ms": figure(1e3 * shared.device_s),
        **compared(real, virtual),
        "control": compared(real, control),
    }


def compared(real: Sequence[Run], virtual: Sequence[Run]) -> Report:
    """Return how alike they are, figure by figure; ``alike`` if all are as they should be."""
    difference = fmean(run.accuracy for run in real) - fmean(run.accuracy for run in virtual)
    participation = _homogeneity(_devices(real), _devices(virtual))
    staleness = _homogeneity(_staleness(real), _staleness(virtual))
    accuracy = within(figure(abs(difference)), ACCURACY)
    return {
        "accuracy_real": [figure(run.accuracy) for run in real],
        "accuracy_virtual": [figure(run.accuracy) for run in virtual],
        "accuracy_difference": accuracy,
        "seconds_real": figure(fmean(run.seconds for run in real)),
        "seconds_virtual": figure(fmean(run.seconds for run in virtual)),
        "participation": participation,
        "staleness": staleness,
        "alike": bool(accuracy["met"] and participation["alike"] and staleness["alike"]),
    }


def _devices(runs: Sequence[Run]) -> Counter[int]:
    return Counter(DEVICES.index(update.device) for run in runs for update in run.updates)


def _staleness(runs: Sequence[Run]) -> Counter[int]:
    return Counter(update.staleness for run in runs for update in run.updates)


def _homogeneity(ours: Counter[int], theirs: Counter[int]) -> Report:
    """Test whether two histograms come from one distribution (Pearson 1900)."""
    bins = _bins(ours, theirs)
    table = np.array([[sum(some[at] for at in one) for one in bins] for some in (ours, theirs)])
    p_value = float(stats.chi2_contingency(table).pvalue) if len(bins) > 1 else 1.0
    shares = table / table.sum(axis=1, keepdims=True)
    distance = float(np.abs(shares[0] - shares[1]).sum() / 2)
    return {
        "real": {str(at): ours[at] for at in sorted(ours)},
        "virtual": {str(at): theirs[at] for at in sorted(theirs)},
        "p_value": figure(p_value),
        "distance": figure(distance),
        "alike": bool(p_value >= P_VALUE and distance <= DISTANCE),
    }


def _bins(ours: Counter[int], theirs: Counter[int]) -> list[list[int]]:
    """Return neighbouring values together, so that no bin holds too few."""
    bins: list[list[int]] = []
    held = _LEAST
    for at in sorted(ours | theirs):
        if held >= _LEAST:
            bins.append([])
            held = 0.0
        bins[-1].append(at)
        held += (ours[at] + theirs[at]) / 2
    if held < _LEAST and len(bins) > 1:
        last = bins.pop()
        bins[-1] += last
    return bins
