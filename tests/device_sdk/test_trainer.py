"""Training on a device: what comes out, in what order data is used, what is refused."""

import contextlib
import dataclasses
import math
import re
import tracemalloc
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from device_sdk.engine import Data, Model, load_npz, load_samples, parse_spec
from device_sdk.trainer import Assignment, NumpyTrainer, Trained, Trainer, TrainingError
from protocol.errors import ConfigError
from protocol.messages import MIN_SAMPLES
from protocol.stream import Stream, derive

Floats = npt.NDArray[np.float32]
Labels = npt.NDArray[np.int64]
SEED = bytes(range(32))
SPEC: Mapping[str, object] = {
    "input": [6],
    "layers": [{"type": "dense", "units": 8}, {"type": "relu"}, {"type": "dense", "units": 3}],
    "loss": "softmax_cross_entropy",
}
MODEL = Model(parse_spec(SPEC))


def some_data(rows: int) -> tuple[Floats, Labels]:
    """Points in a cube; the label is which of the first three numbers is largest."""
    x = Stream(bytes(32)).uniform(rows * 6).reshape(rows, 6)
    return x, x[:, :3].argmax(axis=1).astype(np.int64)


def assignment(**training: object) -> Assignment:
    return Assignment(MODEL.init(SEED), 3, SPEC, training, SEED)


def train(data: Data, **training: object) -> Trained:
    return NumpyTrainer(data=data).train(assignment(**training))


def central_sgd(x: Floats, y: Labels, *, epochs: int, batch_size: int, rate: float) -> Floats:
    """The textbook loop, written without the engine: two dense layers, softmax cross-entropy."""
    flat = MODEL.init(SEED)
    w1, b1 = flat[:48].reshape(6, 8), flat[48:56]
    w2, b2 = flat[56:80].reshape(8, 3), flat[80:]
    for epoch in range(epochs):
        order = Stream(derive(SEED, "order", epoch, 0)).permutation(len(x))
        for start in range(0, len(x), batch_size):
            rows = order[start : start + batch_size]
            hidden = np.maximum(x[rows] @ w1 + b1, 0)
            logits = hidden @ w2 + b2
            exp = np.exp(logits - logits.max(axis=1, keepdims=True))
            slope = exp / (exp.sum(axis=1) * len(rows))[:, np.newaxis]
            slope[np.arange(len(rows)), y[rows]] -= 1 / len(rows)
            slope1 = (slope @ w2.T) * (hidden > 0)
            w2 -= (hidden.T @ slope) * rate
            b2 -= slope.sum(axis=0) * rate
            w1 -= (x[rows].T @ slope1) * rate
            b1 -= slope1.sum(axis=0) * rate
    return flat


def test_one_device_with_all_data_is_central_sgd_bit_for_bit() -> None:
    x, y = some_data(101)
    trained = train((x, y), epochs=3, batch_size=16, learning_rate=0.2)
    central = central_sgd(x, y, epochs=3, batch_size=16, rate=0.2)
    assert trained.params.tobytes() == central.tobytes()


def test_training_learns() -> None:
    data = some_data(600)
    trained = train(data, epochs=30, momentum=0.5)
    before = MODEL.evaluate(MODEL.init(SEED), *data)
    after = MODEL.evaluate(trained.params, *data)
    assert before.accuracy is not None
    assert after.accuracy is not None
    assert before.accuracy < 0.6
    assert after.accuracy > 0.95
    assert trained.metrics["loss"] < before.loss / 2


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others() -> None:
    trainer = NumpyTrainer(data=some_data(50))
    wanted = assignment()
    other = Assignment(wanted.params, wanted.version, SPEC, {}, bytes(32))
    first, again, otherwise = (trainer.train(order) for order in (wanted, wanted, other))
    assert first.params.tobytes() == again.params.tobytes() != otherwise.params.tobytes()


def test_the_base_params_are_left_as_they_were() -> None:
    wanted = assignment()
    wanted.params.setflags(write=False)
    before = wanted.params.tobytes()
    trained = NumpyTrainer(data=some_data(50)).train(wanted)
    assert wanted.params.tobytes() == before != trained.params.tobytes()
    assert trained.params.flags.writeable


def test_samples_are_counted_not_batches_nor_passes() -> None:
    trained = train(some_data(50), epochs=3, batch_size=16)
    assert trained.num_samples == 50
    assert trained.metrics["num_steps"] == 3 * 4


def test_max_steps_stops_in_the_middle_of_a_pass() -> None:
    trained = train(some_data(50), epochs=3, batch_size=16, max_steps=2)
    assert trained.num_samples == 32
    assert trained.metrics["num_steps"] == 2


