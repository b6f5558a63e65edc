"""The fedbus device SDK: keep the data, train on it, publish sparse deltas.

A device engineer writes one class, or none::

    from device_sdk import Device, Trainer
    class Vibration(Trainer): ...
    Device.from_config("device.toml", Vibration()).run()
"""

from typing import TYPE_CHECKING

from device_sdk.config import DeviceConfig
from device_sdk.device import SDK_VERSION, Device
from device_sdk.trainer import Assignment, NumpyTrainer, Trained, Trainer, TrainingError

if TYPE_CHECKING:
    from device_sdk.features import FeatureTrainer
    from device_sdk.inference import NoModelError
    from device_sdk.samples import SampleStore, sample_key

__all__ = [
    "SDK_VERSION",
    "Assignment",
    "Device",
    "DeviceConfig",
    "FeatureTrainer",
    "NoModelError",
    "NumpyTrainer",
    "SampleStore",
    "Trained",
    "Trainer",
    "TrainingError",
    "sample_key",
]

_LATER = {
    "FeatureTrainer": "features",
    "NoModelError": "inference",
    "SampleStore": "samples",
    "sample_key": "samples",
}


def __getattr__(name: str) -> object:
    """Load what not every device needs when it is asked for."""
    if name not in _LATER:
        raise AttributeError(name)
    from importlib import import_module  # noqa: PLC0415 - as late as the rest

    return getattr(import_module(f"{__name__}.{_LATER[name]}"), name)
