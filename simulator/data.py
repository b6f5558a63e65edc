"""The data of a scenario: read once a process, split anew for each seed.

``[data]`` of a scenario. Rows come from scikit-learn's digits or from an ``.npz`` file; held-out
ones are seen by nobody who trains.
"""

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from protocol.errors import ConfigError
from simulator import splits
from simulator.splits import Labels, Rows

Features = npt.NDArray[np.float32]

DIGITS: Final = "digits"
SPLITS: Final = ("dirichlet", "shards", "clients", "speed")
#: The variable that names the folder with larger data sets.
FOLDER_VARIABLE: Final = "FEDBUS_DATA"


@dataclass(frozen=True, slots=True, kw_only=True)
class DataConfig:
    """``[data]``: where rows come from and how they are dealt; `simulator.scenario` explains it."""

    source: str = ""
    file: str = ""
    x: str = "x"
    y: str = "y"
    client: str = ""
    test: str = ""
    scale: float = 1.0
    standardise: bool = False
    split: str = "dirichlet"
    alpha: float = 0.3
    shards: int = 2
    slow_labels: tuple[int, ...] = ()
    slow_factor: float = 10.0
    held_out: float = 0.2
    min_samples: int = 8

    def __post_init__(self) -> None:
        if self.source not in ("", DIGITS):
            raise ConfigError(f"source {self.source!r}: use {DIGITS}, or file = ...")
        if self.source and self.file:
            raise ConfigError("file: there is a source already; set one of the two")
        if self.split not in SPLITS:
            raise ConfigError(f"split {self.split!r}: use {', '.join(SPLITS)}")
        if self.split == "clients" and not self.client:
            raise ConfigError('client: split = "clients" needs the array that names each row\'s')
        if self.client and not self.file:
            raise ConfigError("client: the digits belong to nobody; set file")
        if self.split == "speed" and not self.slow_labels:
            raise ConfigError('slow_labels: split = "speed" needs the labels of slow devices')
        for name, (low, high) in _RANGES.items():
            if not low <= getattr(self, name) <= high:
                raise ConfigError(f"{name} must be from {low} to {high}, not {getattr(self, name)}")


_RANGES: Final[Mapping[str, tuple[float, float]]] = {
    "scale": (1e-9, 1e9),
    "alpha": (1e-3, 1e6),
    "shards": (1, 1_000),
    "slow_factor": (1, 1e6),
    "held_out": (0.01, 0.9),
    "min_samples": (1, 1_000_000),
}


@dataclass(frozen=True, slots=True)
class Dataset:
    """``x`` (n, ...) float32 and ``y`` (n,); ``client`` and ``is_test`` (n,), if there are any."""

    x: Features
    y: npt.NDArray[np.generic]
    client: Labels | None
    is_test: npt.NDArray[np.bool_] | None

    @property
    def labels(self) -> Labels:
        """``y`` as classes. Raises ConfigError if it is none: splits by label need them."""
        if self.y.dtype.kind not in "iub" or self.y.ndim != 1 or int(self.y.min()) < 0:
            raise ConfigError(
                'y holds no class labels, counted from 0: only split = "clients" works'
            )
        return self.y.astype(np.int64)


@dataclass(frozen=True, slots=True)
class Dealt:
    """Rows of each device and rows of nobody, of one data set, scaled."""

    x: Features
    y: npt.NDArray[np.generic]
    devices: tuple[Rows, ...]
    held_out: Rows


def deal(config: DataConfig, data: Dataset, is_slow: Sequence[bool], seed: int) -> Dealt:
    """Split a data set among devices, some of them slow. Raises ConfigError that names the key."""
    rng = np.random.default_rng([seed, 1])
    train, held_out = _hold_out(config, data, rng)
    if not train.size or not held_out.size:
        raise ConfigError(f"data.held_out: {train.size} rows to train, {held_out.size} held out")
    devices = _parts(config, data, train, is_slow, rng)
    x = _standardised(data.x, train) if config.standardise else data.x
    return Dealt(x, data.y, tuple(devices), held_out)


def _hold_out(config: DataConfig, data: Dataset, rng: np.random.Generator) -> tuple[Rows, Rows]:
    rows = np.arange(len(data.x))
    if data.is_test is not None:
        return rows[~data.is_test], rows[data.is_test]
    return splits.hold_out(rows, data.client, config.held_out, rng)


def _parts(
    config: DataConfig,
    data: Dataset,
    train: Rows,
    is_slow: Sequence[bool],
    rng: np.random.Generator,
) -> list[Rows]:
    num_devices = len(is_slow)
    if config.split == "clients" and data.client is not None:
        return splits.clients(data.client, train, num_devices, rng)
    try:
        labels = data.labels
    except ConfigError as error:
        raise ConfigError(f"data.split: {error}") from None
    if config.split == "shards":
        return splits.shards(labels, train, num_devices, per_device=config.shards, rng=rng)
    tilt = None
    if config.split == "speed":
        num_labels = int(labels.max()) + 1
        _check_slow(config, is_slow, num_labels)
        tilt = splits.tilted(config.slow_labels, list(is_slow), num_labels, config.slow_factor)
    return splits.dirichlet(
        labels,
        train,
        num_devices,
        alpha=config.alpha,
        min_samples=config.min_samples,
        rng=rng,
        tilt=tilt,
    )