def test_one_sample_is_enough() -> None:
    trained = train(some_data(1), epochs=2)
    assert trained.num_samples == 1
    assert np.isfinite(trained.params).all()


@settings(max_examples=25, deadline=None)
@given(rows=st.integers(1, 40), batch_size=st.integers(1, 50), epochs=st.integers(1, 3))
def test_every_pass_uses_every_sample_once(rows: int, batch_size: int, epochs: int) -> None:
    spec = {
        "input": [rows],
        "layers": [{"type": "dense", "units": 1}],
        "loss": "mean_squared_error",
    }
    model = Model(parse_spec(spec))
    # One-hot samples and a constant slope per step: each weight moves once for each use.
    x, y = np.eye(rows, dtype=np.float32), np.full((rows, 1), -1e6)
    wanted = Assignment(
        np.zeros(model.layout.size, np.float32),
        0,
        spec,
        {"epochs": epochs, "batch_size": batch_size, "learning_rate": 1e-9},
        SEED,
    )
    trained = NumpyTrainer(data=(x, y)).train(wanted)
    steps = np.zeros(rows)
    for epoch in range(epochs):
        order = Stream(derive(SEED, "order", epoch, 0)).permutation(rows)
        for start in range(0, rows, batch_size):
            batch = order[start : start + batch_size]
            steps[batch] += 1 / len(batch)
    assert trained.params[:rows] == pytest.approx(-2e-3 * steps, rel=1e-3)


class Readings:
    """Blocks made on demand, as from a sensor's log."""

    def __init__(self, num_blocks: int) -> None:
        self.x, self.y = some_data(20 * num_blocks)
        self.num_passes = 0

    def __call__(self) -> Iterator[tuple[Floats, Labels]]:
        self.num_passes += 1
        for start in range(0, len(self.x), 20):
            yield self.x[start : start + 20], self.y[start : start + 20]


def test_a_function_an_iterable_and_a_list_of_blocks_train_alike() -> None:
    readings = Readings(3)

    class Again:
        def __iter__(self) -> Iterator[tuple[Floats, Labels]]:
            return readings()

    results = [
        train(data, epochs=2, batch_size=8).params.tobytes()
        for data in (readings, Again(), list(readings()))
    ]
    assert results[0] == results[1] == results[2]
    assert readings.num_passes == 2 + 2 + 1


def test_one_block_trains_like_the_same_pair_of_arrays() -> None:
    x, y = some_data(30)
    assert train((x, y)).params.tobytes() == train([(x, y)]).params.tobytes()


def test_a_generator_is_enough_for_one_pass() -> None:
    trainer = NumpyTrainer(data=Readings(2)())
    assert trainer.train(assignment()).num_samples == 40


def test_an_endless_generator_trains_for_max_steps() -> None:
    def endless() -> Iterator[tuple[Floats, Labels]]:
        while True:
            yield some_data(4)

    assert train(endless, max_steps=5).num_samples == 20


def test_a_generator_does_not_last_for_two_passes() -> None:
    with pytest.raises(TrainingError, match="no data left for pass 2: data is an iterator"):
        train(Readings(2)(), epochs=2)


def test_a_memory_mapped_file_trains_like_the_arrays_in_it(tmp_path: Path) -> None:
    x, y = some_data(80)
    np.save(tmp_path / "x.npy", x)
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r", allow_pickle=False)
    assert train((mapped, y)).params.tobytes() == train((x, y)).params.tobytes()


def test_a_memory_map_is_never_read_whole(tmp_path: Path) -> None:
    spec = {**SPEC, "input": [200]}
    rows = 20_000
    big = np.lib.format.open_memmap(
        tmp_path / "x.npy", mode="w+", dtype=np.float32, shape=(rows, 200)
    )
    base = Model(parse_spec(spec)).init(SEED)
    trainer = NumpyTrainer(data=(big, np.zeros(rows, np.int8)))
    tracemalloc.start()
    trainer.train(Assignment(base, 0, spec, {}, SEED))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < big.nbytes / 10  # the order of the rows is held, the rows are not


@pytest.mark.parametrize("dtype", [np.float64, np.float16, np.uint8])
def test_data_of_other_number_types_trains_as_float32(dtype: type[np.generic]) -> None:
    x = np.round(some_data(40)[0] * 16)
    y = some_data(40)[1]
    expected = train((x, y)).params.tobytes()
    assert train((x.astype(dtype), y.astype(np.uint8))).params.tobytes() == expected


