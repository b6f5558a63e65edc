"""The small NumPy engine: layers, losses, optimisers, and a model described by data.

A spec (`parse_spec`) becomes a `Model`, whose params are one flat float32 vector; `fit` trains it.
What is named here loads when it is first used: a device that trains otherwise loads none of it.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from device_sdk.engine.data import Data, load_npz, load_samples
    from device_sdk.engine.errors import TrainingError
    from device_sdk.engine.model import Metrics, Model
    from device_sdk.engine.plan import MemoryPlan, layer_flops, plan_inference, plan_training
    from device_sdk.engine.settings import TrainingSettings
    from device_sdk.engine.spec import ModelSpec, parse_spec
    from device_sdk.engine.statistics import measure_statistics
    from device_sdk.engine.tally import Fitted
    from device_sdk.engine.training import fit

__all__ = [
    "Data",
    "Fitted",
    "MemoryPlan",
    "Metrics",
    "Model",
    "ModelSpec",
    "TrainingError",
    "TrainingSettings",
    "fit",
    "layer_flops",
    "load_npz",
    "load_samples",
    "measure_statistics",
    "parse_spec",
    "plan_inference",
    "plan_training",
]

_MODULES: Final = {
    "data": ("Data", "load_npz", "load_samples"),
    "errors": ("TrainingError",),
    "model": ("Metrics", "Model"),
    "plan": ("MemoryPlan", "layer_flops", "plan_inference", "plan_training"),
    "settings": ("TrainingSettings",),
    "spec": ("ModelSpec", "parse_spec"),
    "statistics": ("measure_statistics",),
    "tally": ("Fitted",),
    "training": ("fit",),
}


def __getattr__(name: str) -> object:
    for module, names in _MODULES.items():
        if name in names:
            return getattr(import_module(f"{__name__}.{module}"), name)
    raise AttributeError(name)