def _check_slow(config: DataConfig, is_slow: Sequence[bool], num_labels: int) -> None:
    if not any(is_slow) or all(is_slow):
        raise ConfigError('data.split: "speed" needs classes with slow = true and others without')
    wrong = [label for label in config.slow_labels if not 0 <= label < num_labels]
    if wrong:
        raise ConfigError(f"data.slow_labels: {wrong[0]} is none of 0 to {num_labels - 1}")


def _standardised(x: Features, rows: Rows) -> Features:
    mean = x[rows].mean(axis=0, dtype=np.float64)
    deviation = x[rows].std(axis=0, dtype=np.float64)
    scaled: Features = ((x - mean) / np.where(deviation > 0, deviation, np.inf)).astype(np.float32)
    return scaled


# --- reading -------------------------------------------------------------------------------------


def load_data(config: DataConfig, folder: Path) -> Dataset:
    """Return the rows; ``folder`` is what the file's name is relative to.

    Raises ConfigError that names the key and says where data come from.
    """
    if not config.file:
        return _digits()
    return _read(_found(config.file, folder), config)


def _found(name: str, folder: Path) -> Path:
    """Return a file's path, with ``${FEDBUS_DATA}`` filled in."""
    place = os.environ.get(FOLDER_VARIABLE, "")
    if not place and FOLDER_VARIABLE in name:
        raise ConfigError(
            f"data.file: {name}: set {FOLDER_VARIABLE} to the folder with the data sets;"
            " docs/simulation.md says where each comes from"
        )
    path = folder / re.sub(r"\$\{?" + FOLDER_VARIABLE + r"\}?", lambda _: place, name)
    if not path.is_file():
        raise ConfigError(
            f"data.file: no file {path}; docs/simulation.md says where data sets come from"
        )
    return path


@lru_cache(maxsize=1)
def _digits() -> Dataset:
    try:
        from sklearn.datasets import load_digits  # noqa: PLC0415 - slow, and an extra
    except ModuleNotFoundError:
        raise ConfigError(
            "data.source: the digits come with scikit-learn: pip install 'fedbus[simulate]'"
        ) from None
    x, y = load_digits(return_X_y=True)
    return Dataset((x / 16).astype(np.float32), y.astype(np.int64), None, None)


@lru_cache(maxsize=4)
def _read(path: Path, config: DataConfig) -> Dataset:
    arrays = _arrays(path, [key for key in _keys(config).values() if key])
    for name, key in _keys(config).items():
        if key and key not in arrays:
            raise ConfigError(f"data.{name}: {path} has no array {key!r}")
    x, y = arrays[config.x], arrays[config.y]
    if x.ndim == 0 or x.dtype.kind not in "fiub":
        raise ConfigError(f"data.x: {path}: {config.x} must hold numbers, not {x.dtype} {x.shape}")
    for name, key in _keys(config).items():
        if key and (arrays[key].ndim == 0 or len(arrays[key]) != len(x)):
            raise ConfigError(
                f"data.{name}: {path}: {key} {arrays[key].shape} and {config.x} {x.shape} must have"
                " as many rows"
            )
    features = (x.astype(np.float32) / np.float32(config.scale)).astype(np.float32, copy=False)
    if not len(x) or not np.isfinite(features).all():
        raise ConfigError(f"data.x: {path}: no rows, or numbers that are not finite")
    client = _counted(arrays[config.client]) if config.client else None
    is_test = arrays[config.test].astype(np.bool_) if config.test else None
    return Dataset(features, y, client, is_test)


def _keys(config: DataConfig) -> dict[str, str]:
    return {"x": config.x, "y": config.y, "client": config.client, "test": config.test}


def _arrays(path: Path, keys: Sequence[str]) -> dict[str, npt.NDArray[np.generic]]:
    try:
        with np.load(path, allow_pickle=False) as loaded:
            return {key: loaded[key] for key in keys if key in loaded.files}
    except OSError as error:
        raise ConfigError(f"data.file: {path}: {error.strerror or error}") from None
    except Exception as error:  # NumPy and zipfile meet damaged files with ten kinds of errors
        raise ConfigError(
            f"data.file: {path}: cannot be read ({error}); numpy.savez writes such files"
        ) from error


def _counted(values: npt.NDArray[np.generic]) -> Labels:
    """Return the clients counted from 0; below 0 stays nobody."""
    places: Labels = np.unique(values, return_inverse=True)[1].reshape(-1).astype(np.int64)
    if values.dtype.kind != "i":
        return places
    nobody = values.astype(np.int64) < 0
    return np.where(nobody, -1, places - np.unique(values[nobody]).size)