def test_the_number_of_samples_is_known_as_far_as_the_data_tells() -> None:
    assert NumpyTrainer(data=some_data(50)).num_samples() == 50
    assert NumpyTrainer(data=list(Readings(2)())).num_samples() == 40
    assert NumpyTrainer(data=Readings(2), num_samples=44).num_samples() == 44
    trainer = NumpyTrainer(data=Readings(2))
    assert trainer.num_samples() == MIN_SAMPLES
    trainer.train(assignment())
    assert trainer.num_samples() == 40


def test_a_model_of_the_users_own_replaces_the_plans() -> None:
    wanted = Assignment(MODEL.init(SEED), 0, {"input": ["nonsense"]}, {}, SEED)
    assert NumpyTrainer(SPEC, data=some_data(9)).train(wanted).num_samples == 9


@pytest.mark.parametrize(
    ("training", "message"),
    [
        ({"epochs": 0}, "training: epochs must be at least 1, not 0"),
        ({"epochs": 1.5}, "training.epochs: expected a whole number"),
        ({"batch_size": -1}, "training: batch_size must be at least 1"),
        ({"max_steps": 0}, "training: max_steps must be at least 1"),
        ({"clip_norm": 0.0}, "training: clip_norm must be above 0"),
        ({"clip_norm": math.nan}, "training.clip_norm: expected a number that is finite"),
        ({"learning_rate": -0.1}, "training: learning_rate must be above 0"),
        ({"momentum": 1}, "training: momentum must be in"),
        ({"weight_decay": -1}, "training: weight_decay must be 0 or more"),
        ({"lr": 0.1}, "training.lr: unknown key"),
    ],
)
def test_a_wrong_setting_is_refused_by_name(training: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=f"^{re.escape(message)}"):
        train(some_data(5), **training)


X, Y = some_data(20)


def with_number(number: float) -> Floats:
    x = X.copy()
    x[7, 0] = number
    return x


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ((X[:0], Y[:0]), "no data"),
        ([], "no data"),
        ([(X[:0], Y[:0])], "no data"),
        ((X, Y[:-1]), "20 samples in x, but y has shape"),
        ((X[:, :5], Y), r"x must hold numbers of shape \('n', 6\)"),
        ((X, Y + 1), "labels run from 1 to 3"),
        ((X, Y - 2), "labels run from -2 to 0"),
        ((X, Y.astype(np.float32)), "y must be one whole number per sample"),
        ((X * np.nan, Y), "2 of 2 steps had no finite loss"),
        ((X, Y * 0 - 1), "2 of 2 steps had no finite loss and gradient, or no sample that counts"),
    ],
)
def test_bad_data_is_refused_and_gives_no_params(data: Data, message: str) -> None:
    with pytest.raises(TrainingError, match=message):
        train(data)


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
def test_a_step_that_met_a_wrong_number_is_skipped_and_counted(wrong: float) -> None:
    trained = train((with_number(wrong), Y), batch_size=4)
    assert trained.metrics["num_steps"] == 4
    assert trained.metrics["skipped_steps"] == 1
    assert np.isfinite(trained.params).all()


def test_blocks_that_are_no_pairs_are_refused() -> None:
    with pytest.raises(
        TrainingError, match=r"data must give \(x, y\) pairs of arrays, not ndarray"
    ):
        train(lambda: [X])  # type: ignore[list-item] # wrong on purpose


@pytest.mark.parametrize("clip_norm", [{}, {"clip_norm": 1.0}])
def test_divergence_is_an_error_not_a_result(clip_norm: dict[str, float]) -> None:
    with pytest.raises(TrainingError, match="learning_rate"):
        train((X * 1e5, Y), epochs=50, learning_rate=1e30, **clip_norm)


def test_divergence_in_the_last_step_is_an_error() -> None:
    with pytest.raises(TrainingError, match="params left the finite range"):
        train((X * 1e4, Y), max_steps=1, learning_rate=1e38)


def test_clipping_bounds_each_step() -> None:
    trained = train((X * 100, Y), max_steps=1, clip_norm=0.5, learning_rate=0.1)
    moved = np.linalg.norm(trained.params - MODEL.init(SEED))
    assert moved == pytest.approx(0.05, rel=1e-4)


def test_params_of_another_model_are_refused() -> None:
    wanted = Assignment(np.zeros(5, np.float32), 0, SPEC, {}, SEED)
    with pytest.raises(TrainingError, match="the model has 83 params"):
        NumpyTrainer(data=some_data(5)).train(wanted)


