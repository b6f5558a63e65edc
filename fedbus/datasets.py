"""Data for a demonstration: load it, hold some out, and deal the rest to devices. Pure but `load`.

The rows of the held-out part go to the aggregator alone.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from aggregator.wording import many
from protocol.errors import ConfigError

HELD_OUT: Final = 0.2
MIN_ROWS: Final = 8
MAX_CLASSES: Final = 1_000

Rows = npt.NDArray[np.intp]
Labels = npt.NDArray[np.int64]
Features = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Dataset:
    """``x`` is (n, features) float32, ``y`` (n,) classes counted from 0.

    ``owner`` says whose each row is, counted from 0; None: nobody's. ``scaled`` data has features
    of about 1 already.
    """

    x: Features
    y: Labels
    owner: Labels | None
    scaled: bool
    name: str

    @property
    def num_classes(self) -> int:
        """How many labels there are."""
        return int(self.y.max()) + 1

    @property
    def num_owners(self) -> int:
        """How many owners there are; 0: nobody owns rows."""
        return 0 if self.owner is None else int(self.owner.max()) + 1


@dataclass(frozen=True, slots=True)
class Part:
    """Some rows: what one process gets to see."""

    x: Features
    y: Labels


@dataclass(frozen=True, slots=True)
class Split:
    """One part a device, and the held-out part; no row is in two parts."""

    devices: tuple[Part, ...]
    held_out: Part


def load(file: Path | None) -> Dataset:
    """Return the data set in ``file``, or scikit-learn's bundled handwritten digits.

    Raises ConfigError that says what is wrong with the file, or what to install.
    """
    return _digits() if file is None else _from_file(file)


def split(data: Dataset, *, devices: int, alpha: float, seed: int) -> Split:
    """Hold `HELD_OUT` of the rows out and deal the rest; the same arguments, the same parts.

    Rows without owner are dealt label by label with shares drawn from Dirichlet(``alpha``): the
    smaller ``alpha``, the fewer labels a device sees (T.-M. H. Hsu et al., 2019); then whoever has
    fewer than `MIN_ROWS` gets some of who has most. An owner's rows stay on one device: the largest
    owners are dealt first, each to the device with the fewest rows so far.

    Features that are not ``scaled`` are standardised by mean and deviation of all rows dealt to
    devices, constant ones becoming 0. (A deployment would ship such figures with the device's own
    pipeline; nothing here depends on held-out rows.)
    """
    num_rows = len(data.y)
    if not 1 <= devices * MIN_ROWS <= num_rows * (1 - HELD_OUT):
        raise ConfigError(
            f"--devices {devices}: {num_rows} rows are enough for 1 to "
            f"{many(int(num_rows * (1 - HELD_OUT)) // MIN_ROWS, 'device')}"
        )
    rng = np.random.default_rng(seed)
    order = rng.permutation(num_rows)
    cut = round(num_rows * HELD_OUT)
    held_out, rest = order[:cut], order[cut:]
    if data.owner is None:
        parts = _dirichlet(data.y, rest, devices, alpha, rng)
    else:
        parts = _by_owner(data.owner, rest, devices)
    x = data.x if data.scaled else _standardised(data.x, rest)
    return Split(
        tuple(Part(x[rows], data.y[rows]) for rows in parts), Part(x[held_out], data.y[held_out])
    )


def _dirichlet(
    y: Labels, rows: Rows, devices: int, alpha: float, rng: np.random.Generator
) -> list[Rows]:
    if alpha <= 0:
        raise ConfigError(f"--alpha must be above 0, not {alpha}")
    parts: list[list[int]] = [[] for _ in range(devices)]
    for label in np.unique(y[rows]):
        mine = rows[y[rows] == label]
        cuts = np.cumsum(rng.dirichlet([alpha] * devices))[:-1] * len(mine)
        for part, some in zip(parts, np.split(mine, cuts.astype(int)), strict=True):
            part.extend(some.tolist())
    while len(fewest := min(parts, key=len)) < MIN_ROWS:
        fewest.append(max(parts, key=len).pop())
    return [np.array(part, dtype=np.intp) for part in parts]


def _by_owner(owner: Labels, rows: Rows, devices: int) -> list[Rows]:
    owners, sizes = np.unique(owner[rows], return_counts=True)
    if devices > len(owners):
        raise ConfigError(f"--devices {devices}: the data has {many(len(owners), 'client')} only")
    hands: list[list[int]] = [[] for _ in range(devices)]
    load = np.zeros(devices, dtype=np.int64)
    for place in np.argsort(-sizes, kind="stable"):
        least = int(np.argmin(load))
        hands[least].append(int(owners[place]))
        load[least] += sizes[place]
    return [rows[np.isin(owner[rows], hand)] for hand in hands]


def _standardised(x: Features, rows: Rows) -> Features:
    mean = x[rows].mean(axis=0, dtype=np.float64)
    deviation = x[rows].std(axis=0, dtype=np.float64)
    scale = np.where(deviation > 0, deviation, np.inf)
    standardised: Features = ((x - mean) / scale).astype(np.float32)
    return standardised


def _digits() -> Dataset:
    try:
        from sklearn.datasets import load_digits  # noqa: PLC0415 - slow, and an extra
    except ModuleNotFoundError:
        raise ConfigError(
            "the digits come with scikit-learn: pip install 'fedbus[demo]', "
            "or bring data of your own with --data FILE.npz"
        ) from None
    x, y = load_digits(return_X_y=True)
    features = (x / 16).astype(np.float32)
    return Dataset(features, y.astype(np.int64), owner=None, scaled=True, name="digits")


def _from_file(file: Path) -> Dataset:
    arrays = _arrays(file)
    for key in ("x", "y"):
        if key not in arrays:
            raise ConfigError(f"{file}: no array {key!r} among {', '.join(arrays) or 'none'}")
    x, y = arrays["x"], arrays["y"]
    _check_shapes(file, arrays)
    if x.dtype.kind not in "fiub":
        raise ConfigError(f"{file}: x must hold numbers, not {x.dtype}")
    features = x.reshape(len(x), -1).astype(np.float32)
    if not np.isfinite(features).all():
        raise ConfigError(f"{file}: x holds NaN, infinity or numbers beyond float32")
    owner = None if "client" not in arrays else _counted(arrays["client"])
    return Dataset(features, _classes(file, y), owner=owner, scaled=False, name=file.stem)


def _arrays(file: Path) -> dict[str, npt.NDArray[np.generic]]:
    try:
        with np.load(file, allow_pickle=False) as loaded:
            return {key: loaded[key] for key in loaded.files}
    except OSError as error:
        raise ConfigError(f"{file}: {error.strerror or error}") from None
    except Exception as error:  # NumPy and zipfile meet damaged files with ten kinds of errors
        raise ConfigError(
            f"{file}: cannot be read ({error}); write it with numpy.savez(file, x=..., y=...)"
        ) from error


def _check_shapes(file: Path, arrays: dict[str, npt.NDArray[np.generic]]) -> None:
    x, y = arrays["x"], arrays["y"]
    if x.ndim == 0 or y.ndim != 1 or not 0 < len(x) == len(y):
        raise ConfigError(f"{file}: x {x.shape} and y {y.shape} must have as many rows, y flat")
    client = arrays.get("client")
    if client is not None and client.shape != y.shape:
        raise ConfigError(
            f"{file}: client {client.shape} must name one owner a row, as y {y.shape}"
        )


def _classes(file: Path, y: npt.NDArray[np.generic]) -> Labels:
    if y.dtype.kind == "f" and not np.array_equal(y, np.round(y.astype(np.float64))):
        raise ConfigError(f"{file}: y must hold class labels; the demo trains a classifier")
    classes = _counted(y)
    num_classes = int(classes.max()) + 1
    if not 2 <= num_classes <= MAX_CLASSES:  # noqa: PLR2004 - a choice needs two
        raise ConfigError(f"{file}: y has {num_classes} labels; 2 to {MAX_CLASSES} make sense")
    return classes


def _counted(values: npt.NDArray[np.generic]) -> Labels:
    """The values' places among the sorted different ones."""
    places: Labels = np.unique(values, return_inverse=True)[1].reshape(-1).astype(np.int64)
    return places
