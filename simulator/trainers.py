"""Who trains on what: all devices of a run, with their data, drift and lies.

Made from scenario and seed alone, so that a process elsewhere makes the same and trains a shard of
the devices to the same bytes.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from device_sdk.trainer import Assignment, NumpyTrainer, Trained, Trainer, TrainingError
from protocol.errors import LocalProtocolError
from simulator.attackers import backdoored, flipped, lie
from simulator.data import Dealt, deal
from simulator.drift import Features, Targets, drifted
from simulator.dry import DryTrainer
from simulator.scenario import Scenario
from simulator.scenario_parts import ROGUES, DeviceClass

#: Attacks on the data or the wire, not on what came out of training.
_OTHERWISE = ("", "label_flip", *ROGUES)


class Member(NamedTuple):
    """A device: its name, its class, its place among all and within the class."""

    name: str
    of: DeviceClass
    number: int
    place: int


def members(scenario: Scenario) -> list[Member]:
    """Return all devices, class by class."""
    found: list[Member] = []
    for each, count in zip(scenario.classes, scenario.counts, strict=True):
        for place, name in enumerate(each.device_names(count)):
            found.append(Member(name, each, len(found), place))
    return found


class Trainers:
    """Of one scenario and seed. ``dealt`` is None in a dry one."""

    def __init__(self, scenario: Scenario, seed: int) -> None:
        self.members = members(scenario)
        self.dealt: Dealt | None = None
        self.num_labels = 0
        self._scenario = scenario
        self._input = scenario.task.model_spec().input
        self._by_name = {member.name: member for member in self.members}
        self._made: dict[tuple[str, bool], Trainer] = {}
        self._dry: Trainer | None = None
        if scenario.dry is not None:
            self._dry = DryTrainer(scenario.dry.num_samples, scenario.dry.delta)
            return
        self.dealt = deal(scenario.data, scenario.data_set(), scenario.is_slow, seed)
        if self.dealt.y.dtype.kind in "iub":
            self.num_labels = int(self.dealt.y.max()) + 1

    def has_drifted(self, now: float) -> bool:
        """Whether data are the new ones at this time."""
        return self._scenario.drift is not None and now >= self._scenario.drift.at_s

    def num_samples(self, name: str, *, has_drifted: bool) -> int:
        """Return how many samples a device has."""
        return self._trainer(name, has_drifted=has_drifted).num_samples()

    def train(self, name: str, assignment: Assignment, *, has_drifted: bool) -> Trained | None:
        """Train at once; None if that failed."""
        attack, strength = self._by_name[name].of.attack, self._by_name[name].of.strength
        try:
            trained = self._trainer(name, has_drifted=has_drifted).train(assignment)
            if attack in _OTHERWISE:
                return trained
            return lie(attack, strength, assignment, trained)
        except TrainingError:
            return None

    def held_out(self, *, has_drifted: bool) -> tuple[Features, Targets]:
        """Return the rows that nobody trains on, as they are before or after the drift."""
        if self.dealt is None:
            raise TrainingError("a dry run has no data")
        return self._rows(self.dealt, self.dealt.held_out, has_drifted=has_drifted)

    def _rows(
        self, dealt: Dealt, rows: "np.typing.NDArray[np.intp]", *, has_drifted: bool
    ) -> tuple[Features, Targets]:
        x, y = drifted(
            self._scenario.drift,
            dealt.x[rows],
            dealt.y[rows],
            self.num_labels,
            has_begun=has_drifted,
        )
        return x.reshape(len(x), *self._input), y

    def _trainer(self, name: str, *, has_drifted: bool) -> Trainer:
        if self._dry is not None:
            return self._dry
        key = (name, has_drifted)
        if key not in self._made:
            self._made[key] = self._make(self._by_name[name], has_drifted=has_drifted)
        return self._made[key]

    def _make(self, member: Member, *, has_drifted: bool) -> Trainer:
        if self.dealt is None:
            raise TrainingError("a dry run has no data")
        x, y = self._rows(self.dealt, self.dealt.devices[member.number], has_drifted=has_drifted)
        if member.of.attack == "label_flip":
            y = flipped(y, self.num_labels)
        if member.of.attack == "backdoor":
            x, y = backdoored(x, y)
        budget = member.of.memory_budget_bytes
        return NumpyTrainer(
            self._scenario.task.model,  # as the plan's, parsed once
            data=(x, y),
            num_samples=len(x),
            memory_budget_bytes=budget,
        )


class _Begun(NamedTuple):
    device: str
    assignment: Assignment
    has_drifted: bool


class DeviceTrainer(Trainer):
    """One of them in virtual time: says how many samples there are."""

    def __init__(self, trainers: Trainers, name: str, now: Callable[[], float]) -> None:
        self._trainers = trainers
        self._name = name
        self._now = now

    def num_samples(self) -> int:
        """As many as there are now."""
        has_drifted = self._trainers.has_drifted(self._now())
        return self._trainers.num_samples(self._name, has_drifted=has_drifted)

    def train(self, assignment: Assignment) -> Trained:  # noqa: ARG002 - the interface's
        """Nobody calls it: the world's trainings run where `TrainRemote` says."""
        raise LocalProtocolError("this world trains elsewhere")


class Here:
    """`simulator.remote.TrainRemote` in this very process: trains when the result is wanted."""

    def __init__(self, trainers: Trainers, now: Callable[[], float]) -> None:
        self._trainers = trainers
        self._now = now

    def submit(self, device: str, assignment: Assignment) -> object:
        """Remember what is to be trained, and on which data: those of now."""
        return _Begun(device, assignment, self._trainers.has_drifted(self._now()))

    def result(self, handle: object) -> Trained | None:
        """Train."""
        if not isinstance(handle, _Begun):
            raise LocalProtocolError("a handle of somebody else's")
        return self._trainers.train(
            handle.device, handle.assignment, has_drifted=handle.has_drifted
        )
