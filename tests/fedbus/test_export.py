"""`fedbus export`: from a task's newest version to a file that predicts as the engine does."""

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aggregator.records import VersionRecord
from aggregator.store import open_store
from device_sdk.adapters.tflite import SignatureTrainer
from device_sdk.engine import Model, parse_spec
from device_sdk.engine.data import as_blocks
from device_sdk.engine.statistics import measure_statistics
from device_sdk.runtimes import find_runtime
from device_sdk.trainer import Assignment
from fedbus.__main__ import main
from fedbus.published import NewestModel, Published
from fedbus.workplace import sample
from protocol.chunks import cut
from protocol.codec import encode
from protocol.errors import RemoteProtocolError
from protocol.messages import AGGREGATOR, Manifest, ModelChunk, Plan
from protocol.topics import DEFAULT_PREFIX, Topics
from protocol.vectors.layout import params_to_bytes
from tests.support.bus_client import BusClient
from tests.support.mosquitto import Mosquitto, broker  # noqa: F401 - a fixture

TASK: Final = "digits"
TOPICS: Final = Topics(DEFAULT_PREFIX, TASK)
#: As in the sample of `fedbus init`.
SPEC: Final[Mapping[str, object]] = {
    "input": [64],
    "layers": [{"type": "dense", "units": 32}, {"type": "relu"}, {"type": "dense", "units": 10}],
    "loss": "softmax_cross_entropy",
}
MODEL: Final = Model(parse_spec(SPEC))
X: Final = np.random.default_rng(3).uniform(0, 1, (600, 64)).astype(np.float32)
Said = tuple[str, bytes]


def params_of(version: int) -> npt.NDArray[np.float32]:
    return MODEL.init(bytes([version]) * 32)


def said(message: Plan | Manifest | ModelChunk) -> bytes:
    return encode(message, task=TASK, sender=AGGREGATOR, counter=1)


def publication(version: int, piece_bytes: int = 3000) -> list[Said]:
    """What an aggregator says of a version: plan, manifest, chunks."""
    data = params_to_bytes(params_of(version))
    pieces = cut(data, piece_bytes)
    manifest = Manifest(version, hashlib.sha256(data).digest(), len(data), len(pieces))
    plan = Plan(json.dumps(SPEC), "{}", "dense/float32")
    chunks = [
        (TOPICS.model(version, index), said(ModelChunk(version, index, piece)))
        for index, piece in enumerate(pieces)
    ]
    return [(TOPICS.plan(), said(plan)), (TOPICS.manifest(), said(manifest)), *chunks]


def heard(messages: list[Said]) -> Published:
    published = Published(TOPICS)
    for topic, payload in messages:
        published.see(topic, payload)
    return published


def assert_is(found: NewestModel, version: int) -> None:
    assert (found.version, found.spec) == (version, SPEC)
    np.testing.assert_array_equal(found.params, params_of(version))


# --- what is on the bus ----------------------------------------------------------------------


@given(st.data())
def test_chunks_and_plan_make_a_model_in_any_order_and_any_number_of_times(
    data: st.DataObject,
) -> None:
    plan, manifest, *chunks = publication(7)
    again = data.draw(st.lists(st.sampled_from([plan, *chunks])))
    rest = data.draw(st.permutations([plan, *chunks, *again]))
    assert_is(heard([manifest, *rest]).newest(), 7)


def test_chunks_are_asked_for_once_the_version_is_known() -> None:
    published = Published(TOPICS)
    assert published.see(*publication(7)[1]) == [TOPICS.model_filter(7)]


def test_a_version_that_comes_meanwhile_is_let_pass() -> None:
    published = heard(publication(7)[:3])
    for message in publication(8):
        assert published.see(*message) == []
    assert not published.is_complete
    for message in publication(7)[3:]:
        published.see(*message)
    assert_is(published.newest(), 7)


@pytest.mark.parametrize(
    ("messages", "says"),
    [
        ([], "neither plan nor model"),
        (publication(7)[:1], "no version"),
        (publication(7)[1:], "no plan"),
        (publication(7)[:3], "3 of 4 chunks of version 7"),
        ([*publication(7)[:2], (TOPICS.model(7, 0), b"")], "4 of 4 chunks"),
    ],
)
def test_what_is_missing_is_said(messages: list[Said], says: str) -> None:
    published = heard(messages)
    assert not published.is_complete
    assert says in published.missing()


