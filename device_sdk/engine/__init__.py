"""The small NumPy engine: layers, losses, optimisers, and a model described by data.

A spec (`parse_spec`) becomes a `Model`, whose params are one flat float32 vector; `fit` trains it.
"""

from device_sdk.engine.data import Data, load_npz
from device_sdk.engine.errors import TrainingError
from device_sdk.engine.model import Metrics, Model
from device_sdk.engine.spec import ModelSpec, parse_spec
from device_sdk.engine.training import Fitted, TrainingSettings, fit

__all__ = [
    "Data",
    "Fitted",
    "Metrics",
    "Model",
    "ModelSpec",
    "TrainingError",
    "TrainingSettings",
    "fit",
    "load_npz",
    "parse_spec",
]
