"""Devices with three engines learn one model together, as well as with one engine."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import pytest

from aggregator.export.training import export_training
from aggregator.store import open_store
from benchmarks.watcher import Watcher
from broker_config.running import Broker, running_broker
from device_sdk.engine import Metrics, Model, parse_spec
from fedbus.children import Child, start, stop
from fedbus.datasets import Part, load, split
from protocol.vectors.layout import params_from_bytes
from tests.support.mosquitto import require_mosquitto
from tests.support.torch import require_torch

TASK: Final = "digits"
VERSIONS: Final = 20
MODEL: Final[Mapping[str, Any]] = {
    "input": [64],
    "layers": [
        {"type": "dense", "units": 32},
        {"type": "relu"},
        {"type": "dense", "units": 10},
    ],
    "loss": "softmax_cross_entropy",
}
#: Each pass is one batch, so that seeds, which no two federations share, decide nothing.
TRAINING: Final = {"epochs": 10, "batch_size": 512, "learning_rate": 0.5}
MIXED: Final = ("numpy", "torch", "tflite") * 2
ALONE: Final = ("numpy",) * len(MIXED)
PARTS: Final = split(load(None), devices=len(MIXED), alpha=1.0, seed=0)


def toml(value: object) -> str:
    match value:
        case dict():
            return f"{{ {', '.join(f'{key} = {toml(item)}' for key, item in value.items())} }}"
        case list():
            return f"[{', '.join(map(toml, value))}]"
    return json.dumps(value)


def write(path: Path, tables: Mapping[str, object]) -> Path:
    path.write_text("".join(f"{name} = {toml(table)}\n" for name, table in tables.items()))
    return path


def start_aggregator(folder: Path, broker: Broker) -> Child:
    task = {
        "task": TASK,
        "model": MODEL,
        "training": TRAINING,
        "codec": "dense/float32",
        "mode": "rounds",
        "rounds": {"size": len(MIXED), "gather_s": 1.0},
        "check_in_s": 2,
    }
    config = write(
        folder / "fed.toml",
        {
            "state_dir": str(folder / "state"),
            "broker": login(broker, "aggregator"),
            "secure": {"scheme": "none"},
            "identity": {"required": False},
            "task": task,
        },
    )
    module = ["fedbus", "aggregator", "run", "--config", str(config)]
    return start("aggregator", module, folder / "aggregator.log", {})


def start_device(folder: Path, broker: Broker, name: str, engine: str, part: Part) -> Child:
    np.savez(folder / f"{name}.npz", x=part.x, y=part.y)
    training = {"engine": engine}
    if engine == "tflite":
        training["engine_file"] = str(folder / "training.tflite")
    config = write(
        folder / f"{name}.toml",
        {
            "task": TASK,
            "device": name,
            "state_dir": str(folder / name),
            "data": {"file": str(folder / f"{name}.npz")},
            "training": training,
            "broker": login(broker, name),
        },
    )
    module = ["device_sdk", "run", "--config", str(config)]
    return start(name, module, folder / f"{name}.log", {})


def login(broker: Broker, account: str) -> dict[str, object]:
    return {"port": broker.port, "password_file": str(broker.files.secret(account))}


def learn(folder: Path, engines: Sequence[str]) -> Metrics:
    """Let a federation learn, a device for each engine; return how it does on digits held out."""
    folder.mkdir()
    model = Model(parse_spec(MODEL))
    (folder / "training.tflite").write_bytes(export_training(model))
    names = [f"{engine}-{number}" for number, engine in enumerate(engines)]
    with running_broker(folder / "broker", names, engine="mosquitto") as broker:
        children = [start_aggregator(folder, broker)]
        try:
            for name, engine, part in zip(names, engines, PARTS.devices, strict=True):
                children.append(start_device(folder, broker, name, engine, part))
            with Watcher(TASK, broker) as watcher:
                next(each for each in watcher.manifests() if each.version >= VERSIONS)
            assert all(child.alive for child in children)
        finally:
            stop(children)
    store = open_store(folder / "state", TASK)
    newest = store.snapshot().version
    store.close()
    assert newest is not None
    params = params_from_bytes(newest.params, model.layout.size)
    return model.evaluate(params, PARTS.held_out.x, PARTS.held_out.y)


@pytest.mark.broker
def test_three_engines_in_one_task_learn_as_well_as_one(tmp_path: Path) -> None:
    require_mosquitto()
    require_torch()
    mixed, alone = learn(tmp_path / "mixed", MIXED), learn(tmp_path / "alone", ALONE)
    assert mixed.accuracy is not None
    assert alone.accuracy is not None
    assert alone.accuracy > 0.95
    assert abs(mixed.accuracy - alone.accuracy) <= 0.01
