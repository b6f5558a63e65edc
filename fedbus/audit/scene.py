"""What a configuration makes of data: devices that train, and what others see of them."""

import math
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Final

import numpy as np
import numpy.typing as npt

from aggregator.config import AggregatorConfig
from aggregator.privacy.central import Central
from device_sdk.engine import Model, TrainingSettings, fit
from device_sdk.engine.arrays import Numbers, Targets
from device_sdk.engine.data import as_blocks
from fedbus.audit import relay
from fedbus.audit.masked import Cohort, smallest_cohort
from protocol.errors import ConfigError
from protocol.settings import build
from protocol.stream import derive
from protocol.vectors.packing import SparseDelta, decode, encode

Floats = npt.NDArray[np.float64]
Float32 = npt.NDArray[np.float32]

#: Of made-up data.
_MADE_UP: Final = 4_000


@dataclass(frozen=True, slots=True)
class Data:
    """Samples ``x`` (n, *input shape) with their targets; ``is_real``: not made up."""

    x: Numbers
    y: Targets
    is_real: bool

    def rows(self, rows: npt.NDArray[np.intp]) -> "Data":
        """Return some of them."""
        return Data(self.x[rows], self.y[rows], self.is_real)

    @property
    def box(self) -> tuple[float, float]:
        """The smallest and the largest number."""
        numbers = self.x.astype(np.float64)
        return float(numbers.min()), float(numbers.max())


@dataclass(frozen=True, slots=True)
class Sent:
    """A device's samples, the version it trained from, and what its training has changed."""

    data: Data
    base: Float32
    delta: Float32


