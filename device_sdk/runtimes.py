"""TensorFlow Lite on this device: whichever package is installed, and whether it really works.

An import proves little: tflite-runtime 2.14 imports beside NumPy 2, for which it was not built, and
fails, or crashes, when a model is loaded. So versions are looked at first, and then one tiny model
is run before any other.
"""

import base64
import importlib
import threading
import zlib
from functools import cache
from pathlib import Path
from typing import Any, Final, Protocol, TypedDict

import numpy as np
import numpy.typing as npt

from device_sdk.engine.errors import TrainingError
from protocol.errors import ConfigError

Float32 = npt.NDArray[np.float32]

#: In this order; the second is for 32-bit ARM and for old systems.
RUNTIMES: Final = ("ai_edge_litert", "tflite_runtime")
_ADVICE: Final = "pip install 'fedbus[litert]', or 'fedbus[tflite]' for Python 3.11 and 32-bit ARM"
#: Samples that are run at once where a model takes any number.
_BATCH: Final = 32


class RuntimeMissingError(ConfigError):
    """No TensorFlow Lite that works; the message says what was tried and what to install."""


class Details(TypedDict):
    """What a runtime says about an input or an output."""

    index: int
    shape: npt.NDArray[np.int32]
    shape_signature: npt.NDArray[np.int32]
    dtype: type[np.generic]
    quantization: tuple[float, int]


class Interpreter(Protocol):
    """A loaded model, as both packages have it."""

    def allocate_tensors(self) -> None: ...  # noqa: D102
    def get_input_details(self) -> list[Details]: ...  # noqa: D102
    def get_output_details(self) -> list[Details]: ...  # noqa: D102
    def resize_tensor_input(self, index: int, shape: tuple[int, ...], /) -> None: ...  # noqa: D102
    def set_tensor(self, index: int, value: npt.NDArray[np.generic], /) -> None: ...  # noqa: D102
    def get_tensor(self, index: int, /) -> npt.NDArray[np.generic]: ...  # noqa: D102
    def invoke(self) -> None: ...  # noqa: D102


class Runtime:
    """One installed package that has proven itself; ``name`` is its name and version."""

    def __init__(self, package: str) -> None:
        """Raise RuntimeMissingError, which says why it is of no use."""
        try:
            module = importlib.import_module(package)
        except ImportError:
            raise RuntimeMissingError(f"{package} is not installed") from None
        version = str(getattr(module, "__version__", "0"))
        self.name = f"{package} {version}"
        _check_versions(package, version)
        try:
            self._interpreters: Any = importlib.import_module(f"{package}.interpreter")
            proof = TfliteModel(self.interpreter(zlib.decompress(base64.b64decode(_PROOF))))
            result = proof.predict(np.ones((1, 2), np.float32))
        except Exception as error:  # a library that does not fit its surroundings fails in any way
            raise RuntimeMissingError(f"{self.name} does not work here: {error!r}") from error
        if result.tolist() != [[6.0]]:  # 2 + 3 + 1
            raise RuntimeMissingError(f"{self.name} computes {result.tolist()}, not [[6.0]]")

    def interpreter(self, model: bytes) -> Interpreter:
        """Load a model. Raises what the package raises for one that it cannot read."""
        made: Interpreter = self._interpreters.Interpreter(model_content=model, num_threads=1)
        return made

    def load(self, file: Path) -> "TfliteModel":
        """Load a file. Raises ConfigError that names it."""
        try:
            return TfliteModel(self.interpreter(file.read_bytes()))
        except OSError as error:
            raise ConfigError(f"{file}: {error.strerror}") from None
        except (ValueError, RuntimeError) as error:
            raise ConfigError(f"{file}: {self.name} cannot use it: {error}") from None


