"""The central mechanism: the aggregator bounds each update, and adds noise to their sum.

H. B. McMahan et al., "Learning differentially private recurrent language models", ICLR 2018, with
the divisor public: who takes part is no secret here, what they send is. The clip may follow a
quantile of the norms: G. Andrew et al., "Differentially private learning with adaptive clipping",
NeurIPS 2021, Algorithm 1. Bounded updates are whole multiples of a grid, and so is the noise: there
is no rounding that could tell anything (`protocol.noise`).
"""

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from aggregator.actions import Action, Store
from aggregator.privacy.config import PrivacyConfig
from aggregator.records import DocumentRecord
from protocol.noise import MAX_LOG_SIGMA, discrete_gaussian, on_grid
from protocol.stream import derive
from protocol.vectors.packing import SparseDelta

Float64 = npt.NDArray[np.float64]

#: The document that holds the clip where it moves.
CLIP: Final = "privacy-clip"
#: What part of an update's cost is for telling how many norms were below the clip.
_COUNT_PART: Final = 0.1
#: Values of one update: float32 holds all whole numbers to 2**24.
_MAX_LOG_BOUND: Final = 21
#: The same bounds hold for the clip as for the setting.
_CLIPS: Final = (1e-6, 1e6)


class _Grid(NamedTuple):
    """A release in whole numbers: a device moves it by ``bound`` at most, in L2 norm."""

    bound: float
    log_sigma: int


class Central:
    """Of one task. ``seed``: 32 secret bytes of this start, for noise and nothing else.

    ``clip`` is the present one; all updates of one buffer are bounded by the same.
    """

    def __init__(self, config: PrivacyConfig, documents: Mapping[str, bytes], seed: bytes) -> None:
        self._config = config
        self._seed = seed
        self._num_releases = 0
        self._num_below = 0
        self.clip = config.clip
        if config.clip_quantile and CLIP in documents:
            self.clip = float(documents[CLIP])
        self._next_clip = self.clip
        multiplier = config.multiplier
        if config.clip_quantile:
            self._count = _grid(multiplier / math.sqrt(_COUNT_PART))
            multiplier /= math.sqrt(1.0 - _COUNT_PART)
        self._grid = _grid(multiplier)

    def bounded(self, delta: SparseDelta, weight: float) -> SparseDelta:
        """Return ``weight`` (at most 1) times a delta, no longer than the clip: whole numbers.

        They are multiples of what `released` divides by.
        """
        values = delta.values.astype(np.float64)
        norm = float(np.linalg.norm(values))
        self._num_below += norm <= self.clip
        part = min(weight, 1.0) * min(1.0, self.clip / norm) if norm else 0.0
        values *= part * self._grid.bound / self.clip
        return replace(delta, values=on_grid(values, self._grid.bound).astype("<f4"))

    def released(self, total: Float64, num_updates: int) -> Float64:
        """Return the noisy sum of so many bounded updates, in the units of their values.

        Decides on the next clip, too. Call it once a buffer.
        """
        noise = self._noise(self._grid, total.size)
        if self._config.clip_quantile:
            self._next_clip = self._moved(num_updates)
        self._num_below = 0
        noisy: Float64 = np.rint(total) + noise
        return noisy * (self.clip / self._grid.bound)

    def counted(self) -> list[Action]:
        """What was released is a version: go on with the next clip; return what is stored."""
        if self._next_clip == self.clip:
            return []
        self.clip = self._next_clip
        return [Store(DocumentRecord(CLIP, repr(self.clip).encode()))]

    def _moved(self, num_updates: int) -> float:
        """The clip after so many norms, of which a noisy part was below: the paper's line 13."""
        # A device moves the count by 1/2 from its middle: by 1, counted in halves.
        halves = (2 * self._num_below - num_updates) * self._count.bound
        noisy = float(np.rint(halves)) + float(self._noise(self._count, 1)[0])
        part = 0.5 + noisy / (2 * self._count.bound * max(1, num_updates))
        step = self._config.clip_rate * (min(max(part, 0.0), 1.0) - self._config.clip_quantile)
        return min(max(self.clip * math.exp(-step), _CLIPS[0]), _CLIPS[1])

    def _noise(self, grid: _Grid, size: int) -> npt.NDArray[np.int64]:
        self._num_releases += 1
        seed = derive(self._seed, "release", self._num_releases)
        return discrete_gaussian(seed, grid.log_sigma, size)


def _grid(multiplier: float) -> _Grid:
    """The finest grid on which the noise is ``multiplier`` times the bound."""
    log_sigma = min(MAX_LOG_SIGMA, _MAX_LOG_BOUND + math.floor(math.log2(multiplier)))
    return _Grid(2.0**log_sigma / multiplier, log_sigma)
