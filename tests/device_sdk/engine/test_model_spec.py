"""A spec becomes a model, or an error that names layer and key; the model does what it says."""

import hashlib
import re
import tracemalloc
from collections.abc import Mapping

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from device_sdk.engine import Model, TrainingError, TrainingSettings, parse_spec, plan_training
from device_sdk.engine.arrays import EVAL_ROWS
from device_sdk.engine.layers.windows import TAP_BYTES, taps
from protocol.errors import ConfigError
from protocol.stream import Stream

DENSE_10 = {"type": "dense", "units": 10}
MLP: Mapping[str, object] = {
    "input": [64],
    "layers": [{"type": "dense", "units": 32}, {"type": "relu"}, DENSE_10],
    "loss": "softmax_cross_entropy",
}
ALL_LAYERS: Mapping[str, object] = {
    "input": [2, 3],
    "layers": [
        {"type": "tanh"},
        {"type": "flatten"},
        {"type": "dense", "units": 5, "init_scale": "glorot"},
        {"type": "sigmoid"},
        {"type": "dense", "units": 4},
        {"type": "relu"},
        {"type": "dense", "units": 3},
    ],
    "loss": "softmax_cross_entropy",
}


def samples(
    model: Model, rows: int, label: int = 7
) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    shape = (rows, *model.spec.input)
    return Stream(bytes([label]) * 32).uniform(int(np.prod(shape))).reshape(shape)


def test_a_number_is_for_all_sides_of_a_window() -> None:
    layers = [
        {"type": "conv2d", "filters": 2, "kernel": kernel, "stride": stride}
        for kernel, stride in ((3, 2), ([3], [2]), ([3, 3], [2, 2]))
    ]
    specs = [
        parse_spec(
            {
                "input": [8, 9, 1],
                "layers": [layer, {"type": "flatten"}, DENSE_10],
                "loss": {"type": "softmax_cross_entropy"},
            }
        )
        for layer in layers
    ]
    assert specs[0] == specs[1] == specs[2]
    assert specs[0].shapes == ((8, 9, 1), (3, 4, 2), (24,), (10,))


def test_an_add_knows_where_its_other_input_is() -> None:
    spec = parse_spec(
        {
            **MLP,
            "layers": [
                {**DENSE_10, "name": "skip"},
                {"type": "relu"},
                DENSE_10,
                {"type": "add", "source": "skip"},
            ],
        }
    )
    assert spec.sources == (None, None, None, 0)
    assert spec.names == ("skip", "", "", "")
    assert spec.words == ("dense", "relu", "dense", "add")


def test_the_digits_mlp_has_2410_params_in_a_named_order() -> None:
    layout = parse_spec(MLP).layout
    assert layout.size == 2410
    assert [(tensor.name, tensor.shape) for tensor in layout.tensors] == [
        ("0.dense.weight", (64, 32)),
        ("0.dense.bias", (32,)),
        ("2.dense.weight", (32, 10)),
        ("2.dense.bias", (10,)),
    ]


def test_first_params_are_frozen() -> None:
    """If this fails, devices and aggregators of two versions start from different models."""
    params = Model(parse_spec(MLP)).init(bytes(range(32)))
    data = params.astype("<f4").tobytes()
    assert data[:16].hex() == "e62a60be2df7963e0b4b723ea5e2913e"
    assert (
        hashlib.sha256(data).hexdigest()
        == "308c7c1267554a34ec38cf381acbb44a471086bf8200371d7bd3ebf64b2b9d5f"
    )


