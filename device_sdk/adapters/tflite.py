"""A ``.tflite`` file with training signatures as the engine: `device_sdk.adapters.signatures`.

TensorFlow makes such files, and `aggregator.export.training` does for small models. One of the
packages that `device_sdk.runtimes` knows must be installed.
"""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np
import numpy.typing as npt

from device_sdk.adapters.passes import Passes, trained
from device_sdk.adapters.signatures import (
    LEARNING_RATE,
    LOSS,
    RESTORE,
    SAVE,
    TRAIN,
    X,
    Y,
    tensor_key,
)
from device_sdk.engine import (
    Data,
    Model,
    TrainingError,
    TrainingSettings,
    parse_spec,
)
from device_sdk.engine.arrays import Numbers, Targets
from device_sdk.engine.optimisers import norm_of
from device_sdk.engine.subset import changed_subset
from device_sdk.runtimes import Details, find_runtime
from device_sdk.trainer import Assignment, Trained, Trainer
from protocol.errors import ConfigError
from protocol.settings import build
from protocol.vectors.layout import Layout

Float32 = npt.NDArray[np.float32]

#: Settings that only the file itself could follow, and what they are where nobody asks for them.
_NOT_OURS: Final = {"optimiser": "sgd", "momentum": 0.0, "nesterov": False, "clip_norm": None}


class Runner(Protocol):
    """One signature of a loaded file, as both packages have it."""

    def __call__(self, **inputs: Numbers) -> dict[str, Numbers]: ...  # noqa: D102
    def get_input_details(self) -> dict[str, Details]: ...  # noqa: D102
    def get_output_details(self) -> dict[str, Details]: ...  # noqa: D102


class SignatureTrainer(Trainer):
    """Trains the plan's model with what the file's ``train`` does, one batch a call.

    ``file`` must be of the model in the plan; ``data`` and ``num_samples`` are as for
    `NumpyTrainer`. The steps are the file's, plain SGD: of a plan's settings it can follow passes,
    steps, batch size, learning rate and schedule, and, between the steps, weight decay, the
    proximal term and which tensors are trained. Others are refused, not ignored. A memory budget is
    not kept: it is of the SDK's engine.
    Raises ConfigError for a file that cannot be used, or without a TensorFlow Lite.
    """

    def __init__(self, file: Path | str, *, data: Data, num_samples: int | None = None) -> None:
        self._file = SignatureFile(Path(file))
        self._passes = Passes(data, num_samples)

    def num_samples(self) -> int:
        """Samples at hand, as far as that is known."""
        return self._passes.num_samples()

    def train(self, assignment: Assignment) -> Trained:
        """Train from the assignment's params; metrics are those of `NumpyTrainer`.

        Raises ConfigError for a plan that the file cannot follow, TrainingError for data that does
        not fit, or numbers that are not finite in most steps.
        """
        settings = build(TrainingSettings, assignment.training, "training")
        model = Model(parse_spec(assignment.model))
        self._file.check(model, settings)
        model.check_params(assignment.params)
        descent = _Descent(self._file, model, settings, assignment.params)
        fitted = self._passes.run(descent.step, model, settings, assignment)
        return trained(model, settings, assignment, descent.params, fitted)


