"""From a scenario to a world: its devices, how long they train, and what befalls them."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Final

from aggregator.task_config import TaskConfig
from device_sdk.pending import Pending
from device_sdk.trainer import Assignment
from protocol.stream import Stream, derive
from simulator.availability import Always, Availability, Diurnal
from simulator.broker_limits import BrokerLimits
from simulator.device import SimulatedDevice
from simulator.draws import Draws
from simulator.enrolment import Enrolled, enrol
from simulator.remote import TrainRemote
from simulator.rogue import Rogue
from simulator.scenario import Scenario
from simulator.scenario_parts import ROGUES
from simulator.trainers import DeviceTrainer, Here, Member, Trainers
from simulator.training_times import TrainingTimes, exponential
from simulator.world import World
from transport import Counters

_LIMITS: Final = {"shipped": BrokerLimits.shipped, "stock": BrokerLimits.stock}

#: Makes the place where trainings run, of all trainers and what tells the virtual time.
Elsewhere = Callable[[Trainers, Callable[[], float]], TrainRemote]
Note = Callable[[str], None]
#: Told of each update that a device has a receipt (True) or a refusal for.
Closed = Callable[[Pending, bool], None]


class Fleet:
    """A world with everything in it that a scenario names, at its beginning.

    ``traffic`` counts what went over the connections of each class. ``note`` is told what a reader
    of the curves should know, when it happens; ``closed`` what devices are told of their updates.
    Raises ConfigError.
    """

    def __init__(
        self,
        scenario: Scenario,
        seed: int,
        trainers: Trainers,
        elsewhere: Elsewhere = Here,
    ) -> None:
        self.scenario = scenario
        self.trainers = trainers
        self.devices: list[SimulatedDevice] = []
        self.rogues: list[Rogue] = []
        self.traffic = {each.name: Counters() for each in scenario.classes}
        self.note: Note = lambda _text: None
        self.closed: Closed = lambda _pending, _counted: None
        self._root = derive(seed.to_bytes(32, "little"), "simulate", scenario.name)
        self._config = task_of(scenario, seed)
        self._enrolled = self._enrol()
        self.world = World(
            self._config,
            self._root,
            latency_s=scenario.broker.latency_s,
            enrolment=None if self._enrolled is None else self._enrolled.enrolment,
            limits=_LIMITS[scenario.broker.limits](),
            train=elsewhere(trainers, self._now),
        )
        for member in trainers.members:
            self.world.queue.at(self._joins_at(member), partial(self._join, member))
        self._plan_events()

    @property
    def clients(self) -> list[SimulatedDevice | Rogue]:
        """All that have joined until now."""
        return [*self.devices, *self.rogues]

    def _now(self) -> float:
        return self.world.now

    def _draws(self, purpose: str, number: int) -> Draws:
        return Draws(derive(self._root, purpose, number))

    def _enrol(self) -> Enrolled | None:
        secure = self.scenario.secure
        if not secure.enabled:
            return None
        names = [member.name for member in self.trainers.members]
        num_params = self._config.trained().layout.size
        parameters = secure.parameters(self._config, len(names), num_params)
        return enrol(secure, parameters, self._config.task, names, derive(self._root, "enrol"))

    # --- joining -----------------------------------------------------------------------------

    def _joins_at(self, member: Member) -> float:
        """Return when a device is switched on first: spread evenly, in order."""
        of = member.of
        count = self.scenario.counts[self.scenario.classes.index(of)]
        return of.joins_at_s + of.joins_within_s * member.place / count

    def _join(self, member: Member) -> None:
        if member.of.attack in ROGUES:
            self._join_rogue(member)
            return
        device = self.world.add(
            member.name,
            DeviceTrainer(self.trainers, member.name, self._now),
            self._duration(member),
            keys=None if self._enrolled is None else self._enrolled.keys[member.name],
            counters=self.traffic[member.of.name],
            link=member.of.link,
            availability=self._availability(member),
            updates_per_wake=member.of.updates_per_wake,
        )
        device.closed = self.closed
        self.devices.append(device)
        if member.of.crashes_per_hour:
            self._crash_later(member, device, self._draws("faults", member.number))

    def _join_rogue(self, member: Member) -> None:
        rogue = Rogue(
            member.name,
            member.of.attack,
            1.0 / member.of.messages_per_s,
            world=self.world,
            seed=derive(self._root, "rogue", member.name),
            counters=self.traffic[member.of.name],
            link=member.of.link,
        )
        self.rogues.append(rogue)

    def _availability(self, member: Member) -> Availability:
        """Return when a device is there; in a trace file its own hours, or its turn among all."""
        table = member.of.availability
        match table.kind:
            case "diurnal":
                drawn = self._draws("hours", member.number).next()
                phase = (table.phase + table.phase_spread * drawn) % 1.0
                return Diurnal(
                    period_s=table.period_s,
                    on_fraction=table.on_fraction,
                    phase=phase,
                    drops=table.drops,
                )
            case "trace":
                traces = self.scenario.traces(table)
                names = sorted(traces)
                name = member.name if member.name in traces else names[member.place % len(names)]
                return replace(traces[name], drops=table.drops)
        return Always()

    # --- training times ----------------------------------------------------------------------

    def _duration(self, member: Member) -> Callable[[Assignment], float]:
        """Return how long each training takes; one in which the device vanishes never ends."""
        draws = self._draws("times", member.number)
        times = TrainingTimes(member.of.training, partial(self._num_passed, member), draws)
        vanish = member.of.vanish

        def duration(_assignment: Assignment) -> float:
            took = times.next()
            if vanish and draws.next() < vanish:
                self.world.queue.after(took * draws.next(), partial(self._vanish, member.name))
            return took

        return duration

    def _num_passed(self, member: Member) -> float:
        """Return how many samples one training passes over now, all epochs."""
        has_drifted = self.trainers.has_drifted(self.world.now)
        num_samples = self.trainers.num_samples(member.name, has_drifted=has_drifted)
        return num_samples * float(self._config.training.get("epochs", 1))

    def _vanish(self, name: str) -> None:
        device = self.world.devices[name]
        if device.running:
            device.lose_power(down_s=None)
            self.note(f"{name} vanished")

    # --- what befalls it ---------------------------------------------------------------------

    def _crash_later(self, member: Member, device: SimulatedDevice, draws: Draws) -> None:
        wait_s = exponential(draws, 3_600.0 / member.of.crashes_per_hour)

        def crash() -> None:
            if device.running:
                device.lose_power(down_s=member.of.crash_down_s)
            self._crash_later(member, device, draws)

        self.world.queue.after(wait_s, crash)

    def _plan_events(self) -> None:
        queue, scenario = self.world.queue, self.scenario
        for away in scenario.broker.restart:
            queue.at(away.at_s, partial(self._restart_broker, away.down_s, forget=away.forget))
        for killed in scenario.server.restart:
            queue.at(killed.at_s, partial(self._restart_server, killed.down_s))
        for number, reboot in enumerate(scenario.reboot):
            queue.at(reboot.at_s, partial(self._reboot, number, reboot.share, reboot.down_s))
        if scenario.drift is not None:
            kind = scenario.drift.kind.replace("_", " ")
            queue.at(scenario.drift.at_s, lambda: self.note(f"drift: {kind}"))

    def _restart_broker(self, down_s: float, *, forget: bool) -> None:
        self.note(f"broker down for {down_s:g} s" + (", forgetting all" if forget else ""))
        self.world.broker.restart(forget=forget, down_s=down_s)

    def _restart_server(self, down_s: float) -> None:
        self.note(f"aggregator killed, back after {down_s:g} s")
        self.world.server.lose_power(down_s=down_s)

    def _reboot(self, number: int, share: float, down_s: float) -> None:
        """Cut the power of a share of all devices, drawn anew."""
        count = round(share * len(self.devices))
        self.note(f"{count} devices lose power for {down_s:g} s")
        order = Stream(derive(self._root, "reboot", number)).permutation(len(self.devices))
        for place in sorted(order[:count].tolist()):
            if self.devices[place].running:
                self.devices[place].lose_power(down_s=down_s)


def task_of(scenario: Scenario, seed: int) -> TaskConfig:
    """Return the task with first params that differ from seed to seed."""
    return replace(scenario.task, init_seed=scenario.task.init_seed + seed)
