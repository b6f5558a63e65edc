"""Real people's phones and watches: models of those who train read those who do not."""

import json
import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from aggregator.store import open_store
from benchmarks.learning import wearable_accuracy, wearables_folder
from benchmarks.watcher import Watcher
from broker_config.running import Broker, running_broker
from device_sdk.engine.model import Model
from device_sdk.engine.spec import parse_spec
from examples.wearables import (
    HELD_OUT,
    MODEL,
    NUM_FEATURES,
    PEOPLE,
    TRAINING,
    features,
    recordings,
)
from fedbus.children import Child, start, stop
from protocol.vectors.layout import params_from_bytes
from tests.support.mosquitto import require_mosquitto

#: Logistic regression on everybody's data in one place, as the data's README has it.
CENTRAL = {"phone": 0.776, "watch": 0.839}


def recordings_of(sensor: str) -> Path:
    file = wearables_folder() / f"har_{sensor}.npz"
    if file.exists():
        return file
    if os.environ.get("CI") == "true":
        pytest.fail(f"{file} is missing, and CI=true promises it")
    pytest.skip(f"{file} is missing: FEDBUS_DATA names the folder that har_phone_watch is in")


@pytest.mark.slow
@pytest.mark.parametrize("sensor", CENTRAL)
def test_people_who_share_no_data_learn_as_well_as_in_one_place(sensor: str) -> None:
    """With one seed and after half the rounds; `python -m benchmarks learning` has three seeds."""
    assert wearable_accuracy(recordings_of(sensor), seed=0, num_rounds=30) >= CENTRAL[sensor]


def test_nobody_trains_who_is_tested_on() -> None:
    assert not set(PEOPLE) & set(HELD_OUT)
    assert len(PEOPLE) == 17
    file = recordings_of("phone")
    everybody = len(recordings(file, (*PEOPLE, *HELD_OUT)).y)
    assert len(recordings(file, PEOPLE).y) + len(recordings(file, HELD_OUT).y) == everybody == 7320


def test_features_are_of_order_one_whoever_wears_it() -> None:
    for sensor in CENTRAL:
        x = recordings(recordings_of(sensor), PEOPLE).x
        assert x.shape[1] == NUM_FEATURES
        assert np.isfinite(x).all()
        assert 0.1 < x.std() < 2


def test_features_of_one_window_do_not_depend_on_the_others() -> None:
    windows = np.random.default_rng(0).normal(0, 5, (9, 64, 6)).astype(np.float16)
    np.testing.assert_allclose(features(windows[4:5]), features(windows)[4:5], rtol=1e-6)


TASK = "wearables"
DEVICES = {person: f"person-{person}" for person in PEOPLE}


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
        "mode": "rounds",
        "rounds": {"size": len(PEOPLE), "gather_s": 1.0},
        "check_in_s": 2,
    }
    secret = broker.files.secret("aggregator")
    config = write(
        folder / "fed.toml",
        {
            "state_dir": str(folder / "state"),
            "broker": {"port": broker.port, "password_file": str(secret)},
            "secure": {"scheme": "none"},
            "identity": {"required": False},
            "task": task,
        },
    )
    module = ["fedbus", "aggregator", "run", "--config", str(config)]
    return start("aggregator", module, folder / "aggregator.log", {})


def start_person(folder: Path, broker: Broker, file: Path, person: int) -> Child:
    name = DEVICES[person]
    config = write(
        folder / f"{name}.toml",
        {
            "task": TASK,
            "device": name,
            "state_dir": str(folder / name),
            "broker": {"port": broker.port, "password_file": str(broker.files.secret(name))},
        },
    )
    module = ["examples.wearables", str(config), str(file), str(person)]
    return start(name, module, folder / f"{name}.log", {})


@pytest.mark.broker
def test_seventeen_watches_learn_together_through_a_real_broker(tmp_path: Path) -> None:
    require_mosquitto()
    file = recordings_of("watch")
    with running_broker(tmp_path / "broker", DEVICES.values(), engine="mosquitto") as broker:
        children = [start_aggregator(tmp_path, broker)]
        try:
            children += [start_person(tmp_path, broker, file, person) for person in PEOPLE]
            with Watcher(TASK, broker) as watcher:
                next(manifest for manifest in watcher.manifests() if manifest.version >= 40)
        finally:
            stop(children)
    assert accuracy(tmp_path / "state", file) >= CENTRAL["watch"]


def accuracy(state: Path, file: Path) -> float:
    """Of the newest version that the aggregator has stored, on the people held out."""
    store = open_store(state, TASK)
    newest = store.snapshot().version
    store.close()
    assert newest is not None
    model = Model(parse_spec(MODEL))
    strangers = recordings(file, HELD_OUT)
    params = params_from_bytes(newest.params, model.layout.size)
    return model.evaluate(params, strangers.x, strangers.y).accuracy or 0.0
