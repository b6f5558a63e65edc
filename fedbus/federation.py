"""A whole federation on this machine: files for each process, then the processes.

Every process has a folder of its own, and in it everything it may know and nothing else::

    broker/  aggregator/{fed.toml, password, held_out.npz, key, rosters/, state/, log}
    device-1/{device.toml, password, keys.json, data.npz, state/, log}  ...
    operator/    the enrolment; in real life on none of the machines above
"""

import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import numpy as np

from aggregator.config import load_config
from aggregator.secure_config import NONE
from broker_config.accounts import AGGREGATOR
from broker_config.programs import Engine
from broker_config.running import Broker, running_broker
from fedbus.children import Child, start, stop
from fedbus.datasets import Dataset, Part, Split
from fedbus.enrolment import AGGREGATOR_KEY, ENROLMENT_PUBLIC, enrol, enrol_plain
from fedbus.key_files import read_key
from protocol.secagg.parameters import PAIRWISE, defaults
from protocol.vectors.packing import DENSE
from transport.settings import AUTO, MQTT_3_1_1

TASK: Final = "demo"
HIDDEN_UNITS: Final = 32
#: Devices of the demonstration speak often, so that there is something to see.
TELEMETRY_S: Final = 1
CHECK_IN_S: Final = 2
#: A device's keys, in its own folder.
KEYS: Final = "keys.json"

