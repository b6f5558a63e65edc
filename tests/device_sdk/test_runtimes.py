"""A TensorFlow Lite is trusted once it has computed something; else it is said what to install."""

import base64
import sys
import threading
import zlib
from pathlib import Path
from types import ModuleType

import numpy as np
import numpy.typing as npt
import pytest

from aggregator.export.graph import Builder, Graph
from aggregator.export.writer import write
from device_sdk import runtimes
from device_sdk.engine import TrainingError
from device_sdk.runtimes import RUNTIMES, Runtime, RuntimeMissingError, TfliteModel, find_runtime
from protocol.errors import ConfigError


def file_of(
    shape: tuple[int, ...] = (1, 4), *, num_inputs: int = 1, any_batch: bool = True
) -> bytes:
    """A file that doubles its first input."""
    graph = Graph("double", any_batch=any_batch)
    b = Builder(graph)
    first, *_ = [b.input(shape) for _ in range(num_inputs)]
    graph.outputs = [b.add("MUL", [first, b.constant([2.0])], shape)]
    return write(graph, "")


def test_one_of_the_runtimes_works_here() -> None:
    assert find_runtime().name.split()[0] in RUNTIMES


def test_the_proof_is_a_model_of_two_products() -> None:
    graph = Graph("proof")
    b = Builder(graph)
    x, weight = b.input((1, 2)), b.constant([[2.0, 3.0]], "weight")
    inputs = [x, weight, b.constant([1.0], "bias")]
    graph.outputs = [b.add("FULLY_CONNECTED", inputs, (1, 1), {"keep_num_dims": False})]
    written = write(graph, "proof")
    assert zlib.decompress(base64.b64decode(runtimes._PROOF)) == written


class FakeInterpreter:
    """What an interpreter does when its library does not fit its surroundings."""

    def __init__(self, *, model_content: bytes, num_threads: int) -> None:
        raise SystemError(f"{len(model_content)} {num_threads}: returned with an exception set")


def install(monkeypatch: pytest.MonkeyPatch, package: str, version: str) -> None:
    """Let a package be there, whose interpreter fails."""
    module = ModuleType(package)
    module.__dict__["__version__"] = version
    module.__path__ = []
    interpreter = ModuleType(f"{package}.interpreter")
    interpreter.__dict__["Interpreter"] = FakeInterpreter
    monkeypatch.setitem(sys.modules, package, module)
    monkeypatch.setitem(sys.modules, f"{package}.interpreter", interpreter)


def test_a_library_that_fails_when_it_is_used_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, "ai_edge_litert", "9.9")
    with pytest.raises(
        RuntimeMissingError, match=r"ai_edge_litert 9\.9 does not work here: System"
    ):
        Runtime("ai_edge_litert")


def test_what_would_crash_beside_numpy_2_is_not_even_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, "tflite_runtime", "2.14.0")
    monkeypatch.setattr(np, "__version__", "2.4.6")
    with pytest.raises(RuntimeMissingError, match=r"tflite_runtime 2\.14\.0 needs numpy<2"):
        Runtime("tflite_runtime")


def test_without_any_it_is_said_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    for package in RUNTIMES:
        monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(RuntimeMissingError, match="is not installed") as raised:
        find_runtime.__wrapped__()
    assert "pip install 'fedbus[litert]'" in str(raised.value)


@pytest.mark.parametrize("any_batch", [True, False])
@pytest.mark.parametrize("rows", [1, 2, 32, 33, 70, 0])
def test_any_number_of_samples_can_be_asked_about(rows: int, *, any_batch: bool) -> None:
    model = TfliteModel(find_runtime().interpreter(file_of((1, 4), any_batch=any_batch)))
    x = np.arange(rows * 4, dtype=np.float32).reshape(rows, 4)
    np.testing.assert_array_equal(model.predict(x), 2 * x)


def test_samples_of_another_shape_are_refused() -> None:
    model = TfliteModel(find_runtime().interpreter(file_of()))
    for wrong in (np.zeros(4), np.zeros((2, 3)), np.float32(1)):
        with pytest.raises(TrainingError, match=r"\('n', 4\)"):
            model.predict(wrong)


def test_numbers_of_any_type_are_taken() -> None:
    model = TfliteModel(find_runtime().interpreter(file_of()))
    for dtype in (np.float64, np.float16, np.int64, np.uint8):
        assert model.predict(np.ones((1, 4), dtype)).tolist() == [[2.0] * 4]


def test_two_threads_do_not_mix_their_samples() -> None:
    model = TfliteModel(find_runtime().interpreter(file_of((1, 4))))
    wrong: list[npt.NDArray[np.float32]] = []

    def ask(number: float, rows: int) -> None:
        x = np.full((rows, 4), number, np.float32)
        wrong.extend(y for _ in range(200) if not ((y := model.predict(x)) == 2 * number).all())

    threads = [threading.Thread(target=ask, args=each) for each in ((1.0, 3), (5.0, 40))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "cannot use it"),
        (b"no model at all, but long enough to be one", "cannot use it"),
        (file_of(num_inputs=2), "2 inputs"),
        (file_of((3, 4), any_batch=False), r"shape \[3, 4\]"),
    ],
    ids=["empty", "text", "two inputs", "three at once"],
)
def test_a_file_that_is_of_no_use_is_named(content: bytes, says: str, tmp_path: Path) -> None:
    file = tmp_path / "model.tflite"
    file.write_bytes(content)
    with pytest.raises(ConfigError, match=says) as raised:
        find_runtime().load(file)
    assert str(file) in str(raised.value)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file"):
        find_runtime().load(tmp_path / "gone.tflite")


def test_a_loaded_file_knows_its_shapes() -> None:
    model = TfliteModel(find_runtime().interpreter(file_of((1, 3, 2))))
    assert (model.input_shape, model.output_shape) == ((3, 2), (3, 2))