class Scene:
    """A task with its data. ``seed`` (32 bytes) decides everything that is drawn.

    Raises ConfigError for data that do not fit the model, or too few of them.
    """

    def __init__(
        self, config: AggregatorConfig, data: Data, *, num_samples: int, seed: bytes
    ) -> None:
        self.config = config
        self.is_masked = config.secure.enabled
        self.task = config.task.settled(masked=self.is_masked)
        self.model = Model(self.task.model_spec())
        self.trained = self.task.trained()
        self.data = data
        self.num_samples = num_samples
        self.seed = seed
        self.training = build(TrainingSettings, self.task.training, "training")
        self.first = self.model.init(derive(seed, "first"))
        self._num_released = 0
        rng = np.random.default_rng(list(derive(seed, "split")))
        order = rng.permutation(len(data.y)).astype(np.intp)
        half = len(order) // 2
        #: Rows that devices may have, and rows that nobody trains on.
        self.inside, self.outside = order[:half], order[half:]
        if half < self.num_devices * num_samples:
            raise ConfigError(
                f"--data: {len(order)} samples are too few: {self.num_devices} devices with"
                f" {num_samples} each are half of {2 * self.num_devices * num_samples}"
            )

    @property
    def num_devices(self) -> int:
        """How many take part: of a masked task at least as many as its cohort needs."""
        return smallest_cohort(self.config.secure, self.task) if self.is_masked else 8

    @cached_property
    def cohort(self) -> Cohort:
        """The devices of a masked task. Raises ConfigError."""
        return Cohort(
            self.config.secure,
            self.task,
            self.num_devices,
            self.trained.layout.size,
            derive(self.seed, "cohort"),
        )

    @property
    def most_versions(self) -> float:
        """How many versions a device's privacy budget lasts for."""
        privacy = self.task.privacy
        return privacy.most_updates if privacy.enabled else math.inf

    @property
    def is_lookup(self) -> bool:
        """Whether samples name rows of a table: then there is nothing to move them along."""
        return self.model.spec.layers[0].looks_up

    # --- devices -----------------------------------------------------------------------------

    def rows_of(self, trial: int, device: int, num_samples: int) -> npt.NDArray[np.intp]:
        """Return the rows of one device; no two of a trial have the same."""
        rng = np.random.default_rng([*derive(self.seed, "rows"), trial])
        order = rng.permutation(self.inside)
        return order[device * num_samples : (device + 1) * num_samples]

    def train(self, base: Float32, rows: npt.NDArray[np.intp], *, once: bool = False) -> Sent:
        """Train as the plan says; ``once``: one step of plain SGD on all rows."""
        data, params = self.data.rows(rows), base.copy()
        settings = self.training
        if once:
            settings = TrainingSettings(batch_size=len(rows), learning_rate=settings.learning_rate)
        settings = replace(settings, batch_size=min(settings.batch_size, len(rows)))
        seed = derive(self.seed, "training", int(rows[0]))
        fit(self.model, params, as_blocks((data.x, data.y)), settings, seed)
        return Sent(data, base, params - base)

    # --- what others see ---------------------------------------------------------------------

    def in_the_open(self, sent: Sent) -> Floats:
        """Return the delta that is decoded from a plain update, (params,)."""
        codec, layout = self.task.uplink, self.trained.layout
        seeds = {name: derive(self.seed, name) for name in ("rounding", "support")}
        delta = self.trained.take(sent.delta)
        body = encode(
            delta, codec, layout, rounding_seed=seeds["rounding"], support_seed=seeds["support"]
        )
        return self._whole(decode(body, codec, layout, support_seed=seeds["support"]).dense())

    def under_the_mask(self, sent: Sent, device: int) -> Floats:
        """Return what one device's masked update looks like."""
        update = self.cohort.masked(device, self.trained.take(sent.delta), len(sent.data.y))
        return self._whole(self.cohort.seen(update.body))

    def summed(self, sent: list[Sent]) -> Floats:
        """Return the mean that the aggregator learns of some devices."""
        deltas = [(self.trained.take(each.delta), len(each.data.y)) for each in sent]
        if self.is_masked:
            return self._whole(self.cohort.summed(deltas))
        if self.task.privacy.is_central:
            return self._whole(self._released([delta for delta, _ in deltas]))
        weights = [count for _, count in deltas]
        return self._whole(np.average([delta for delta, _ in deltas], axis=0, weights=weights))

    def _released(self, deltas: list[Float32]) -> Floats:
        """Return the private mean, with noise that is new each time."""
        self._num_released += 1
        seed = derive(self.seed, "privacy", self._num_released)
        central = Central(self.task.privacy, {}, seed)
        total = np.zeros(self.trained.layout.size)
        for delta in deltas:
            central.bounded(SparseDelta(None, delta, delta.size), 1.0).add_to(total, 1.0)
        return central.released(total, len(deltas)) / len(deltas)

    def relayed(self, sent: Sent, device: int, insiders: range) -> Floats:
        """Return what a relay reads of one device, with the shares of some holders open.

        Of one with as many samples as count: of fewer, less is left beside a mask's errors.
        """
        most = max(1, self.config.secure.samples_cap)
        update = self.cohort.masked(device, self.trained.take(sent.delta), most)
        return self._whole(relay.read(self.cohort, update, insiders))

    def _whole(self, values: npt.NDArray[np.floating]) -> Floats:
        nothing = np.zeros(self.trained.whole.size)
        return self.trained.replaced(nothing, values.astype(np.float64))


def made_up(model: Model, seed: bytes) -> Data:
    """Return data for a model without any: what an attack on updates shows, it shows with these.

    Numbers are uniform in 0 to 1, classes are drawn. Raises ConfigError where only real targets
    will do.
    """
    spec = model.spec
    rng = np.random.default_rng(list(derive(seed, "made up")))
    x = rng.random((_MADE_UP, *spec.input)).astype(np.float32)
    shape = spec.shapes[-1]
    if spec.layers[0].looks_up or spec.loss.dense_targets:
        raise ConfigError("--data: this model cannot be audited without samples of its own")
    return Data(x, rng.integers(0, shape[-1], len(x)), is_real=False)