class SignatureFile:
    """A file with signatures, loaded. Raises ConfigError that names it if one is missing."""

    def __init__(self, path: Path) -> None:
        self._path = path
        runtime = find_runtime()
        try:
            loaded: Any = runtime.interpreter(path.read_bytes())
            found = loaded.get_signature_list()
        except OSError as error:
            raise ConfigError(f"{path}: {error.strerror}") from None
        except (ValueError, RuntimeError) as error:
            raise ConfigError(f"{path}: {runtime.name} cannot use it: {error}") from None
        missing = [key for key in (TRAIN, SAVE, RESTORE) if key not in found]
        if missing:
            raise ConfigError(
                f"{path}: no signature {missing[0]!r} among {', '.join(found) or 'none'}; "
                f"it can predict, not train"
            )
        self._train, self._save, self._restore = (
            _runner(loaded, key) for key in (TRAIN, SAVE, RESTORE)
        )
        self._inputs = self._train.get_input_details()
        for key in sorted({X, Y} - self._inputs.keys()):
            raise ConfigError(f"{path}: train has no input {key!r}")
        if LOSS not in self._train.get_output_details():
            raise ConfigError(f"{path}: train has no output {LOSS!r}")

    @property
    def has_rate(self) -> bool:
        """Whether ``train`` takes a learning rate, or steps as it was made to."""
        return LEARNING_RATE in self._inputs

    def check(self, model: Model, settings: TrainingSettings) -> None:
        """Raise ConfigError unless the file can train the model, as the settings ask."""
        keys = {tensor_key(each.name): each.shape for each in model.layout.tensors}
        for word, details in (
            (SAVE, self._save.get_output_details()),
            (RESTORE, self._restore.get_input_details()),
        ):
            self._check_tensors(word, keys, details)
        targets = model.spec.shapes[-1] if model.spec.loss.dense_targets else ()
        for key, shape in ((X, model.spec.input), (Y, targets)):
            if self._sample(key) != shape:
                raise ConfigError(
                    f"{self._path}: a sample's {key} is {self._sample(key)}, the plan's {shape}"
                )
        for key, default in _NOT_OURS.items():
            if getattr(settings, key) != default:
                raise ConfigError(
                    f"training.{key}: {getattr(settings, key)!r} is not what {self._path} does: "
                    f"it takes plain steps of SGD"
                )
        if not self.has_rate and (settings.weight_decay or settings.proximal):
            raise ConfigError(
                f"training.weight_decay and proximal need a learning rate, but {self._path} "
                f"has its own"
            )

    def restore(self, arrays: Mapping[str, Float32]) -> None:
        """Set all params, by the layout's names."""
        self._restore(**{tensor_key(name): array for name, array in arrays.items()})

    def save(self, layout: Layout) -> Float32:
        """Return all params as they are now, flat."""
        saved = self._save()
        return layout.flatten({each.name: saved[tensor_key(each.name)] for each in layout.tensors})

    def train(self, x: Numbers, y: Targets, rate: float) -> float:
        """Take a step; return the loss before it. Raises TrainingError if the runtime fails."""
        inputs = {
            key: each.astype(self._inputs[key]["dtype"]).reshape(len(each), *self._sample(key))
            for key, each in ((X, x), (Y, y))
        }
        if self.has_rate:
            inputs[LEARNING_RATE] = np.asarray(rate, self._inputs[LEARNING_RATE]["dtype"])
        try:
            return float(np.asarray(self._train(**inputs)[LOSS]).item())
        except (RuntimeError, ValueError) as error:
            raise TrainingError(f"{self._path}: a batch of {len(x)} fails: {error}") from None

    def _sample(self, key: str) -> tuple[int, ...]:
        """Shape of one sample's part of an input."""
        return tuple(self._inputs[key]["shape"].tolist()[1:])

    def _check_tensors(
        self, word: str, expected: Mapping[str, tuple[int, ...]], details: Mapping[str, Details]
    ) -> None:
        found = {key: tuple(each["shape"].tolist()) for key, each in details.items()}
        for key in sorted(expected.keys() - found.keys()):
            raise ConfigError(f"{self._path}: {word} has no {key!r}, which the plan's model has")
        for key in sorted(found.keys() - expected.keys()):
            raise ConfigError(f"{self._path}: {word} has {key!r}, which the plan's model has not")
        for key, shape in expected.items():
            if found[key] != shape:
                raise ConfigError(f"{self._path}: {word}: {key} is {found[key]}, not {shape}")


class _Descent:
    """The file's steps, and what is put right between two of them.

    A step of plain SGD along a sum of gradients is the sum of the steps along each. So what the
    file does not know, the pulls of weight decay and of the proximal term, is added afterwards.
    """

    def __init__(
        self, file: SignatureFile, model: Model, settings: TrainingSettings, base: Float32
    ) -> None:
        self._file, self._layout = file, model.layout
        self._weight_decay, self._proximal = settings.weight_decay, settings.proximal
        self._frozen = np.ones(base.size, np.bool_)
        for part in changed_subset(model.spec, settings.selection(model.spec)).slices:
            self._frozen[part] = False
        self._base = self.params = base
        self._restore(base)

    def step(self, x: Numbers, y: Targets, rate: float) -> float:
        """Take a step; or none, and return NaN, if its numbers are not finite.

        Kernels of some runtimes clip what they write, so that NaN comes out as -3.4e38. So the
        samples are looked at too, and params too large to square are none.
        """
        if not np.isfinite(x).all() or not np.isfinite(y).all():
            return math.nan
        loss = self._file.train(x, y, rate)
        after = self._file.save(self._layout)
        if not math.isfinite(loss) or not _is_bounded(after):
            self._restore(self.params)
            return math.nan
        if self._weight_decay or self._proximal or self._frozen.any():
            self._correct(after, rate)
            self._restore(after)
        self.params = after
        return loss

    def _correct(self, after: Float32, rate: float) -> None:
        before = self.params
        pull = self._weight_decay * before + self._proximal * (before - self._base)
        after -= np.float32(rate) * pull
        after[self._frozen] = before[self._frozen]

    def _restore(self, params: Float32) -> None:
        self._file.restore(self._layout.views(np.ascontiguousarray(params)))


def _is_bounded(params: Float32) -> bool:
    with np.errstate(over="ignore", invalid="ignore"):
        return math.isfinite(norm_of(params))


def _runner(loaded: Any, key: str) -> Runner:  # noqa: ANN401 - neither package has types
    runner: Runner = loaded.get_signature_runner(key)
    return runner