def test_another_seed_gives_other_params() -> None:
    model = Model(parse_spec(MLP))
    assert not np.array_equal(model.init(bytes(32)), model.init(b"\x01" * 32))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"input": []}, "model: input: the sides of a sample"),
        ({"input": [0]}, "model: input: the sides of a sample"),
        ({"input": 64}, "model.input: expected a list"),
        ({"input": [1 << 29]}, "more than 268435456 numbers"),
        ({"loss": "hinge"}, "loss: 'hinge' is none of softmax_cross_entropy, mean_squared_error"),
        ({"optimiser": "sgd"}, "model.optimiser: unknown key"),
        ({"layers": []}, "model.layers: nothing to train; add a dense layer"),
        ({"layers": [{"type": "relu"}]}, "model.layers: nothing to train; add a dense layer"),
        ({"layers": ["relu"]}, "model.layers[0]: expected a table"),
        ({"layers": [{"units": 3}]}, "model.layers[0].type: None is none of dense, relu"),
        ({"layers": [DENSE_10, {"type": "rleu"}]}, "model.layers[1].type: 'rleu' is none of"),
        ({"layers": [{"type": "dense"}]}, "model.layers[0] (dense).units: missing"),
        ({"layers": [{"type": "dense", "unit": 3}]}, "did you mean 'units'?"),
        ({"layers": [{"type": "dense", "units": 0}]}, "model.layers[0] (dense): units must be at"),
        ({"layers": [{"type": "dense", "units": 2.5}]}, "units: expected a whole number"),
        ({"layers": [{**DENSE_10, "init_scale": "big"}]}, 'init_scale must be "he" or "glorot"'),
        ({"layers": [{"type": "relu", "units": 3}]}, "model.layers[0] (relu).units: unknown key"),
        ({"input": [8, 8]}, "model.layers[0] (dense): takes flat input, not (8, 8); put a flatten"),
        ({"loss": {"type": "hinge"}}, "loss: 'hinge' is none of softmax_cross_entropy"),
        ({"loss": {"type": "huber", "beta": 1}}, "model.loss.beta: unknown key"),
        ({"loss": {"type": "huber", "delta": 0}}, "model.loss: delta must be above 0"),
        ({"loss": {"delta": 1}}, "model.loss: expected text in quotes"),
        ({"layers": [{**DENSE_10, "name": 3}]}, "model.layers[0].name: expected text, not 3"),
        (
            {"layers": [{**DENSE_10, "name": "a"}, {**DENSE_10, "name": "a"}]},
            "model.layers[1] (dense): name: 'a' is an earlier layer's too",
        ),
        (
            {"layers": [DENSE_10, {"type": "add", "source": "a"}]},
            "model.layers[1] (add): source: no earlier layer has the name 'a'",
        ),
        (
            {
                "layers": [
                    {"type": "dense", "units": 3, "name": "a"},
                    DENSE_10,
                    {"type": "add", "source": "a"},
                ]
            },
            "model.layers[2] (add): source: (3,) cannot be added to (10,)",
        ),
        (
            {"layers": [{"type": "relu"}, {"type": "embedding", "vocabulary": 3, "dim": 2}]},
            "model.layers[1] (embedding): an embedding looks up samples: it must be the first",
        ),
        (
            {"input": [8, 8, 1], "layers": [{"type": "conv2d", "filters": 2, "kernel": [3]}]},
            "model.loss: softmax",
        ),
        (
            {"input": [8, 8, 1], "layers": [{"type": "conv2d", "filters": 2, "kernel": [3, 2, 1]}]},
            "model.layers[0] (conv2d): kernel must be a number or 2 of them, not [3, 2, 1]",
        ),
        ({"layers": [{"type": "dense", "units": 1}]}, "model.loss: softmax_cross_entropy needs"),
        ({"layers": [{"type": "dense", "units": 1 << 40}]}, "model.layers[0] (dense): (1099511"),
        ({"layers": [{"type": "dense", "units": 1 << 24}]}, "params are more than"),
    ],
)
def test_a_wrong_spec_is_refused_by_name(change: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        parse_spec({**MLP, **change})


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(st.sampled_from(["type", "units", "input", "x"]), inner, max_size=3)
        ),
        max_leaves=8,
    ),
    st.sampled_from(["input", "layers", "loss"]),
)
def test_a_plan_with_garbage_in_it_is_refused_with_a_config_error(value: object, key: str) -> None:
    try:
        parse_spec({**MLP, key: value})
    except ConfigError:
        return
    assert key == "input"  # a flat input of another size is a good spec


@pytest.mark.parametrize("loss", ["softmax_cross_entropy", "mean_squared_error"])
def test_the_gradient_of_a_whole_model_is_that_of_its_loss(loss: str) -> None:
    model = Model(parse_spec({**ALL_LAYERS, "loss": loss}))
    params = model.init(bytes(32)).astype(np.float64)
    x = samples(model, 6) * 2 - 1
    y = np.arange(6) % 3 if loss == "softmax_cross_entropy" else samples(model, 6)[:, 0]
    _, gradient = model.loss_and_gradient(params, x, y)
    expected = np.empty_like(gradient)
    for index in range(params.size):
        sides = []
        for shift in (1e-6, -1e-6):
            moved = params.copy()
            moved[index] += shift
            sides.append(model.loss_and_gradient(moved, x, y)[0])
        expected[index] = (sides[0] - sides[1]) / 2e-6
    assert gradient.dtype == np.float64
    assert np.linalg.norm(gradient - expected) / np.linalg.norm(expected) < 1e-6


def test_float32_params_give_float32_gradients_close_to_the_exact_ones() -> None:
    model = Model(parse_spec(MLP))
    params, x, y = model.init(bytes(32)), samples(model, 16), np.arange(16) % 10
    _, gradient = model.loss_and_gradient(params, x, y)
    _, exact = model.loss_and_gradient(params.astype(np.float64), x, y)
    assert gradient.dtype == np.float32
    assert np.linalg.norm(gradient - exact) / np.linalg.norm(exact) < 1e-5


