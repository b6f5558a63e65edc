"""Residual connections."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from device_sdk.engine.arrays import Array
from device_sdk.engine.layers.base import Frame, Layer


@dataclass(frozen=True, slots=True)
class Add(Layer):
    """``y = x + source``; ``source`` is the name of an earlier layer, whose output is meant.

    The derivative by the source is ``dy`` too: the network carries it there.
    """

    source: str

    in_place: ClassVar[bool] = True

    def other_input(self) -> str:
        """The source."""
        return self.source

    def forward(self, frame: Frame) -> None:
        """``y = x + source``."""
        if frame.source is not None:
            np.add(frame.x, frame.source, out=frame.y)

    def backward(self, frame: Frame, dy: Array, dx: Array | None) -> None:  # noqa: ARG002
        """``dx = dy``."""
        if dx is not None and dx is not dy:
            dx[...] = dy
