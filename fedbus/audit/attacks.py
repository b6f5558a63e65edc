"""The audit: every attack on what a configuration shows, and what it came to."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from fedbus.audit import inversion, membership
from fedbus.audit.figures import correlation, likeness
from fedbus.audit.scene import Scene, Sent
from protocol.secagg.parameters import PAIRWISE
from protocol.stream import derive

Floats = npt.NDArray[np.float64]

INVERSION, RELAY, MEMBERSHIP = "inversion", "relay", "membership"
#: What came of an attack.
SHOWN, PARTLY, HIDDEN = "shown", "partly shown", "hidden"
#: A reconstruction that correlates so well is the sample.
_SHOWN_FROM: Final = 0.9
#: Beyond what unrelated samples have in common with a guess, this much is of the sample itself.
_HIDDEN_BELOW: Final = 0.1
#: Areas under the curve: members are told from others half of the time better than by a coin.
_TOLD_FROM, _UNTOLD_BELOW = 0.75, 0.55
#: Guesses outside the data's range by more than this part of it are thrown away.
_MARGIN: Final = 0.05


@dataclass(frozen=True, slots=True)
class Effort:
    """``trials`` devices are attacked each way; ``search`` how hard (None: by formula alone).

    ``versions`` are trained before membership is asked for.
    """

    trials: int = 10
    search: inversion.Search | None = None
    versions: int = 20


@dataclass(frozen=True, slots=True)
class Finding:
    """One attack on one thing seen.

    ``value`` is the mean correlation of samples with the best guess at them (inversion), of an
    update with what is read of it (relay), or the area under the curve (membership);
    ``by_chance`` the same for what was not there; ``best`` that of the luckiest trial. ``psnr``
    is in dB. ``must_hide``: the configuration promises that it is hidden.
    """

    attack: str
    seen: str
    value: float
    by_chance: float
    best: float
    verdict: str
    psnr: float | None = None
    found: float | None = None
    must_hide: bool = False

    @property
    def is_broken(self) -> bool:
        """Whether a promise is."""
        return self.must_hide and self.verdict != HIDDEN


def audit(scene: Scene, effort: Effort) -> Iterator[Finding]:
    """Run all attacks; the findings come as they are ready."""
    if not scene.is_lookup:
        yield from _inversions(scene, effort)
    if scene.data.is_real:
        yield from _memberships(scene, effort)


# --- inversion -----------------------------------------------------------------------------------


def _inversions(scene: Scene, effort: Effort) -> Iterator[Finding]:
    count = scene.num_samples
    many = f"{count} samples"

    def single(trial: int) -> tuple[Floats, list[Sent]]:
        sent = scene.train(scene.first, scene.rows_of(trial, 0, 1), once=True)
        return sent.delta.astype(np.float64), [sent]

    yield _inverted(scene, effort, single, "an open update of one sample (not sent: the control)")
    if not scene.is_masked:
        yield _inverted(scene, effort, _open(scene), f"one device's update, {many}, as configured")
        return
    yield _inverted(scene, effort, _masked(scene), f"one device's masked update, {many}", hide=True)
    size = scene.cohort.smallest_sum
    yield _inverted(
        scene, effort, _sum(scene, size), f"the smallest sum, {size} devices, {many} each"
    )
    if scene.cohort.parameters.scheme != PAIRWISE:
        yield from _relays(scene, effort)


def _relays(scene: Scene, effort: Effort) -> Iterator[Finding]:
    given = scene.cohort.parameters
    cases = [
        (0, "the relay's copy of all shares", True),
        (given.num_noise, f"the relay with {given.num_noise} of {given.num_devices} holders", True),
        (given.num_answers, f"with U = {given.num_answers} of them (the control)", False),
    ]
    for num_insiders, seen, hide in cases:
        yield _relayed(scene, effort, range(num_insiders), seen, hide=hide)


def _relayed(scene: Scene, effort: Effort, insiders: range, seen: str, *, hide: bool) -> Finding:
    """How much of one device's update somebody reads who has these holders' shares."""
    values, chances = [], []
    for trial in range(effort.trials):
        sent, other = _sent(scene, trial, 2)
        found = scene.relayed(sent, trial % scene.num_devices, insiders)
        values.append(correlation(found, sent.delta.astype(np.float64)))
        chances.append(correlation(found, other.delta.astype(np.float64)))
    value, by_chance = float(np.mean(values)), float(np.mean(chances))
    verdict = _verdict(value, by_chance)
    return Finding(RELAY, seen, value, by_chance, max(values), verdict, must_hide=hide)


View = Callable[[int], tuple[Floats, list[Sent]]]


def _sent(scene: Scene, trial: int, num_devices: int) -> list[Sent]:
    rows = [scene.rows_of(trial, at, scene.num_samples) for at in range(num_devices)]
    return [scene.train(scene.first, each) for each in rows]


def _open(scene: Scene) -> View:
    def view(trial: int) -> tuple[Floats, list[Sent]]:
        (sent,) = _sent(scene, trial, 1)
        return scene.in_the_open(sent), [sent]

    return view


def _masked(scene: Scene) -> View:
    def view(trial: int) -> tuple[Floats, list[Sent]]:
        (sent,) = _sent(scene, trial, 1)
        return scene.under_the_mask(sent, trial % scene.num_devices), [sent]

    return view


def _sum(scene: Scene, size: int) -> View:
    def view(trial: int) -> tuple[Floats, list[Sent]]:
        sent = _sent(scene, trial, size)
        return scene.summed(sent), sent

    return view


def _inverted(
    scene: Scene,
    effort: Effort,
    view: View,
    seen: str,
    *,
    hide: bool = False,
) -> Finding:
    low, high = scene.data.box
    values, chances, ratios = [], [], []
    for trial in range(effort.trials):
        delta, sent = view(trial)
        samples = np.concatenate([each.data.x for each in sent]).astype(np.float64)
        others = scene.data.x[scene.outside[: len(samples)]].astype(np.float64)
        guesses = _guesses(scene, effort, delta, sent, trial)
        best = [likeness(guesses, sample, high - low) for sample in samples]
        chance = [likeness(guesses, sample, high - low).correlation for sample in others]
        values.append(float(np.mean([each.correlation for each in best])))
        ratios.append(float(np.mean([each.psnr for each in best])))
        chances.append(float(np.mean(chance)))
    value, by_chance = float(np.mean(values)), float(np.mean(chances))
    return Finding(
        INVERSION,
        seen,
        value,
        by_chance,
        max(values),
        _verdict(value, by_chance),
        psnr=float(np.mean(ratios)),
        must_hide=hide,
    )


def _verdict(value: float, by_chance: float) -> str:
    if value >= _SHOWN_FROM:
        return SHOWN
    return HIDDEN if value - by_chance < _HIDDEN_BELOW else PARTLY


def _guesses(scene: Scene, effort: Effort, delta: Floats, sent: list[Sent], trial: int) -> Floats:
    """What an attacker would show: guesses that could be data, or the one it trusts most."""
    box = scene.data.box
    exact = inversion.analytic(scene.model, delta)
    margin = _MARGIN * (box[1] - box[0])
    could_be = (exact >= box[0] - margin) & (exact <= box[1] + margin)
    inside = could_be.all(axis=tuple(range(1, exact.ndim)))
    guesses = exact[inside] if inside.any() else exact[:1]
    if effort.search is None:
        return guesses
    labels = np.concatenate([each.data.y for each in sent])
    clue = inversion.Clue(scene.model, scene.first.astype(np.float64), delta, labels)
    rng = np.random.default_rng([*derive(scene.seed, "search"), trial])
    found = inversion.search(clue, effort.search, rng, box)
    return np.concatenate([guesses, found.x])


# --- membership ----------------------------------------------------------------------------------


def _memberships(scene: Scene, effort: Effort) -> Iterator[Finding]:
    """Devices train for some versions; then models and updates are asked who was there."""
    rows = [scene.rows_of(0, at, scene.num_samples) for at in range(scene.num_devices)]
    model = scene.first
    num_versions = int(min(effort.versions, scene.most_versions))
    for _ in range(num_versions):
        sent = [scene.train(model, each) for each in rows]
        model = (model + scene.summed(sent)).astype(np.float32)
    inside = scene.data.rows(np.concatenate(rows))
    outside = scene.data.rows(scene.outside)
    others = (outside.x, outside.y)
    found = membership.by_loss(scene.model, model, (inside.x, inside.y), others)
    yield _told(f"the model after {num_versions} versions", [found])
    sent = [scene.train(model, each) for each in rows]
    if scene.is_masked:
        seen, groups = _smallest_sums(scene, sent)
        deltas = [scene.summed(group) for group in groups]
    else:
        seen, groups = "one device's update", [[each] for each in sent]
        deltas = [scene.in_the_open(each) for each in sent]
    told = []
    for delta, group in zip(deltas, groups, strict=True):
        members = tuple(
            np.concatenate(part)
            for part in zip(*((g.data.x, g.data.y) for g in group), strict=True)
        )
        after = (model + delta).astype(np.float32)
        told.append(
            membership.by_change(scene.model, model, after, (members[0], members[1]), others)
        )
    yield _told(seen, told)


def _smallest_sums(scene: Scene, sent: list[Sent]) -> tuple[str, list[list[Sent]]]:
    size = scene.cohort.smallest_sum
    starts = range(0, len(sent) - size + 1, size)
    return f"the smallest sum, {size} devices", [sent[at : at + size] for at in starts]


def _told(seen: str, separations: list[membership.Separation]) -> Finding:
    areas = [each.auc for each in separations]
    value = float(np.mean(areas))
    verdict = SHOWN if value >= _TOLD_FROM else HIDDEN if value < _UNTOLD_BELOW else PARTLY
    found = float(np.mean([each.found for each in separations]))
    return Finding(MEMBERSHIP, seen, value, 0.5, max(areas), verdict, found=found)
