"""A computation as data: values, and the operations between them, in TensorFlow Lite's words.

A batch's axis is 1 in every shape that has one; `Graph.any_batch` says whether any number will do.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.generic]
Shape = tuple[int, ...]
#: What an operation can be told; words are paddings and activations.
Option = int | float | bool | str

FLOAT: Final = np.dtype(np.float32)
INT32: Final = np.dtype(np.int32)
INT8: Final = np.dtype(np.int8)
BOOL: Final = np.dtype(np.bool_)
#: A variable's handle: the variable is the same in all graphs of a file.
RESOURCE: Final[np.dtype[np.generic]] = np.dtype(np.void)


@dataclass(frozen=True, slots=True)
class Quantisation:
    """``real = scale * (number - zero_point)``; many scales: one a slice along ``axis``."""

    scales: tuple[float, ...]
    zero_point: int = 0
    axis: int = 0


@dataclass(eq=False, slots=True)
class Value:
    """What flows between operations; a constant has ``data``. Two with equal fields are two."""

    name: str
    shape: Shape
    dtype: np.dtype[np.generic] = FLOAT
    data: Array | None = None
    quantisation: Quantisation | None = None

    @property
    def numbers(self) -> npt.NDArray[np.float64]:
        """A constant's data. Raises ValueError for a value that only flows."""
        if self.data is None:
            raise ValueError(f"{self.name} is no constant")
        return self.data.astype(np.float64)


@dataclass(eq=False, slots=True)
class Operation:
    """``kind`` is TensorFlow Lite's name; keys of ``options`` are its fields, as ``stride_w``.

    ``graphs`` are a WHILE's condition and body.
    """

    kind: str
    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]
    options: Mapping[str, Option] = field(default_factory=dict)
    graphs: "tuple[Graph, ...]" = ()

    @property
    def output(self) -> Value:
        """The only output, or the first."""
        return self.outputs[0]


@dataclass(eq=False, slots=True)
class Graph:
    """Operations in an order in which they can run."""

    name: str
    inputs: list[Value] = field(default_factory=list)
    outputs: list[Value] = field(default_factory=list)
    operations: list[Operation] = field(default_factory=list)
    any_batch: bool = True

    def values(self) -> Iterator[Value]:
        """Yield every value once: inputs, then in the order of use; not those of inner graphs."""
        seen: set[int] = set()
        used = (value for each in self.operations for value in (*each.inputs, *each.outputs))
        for value in (*self.inputs, *used, *self.outputs):
            if id(value) not in seen:
                seen.add(id(value))
                yield value

    def users(self, value: Value) -> list[Operation]:
        """Return the operations that read a value."""
        return [each for each in self.operations if any(value is read for read in each.inputs)]

    def inner(self) -> "Iterator[Graph]":
        """Yield the graphs of operations, and theirs."""
        for operation in self.operations:
            for graph in operation.graphs:
                yield graph
                yield from graph.inner()


class Builder:
    """Adds operations to a graph; names follow from ``prefix``, which may change."""

    def __init__(self, graph: Graph, prefix: str = "") -> None:
        self.graph = graph
        self.prefix = prefix
        self._count = 0

    def input(self, shape: Shape, dtype: np.dtype[np.generic] = FLOAT) -> Value:
        """Add an input of the graph."""
        value = Value(self._name("in"), shape, dtype)
        self.graph.inputs.append(value)
        return value

    def constant(self, data: npt.ArrayLike, name: str = "constant") -> Value:
        """Return a value that is known: float32 unless it is whole numbers, then int32."""
        array = np.asarray(data)
        kept = array.astype(INT32 if array.dtype.kind in "iu" else FLOAT, order="C")
        return Value(self._name(name), kept.shape, kept.dtype, kept)

    def add(
        self,
        kind: str,
        inputs: Sequence[Value],
        shape: Shape,
        options: Mapping[str, Option] | None = None,
        *,
        dtype: np.dtype[np.generic] = FLOAT,
    ) -> Value:
        """Add an operation with one output of ``shape``, and return that."""
        return self.add_many(kind, inputs, [self.value(kind.lower(), shape, dtype)], options)[0]

    def add_many(
        self,
        kind: str,
        inputs: Sequence[Value],
        outputs: Sequence[Value],
        options: Mapping[str, Option] | None = None,
        *,
        graphs: tuple[Graph, ...] = (),
    ) -> tuple[Value, ...]:
        """Add an operation with any number of outputs, and return these."""
        operation = Operation(kind, tuple(inputs), tuple(outputs), options or {}, graphs)
        self.graph.operations.append(operation)
        return operation.outputs

    def value(self, what: str, shape: Shape, dtype: np.dtype[np.generic] = FLOAT) -> Value:
        """Return a value for `add_many` to fill."""
        return Value(self._name(what), shape, dtype)

    def _name(self, what: str) -> str:
        self._count += 1
        return f"{self.prefix}{what}_{self._count}"