def test_evaluation_in_parts_equals_evaluation_of_the_whole() -> None:
    model = Model(parse_spec(MLP))
    rows = 2 * EVAL_ROWS + 3
    params, x, y = model.init(bytes(32)), samples(model, rows), np.arange(rows) % 10
    loss, _ = model.loss_and_gradient(params, x, y)
    metrics = model.evaluate(params, x, y)
    correct = np.count_nonzero(model.predict(params, x).argmax(axis=1) == y)
    assert metrics.loss == pytest.approx(loss, rel=1e-5)
    assert metrics.accuracy == correct / rows
    assert metrics.num_samples == rows


def test_regression_has_no_accuracy() -> None:
    model = Model(parse_spec({**MLP, "loss": "mean_squared_error"}))
    y = np.zeros((3, 10))
    assert model.evaluate(model.init(bytes(32)), samples(model, 3), y).accuracy is None


def test_predicting_nothing_gives_nothing() -> None:
    model = Model(parse_spec(MLP))
    assert model.predict(model.init(bytes(32)), np.empty((0, 64))).shape == (0, 10)


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        (np.zeros((0, 64)), np.zeros(0, int), "no samples"),
        (np.zeros((3, 8, 8)), np.zeros(3, int), r"x must hold numbers of shape \('n', 64\)"),
        (np.zeros(64), np.zeros(1, int), "x must hold numbers"),
        (np.full((3, 64), "a"), np.zeros(3, int), "x must hold numbers"),
        (np.zeros((3, 64)), np.zeros(4, int), "3 samples in x, but y has shape"),
        (np.zeros((3, 64)), np.array(1), "3 samples in x, but y has shape"),
        (np.zeros((3, 64)), np.full(3, 10), "labels run from 10 to 10"),
        (np.full((3, 64), np.nan), np.zeros(3, int), "the loss is nan"),
    ],
)
def test_samples_that_do_not_fit_are_refused(
    x: np.ndarray[tuple[int, ...], np.dtype[np.generic]],
    y: np.ndarray[tuple[int, ...], np.dtype[np.generic]],
    message: str,
) -> None:
    model = Model(parse_spec(MLP))
    params = model.init(bytes(32))
    with pytest.raises(TrainingError, match=message):
        model.loss_and_gradient(params, x, y)
    with pytest.raises(TrainingError, match=message):
        model.evaluate(params, x, y)


@pytest.mark.parametrize("size", [2409, 2411])
def test_params_of_another_model_are_refused(size: int) -> None:
    model = Model(parse_spec(MLP))
    with pytest.raises(TrainingError, match="the model has 2410 params"):
        model.predict(np.zeros(size, dtype=np.float32), np.zeros((1, 64)))


@pytest.mark.parametrize(
    "layer",
    [
        {"type": "max_pool", "size": 700, "padding": "same"},
        {"type": "avg_pool", "size": [20_000, 20_000], "padding": "same"},
        {"type": "conv2d", "filters": 1, "kernel": [1, 4097], "padding": "same"},
        {"type": "depthwise_conv2d", "kernel": 65, "padding": "same"},
        {"type": "conv2d", "filters": 1, "kernel": 3, "stride": 10**30},
        {"type": "max_pool", "size": 2, "stride": 10**30},
    ],
)
def test_a_window_that_would_cost_more_than_it_sees_is_refused(layer: dict[str, object]) -> None:
    layers = [layer, {"type": "flatten"}, {"type": "dense", "units": 10}]
    with pytest.raises(ConfigError, match=r"model\.layers\[0\] .*a window has at most 4096"):
        parse_spec({**MLP, "input": [8, 8, 1], "layers": layers})


def test_what_python_keeps_of_windows_is_planned() -> None:
    taps.cache_clear()
    tracemalloc.start()
    for sides in (3, 8, 64):
        taps((8, 8), (sides, sides), (1, 1), "same")
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert held < TAP_BYTES * (9 + 64 + 4096)
    small, large = (
        plan_training(
            parse_spec(
                {
                    "input": [8, 8, 1],
                    "layers": [
                        {"type": "max_pool", "size": size, "stride": 1, "padding": "same"},
                        {"type": "flatten"},
                        {"type": "dense", "units": 10},
                    ],
                    "loss": "softmax_cross_entropy",
                }
            ),
            TrainingSettings(),
        )
        for size in (1, 64)
    )
    assert large.overhead - small.overhead == TAP_BYTES * 4095


@pytest.mark.parametrize(
    "change",
    [
        {"input": [1] * 70},
        {"input": [2], "layers": [{"type": "reshape", "shape": [2] + [1] * 8}]},
    ],
)
def test_shapes_have_a_few_axes(change: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match="axes are more than 8"):
        parse_spec({**MLP, **change})
