"""Models as ``.tflite`` files, for TensorFlow Lite and LiteRT (extra ``[export]``)."""

from aggregator.export.model import Calibration, export

__all__ = ["Calibration", "export"]
