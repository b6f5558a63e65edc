"""Membership inference: whether a sample (or a device) was among those a model was trained on.

An attack gives each sample a score, higher for those it takes for members; how well the scores of
members and of others come apart is the area under the ROC curve (0.5: not at all) and the rate of
members found at few false alarms (Carlini et al., IEEE S&P 2022, "Membership Inference Attacks From
First Principles": an attack that names a few for sure is worse than one that is often a bit right).
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from device_sdk.engine import Model
from device_sdk.engine.arrays import Array, Targets

Floats = npt.NDArray[np.float64]
Samples = npt.NDArray[np.generic]

#: How many false alarms the second figure allows.
FALSE_RATE: Final = 0.01
#: Losses are kept from 0 and infinity by so much before their logit is taken.
_TINY: Final = 1e-12


@dataclass(frozen=True, slots=True)
class Separation:
    """How far scores of members lie above those of others.

    ``auc`` is from 0 to 1, 0.5 for a guess; ``found`` the share of members that are found where
    `FALSE_RATE` of the others are taken for members.
    """

    auc: float
    found: float


def separation(members: npt.ArrayLike, others: npt.ArrayLike) -> Separation:
    """Compare scores (n,) of members with those (m,) of others; equal ones count half.

    Raises ValueError if there are none of either, or one is NaN.
    """
    inside, outside = np.asarray(members, np.float64), np.asarray(others, np.float64)
    if not inside.size or not outside.size:
        raise ValueError("scores of members and of others are needed")
    if np.isnan(inside).any() or np.isnan(outside).any():
        raise ValueError("a score is NaN")
    ordered = np.sort(outside)
    below = np.searchsorted(ordered, inside, "left")
    at_most = np.searchsorted(ordered, inside, "right")
    auc = float((below + at_most).sum()) / (2 * inside.size * outside.size)
    highest = ordered[-1 - int(FALSE_RATE * outside.size)]
    return Separation(auc, float(np.mean(inside > highest)))


def sample_losses(model: Model, params: Array, x: Samples, y: Targets) -> Floats:
    """Return the loss of each sample by itself, (n,). Raises TrainingError as `Model.predict`."""
    outputs = model.predict(params, x)
    slope = np.empty_like(outputs[:1])
    loss = model.spec.loss
    rows = range(len(outputs))
    values = [loss.value(outputs[at : at + 1], y[at : at + 1], slope) for at in rows]
    return np.array(values, np.float64)


def by_loss(
    model: Model, params: Array, members: tuple[Samples, Targets], others: tuple[Samples, Targets]
) -> Separation:
    """Take for members whose loss is small (Yeom et al., CSF 2018, section 3)."""
    inside, outside = (sample_losses(model, params, x, y) for x, y in (members, others))
    return separation(-inside, -outside)


def by_change(
    model: Model,
    before: Array,
    after: Array,
    members: tuple[Samples, Targets],
    others: tuple[Samples, Targets],
) -> Separation:
    """Take for members whose loss an update has lowered most.

    The loss before calibrates: hard samples are hard for whoever did not train on them, too
    (Watson et al., ICLR 2022). ``before`` is the base version, ``after`` what the attacker makes
    of the update.
    """
    scores = []
    for x, y in (members, others):
        scores.append(
            sample_losses(model, before, x, y) - sample_losses(model, after, x, y),
        )
    return separation(*scores)


def by_device(
    model: Model,
    params: Array,
    members: Iterable[tuple[Samples, Targets]],
    others: Iterable[tuple[Samples, Targets]],
) -> Separation:
    """Tell devices that took part from those that did not, by the mean loss on all their samples.

    This is what client-level differential privacy bounds: at (epsilon, 0) the area is at most
    ``exp(epsilon) / (1 + exp(epsilon))``.
    """
    inside, outside = (
        [-float(sample_losses(model, params, x, y).mean()) for x, y in devices]
        for devices in (members, others)
    )
    return separation(inside, outside)


def logit(losses: Floats) -> Floats:
    """Return ``log(p / (1 - p))`` for cross-entropies ``-log p``: nearly normal (Carlini, IV.C)."""
    bounded = np.clip(losses, _TINY, None)
    return -bounded - np.log(-np.expm1(-bounded))


def likelihood_ratios(
    scores: npt.ArrayLike, shadow_scores: npt.ArrayLike, shadow_members: npt.ArrayLike
) -> Floats:
    """LiRA (Carlini et al. 2022, algorithm 1, one variance for all): scores (n,) of membership.

    ``scores`` (n,) are the target model's for n samples, as `logit` gives them; ``shadow_scores``
    (m, n) those of m models trained by the attacker, of which ``shadow_members`` (m, n) says who
    had which sample. Raises ValueError for a sample that all of them had, or none.
    """
    target, shadows = np.asarray(scores, np.float64), np.asarray(shadow_scores, np.float64)
    had = np.asarray(shadow_members, np.bool_)
    if shadows.shape != had.shape or shadows.shape[1:] != target.shape:
        raise ValueError(f"{target.shape} scores, {shadows.shape} and {had.shape} of shadows")
    counts = had.sum(axis=0)
    if not ((counts > 0) & (counts < len(had))).all():
        raise ValueError("every sample must be in some shadow models, and missing in others")
    found = []
    for group in (had, ~had):
        mean = np.where(group, shadows, 0.0).sum(axis=0) / group.sum(axis=0)
        spread = np.where(group, shadows - mean, 0.0)
        variance = max(float((spread**2).sum() / group.sum()), _TINY)
        found.append(-((target - mean) ** 2) / (2 * variance) - 0.5 * np.log(variance))
    ratios: Floats = found[0] - found[1]
    return ratios