class TfliteModel:
    """One input, one output, numbers in and float32 out; also for int8 and int32 borders.

    May be used by several threads. Raises ConfigError for a model that is not like this.
    """

    def __init__(self, interpreter: Interpreter) -> None:
        self._interpreter = interpreter
        self._lock = threading.Lock()
        interpreter.allocate_tensors()
        inputs, outputs = interpreter.get_input_details(), interpreter.get_output_details()
        if len(inputs) != 1 or len(outputs) != 1:
            raise ConfigError(
                f"it has {len(inputs)} inputs and {len(outputs)} outputs, not one each"
            )
        self._input, self._output = inputs[0], outputs[0]
        shape = self._input["shape"].tolist()
        self.input_shape: tuple[int, ...] = tuple(shape[1:])
        self.output_shape: tuple[int, ...] = tuple(self._output["shape"].tolist()[1:])
        # A model may say that it takes any number of samples; all others take what they say.
        signature = self._input["shape_signature"].tolist()
        self._batch = _BATCH if signature and signature[0] == -1 else shape[0]
        if not shape or (signature[0] != -1 and shape[0] != 1):
            raise ConfigError(f"its input has shape {shape}: the first side must be 1, or any")
        self._rows = shape[0]

    def predict(self, x: npt.ArrayLike) -> Float32:
        """Return outputs (n, *output shape) for ``x`` (n, *input shape).

        Raises TrainingError for another shape.
        """
        samples = np.asarray(x)
        if samples.shape[1:] != self.input_shape or not samples.ndim:
            raise TrainingError(
                f"x must have shape {('n', *self.input_shape)}, not {samples.shape}"
            )
        y = np.empty((len(samples), *self.output_shape), np.float32)
        with self._lock:
            for start in range(0, len(samples), self._batch):
                rows = slice(start, start + self._batch)
                y[rows] = self._run(_encode(samples[rows], self._input))
        return y

    def _run(self, x: npt.NDArray[np.generic]) -> Float32:
        if len(x) != self._rows:
            self._interpreter.resize_tensor_input(self._input["index"], x.shape)
            self._interpreter.allocate_tensors()
            self._rows = len(x)
        self._interpreter.set_tensor(self._input["index"], x)
        self._interpreter.invoke()
        return _decode(self._interpreter.get_tensor(self._output["index"]), self._output)


@cache
def find_runtime() -> Runtime:
    """Return the first of `RUNTIMES` that works. Raises RuntimeMissingError."""
    problems = []
    for package in RUNTIMES:
        try:
            return Runtime(package)
        except RuntimeMissingError as error:
            problems.append(str(error))
    raise RuntimeMissingError(f"no TensorFlow Lite: {'; '.join(problems)}; {_ADVICE}")


def _check_versions(package: str, version: str) -> None:
    """Refuse what would be a crash: tflite-runtime up to 2.14 was built for NumPy 1."""
    old = tuple(int(part) for part in version.split(".")[:2]) <= (2, 14)
    if package == "tflite_runtime" and old and int(np.__version__.partition(".")[0]) > 1:
        raise RuntimeMissingError(
            f"tflite_runtime {version} needs numpy<2, and {np.__version__} is installed"
        )


def _encode(x: npt.NDArray[np.generic], details: Details) -> npt.NDArray[np.generic]:
    """Return ``x`` as the input has it: rounded to its integers where it is quantised."""
    dtype, (scale, zero_point) = np.dtype(details["dtype"]), details["quantization"]
    if not scale:
        return np.ascontiguousarray(x, dtype)
    limits = np.iinfo(dtype)
    numbers = np.round(x.astype(np.float32) / np.float32(scale)) + np.float32(zero_point)
    return numbers.clip(limits.min, limits.max).astype(dtype)


def _decode(y: npt.NDArray[np.generic], details: Details) -> Float32:
    scale, zero_point = details["quantization"]
    numbers = y.astype(np.float32)
    return numbers if not scale else (numbers - np.float32(zero_point)) * np.float32(scale)


#: ``2 a + 3 b + 1`` as a ``.tflite``; tests/device_sdk/test_runtimes.py makes it again.
_PROOF: Final = (
    b"eNpdUbtOw0AQHCcmcYgFRrIiihQUFCnDo6BAIgWioqCgorFCYgdLloMSB0hHSZGSb6Ci4Av4Ggq+AjO3XoPhzuO7He"
    b"3OPq4H4PLs/ACV5aOLbf49uHCEsWmBHPBEfBBvxIqoExbhid+6xti8gTdQCTgmNol5OLuL00kwDqPhIskkzvg4GuOo"
    b"nq2aSz2NffWV5yX/oH5eDXgm0bd+a3C5m1KLI9pcrZbG+WJuVHqzaRW8qXOH2CV6xBpxO5tOI4090rPsF1rXBY1Pnc"
    b"Wp6vtSi4u26hezgePq/ZW9lFp11TI220Enz3P1t3ytxfCkJWaLiBZJsgxG0zQNR1k4Dg7Vx1K809dcXeWNRoO4jofz"
    b"gC/9kheztCXN4wkqNRS9dWRC+Hl/s5pkCzdX/foyZeA+jCc3WbBvspiZNlRbYwf8BqjUWPuTA+U7MaYtOar9dyv911"
    b"Q3ToO9/3q2bOAbei4+6w=="
)
