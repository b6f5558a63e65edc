"""FLTrust's root set: what the aggregator trains itself, and what is refused."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from aggregator.coordinator import Coordinator
from aggregator.robust.config import RobustConfig
from aggregator.robust.history import History
from aggregator.robust.root import MAX_ROOT_ROWS, RootSet
from aggregator.robust.rows import Row, RowBuffer
from aggregator.store import open_store
from device_sdk.engine.model import Model
from protocol.errors import ConfigError
from protocol.vectors.packing import SparseDelta
from tests.support.desk import task_config

TRAINING = {"epochs": 1, "batch_size": 8, "learning_rate": 0.5}
FLTRUST = task_config(robust=RobustConfig(rule="fltrust", root_file="root.npz"), training=TRAINING)
SEED = bytes(32)


def rows(number: int) -> tuple[np.ndarray, np.ndarray]:
    x = np.random.default_rng(0).standard_normal((number, 2)).astype(np.float32)
    return x, (x[:, 0] > 0).astype(np.int64)


def root_set(number: int = 40) -> RootSet:
    model = Model(FLTRUST.model_spec())
    return RootSet(model, FLTRUST.trained(), TRAINING, rows(number), SEED)


def test_a_version_gives_the_same_delta_every_time_and_it_learns() -> None:
    params = np.zeros(6, np.float32)
    delta = root_set().delta(3, params)
    assert delta.tobytes() == root_set().delta(3, params).tobytes()
    assert not params.any()
    model, (x, y) = Model(FLTRUST.model_spec()), rows(40)
    before, after = (model.evaluate(params + part, x, y) for part in (0 * delta, delta))
    assert after.loss < before.loss


def test_a_model_that_has_diverged_gives_no_trust_to_anybody() -> None:
    assert not root_set().delta(0, np.full(6, 3e38, np.float32)).any()


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (lambda: rows(MAX_ROOT_ROWS + 1), "1001 samples; 1000 at most"),
        (lambda: (rows(3)[0], np.array([0, 1, 7])), "does not fit the model"),
    ],
)
def test_data_that_will_not_do_are_refused(
    data: Callable[[], tuple[np.ndarray, np.ndarray]], told: str
) -> None:
    with pytest.raises(ConfigError, match=told):
        RootSet(Model(FLTRUST.model_spec()), FLTRUST.trained(), TRAINING, data(), SEED)


def test_only_who_points_where_trusted_data_do_moves_the_model() -> None:
    buffer = RowBuffer(
        FLTRUST.robust, 2, History({}, 2, has_centre=False), lambda: np.array([0.0, 2.0])
    )
    for name, values in {"a": [0.0, 1.0], "b": [0.0, -9.0], "c": [0.0, 90.0]}.items():
        delta = SparseDelta(None, np.array(values, np.float32), 2)
        buffer.add(Row(name.encode(), name, delta, 1.0, 1))
    judged = buffer.judged(by_number=False)
    np.testing.assert_allclose(judged.vector, [0.0, 2.0])
    assert dict(judged.kept)["b"] == 0.0


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"rule": "fltrust"}, "set root_file"),
        ({"root_file": "root.npz"}, '"fltrust" does'),
        ({"rule": "fltrust", "root_file": "root.npz", "group": 3}, "leave group out"),
    ],
)
def test_the_root_file_goes_with_the_rule(settings: dict[str, object], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        RobustConfig(**settings)  # type: ignore[arg-type] # each key has its type


def test_a_task_that_wants_a_root_set_does_not_start_without(tmp_path: Path) -> None:
    store = open_store(tmp_path, "t", keep_versions=1)
    with pytest.raises(ConfigError, match="nobody has read it"):
        Coordinator(FLTRUST, store.snapshot(), SEED, 0.0)
    Coordinator(FLTRUST, store.snapshot(), SEED, 0.0, root=rows(20))
    store.close()
