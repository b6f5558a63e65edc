"""Which numbers of the flat vector belong to which array of the model."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Final, TypeVar

import numpy as np
import numpy.typing as npt

from protocol import refusals
from protocol.errors import LocalProtocolError, RemoteProtocolError

F = TypeVar("F", bound=np.floating)

PARAM_BYTES: Final = 4
#: As many float32 as a model may have bytes (`protocol.messages.MAX_MODEL_BYTES`).
MAX_PARAMS: Final = 1 << 28


@dataclass(frozen=True, slots=True)
class Tensor:
    """One named array of a model. Every side of ``shape`` is at least 1; a scalar has none."""

    name: str
    shape: tuple[int, ...]

    def __post_init__(self) -> None:
        if any(side < 1 for side in self.shape):
            raise LocalProtocolError(f"tensor {self.name}: shape {self.shape} holds nothing")

    @property
    def size(self) -> int:
        """How many numbers it has."""
        return math.prod(self.shape)


@dataclass(frozen=True)
class Layout:
    """The arrays of a model in the order in which the flat vector holds them, each row-major.

    Raises LocalProtocolError without any tensor, with a name twice, or above `MAX_PARAMS`.
    """

    tensors: tuple[Tensor, ...]

    def __post_init__(self) -> None:
        names = {tensor.name for tensor in self.tensors}
        if not names or len(names) < len(self.tensors):
            raise LocalProtocolError("a layout needs tensors, each with a name of its own")
        if self.size > MAX_PARAMS:
            raise LocalProtocolError(f"{self.size} params are more than {MAX_PARAMS}")

    @cached_property
    def size(self) -> int:
        """Length of the flat vector."""
        return sum(tensor.size for tensor in self.tensors)

    @cached_property
    def bounds(self) -> npt.NDArray[np.int64]:
        """Where each tensor starts, and at last ``size``: one more than there are tensors."""
        ends = np.cumsum([tensor.size for tensor in self.tensors], dtype=np.int64)
        bounds = np.concatenate((np.zeros(1, dtype=np.int64), ends))
        bounds.setflags(write=False)
        return bounds

    def flatten(self, arrays: Mapping[str, npt.ArrayLike]) -> npt.NDArray[np.float32]:
        """One new float32 vector of all arrays.

        Raises LocalProtocolError unless ``arrays`` has exactly the names and shapes of the layout.
        """
        if arrays.keys() != {tensor.name for tensor in self.tensors}:
            raise LocalProtocolError(f"arrays {sorted(arrays)} are not those of the layout")
        flat = np.empty(self.size, dtype=np.float32)
        for tensor, view in zip(self.tensors, self.views(flat).values(), strict=True):
            array = np.asarray(arrays[tensor.name], dtype=np.float32)
            if array.shape != tensor.shape:
                raise LocalProtocolError(f"{tensor.name}: {array.shape} is not {tensor.shape}")
            view[...] = array
        return flat

    def views(self, flat: npt.NDArray[np.float32]) -> dict[str, npt.NDArray[np.float32]]:
        """Name -> the part of ``flat`` in the shape of the tensor. Writing to it writes ``flat``.

        Raises LocalProtocolError unless ``flat`` is one contiguous vector of ``size`` numbers.
        """
        if flat.shape != (self.size,) or not flat.flags.c_contiguous:
            raise LocalProtocolError(f"a flat vector has shape {(self.size,)}, not {flat.shape}")
        starts = self.bounds[:-1].tolist()
        return {
            tensor.name: flat[start : start + tensor.size].reshape(tensor.shape)
            for tensor, start in zip(self.tensors, starts, strict=True)
        }


@dataclass(frozen=True)
class Subset:
    """Those tensors of a layout that are trained: their numbers alone are a vector, too.

    ``names`` has them. Raises LocalProtocolError unless each is a tensor of ``whole``, and
    there is one at least.
    """

    whole: Layout
    names: frozenset[str]

    def __post_init__(self) -> None:
        unknown = self.names - {tensor.name for tensor in self.whole.tensors}
        if unknown or not self.names:
            raise LocalProtocolError(f"no part of the layout: {sorted(unknown)}")

    @cached_property
    def layout(self) -> Layout:
        """The trained tensors, in the order of the whole."""
        if len(self.names) == len(self.whole.tensors):
            return self.whole
        return Layout(tuple(each for each in self.whole.tensors if each.name in self.names))

    @cached_property
    def slices(self) -> tuple[slice, ...]:
        """Where the trained numbers are in the whole vector, neighbours as one."""
        found: list[slice] = []
        starts = self.whole.bounds[:-1].tolist()
        for tensor, start in zip(self.whole.tensors, starts, strict=True):
            if tensor.name not in self.names:
                continue
            goes_on = bool(found) and found[-1].stop == start
            begin = found.pop().start if goes_on else start
            found.append(slice(begin, start + tensor.size))
        return tuple(found)

    def take(self, vector: npt.NDArray[F]) -> npt.NDArray[F]:
        """The trained numbers of a whole vector: a view if all are, else a copy."""
        if self.layout is self.whole:
            return vector
        return np.concatenate([vector[piece] for piece in self.slices])

    def replaced(self, vector: npt.NDArray[F], values: npt.NDArray[F]) -> npt.NDArray[F]:
        """A whole vector with other trained numbers: a new one, but ``values`` if that is all."""
        if self.layout is self.whole:
            return values
        whole, start = vector.copy(), 0
        for piece in self.slices:
            size = piece.stop - piece.start
            whole[piece] = values[start : start + size]
            start += size
        return whole


def check_vector(vector: npt.NDArray[np.float32]) -> None:
    """Raise LocalProtocolError unless this is a float32 vector without NaN and infinity."""
    if vector.dtype != np.float32 or vector.ndim != 1:
        raise LocalProtocolError(f"not a float32 vector: {vector.dtype} {vector.shape}")
    if not np.isfinite(vector).all():
        raise LocalProtocolError("numbers with NaN or infinity must not leave this side")


def params_to_bytes(params: npt.NDArray[np.float32]) -> bytes:
    """The numbers as float32, little-endian. LocalProtocolError unless finite float32 vector."""
    check_vector(params)
    return params.astype("<f4", copy=False).tobytes()


def params_from_bytes(data: bytes, size: int) -> npt.NDArray[np.float32]:
    """The ``size`` numbers that `params_to_bytes` wrote; a read-only view where that is possible.

    Raises RemoteProtocolError: ``wrong_shape`` or ``not_finite``.
    """
    if len(data) != PARAM_BYTES * size:
        raise RemoteProtocolError(
            refusals.WRONG_SHAPE, f"{len(data)} bytes are not {size} params of {PARAM_BYTES}"
        )
    params = np.frombuffer(data, "<f4").astype(np.float32, copy=False)
    if not np.isfinite(params).all():
        raise RemoteProtocolError(refusals.NOT_FINITE, "params")
    return params