#: Tables of a TOML file, by name.
Tables = dict[str, Mapping[str, object]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """How the federation learns."""

    mode: str
    codec: str
    seed: int
    engine: Engine = "auto"
    scheme: str = NONE
    support: str = DENSE

    @property
    def secure(self) -> bool:
        """Whether updates are masked."""
        return self.scheme != NONE


@dataclass(frozen=True, slots=True)
class Federation:
    """A running broker, aggregator and devices."""

    broker: Broker
    aggregator: Child
    devices: tuple[Child, ...]
    sizes: Mapping[str, int] = field(default_factory=dict)

    @property
    def children(self) -> tuple[Child, ...]:
        """All processes but the broker."""
        return (self.aggregator, *self.devices)


def device_names(num_devices: int) -> tuple[str, ...]:
    """Return ids that sort as they count."""
    width = len(str(num_devices))
    return tuple(f"device-{number:0{width}}" for number in range(1, num_devices + 1))


@contextmanager
def running_federation(
    folder: Path, recipe: Recipe, data: Dataset, parts: Split
) -> Iterator[Federation]:
    """Run one process a part of ``parts``, an aggregator and a broker while the context lasts.

    Raises BrokerError if no broker can be started, ConfigError for a codec that is none.
    """
    names = device_names(len(parts.devices))
    with running_broker(folder / "broker", names, engine=recipe.engine) as broker:
        fed = _write_aggregator(folder / AGGREGATOR, broker, recipe, data, parts)
        configs = {
            name: _write_device(folder / name, broker, name, part)
            for name, part in zip(names, parts.devices, strict=True)
        }
        _enrol(folder, fed, names)
        children: list[Child] = []
        try:
            children.append(_start_aggregator(fed))
            children += [_start_device(name, config) for name, config in configs.items()]
            sizes = {name: len(part.y) for name, part in zip(names, parts.devices, strict=True)}
            yield Federation(broker, children[0], tuple(children[1:]), sizes)
        finally:
            stop(children)


def _start_aggregator(config: Path) -> Child:
    module = ["fedbus", "aggregator", "run", "--config", str(config)]
    return start(AGGREGATOR, module, config.with_name("log"), {})


def _start_device(name: str, config: Path) -> Child:
    module = ["device_sdk", "run", "--config", str(config)]
    return start(name, module, config.with_name("log"), {})


def _enrol(folder: Path, fed: Path, names: Sequence[str]) -> None:
    """Do what an operator does with `fedbus enrol`: keys to where they belong, nothing more."""
    config, operator = load_config(fed), folder / "operator"
    if config.secure.enabled:
        num_params = config.task.trained().layout.size
        parameters = config.secure.parameters(config.task, len(names), num_params)
        made = enrol(operator, parameters, TASK, names, valid_s=config.secure.epoch_s)
        rosters = Path(config.secure.rosters)
        rosters.mkdir(mode=0o700)
        shutil.copy(made.roster_file, rosters)
        keys_files = made.keys_files
    else:
        keys_files = enrol_plain(operator, TASK, names)
    shutil.copy(operator / AGGREGATOR_KEY, config.identity.key_file)
    for name, keys in keys_files.items():
        shutil.copy(keys, folder / name / KEYS)
    with fed.open("a", encoding="utf-8") as file:
        file.write(f'enrolment_key = "{read_key(operator / ENROLMENT_PUBLIC).hex()}"\n')


def _write_aggregator(
    folder: Path, broker: Broker, recipe: Recipe, data: Dataset, parts: Split
) -> Path:
    folder.mkdir(mode=0o700)
    num_devices = len(parts.devices)
    least = _least(recipe.scheme, num_devices)
    tables: Tables = {
        "": {"state_dir": str(folder / "state"), "monitor_s": 0.5},
        "task": {
            "task": TASK,
            "mode": recipe.mode,
            "codec": recipe.codec,
            "init_seed": recipe.seed,
            "check_in_s": CHECK_IN_S,
            "lease_ttl_s": 30,
        },
        "task.model": {
            "input": [data.x.shape[1]],
            "layers": [
                {"type": "dense", "units": HIDDEN_UNITS},
                {"type": "relu"},
                {"type": "dense", "units": data.num_classes},
            ],
            "loss": "softmax_cross_entropy",
        },
        "task.training": {"epochs": 2, "batch_size": 16, "learning_rate": 0.1},
        "task.buffered": {
            "goal": max(least, num_devices // 2),
            "concurrency": num_devices,
            "max_wait_s": 5.0,
            "min_contributors": least,
        },
        "task.rounds": {
            "size": num_devices,
            "quorum": max(least, (num_devices + 1) // 2),
            "deadline_s": 15.0,
            "gather_s": 5.0,
        },
        "bandwidth": {"model": "int8"},  # the default where updates are not masked
        "broker": _broker_table(folder, broker, AGGREGATOR),
        "evaluation": {"file": _save(folder / "held_out.npz", parts.held_out)},
        "secure": {
            "scheme": recipe.scheme,
            "support": recipe.support,
            "rosters": str(folder / "rosters"),
        },
        "identity": {"key_file": str(folder / "key")},
    }
    return write_tables(folder / "fed.toml", tables)


def _least(scheme: str, num_devices: int) -> int:
    """Return how many updates a sum needs at least, so that it shows nothing of one of them."""
    malicious, noise, _ = defaults(num_devices)
    if scheme == PAIRWISE:
        return max(malicious + 2, noise + 1)
    return 1 if scheme == NONE else malicious + 2


def _write_device(folder: Path, broker: Broker, name: str, part: Part) -> Path:
    folder.mkdir(mode=0o700)
    tables: Tables = {
        "": {"task": TASK, "device": name, "state_dir": str(folder / "state")},
        "data": {"file": _save(folder / "data.npz", part)},
        "telemetry": {"interval_s": TELEMETRY_S},
        "broker": _broker_table(folder, broker, name),
        "identity": {"keys": str(folder / KEYS)},
    }
    return write_tables(folder / "device.toml", tables)


def _broker_table(folder: Path, broker: Broker, account: str) -> Mapping[str, object]:
    password = folder / "password"
    secret = broker.files.secret(account).read_bytes()
    with os.fdopen(os.open(password, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(secret)
    return {
        "host": broker.host,
        "port": broker.port,
        "password_file": str(password),
        "protocol": protocol_of(broker),
    }


def protocol_of(broker: Broker) -> str:
    """Return the MQTT version to ask for: the embedded broker lets MQTT 5 wait for an answer."""
    return MQTT_3_1_1 if broker.embedded else AUTO


def _save(path: Path, part: Part) -> str:
    np.savez(path, x=part.x, y=part.y)
    return str(path)


def write_tables(path: Path, tables: Tables) -> Path:
    """Write a TOML file with these tables, "" being the top, and return where it is."""
    lines = []
    for name, table in tables.items():
        lines += [f"[{name}]"] if name else []
        lines += [f"{key} = {_toml(value)}" for key, value in table.items()] + [""]
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def _toml(value: object) -> str:
    """JSON's spelling of text, numbers and lists is TOML's; a table inside a line is not."""
    if isinstance(value, list):
        return f"[{', '.join(map(_toml, value))}]"
    if isinstance(value, dict):
        return f"{{ {', '.join(f'{key} = {_toml(item)}' for key, item in value.items())} }}"
    return json.dumps(value, ensure_ascii=False)
