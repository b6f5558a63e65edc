"""Concept drift: the same devices, other data from some moment on. Pure."""

from math import isqrt

import numpy as np
import numpy.typing as npt

from protocol.errors import ConfigError
from simulator.scenario_parts import Drift

Features = npt.NDArray[np.float32]
Targets = npt.NDArray[np.generic]


def drifted(
    drift: Drift | None, x: Features, y: Targets, num_labels: int, *, has_begun: bool
) -> tuple[Features, Targets]:
    """Return rows as they are before or after it. Raises ConfigError if x holds no images."""
    if drift is None:
        return x, y
    if drift.kind == "new_labels":
        there = present(drift, y, has_begun=has_begun)
        return x[there], y[there]
    if not has_begun:
        return x, y
    if drift.kind == "mirrored":
        return _images(x)[:, :, ::-1].reshape(x.shape), y
    return x, ((y.astype(np.int64) + drift.step) % num_labels).astype(y.dtype)


def present(drift: Drift | None, y: Targets, *, has_begun: bool) -> npt.NDArray[np.bool_]:
    """Return which rows are there at all before or after it."""
    if drift is None or drift.kind != "new_labels" or has_begun:
        return np.full(len(y), fill_value=True)
    return ~np.isin(y, drift.labels)


def _images(x: Features) -> Features:
    """Return x as (n, height, width, ...)."""
    if x.ndim > 2:  # noqa: PLR2004 - rows that are more than vectors
        return x
    side = isqrt(x.shape[1])
    if side * side != x.shape[1]:
        raise ConfigError(f"rows of {x.shape[1]} numbers are no square images")
    return x.reshape(len(x), side, side)
