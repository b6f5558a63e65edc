"""The fedbus device SDK: keep the data, train on it, publish sparse deltas.

A device engineer writes one class, or none::

    from device_sdk import Device, Trainer
    class Vibration(Trainer): ...
    Device.from_config("device.toml", Vibration()).run()
"""

from device_sdk.config import DeviceConfig
from device_sdk.device import SDK_VERSION, Device
from device_sdk.samples import SampleStore, sample_key
from device_sdk.trainer import Assignment, NumpyTrainer, Trained, Trainer, TrainingError

__all__ = [
    "SDK_VERSION",
    "Assignment",
    "Device",
    "DeviceConfig",
    "NumpyTrainer",
    "SampleStore",
    "Trained",
    "Trainer",
    "TrainingError",
    "sample_key",
]
