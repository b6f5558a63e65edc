"""The operator's own update, which FLTrust holds the devices' against.

Trained in the aggregator, on a small root set, from the current params, once a buffer: a root set
of the paper has 100 samples. The seed is the version's, so that a replay trains the same.
"""

from collections.abc import Callable, Mapping
from typing import Any, Final

import numpy as np

from aggregator.robust import Float64
from aggregator.robust.config import FLTRUST
from aggregator.strategy import Float32
from aggregator.task_config import TaskConfig
from aggregator.versions import Versions
from device_sdk.engine.data import Block, as_blocks
from device_sdk.engine.errors import TrainingError
from device_sdk.engine.model import Model
from device_sdk.engine.settings import TrainingSettings
from device_sdk.engine.training import fit
from protocol.errors import ConfigError
from protocol.settings import build
from protocol.stream import derive
from protocol.vectors.layout import Subset

#: The event loop stands still while it trains on them.
MAX_ROOT_ROWS: Final = 1000

#: Returns the root set's delta of the trained params (d,), from the current ones.
RootDelta = Callable[[], Float64]


class RootSet:
    """Trusted ``data``: (x, y) arrays. Raises ConfigError for too many rows, or unfit ones."""

    def __init__(
        self, model: Model, trained: Subset, training: Mapping[str, Any], data: Block, seed: bytes
    ) -> None:
        x, y = data
        if len(x) > MAX_ROOT_ROWS:
            raise ConfigError(
                f"robust.root_file: {len(x)} samples; {MAX_ROOT_ROWS} at most, 100 will do"
            )
        try:
            model.check_batch(x, y)
        except TrainingError as error:
            raise ConfigError(f"robust.root_file: does not fit the model: {error}") from None
        self._model = model
        self._trained = trained
        self._settings = build(TrainingSettings, training, "training")
        self._blocks = as_blocks(data)
        self._seed = seed

    def delta(self, version: int, params: Float32) -> Float64:
        """Return what training from all ``params`` of a version changes the trained ones by.

        Zeros where training fails, since the model has diverged: then nobody is trusted.
        """
        changed = params.copy()
        try:
            fit(
                self._model,
                changed,
                self._blocks,
                self._settings,
                derive(self._seed, "root", version),
                base=params,
            )
        except TrainingError:
            changed = params
        return self._trained.take(changed - params).astype(np.float64)


def root_delta(
    config: TaskConfig, versions: Versions, model: Model, data: Block | None
) -> RootDelta | None:
    """Return how trusted data would change the current version; None if no rule asks.

    Raises ConfigError if one asks, and nobody has read ``robust.root_file``.
    """
    if config.robust.rule != FLTRUST:
        return None
    if data is None:
        raise ConfigError("robust.root_file: nobody has read it: this needs a real aggregator")
    seed = config.init_seed.to_bytes(32, "little")
    root = RootSet(model, config.trained(), config.training, data, seed)
    return lambda: root.delta(versions.number, versions.params)
