"""TensorFlow Lite's flatbuffer schema, as far as it concerns us, through the ``tflite`` package.

The package is generated code without types: a function for each field of each table. `Tables`
calls them by name, so that this is the one module that sees them, and a table is one call. A name
that the schema does not have is an AttributeError, met by the first test that writes one.
"""

from collections.abc import Sequence
from typing import Any, Final

import flatbuffers
import numpy as np
import numpy.typing as npt
import tflite

#: The first bytes of every ``.tflite``, after the root's offset.
IDENTIFIER: Final = b"TFL3"
VERSION: Final = 3
_START_BYTES: Final = 1 << 16
#: Operators above this are named in a field that old readers do not know.
_LAST_OLD_CODE: Final = 127


class Offset(int):
    """Where something written lies, counted from the file's end."""


#: What a field of a table takes.
Field = int | float | bool | Offset


def operator(name: str) -> int:
    """Code of an operator, as ``CONV_2D``."""
    return _number(tflite.BuiltinOperator, name)


def options_type(name: str) -> int:
    """Code of a table of options, as ``Conv2DOptions``."""
    return _number(tflite.BuiltinOptions, name)


def tensor_type(name: str) -> int:
    """Code of an element's type, as ``FLOAT32``."""
    return _number(tflite.TensorType, name)


def word(name: str) -> int:
    """Code of a word that an option takes: a padding or an activation."""
    names = tflite.Padding if hasattr(tflite.Padding, name) else tflite.ActivationFunctionType
    return _number(names, name)


def old_code(code: int) -> int:
    """What the 8-bit field of an operator's code says."""
    return min(code, _LAST_OLD_CODE)


class Tables:
    """A flatbuffer that grows from its end to its start: what is pointed to is written first."""

    def __init__(self) -> None:
        self._builder: Any = flatbuffers.Builder(_START_BYTES)

    def text(self, value: str) -> Offset:
        """Write a string; equal ones once."""
        return Offset(self._builder.CreateSharedString(value))

    def numbers(self, values: npt.ArrayLike, dtype: type[np.generic]) -> Offset:
        """Write a vector of numbers."""
        return Offset(self._builder.CreateNumpyVector(np.ascontiguousarray(values, dtype)))

    def data(self, array: npt.NDArray[np.generic], alignment: int = 16) -> Offset:
        """Write an array's bytes, little-endian, where kernels can read them as they lie."""
        raw = array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes()
        self._builder.Prep(alignment, len(raw))
        return Offset(self._builder.CreateByteVector(raw))

    def offsets(self, values: Sequence[Offset]) -> Offset:
        """Write a vector of what has been written before."""
        self._builder.StartVector(4, len(values), 4)
        for value in reversed(values):
            self._builder.PrependUOffsetTRelative(value)
        return Offset(self._builder.EndVector())

    def table(self, name: str, **fields: Field) -> Offset:
        """Write a table; a field that is left out has the schema's default."""
        getattr(tflite, f"{name}Start")(self._builder)
        for field, value in fields.items():
            getattr(tflite, f"{name}Add{field}")(self._builder, value)
        return Offset(getattr(tflite, f"{name}End")(self._builder))

    def finish(self, root: Offset) -> bytes:
        """Return the file whose root table is ``root``."""
        self._builder.Finish(root, file_identifier=IDENTIFIER)
        return bytes(self._builder.Output())


def _number(names: Any, name: str) -> int:  # noqa: ANN401 - generated code without types
    return int(getattr(names, name))
