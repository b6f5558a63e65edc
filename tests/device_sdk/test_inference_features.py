"""Transfer learning: a frozen ``.tflite`` finds features, a head is trained on them."""

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from aggregator.export import export
from device_sdk.engine import Model, TrainingError, parse_spec
from device_sdk.features import PIECE, FeatureCache, FeatureTrainer
from device_sdk.inference import Inference
from device_sdk.runtimes import TfliteModel, find_runtime
from device_sdk.trainer import Assignment, NumpyTrainer
from protocol.errors import ConfigError

Floats = npt.NDArray[np.float32]
Block = tuple[Floats, npt.NDArray[np.int64]]

BODY = Model(
    parse_spec(
        {
            "input": [8, 8, 1],
            "layers": [
                {"type": "conv2d", "filters": 4, "kernel": 3},
                {"type": "relu"},
                {"type": "max_pool", "size": 2},
                {"type": "flatten"},
            ],
            "loss": "mean_squared_error",
        }
    )
)
BODY_PARAMS = BODY.init(bytes(32))
HEAD: Mapping[str, object] = {
    "input": [36],
    "layers": [{"type": "dense", "units": 2}],
    "loss": "softmax_cross_entropy",
}
HEAD_MODEL = Model(parse_spec(HEAD))


def images(rows: int, seed: int = 0) -> Block:
    """Bright above, or bright below."""
    draw = np.random.default_rng(seed)
    y = draw.integers(0, 2, rows)
    x = draw.normal(0, 0.5, (rows, 8, 8, 1)).astype(np.float32)
    x[y == 0, :4] += 1
    x[y == 1, 4:] += 1
    return x, y


@pytest.fixture(name="file")
def _file(tmp_path: Path) -> Path:
    file = tmp_path / "features.tflite"
    file.write_bytes(export(BODY, BODY_PARAMS))
    return file


def assignment(**training: object) -> Assignment:
    return Assignment(HEAD_MODEL.init(bytes(32)), 1, HEAD, training, bytes(32))


class Counting(TfliteModel):
    """Counts the samples that it was asked about."""

    num_samples = 0

    def predict(self, x: npt.ArrayLike) -> Floats:
        self.num_samples += len(np.asarray(x))
        return super().predict(x)


def counting(file: Path) -> Counting:
    return Counting(find_runtime().interpreter(file.read_bytes()))


def test_the_head_learns_what_it_would_from_features_found_beforehand(file: Path) -> None:
    x, y = images(100)
    found = TfliteModel(find_runtime().interpreter(file.read_bytes())).predict(x)
    expected = NumpyTrainer(data=(found, y)).train(assignment(epochs=3))
    trained = FeatureTrainer(file, data=(x, y)).train(assignment(epochs=3))
    np.testing.assert_array_equal(trained.params, expected.params)
    assert trained.num_samples == expected.num_samples == 100


def test_body_and_head_predict_together(file: Path) -> None:
    trainer = FeatureTrainer(file, data=images(200))
    asked = Inference(trainer)
    work = assignment(epochs=10)
    asked.adopt(Assignment(trainer.train(work).params, 2, HEAD, {}, bytes(32)))
    x, y = images(200, seed=1)
    assert (asked.predict(x).argmax(axis=1) == y).mean() > 0.95


def test_a_sample_passes_the_body_once_however_many_passes_there_are(file: Path) -> None:
    x, _ = images(3 * PIECE + 5)
    body = counting(file)
    cache = FeatureCache(body, 1 << 20)
    first = cache.features(x)
    for _ in range(2):
        cache.forget_unused()
        for _ in range(3):
            np.testing.assert_array_equal(cache.features(x), first)
    assert body.num_samples == len(x)


def test_data_that_changes_is_looked_at_again(file: Path) -> None:
    x, _ = images(PIECE)
    cache = FeatureCache(counting(file), 1 << 20)
    before = cache.features(x)
    x += 1
    assert (cache.features(x) != before).any()


def test_memory_is_bounded_and_the_rest_is_found_again(file: Path) -> None:
    x, _ = images(4 * PIECE)
    body = counting(file)
    piece_bytes = PIECE * 36 * 4
    cache = FeatureCache(body, 2 * piece_bytes)
    first = cache.features(x)
    np.testing.assert_array_equal(cache.features(x), first)
    assert body.num_samples == (4 + 2) * PIECE


def test_no_more_features_are_at_hand_than_were_allowed(file: Path) -> None:
    piece_bytes = PIECE * 36 * 4
    for pieces in (0, 1, 3):
        cache = FeatureCache(counting(file), pieces * piece_bytes + 100)
        assert cache.max_rows == PIECE * max(1, pieces)
    x, y = images(5 * PIECE)
    trainer = FeatureTrainer(file, data=(x, y), cache_bytes=2 * piece_bytes)
    blocks = [len(features) for features, _ in trainer._feature_blocks()]
    assert blocks == [2 * PIECE, 2 * PIECE, PIECE]
    assert trainer.train(assignment()).num_samples == 5 * PIECE


def test_new_data_takes_the_place_of_old(file: Path) -> None:
    old, new = images(2 * PIECE)[0], images(2 * PIECE, seed=1)[0]
    body = counting(file)
    cache = FeatureCache(body, 2 * PIECE * 36 * 4)
    cache.features(old)
    cache.forget_unused()
    for _ in range(3):
        cache.features(new)
    assert body.num_samples == 4 * PIECE


def test_blocks_made_on_the_fly_are_taken_too(file: Path) -> None:
    def blocks() -> Iterator[Block]:
        yield images(20)
        yield images(13, seed=1)

    trainer = FeatureTrainer(file, data=blocks, num_samples=33)
    assert trainer.num_samples() == 33
    assert trainer.train(assignment()).num_samples == 33


def test_samples_that_do_not_fit_the_extractor_are_refused(file: Path) -> None:
    trainer = FeatureTrainer(file, data=(np.zeros((5, 7), np.float32), np.zeros(5, np.int64)))
    with pytest.raises(TrainingError, match=r"\('n', 8, 8, 1\)"):
        trainer.train(assignment())


def test_a_head_that_does_not_fit_the_features_is_refused(file: Path) -> None:
    spec = {**HEAD, "input": [35]}
    model = Model(parse_spec(spec))
    work = Assignment(model.init(bytes(32)), 1, spec, {}, bytes(32))
    with pytest.raises(TrainingError, match="36"):
        FeatureTrainer(file, data=images(10)).train(work)


def test_an_extractor_that_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"gone\.tflite"):
        FeatureTrainer(tmp_path / "gone.tflite", data=images(5))
