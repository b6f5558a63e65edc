"""The fedbus device SDK: keep the data, train on it, publish sparse deltas.

A device engineer writes one class, or none::

    from device_sdk import Device, Trainer
    class Vibration(Trainer): ...
    Device.from_config("device.toml", Vibration()).run()
"""

from importlib import import_module
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from device_sdk.config import DeviceConfig
    from device_sdk.device import Device
    from device_sdk.features import FeatureTrainer
    from device_sdk.inference import NoModelError
    from device_sdk.samples import SampleStore, sample_key
    from device_sdk.trainer import Assignment, NumpyTrainer, Trained, Trainer, TrainingError

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

SDK_VERSION: Final = "0.1.0"

#: Where each name is: a device loads only what it asks for, and an aggregator no MQTT client of it.
_MODULES: Final = {
    "Assignment": "trainer",
    "Device": "device",
    "DeviceConfig": "config",
    "FeatureTrainer": "features",
    "NoModelError": "inference",
    "NumpyTrainer": "trainer",
    "SampleStore": "samples",
    "Trained": "trainer",
    "Trainer": "trainer",
    "TrainingError": "trainer",
    "sample_key": "samples",
}


def __getattr__(name: str) -> object:
    """Load a name's module when the name is asked for."""
    if name not in _MODULES:
        raise AttributeError(name)
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
