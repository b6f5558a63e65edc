"""Which model a device predicts by: its newest lease's, or, right after a start, the kept one."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from device_sdk.held import unpack_held
from device_sdk.storage import Storage
from device_sdk.trainer import Assignment, Trainer

if TYPE_CHECKING:
    from device_sdk.inference import Inference


class Predictions:
    """``file`` is the configured ``.tflite`` file; empty: none. ``newest`` was assigned last."""

    def __init__(self, trainer: Trainer, storage: Storage, file: str) -> None:
        self.newest: Assignment | None = None
        self._trainer = trainer
        self._storage = storage
        self._kept: Assignment | None = None
        self._file = Path(file) if file else None
        self._inference = None if self._file is None else self._load()

    def _load(self) -> "Inference":
        from device_sdk.inference import Inference  # noqa: PLC0415 - not all devices predict

        return Inference(self._trainer, self._file)

    def predict(self, x: npt.ArrayLike) -> npt.NDArray[np.float32]:
        """Return the model's outputs for samples ``x``; see `Device.predict`."""
        inference = self._inference = self._inference or self._load()
        assignment = self._assignment()
        if assignment is not None:
            inference.adopt(assignment)
        return inference.predict(x)

    def _assignment(self) -> Assignment | None:
        """Return the newest, which may come from another thread while what was kept is read."""
        if self.newest is None and self._kept is None:
            self._kept = self._read()
        if self.newest is not None:
            self._kept = None
        return self.newest or self._kept

    def _read(self) -> Assignment | None:
        kept = unpack_held(self._storage.load())
        if kept is None:
            return None
        model, spec = kept
        return Assignment(model.params, model.version, spec, training={}, seed=bytes(32))
