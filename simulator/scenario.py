"""Scenario files: a whole fleet in one TOML file.

::

    name = "limited_devices"          # of reports; a-z 0-9 _ -
    about = "half are slow"           # a sentence for its readers
    duration_s = 300                  # virtual seconds
    target = 0.95                     # optional: end at this accuracy of held-out rows
    updates = 0                       # optional: end when so many were counted
    seed = 0                          # what is drawn, unless the caller says another
    devices = 0                       # how many in all, where classes have shares of them
    evaluate_every = 1                # versions

    [data]                            # not with [dry]
    source = "digits"                 # or: file = "x.npz", relative to this file, ${FEDBUS_DATA}
    x = "x"                           # the file's arrays; client and test are optional
    y = "y"
    client = "speaker"                # whose each row is
    test = "is_test"                  # true: held out
    scale = 255                       # x is divided by it
    standardise = false               # by mean and deviation of the rows to train on
    split = "dirichlet"               # alpha; shards: shards; clients: client; speed: slow_labels
    held_out = 0.2

    [task] [fairness] [bandwidth] [selection] [robust] [conduct] [privacy] [secure]
                                      # as in the aggregator's own file

    [broker]                          # limits = "shipped" or "stock", latency_s
    [[broker.restart]]                # at_s, down_s, forget
    [[server.restart]]                # at_s, down_s
    [[reboot]]                        # at_s, share, down_s: so many devices at once

    [[class]]
    name = "watch"
    count = 10                        # or share = 0.5
    training = { seconds = 3, law = "lognormal", spread = 1.0, per = "device" }
    memory_budget = "1 MiB"
    link = "lte"                      # a name of `simulator.profiles`, or { profile, up_bps,
                                      #   down_bps, latency_s, jitter_s, loss, outages }
    availability = "always"           # or { kind = "diurnal", period_s, on_fraction, phase,
                                      #   phase_spread }, { kind = "trace", file }; drops
    updates_per_wake = 1              # asleep until its next hours after so many; 0: at their end
    slow = true                       # of the slow ones, in splits and reports
    crashes_per_hour = 2              # crash_down_s
    vanish = 0.01                     # the probability, at each training, to be gone for good
    attack = "sign_flip"              # strength; nan, replay, sybil, flood: messages_per_s
    joins_at_s = 0                    # joins_within_s

    [drift]                           # at_s, kind, step or labels
    [dry]                             # delta, num_samples: no learning, the protocol alone
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

from aggregator.config import FLEET_TABLES, as_written, with_fleet
from aggregator.scheduling.rounds import Rounds
from aggregator.secure_config import NONE, SecureConfig
from aggregator.task_config import TaskConfig
from device_sdk.engine.plan import plan_training
from device_sdk.engine.settings import TrainingSettings
from protocol.errors import ConfigError
from protocol.settings import build, refuse_unknown, told_as
from protocol.topics import check_id
from simulator.availability import Trace, read_trace
from simulator.data import DataConfig, Dataset, deal, load_data
from simulator.links import LinkProfile
from simulator.profiles import PROFILES
from simulator.scenario_events import check_moments, check_reboots, check_sites
from simulator.scenario_learning import check_drift, check_rows
from simulator.scenario_parts import (
    MAX_S,
    AvailabilityTable,
    BrokerTable,
    DeviceClass,
    Drift,
    Dry,
    Reboot,
    Restart,
    ServerTable,
    check_ranges,
)
from simulator.scenario_toml import read_source

#: A task that the file gives no name.
TASK: Final = "simulated"
#: Shares may sum to so much more or less than 1.
_SHARES_OFF: Final = 1e-6


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """What a scenario file says. ``folder`` is where it lies: names of files are relative to it."""

    name: str
    duration_s: float
    task: TaskConfig
    classes: tuple[DeviceClass, ...] = ()
    about: str = ""
    target: float = 0.0
    updates: int = 0
    seed: int = 0
    devices: int = 0
    evaluate_every: int = 1
    data: DataConfig = field(default_factory=DataConfig)
    secure: SecureConfig = field(default_factory=lambda: SecureConfig(scheme=NONE))
    broker: BrokerTable = field(default_factory=BrokerTable)
    server: ServerTable = field(default_factory=ServerTable)
    reboot: tuple[Reboot, ...] = ()
    drift: Drift | None = None
    dry: Dry | None = None
    folder: str = ""

    def __post_init__(self) -> None:
        check_id(self.name, "name")
        check_ranges(self, _RANGES)
        self._check_classes()
        if self.target and self.dry:
            raise ConfigError("target: nothing is learned in a [dry] scenario; use updates")

    def _check_classes(self) -> None:
        if not self.classes:
            raise ConfigError("class: a fleet without devices; add a [[class]]")
        names = [each.name for each in self.classes]
        for at, name in enumerate(names):
            if name in names[:at]:
                raise ConfigError(f"classes[{at}].name: two are called {name!r}")
        for at, each in enumerate(self.classes):
            if each.share and not self.devices:
                raise ConfigError(f"classes[{at}].share: of how many? set devices at the top")
        wanted = sum(self._wanted)
        if self.devices and abs(wanted - self.devices) > _SHARES_OFF * self.devices:
            raise ConfigError(
                f"devices: {self.devices}, but the classes make {wanted:.12g} of them: let shares"
                " sum to 1 (a count is count / devices), or leave devices out if all have a count"
            )
        if not all(self.counts):
            at = self.counts.index(0)
            raise ConfigError(
                f"classes[{at}].share: an empty class; {self.classes[at].share} of {self.devices}"
                " devices is not even one"
            )

    @property
    def _wanted(self) -> list[float]:
        """How many devices each class asks for, in parts of devices."""
        return [each.count or each.share * self.devices for each in self.classes]

    @property
    def counts(self) -> tuple[int, ...]:
        """How many devices each class has; of shares, the rest goes to the largest remainders."""
        wanted = self._wanted
        counts = [int(each + 1e-9) for each in wanted]
        shared = [place for place, each in enumerate(self.classes) if each.share]
        total = round(sum(wanted[place] for place in shared))
        missing = total - sum(counts[place] for place in shared)
        shared.sort(key=lambda place: counts[place] - wanted[place])
        for place in shared[:missing]:
            counts[place] += 1
        return tuple(counts)

    @property
    def num_devices(self) -> int:
        """How many devices there are."""
        return sum(self.counts)

    @property
    def is_slow(self) -> list[bool]:
        """Of each device, class by class, whether it is one of the slow ones."""
        pairs = zip(self.classes, self.counts, strict=True)
        return [each.slow for each, count in pairs for _ in range(count)]

    def data_set(self) -> Dataset:
        """Read the data. Raises ConfigError."""
        return load_data(self.data, Path(self.folder))

    def traces(self, table: AvailabilityTable) -> dict[str, Trace]:
        """Read a trace file. Raises ConfigError."""
        return _traces(Path(self.folder) / table.file)

    def check(self) -> None:
        """Check what goes beyond single tables: data, split, model. Raises ConfigError."""
        with told_as("task"):
            self.task.check()
        with told_as("secure"):
            self._check_secure()
        if isinstance(rounds := self.task.scheduling, Rounds) and rounds.needed > self.num_devices:
            raise ConfigError(
                f"task.rounds: {rounds.needed} updates end a round, but there are"
                f" {self.num_devices} devices"
            )
        for at, each in enumerate(self.classes):
            with told_as(f"classes[{at}].availability.file"):
                if each.availability.file:
                    self.traces(each.availability)
        check_moments(self._moments(), self.duration_s)
        check_reboots(self.reboot, self.num_devices)
        pairs = zip(self.classes, self.counts, strict=True)
        names = [name for each, count in pairs for name in each.device_names(count)]
        check_sites(self.task.selection, names)
        if self.dry is None:
            self._check_learning()

    def _moments(self) -> Iterator[tuple[str, float]]:
        """Yield the key of each event, and when it is to come."""
        lists: dict[str, Sequence[Restart | Reboot]] = {
            "broker.restart": self.broker.restart,
            "server.restart": self.server.restart,
            "reboot": self.reboot,
        }
        for key, events in lists.items():
            yield from ((f"{key}[{at}].at_s", each.at_s) for at, each in enumerate(events))
        for at, each in enumerate(self.classes):
            yield f"classes[{at}].joins_at_s", each.joins_at_s
        if self.drift is not None:
            yield "drift.at_s", self.drift.at_s

    def _check_secure(self) -> None:
        self.secure.check(self.task)
        if self.secure.enabled:
            num_params = self.task.trained().layout.size
            roster = self.secure.parameters(self.task, self.num_devices, num_params)
            self.secure.check_roster(self.task, roster, num_params)

    def _check_learning(self) -> None:
        with told_as("task"):
            spec = self.task.model_spec()
        settings = build(TrainingSettings, self.task.training, "task.training")
        for at, each in enumerate(self.classes):
            with told_as(f"classes[{at}].memory_budget"):
                plan_training(spec, settings, each.memory_budget_bytes)
        data = self.data_set()
        check_rows(spec, data)
        if self.drift is not None:
            check_drift(self.drift, data)
        for at, each in enumerate(self.classes):
            if each.attack in {"label_flip", "backdoor"}:
                with told_as(f"classes[{at}].attack"):
                    _ = data.labels
        deal(self.data, data, self.is_slow, self.seed)


_RANGES: Final[Mapping[str, tuple[float, float]]] = {
    "duration_s": (1e-3, MAX_S),
    "target": (0, 1),
    "updates": (0, 1 << 40),
    "seed": (0, (1 << 31) - 1),
    "devices": (0, 10_000_000),
    "evaluate_every": (1, 1_000_000),
}


#: What may stand at the top of a file, as it is written there.
_KEYS: Final = (
    *(each.name for each in fields(Scenario) if each.name not in {"classes", "folder"}),
    "class",
    *FLEET_TABLES,
)


@lru_cache(maxsize=8)
def _traces(path: Path) -> dict[str, Trace]:
    return read_trace(path)


def load_scenario(path: Path) -> Scenario:
    """Read and check a scenario file, its data included.

    Raises ConfigError that names the file, the line and the key.
    """
    source = read_source(path)
    try:
        scenario = build(Scenario, _tables(source.table))
        scenario = replace(scenario, folder=str(path.parent))
        scenario.check()
    except ConfigError as error:
        raise source.error(as_written(str(error)).replace("classes[", "class[")) from None
    return scenario


def _tables(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the file's tables as `Scenario` names them, with what may be left out."""
    refuse_unknown(given, _KEYS)
    for key in ("data", "drift"):
        if "dry" in given and key in given:
            raise ConfigError(
                f"{key}: nothing is learned in a [dry] scenario; leave one of them out"
            )
    tables = dict(with_fleet(given))
    if isinstance(task := tables.get("task"), dict):
        tables["task"] = {"task": TASK, **task}
    if isinstance(classes := tables.pop("class", None), list):
        tables["classes"] = [
            _spelled_out(at, each) if isinstance(each, dict) else each
            for at, each in enumerate(classes)
        ]
    return tables


def _spelled_out(at: int, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return a class's table with its link's and availability's names looked up."""
    table = dict(given)
    link = table.get("link", {})
    link = {"profile": link} if isinstance(link, str) else link
    if isinstance(link, dict) and (name := link.get("profile")) is not None:
        if not isinstance(name, str) or name not in PROFILES:
            raise ConfigError(
                f"classes[{at}].link: {name!r}: use {', '.join(PROFILES)}, or a table"
            )
        rest = {key: value for key, value in link.items() if key != "profile"}
        table["link"] = {**_as_table(PROFILES[name]), **rest}
    if isinstance(table.get("availability"), str):
        table["availability"] = {"kind": table["availability"]}
    return table


def _as_table(profile: LinkProfile) -> dict[str, Any]:
    table = asdict(profile)
    return {**table, "outages": list(table["outages"])}
