"""Whether memory is flat: samples of a process, and the slope through them."""

import statistics
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import numpy.typing as npt
from scipy import stats

from benchmarks.report import Report, figure
from fedbus.load_figures import memory_kib

Floats = npt.NDArray[np.float64]

#: Neighbouring samples tell the same; the slope is through the medians of blocks of so many.
BLOCK: Final = 6
#: Flat: grows by no more than this part of its size in a minute (0.1 %: 3 % in half an hour).
FLAT: Final = 1e-3
_CONFIDENCE: Final = 0.95
_MIN_BLOCKS: Final = 3


@dataclass(slots=True)
class Memory:
    """One process, life after life. Seconds since the beginning, and KiB."""

    samples: list[tuple[float, int, int]] = field(default_factory=list)

    def sample(self, at_s: float, pid: int) -> None:
        """Look at it, if it is there."""
        kib = memory_kib(pid) if pid else None
        self.note(at_s, pid, kib)

    def note(self, at_s: float, pid: int, kib: int | None) -> None:
        """Take a sample that somebody else took; None: there was nothing to see."""
        if kib is not None:
            self.samples.append((at_s, pid, kib))

    def report(self, settled_at_s: float) -> Report:
        """Return slopes in kB a minute over its last life, from ``settled_at_s`` on.

        Least squares with a 95 % interval of Student's t, and Theil and Sen's median of slopes
        (P. K. Sen, J. Am. Stat. Assoc. 63, 1968) with its own. Flat if the latter is at most `FLAT`
        of the memory a minute. None where there are too few samples.
        """
        if not self.samples:
            return {"samples": 0, "flat": None}
        last = self.samples[-1][1]
        kept = [(at, kib) for at, pid, kib in self.samples if pid == last and at >= settled_at_s]
        report: Report = {
            "lives": len({pid for _, pid, _ in self.samples}),
            "samples": len(kept),
            "from_s": round(settled_at_s),
            "peak_mib": figure(max(kib for _, _, kib in self.samples) / 1024),
            "curve_mib": _curve(self.samples),
        }
        blocks = [kept[at : at + BLOCK] for at in range(0, len(kept) - BLOCK + 1, BLOCK)]
        if len(blocks) < _MIN_BLOCKS:
            return {**report, "flat": None}
        minutes = np.array([statistics.fmean(at for at, _ in block) / 60 for block in blocks])
        sizes = np.array([statistics.median(kib for _, kib in block) for block in blocks])
        return {**report, **_slopes(minutes, sizes)}


def _slopes(minutes: Floats, kib: Floats) -> Report:
    kb = 1.024 * kib
    line = stats.linregress(minutes, kb)
    half = float(stats.t.ppf((1 + _CONFIDENCE) / 2, len(kb) - 2) * line.stderr)
    sen = stats.theilslopes(kb, minutes, _CONFIDENCE)
    return {
        "start_mib": figure(float(kb[0]) / 1048.576),
        "end_mib": figure(float(kb[-1]) / 1048.576),
        "blocks": len(kb),
        "slope_kb_per_min": figure(float(line.slope)),
        "slope_95": [figure(float(line.slope) - half), figure(float(line.slope) + half)],
        "theil_sen_kb_per_min": figure(float(sen.slope)),
        "theil_sen_95": [figure(float(sen.low_slope)), figure(float(sen.high_slope))],
        "flat": bool(abs(sen.slope) <= FLAT * float(np.median(kb))),
    }


def _curve(samples: list[tuple[float, int, int]], points: int = 60) -> list[list[float]]:
    """Return some of the samples: seconds, MiB."""
    every = max(1, len(samples) // points)
    return [[round(at), figure(kib / 1024)] for at, _, kib in samples[::every]]
