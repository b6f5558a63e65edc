"""The trainer for the engine that a device's configuration names."""

from typing import TYPE_CHECKING

from device_sdk.config import TrainingConfig
from device_sdk.trainer import NumpyTrainer, Trainer
from protocol.errors import ConfigError

if TYPE_CHECKING:
    from device_sdk.engine.data import Data


def trainer_for(config: TrainingConfig, data: "Data") -> Trainer:
    """Return a trainer on ``data``.

    Raises ConfigError for a file that cannot be used, or an engine that is not installed.
    """
    # Imported only where they are asked for: most devices have neither, and a second costs.
    if config.engine == "torch":
        try:
            from device_sdk.adapters.torch import TorchTrainer  # noqa: PLC0415
        except ImportError as error:
            raise ConfigError(f"engine: {error}; pip install 'fedbus[torch]'") from None
        return TorchTrainer(data=data)
    if config.engine == "tflite":
        from device_sdk.adapters.tflite import SignatureTrainer  # noqa: PLC0415

        return SignatureTrainer(config.engine_file, data=data)
    return NumpyTrainer(data=data)