@pytest.mark.parametrize(
    ("params", "num_samples"),
    [
        (np.array([1.0, np.nan], np.float32), 1),
        (np.array([np.inf], np.float32), 1),
        (np.zeros(2), 1),
        (np.zeros((2, 2), np.float32), 1),
        (np.zeros(2, np.float32), 0),
    ],
)
def test_a_result_that_must_not_leave_the_device_cannot_be_made(
    params: Floats, num_samples: int
) -> None:
    with pytest.raises(TrainingError):
        Trained(params, num_samples, {})


def test_a_trainer_of_the_users_own_is_one_class() -> None:
    class Nudge(Trainer):
        def num_samples(self) -> int:
            return 2

        def train(self, assignment: Assignment) -> Trained:
            return Trained(assignment.params + np.float32(1), self.num_samples(), {})

    assert Nudge().train(assignment()).num_samples == 2


def test_a_file_of_samples_is_read(tmp_path: Path) -> None:
    x, y = some_data(5)
    np.savez(tmp_path / "shard.npz", x=x, y=y)
    read_x, read_y = load_npz(tmp_path / "shard.npz")
    assert np.array_equal(read_x, x)
    assert np.array_equal(read_y, y)


def test_a_folder_of_samples_is_mapped_not_read(tmp_path: Path) -> None:
    x, y = some_data(5)
    np.save(tmp_path / "x.npy", x)
    np.save(tmp_path / "y.npy", y)
    mapped, labels = load_samples(tmp_path)
    assert isinstance(mapped, np.memmap)
    assert train((mapped, labels)).params.tobytes() == train((x, y)).params.tobytes()


def test_a_folder_with_something_else_in_it_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"x.npy: No such file"):
        load_samples(tmp_path)
    (tmp_path / "x.npy").write_bytes(b"nonsense")
    with pytest.raises(ConfigError, match=r"x.npy: cannot be read"):
        load_samples(tmp_path)
    np.save(tmp_path / "x.npy", X)
    np.save(tmp_path / "y.npy", Y[:3])
    with pytest.raises(ConfigError, match="must have as many rows"):
        load_samples(tmp_path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"data file .*none.npz: No such file"):
        load_npz(tmp_path / "none.npz")


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x": X, "labels": Y}, "no array 'y' among x, labels"),
        ({"x": X, "y": Y[:3]}, "must have as many rows"),
        ({"x": X[:0], "y": Y[:0]}, "at least one"),
        ({"x": X, "y": np.array(3)}, "must have as many rows"),
        ({"x": np.array([{}] * 20), "y": Y}, "Object arrays cannot be loaded"),
    ],
)
def test_a_file_of_the_wrong_arrays_is_refused(
    tmp_path: Path, arrays: dict[str, npt.NDArray[np.generic]], message: str
) -> None:
    np.savez(tmp_path / "shard.npz", **arrays)  # type: ignore[arg-type] # its stub wants a flag
    with pytest.raises(ConfigError, match=message):
        load_npz(tmp_path / "shard.npz")


@pytest.mark.parametrize("flip", [0x01, 0x55])
def test_a_damaged_file_is_refused_or_still_good(tmp_path: Path, flip: int) -> None:
    np.savez_compressed(tmp_path / "good.npz", x=X[:5], y=Y[:5])
    good = (tmp_path / "good.npz").read_bytes()
    for place in range(len(good)):
        flipped = bytearray(good)
        flipped[place] ^= flip
        for data in (good[:place], bytes(flipped)):
            (tmp_path / "bad.npz").write_bytes(data)
            with contextlib.suppress(ConfigError):  # never any other error
                x, y = load_npz(tmp_path / "bad.npz")
                assert len(x) == len(y)


def test_a_single_array_is_no_file_of_samples(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", X)
    with pytest.raises(ConfigError, match="no array 'x' among one array without a name"):
        load_npz(tmp_path / "x.npy")


def test_it_pauses_before_every_step_and_may_be_ended_there() -> None:
    paused: list[int] = []

    def pause() -> None:
        paused.append(1)
        if len(paused) > 5:
            raise TrainingError("no longer")

    data = some_data(10)
    wanted = dataclasses.replace(assignment(batch_size=4), pause=pause)
    same = NumpyTrainer(data=data).train(wanted)
    assert len(paused) == same.metrics["num_steps"] == 3
    assert np.array_equal(same.params, train(data, batch_size=4).params)
    with pytest.raises(TrainingError, match="no longer"):
        NumpyTrainer(data=data).train(wanted)