def test_params_that_do_not_have_their_hash_are_no_model() -> None:
    messages = publication(7)
    messages[-1] = (messages[-1][0], said(ModelChunk(7, 3, b"\0" * 640)))
    with pytest.raises(RemoteProtocolError, match="hash"):
        heard(messages).newest()


@given(st.sampled_from([TOPICS.plan(), TOPICS.manifest(), "else/where"]), st.binary(min_size=1))
def test_garbage_is_refused_and_nothing_else(topic: str, payload: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        Published(TOPICS).see(topic, payload)


# --- the command, on a store -----------------------------------------------------------------


def store_of(
    tmp_path: Path, params: npt.NDArray[np.float32], change: Callable[[str], str] = str
) -> Path:
    """Return an aggregator's configuration beside a store with version 7."""
    text = sample("fed.toml").replace('scheme = "seedmask"', 'scheme = "none"')
    state = tmp_path / "state"
    file = tmp_path / "fed.toml"
    file.write_text(change(text).replace('"aggregator-state"', f'"{state}"'), encoding="utf-8")
    data = params_to_bytes(params)
    store = open_store(state, TASK)
    store.commit([VersionRecord(7, data, hashlib.sha256(data).digest())])
    store.close()
    return file


@pytest.fixture(name="config")
def _config(tmp_path: Path) -> Path:
    return store_of(tmp_path, params_of(7))


def calibration_of(folder: Path, x: npt.NDArray[np.generic] = X) -> Path:
    file = folder / "some.npz"
    np.savez(file, x=x)
    return file


def export(config: Path, *options: str) -> int:
    to = config.with_name("model.tflite")
    arguments = ["--task", TASK, "--to", str(to), "--config", str(config), *options]
    return main(["export", *arguments])


def test_the_file_predicts_as_the_newest_version_does(
    config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert export(config) == 0
    file = config.with_name("model.tflite")
    outputs = find_runtime().load(file).predict(X)
    np.testing.assert_allclose(outputs, MODEL.predict(params_of(7), X), atol=1e-5)
    said = capsys.readouterr().out
    assert f"task digits, version 7, float32, {file.stat().st_size} bytes" in said
    assert b"fedbus task digits, version 7" in file.read_bytes()
    assert sorted(path.name for path in config.parent.glob("*.tflite*")) == ["model.tflite"]


@pytest.mark.parametrize("borders", ["float32", "int8"])
def test_an_int8_file_is_smaller_and_has_been_tried(
    borders: str, config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    calibration = calibration_of(tmp_path)
    assert export(config, "--int8", "--calibration", str(calibration), "--borders", borders) == 0
    said = capsys.readouterr().out
    assert "tried with" in said
    assert "on 500 samples" in said
    file = config.with_name("model.tflite")
    assert file.stat().st_size < 6_000
    interpreter = find_runtime().interpreter(file.read_bytes())
    assert np.dtype(interpreter.get_input_details()[0]["dtype"]).name == borders


def test_static_statistics_are_measured_for_the_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    norm = {"type": "batch_norm", "static": True}
    spec = {
        **SPEC,
        "layers": [{"type": "dense", "units": 32}, norm, {"type": "dense", "units": 10}],
    }
    model = Model(parse_spec(spec))
    params = model.init(bytes(32))
    layers = '{ type = "batch_norm", static = true }'
    config = store_of(tmp_path, params, lambda text: text.replace('{ type = "relu" }', layers))
    assert export(config) == 2
    assert "static batch_norm" in capsys.readouterr().err
    assert export(config, "--calibration", str(calibration_of(tmp_path))) == 0
    rows = np.linspace(0, len(X) - 1, 500).astype(int)
    ready = measure_statistics(model, params, as_blocks((X[rows], np.zeros(500))))
    outputs = find_runtime().load(config.with_name("model.tflite")).predict(X)
    np.testing.assert_allclose(outputs, model.predict(ready, X), atol=1e-4)
    assert not np.allclose(outputs, model.predict(params, X), atol=1e-2)


def test_a_file_for_training_is_the_engine_of_a_device(
    config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert export(config, "--training") == 0
    assert "trains task digits's model, without any params" in capsys.readouterr().out
    trainer = SignatureTrainer(config.with_name("model.tflite"), data=(X, np.arange(600) % 10))
    trained = trainer.train(Assignment(params_of(7), 7, SPEC, {}, bytes(32)))
    assert trained.num_samples == 600
    assert trained.metrics["num_steps"] == 38


def test_samples_are_taken_from_all_of_the_file(config: Path, tmp_path: Path) -> None:
    sorted_by_size = np.sort(X[:, :1], axis=0).repeat(64, axis=1)
    calibration = calibration_of(tmp_path, sorted_by_size)
    options = ["--int8", "--calibration", str(calibration), "--borders", "int8"]
    assert export(config, *options) == 0
    file = config.with_name("model.tflite")
    scale, _ = find_runtime().interpreter(file.read_bytes()).get_input_details()[0]["quantization"]
    assert scale == pytest.approx(sorted_by_size.max() / 255, rel=1e-5)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--int8"], "--calibration"),
        (["--calibration", "gone.npz"], "gone.npz"),
        (["--int8", "--calibration", "gone.npz"], "gone.npz"),
        (["--task", "other"], "of task digits"),
        (["--to", "no/such/folder/model.tflite"], "--to no/such/folder/model.tflite"),
        (["--config", "gone.toml"], "gone.toml"),
    ],
)
def test_what_cannot_be_is_said_in_one_sentence(
    options: list[str], says: str, config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert export(config, *options) == 2
    said = capsys.readouterr().err
    assert says in said
    assert said.count("\n") == 1


@pytest.mark.parametrize(
    ("x", "says"),
    [
        (np.zeros((5, 63), np.float32), "(5, 63)"),
        (np.zeros((0, 64), np.float32), "no rows"),
        (np.full((5, 64), np.nan, np.float32), "finite"),
        (np.array(["a", "b"]), "numbers"),
    ],
)
def test_samples_that_do_not_fit_are_refused(
    x: npt.NDArray[np.generic],
    says: str,
    config: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert export(config, "--int8", "--calibration", str(calibration_of(tmp_path, x))) == 2
    assert says in capsys.readouterr().err


def test_integers_are_not_for_training(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    calibration = str(calibration_of(tmp_path))
    assert export(config, "--training", "--int8", "--calibration", calibration) == 2
    assert "--training and --int8" in capsys.readouterr().err


def test_a_store_without_a_version_says_what_to_do(
    tmp_path: Path, config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    empty = config.read_text(encoding="utf-8").replace("/state", "/empty")
    config.write_text(empty, encoding="utf-8")
    assert export(config) == 2
    assert "no version yet" in capsys.readouterr().err
    assert not list(tmp_path.glob("*.tflite"))


# --- the command, on a broker ----------------------------------------------------------------


def export_from(port: int, to: Path, *options: str) -> int:
    arguments = ["--task", TASK, "--to", str(to), "--port", str(port), *options]
    return main(["export", *arguments])


def test_a_broker_that_is_not_there_is_said_within_the_deadline(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert export_from(1, tmp_path / "model.tflite", "--deadline", "0.5") == 1
    assert "127.0.0.1:1" in capsys.readouterr().err


@pytest.mark.broker
def test_a_running_task_is_exported_from_what_the_broker_has_retained(
    broker: Mosquitto,  # noqa: F811 - the fixture
    tmp_path: Path,
) -> None:
    with BusClient(broker.port, "aggregator") as bus:
        for topic, payload in publication(7):
            bus.publish(topic, payload, retain=True)
        bus.settle()
    file = tmp_path / "model.tflite"
    assert export_from(broker.port, file) == 0
    outputs = find_runtime().load(file).predict(X)
    np.testing.assert_allclose(outputs, MODEL.predict(params_of(7), X), atol=1e-5)


@pytest.mark.broker
def test_a_task_that_nobody_knows_is_said(
    broker: Mosquitto,  # noqa: F811 - the fixture
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert export_from(broker.port, tmp_path / "model.tflite", "--deadline", "1") == 1
    assert "check --task" in capsys.readouterr().err
