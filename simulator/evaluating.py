"""How good a version is: on all held-out rows, and on those that belong to a device class."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from aggregator.strategy import Float32
from device_sdk.engine.data import as_blocks
from device_sdk.engine.errors import TrainingError
from device_sdk.engine.model import Model
from device_sdk.engine.statistics import measure_statistics, needs_statistics
from simulator.data import Dealt
from simulator.drift import present
from simulator.scenario import Scenario
from simulator.trainers import Trainers

#: Of each held-out row, how much it counts for a device class.
Weights = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Scores:
    """All None and empty where the model cannot be evaluated: a dry run, or one that diverged."""

    accuracy: float | None = None
    loss: float | None = None
    by_group: Mapping[str, float] = field(default_factory=dict)


class _Cell(NamedTuple):
    """Rows that count alike for everybody: for all rows first, then for each group."""

    x: npt.NDArray[np.generic]
    y: npt.NDArray[np.generic]
    weights: Weights


class _HeldOut(NamedTuple):
    x: npt.NDArray[np.generic]
    y: npt.NDArray[np.generic]
    groups: tuple[str, ...]
    cells: tuple[_Cell, ...]


class Evaluator:
    """Of one run. Each row is evaluated once, whatever it counts for."""

    def __init__(self, scenario: Scenario, trainers: Trainers) -> None:
        self._model = Model(scenario.task.model_spec())
        self._trainers = trainers
        self._scenario = scenario
        self._held_out: dict[bool, _HeldOut] = {}

    def evaluate(self, params: Float32, now: float) -> Scores:
        """Evaluate params on what is held out at this time."""
        dealt = self._trainers.dealt
        if dealt is None:
            return Scores()
        has_drifted = self._trainers.has_drifted(now)
        if has_drifted not in self._held_out:
            self._held_out[has_drifted] = self._prepare(dealt, has_drifted=has_drifted)
        held_out = self._held_out[has_drifted]
        try:
            if needs_statistics(self._model.spec):
                blocks = as_blocks((held_out.x, held_out.y))
                params = measure_statistics(self._model, params, blocks)
            return self._scores(params, held_out)
        except TrainingError:
            return Scores()

    def _prepare(self, dealt: Dealt, *, has_drifted: bool) -> _HeldOut:
        x, y = self._trainers.held_out(has_drifted=has_drifted)
        labels = dealt.y[dealt.held_out]
        labels = labels[present(self._scenario.drift, labels, has_begun=has_drifted)]
        groups = _groups(self._scenario, self._trainers, dealt, labels)
        table = np.stack([np.ones(len(y)), *groups.values()], axis=1)
        kinds, cell_of = np.unique(table, axis=0, return_inverse=True)
        cells = []
        for number, weights in enumerate(kinds):
            rows = cell_of.reshape(-1) == number
            cells.append(_Cell(x[rows], y[rows], weights))
        return _HeldOut(x, y, tuple(groups), tuple(cells))

    def _scores(self, params: Float32, held_out: _HeldOut) -> Scores:
        """Add up the cells."""
        loss, num_rows = 0.0, 0
        right, counted = np.zeros(1 + len(held_out.groups)), np.zeros(1 + len(held_out.groups))
        is_classified = True
        for cell in held_out.cells:
            metrics = self._model.evaluate(params, cell.x, cell.y)
            loss += metrics.loss * metrics.num_samples
            num_rows += metrics.num_samples
            is_classified = metrics.accuracy is not None
            right += cell.weights * (metrics.accuracy or 0.0) * metrics.num_samples
            counted += cell.weights * metrics.num_samples
        if not num_rows:  # all of what is held out is still to come
            return Scores()
        mean_loss = round(loss / num_rows, 6)
        if not is_classified:
            return Scores(None, mean_loss)
        shares = [round(float(part), 6) for part in right / np.maximum(counted, 1e-12)]
        by_group = {
            name: shares[place]
            for place, name in enumerate(held_out.groups, start=1)
            if counted[place] > 0
        }
        return Scores(shares[0], mean_loss, by_group)


def _groups(
    scenario: Scenario, trainers: Trainers, dealt: Dealt, y: npt.NDArray[np.generic]
) -> dict[str, Weights]:
    """Return what each row counts for each class; ``y`` are their labels before any drift.

    A label that turned is another word for the same rows, and devices hold theirs as before.
    Where data are dealt by client, a row counts for the class that holds its client; where slow
    devices own labels, a row of those for the slow classes and any other for the others; else, and
    for clients that nobody holds, as often as the class has the row's label.
    """
    data = scenario.data
    if data.split == "speed":
        is_slow_label = np.isin(y, data.slow_labels)
        return {
            each.name: (is_slow_label if each.slow else ~is_slow_label).astype(np.float64)
            for each in scenario.classes
        }
    if (owners := _owners(scenario, trainers, dealt)) is not None:
        return owners
    return _by_label(scenario, trainers, dealt, y)


def _owners(scenario: Scenario, trainers: Trainers, dealt: Dealt) -> dict[str, Weights] | None:
    """Return whose each held-out row is; None: of nobody who trains, or not known."""
    client = scenario.data_set().client
    if client is None or scenario.data.split != "clients" or scenario.drift is not None:
        return None
    of_rows = client[dealt.held_out]
    found: dict[str, Weights] = {}
    for each in scenario.classes:
        mine = [dealt.devices[member.number] for member in trainers.members if member.of is each]
        theirs = np.unique(client[np.concatenate(mine)])
        found[each.name] = (np.isin(of_rows, theirs) & (of_rows >= 0)).astype(np.float64)
    return found if any(weights.any() for weights in found.values()) else None


def _by_label(
    scenario: Scenario, trainers: Trainers, dealt: Dealt, y: npt.NDArray[np.generic]
) -> dict[str, Weights]:
    if not trainers.num_labels:
        return {}
    length = trainers.num_labels
    held_out = np.bincount(y.astype(np.int64), minlength=length)
    found: dict[str, Weights] = {}
    for each in scenario.classes:
        mine = [dealt.devices[member.number] for member in trainers.members if member.of is each]
        counts = np.bincount(dealt.y[np.concatenate(mine)].astype(np.int64), minlength=length)
        weights = counts / np.maximum(held_out, 1)
        found[each.name] = weights[y.astype(np.int64)]
    return found
