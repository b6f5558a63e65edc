"""Gradient inversion: samples back from what they changed in a model.

Geiping et al., NeurIPS 2020, "Inverting Gradients: How easy is it to break privacy in federated
learning?": exactly, through a dense layer that takes the samples (section 3, proposition 3.1), and
by search, for samples whose gradient points the same way (section 4, equation 4).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from device_sdk.engine import Model
from device_sdk.engine.arrays import Array, Targets
from device_sdk.engine.layers import Dense
from device_sdk.engine.network import views
from fedbus.audit.passes import derivatives

Floats = npt.NDArray[np.float64]

#: Of the units of a dense layer, those whose bias moved most are tried.
MAX_UNITS: Final = 256
#: A unit whose bias moved by less than this part of the largest move was dead: 0/0.
_DEAD: Final = 1e-6
#: Adam's (Kingma and Ba, ICLR 2015) usual constants.
_BETA, _SECOND_BETA, _EPSILON = 0.9, 0.999, 1e-8
#: At these parts of the search the rate drops to a tenth.
_DROPS: Final = (3 / 8, 5 / 8, 7 / 8)
#: How far params are moved, relative to their size, to differentiate along a direction.
_NUDGE: Final = 1e-5


@dataclass(frozen=True, slots=True)
class Search:
    """How samples are searched for: ``steps`` of Adam from each of ``restarts`` beginnings.

    ``smooth`` weighs the total variation of samples that are images or series, (..., channels).
    """

    steps: int = 300
    restarts: int = 1
    rate: float = 0.1
    smooth: float = 0.01


@dataclass(frozen=True, slots=True)
class Clue:
    """What the attacker knows: the model, and of the update more than most would.

    ``params`` (flat, float64) were trained from, ``delta`` is the update, and ``labels`` has the
    label of each sample behind it. Several steps of training are taken for one on all samples.
    """

    model: Model
    params: Array
    delta: Array
    labels: Targets


@dataclass(frozen=True, slots=True)
class Found:
    """Samples (n, *input shape), and 1 - the cosine between their gradient and the given one."""

    x: Floats
    distance: float


def analytic(model: Model, delta: Array) -> Floats:
    """Return guesses (m, *input shape) from an update ``delta`` (flat), one for each unit.

    For every sample, each unit of a dense layer moves its weights by the sample times what it moves
    its bias by: a unit that was active for one sample alone shows it exactly. m is 0 for a model
    whose samples meet no dense layer with a bias first.
    """
    spec = model.spec
    for layer, tensors in zip(spec.layers, views(spec, delta), strict=True):
        if layer.is_view:
            continue
        if not (isinstance(layer, Dense) and layer.bias):
            break
        return _quotients(*tensors).reshape(-1, *spec.input)
    return np.empty((0, *spec.input))


def _quotients(weight: Array, bias: Array) -> Floats:
    size = np.abs(bias)
    alive = np.flatnonzero(size > _DEAD * size.max(initial=0.0))
    chosen = alive[np.argsort(-size[alive], kind="stable")][:MAX_UNITS]
    return np.asarray((weight[:, chosen] / bias[chosen]).T, np.float64)


def label(model: Model, delta: Array) -> int:
    """Return the label of the one sample behind ``delta`` (Zhao et al. 2020, iDLG).

    Of cross-entropy after a dense layer with a bias: the true class alone is pushed up.
    """
    return int(views(model.spec, delta)[-1][-1].argmax())


def search(
    clue: Clue,
    how: Search,
    rng: np.random.Generator,
    box: tuple[float, float] = (-np.inf, np.inf),
) -> Found:
    """Look for samples whose gradient points against the update; ``box`` is the range of the data.

    The derivative of the cosine by the samples is that of a product with a fixed vector, which is
    the change of the samples' own derivative when params move along that vector: three passes a
    step.
    """
    shape = (len(clue.labels), *clue.model.spec.input)
    starts = [np.clip(rng.normal(size=shape), *box) for _ in range(how.restarts)]
    return min((_descend(clue, how, x, box) for x in starts), key=lambda found: found.distance)


def _descend(clue: Clue, how: Search, x: Floats, box: tuple[float, float]) -> Found:
    best = Found(x.copy(), np.inf)
    mean, square = np.zeros_like(x), np.zeros_like(x)
    for step, rate in enumerate(_rates(how), 1):
        distance, slope = _distance(clue, x)
        if distance < best.distance:
            best = Found(x.copy(), distance)
        slope = np.sign(slope + how.smooth * _roughness(x))
        mean += (1 - _BETA) * (slope - mean)
        square += (1 - _SECOND_BETA) * (slope**2 - square)
        corrected = np.sqrt(square / (1 - _SECOND_BETA**step)) + _EPSILON
        x = np.clip(x - rate * mean / (1 - _BETA**step) / corrected, *box)
    return best


def _rates(how: Search) -> Iterator[float]:
    for step in range(how.steps):
        yield how.rate * 0.1 ** sum(step >= part * how.steps for part in _DROPS)


def _distance(clue: Clue, x: Floats) -> tuple[float, Floats]:
    """Return 1 - cosine, and its derivative by ``x``."""
    spec, params, wanted = clue.model.spec, clue.params, -clue.delta
    own = derivatives(spec, params, x, clue.labels).by_params
    size, wanted_size = float(np.linalg.norm(own)), float(np.linalg.norm(wanted))
    if not size or not wanted_size or not np.isfinite(size):
        return 1.0, np.zeros_like(x)
    cosine = float(own @ wanted) / (size * wanted_size)
    along = (cosine * own / size - wanted / wanted_size) / size
    length = float(np.linalg.norm(along))
    if not length:
        return 1 - cosine, np.zeros_like(x)
    nudge = _NUDGE * max(float(np.linalg.norm(params)), 1.0) / length
    ahead = derivatives(spec, params + nudge * along, x, clue.labels).by_x
    behind = derivatives(spec, params - nudge * along, x, clue.labels).by_x
    return 1 - cosine, np.asarray((ahead - behind) / (2 * nudge), np.float64)


def _roughness(x: Floats) -> Floats:
    """The derivative of total variation, over the axes between samples and channels."""
    slope = np.zeros_like(x)
    for axis in range(1, x.ndim - 1):
        step = np.sign(
            np.diff(x, axis=axis, prepend=np.take(x, [0], axis), append=np.take(x, [-1], axis))
        )
        slope -= np.diff(step, axis=axis) / x.size
    return slope
