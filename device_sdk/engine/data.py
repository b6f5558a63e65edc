"""Training data, in whatever form it comes: arrays, files, or blocks made on the fly."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol, TypeGuard, runtime_checkable

import numpy as np
import numpy.typing as npt

from device_sdk.engine.arrays import Targets
from device_sdk.engine.errors import TrainingError
from protocol.errors import ConfigError

Samples = npt.NDArray[np.generic]
#: Some samples and their targets, as many rows in one as in the other.
Block = tuple[Samples, Targets]
#: All data as one (x, y), memory-mapped if need be; or blocks; or a function that gives blocks.
Data = Block | Iterable[Block] | Callable[[], Iterable[Block]]

_KEYS: Final = ("x", "y")


@runtime_checkable
class Counted(Protocol):
    """Blocks that know how many samples they are at any time (`device_sdk.samples.SampleStore`)."""

    @property
    def num_samples(self) -> int:
        """Samples at hand now."""

    def __iter__(self) -> Iterator[Block]:
        """Pass over them."""


@dataclass(frozen=True, slots=True)
class Blocks:
    """Data that can be passed over, block by block; only one block is in memory at a time."""

    start: Callable[[], Iterable[object]]
    count: Callable[[], int | None]
    largest: int = 0  # samples of the largest block, as far as that is known

    @property
    def num_samples(self) -> int | None:
        """Samples at hand now; None where only a pass can tell."""
        return self.count()

    def __iter__(self) -> Iterator[Block]:
        for item in self.start():
            yield _pair(item)


def as_blocks(data: Data) -> Blocks:
    """One way to pass over any `Data`. An array pair is one block."""
    if _is_array_pair(data):
        return as_blocks([data])
    if callable(data):
        return Blocks(data, _unknown)
    if isinstance(data, Counted):
        return Blocks(lambda: data, lambda: data.num_samples)
    if isinstance(data, Sequence):
        sizes = [len(_pair(item)[0]) for item in data]
        return Blocks(lambda: data, lambda: sum(sizes), max(sizes, default=0))
    return Blocks(lambda: data, _unknown)


def _unknown() -> None:
    """Only a pass can tell how many samples there are."""


def load_samples(path: Path | str) -> Block:
    """Samples and targets from a folder with ``x.npy`` and ``y.npy``, or from an ``.npz`` file.

    Those of a folder stay there (memory-mapped): they may be larger than memory.
    Raises ConfigError, which says what is wrong with the files.
    """
    path = Path(path)
    return _checked(path, _map(path)) if path.is_dir() else load_npz(path)


def load_npz(path: Path | str) -> Block:
    """Arrays ``x`` and ``y`` of an ``.npz`` file, one row a sample.

    Raises ConfigError, which says what is wrong with the file.
    """
    try:
        names, arrays = _read(Path(path))
    except OSError as error:
        raise ConfigError(f"data file {path}: {error.strerror or error}") from error
    except Exception as error:
        # NumPy and zipfile meet damaged files with ten kinds of errors, and promise none.
        raise _bad_file(path, f"cannot be read ({error})") from error
    missing = [key for key in _KEYS if key not in arrays]
    if missing:
        raise _bad_file(path, f"no array {missing[0]!r} among {', '.join(names)}")
    return _checked(path, arrays)


def _checked(path: Path | str, arrays: dict[str, Samples]) -> Block:
    x, y = (arrays[key] for key in _KEYS)
    if x.ndim == 0 or y.ndim == 0 or not 0 < len(x) == len(y):
        raise _bad_file(path, f"x {x.shape} and y {y.shape} must have as many rows, at least one")
    return x, y


def _map(folder: Path) -> dict[str, Samples]:
    arrays: dict[str, Samples] = {}
    for key in _KEYS:
        file = folder / f"{key}.npy"
        try:
            arrays[key] = np.load(file, mmap_mode="r", allow_pickle=False)
        except OSError as error:
            raise ConfigError(f"data file {file}: {error.strerror or error}") from error
        except (ValueError, EOFError) as error:
            raise ConfigError(f"data file {file}: cannot be read ({error})") from error
    return arrays


def _read(path: Path) -> tuple[list[str], dict[str, Samples]]:
    """Names of all arrays in the file, and those that are asked for."""
    with path.open("rb") as file:
        loaded = np.load(file, allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            return ["one array without a name"], {}
        return loaded.files, {key: loaded[key] for key in _KEYS if key in loaded.files}


def _bad_file(path: Path | str, reason: str) -> ConfigError:
    return ConfigError(f"data file {path}: {reason}; write it with numpy.savez(file, x=..., y=...)")


def _is_array_pair(data: object) -> TypeGuard[Block]:
    return (
        isinstance(data, tuple)
        and len(data) == 2  # noqa: PLR2004 - a pair
        and all(isinstance(part, np.ndarray) for part in data)
    )


def _pair(item: object) -> Block:
    if not isinstance(item, tuple | list) or len(item) != 2:  # noqa: PLR2004 - a pair
        raise TrainingError(f"data must give (x, y) pairs of arrays, not {type(item).__name__}")
    # Plain ndarray views: a memory map stays on disk, but indexing it gets cheaper.
    x, y = np.asarray(item[0]), np.asarray(item[1])
    return x, y
