"""A quantised file is integers inside, keeps to the specification, and stays near the engine."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aggregator.export import Calibration, export
from aggregator.export.graph import FLOAT, INT8, INT32, Graph, Operation
from aggregator.export.lower import lower
from aggregator.export.quantise import quantise
from aggregator.export.simplify import simplify
from device_sdk.engine import Model, TrainingError, parse_spec
from device_sdk.runtimes import find_runtime
from tests.aggregator.export.models import (
    MODELS,
    dense,
    loaded,
    model_of,
    some_params,
    some_samples,
)

#: Deviation of an int8 model's error, by the deviation of its outputs.
MAX_ERROR = 0.06


def integers(name: str, *, float_borders: bool = True) -> Graph:
    """The quantised graph of a model."""
    model = model_of(name)
    graph = lower(model.spec, some_params(model), for_integers=True)
    simplify(graph)
    quantise(graph, some_samples(model), float_borders=float_borders)
    return graph


def all_operations(graph: Graph) -> list[Operation]:
    return [each for one in (graph, *graph.inner()) for each in one.operations]


@pytest.mark.parametrize("name", MODELS)
def test_the_file_predicts_nearly_as_the_engine_does(name: str) -> None:
    model = model_of(name)
    params, x = some_params(model), some_samples(model, 300)
    expected = model.predict(params, x)
    file = export(model, params, calibration=Calibration(x[:200]))
    error = loaded(file).predict(x) - expected
    assert error.std() < MAX_ERROR * expected.std()


@pytest.mark.parametrize("name", MODELS)
def test_nothing_is_computed_in_floating_point(name: str) -> None:
    graph = integers(name, float_borders=False)
    for operation in all_operations(graph):
        for value in (*operation.inputs, *operation.outputs):
            assert value.dtype != FLOAT, f"{operation.kind}: {value.name}"


@pytest.mark.parametrize("name", MODELS)
def test_weights_are_symmetric_and_biases_follow_from_the_scales(name: str) -> None:
    seen = 0
    for operation in all_operations(integers(name)):
        if operation.kind not in {"CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED"}:
            continue
        x, weight, bias = operation.inputs
        assert x.quantisation is not None
        assert weight.quantisation is not None
        assert bias.quantisation is not None
        assert (weight.dtype, bias.dtype) == (INT8, INT32)
        assert weight.quantisation.zero_point == bias.quantisation.zero_point == 0
        assert weight.numbers.min() >= -127
        axis = weight.quantisation.axis
        assert len(weight.quantisation.scales) == weight.shape[axis] == bias.shape[0]
        expected = np.array(weight.quantisation.scales) * x.quantisation.scales[0]
        np.testing.assert_allclose(bias.quantisation.scales, expected)
        seen += 1
    assert seen or name == "embedding"


@pytest.mark.parametrize("name", MODELS)
def test_scales_that_the_specification_fixes_are_those(name: str) -> None:
    fixed = {"LOGISTIC": (1 / 256, -128), "TANH": (1 / 128, 0), "L2_NORMALIZATION": (1 / 128, 0)}
    alike = {"MAX_POOL_2D", "AVERAGE_POOL_2D", "RESHAPE", "SPLIT", "GATHER"}
    for operation in all_operations(integers(name)):
        output = operation.output.quantisation
        if operation.kind in fixed:
            assert output is not None
            assert (output.scales[0], output.zero_point) == fixed[operation.kind]
        if operation.kind in alike:
            (moved,) = [each for each in operation.inputs if each.dtype == INT8]
            assert moved.quantisation == output


def test_a_loop_hands_on_what_it_took_in_the_same_scale() -> None:
    (loop,) = [each for each in integers("gru").operations if each.kind == "WHILE"]
    _, body = loop.graphs
    for ways in zip(loop.inputs, body.inputs, body.outputs, loop.outputs, strict=True):
        assert len({value.quantisation for value in ways}) == 1


def test_floats_outside_and_integers_inside_are_the_default() -> None:
    model = model_of("conv2d")
    file = export(model, some_params(model), calibration=Calibration(some_samples(model)))
    interpreter = find_runtime().interpreter(file)
    assert interpreter.get_input_details()[0]["dtype"] is np.float32
    assert interpreter.get_output_details()[0]["dtype"] is np.float32


def test_integers_outside_come_with_their_scales() -> None:
    model = model_of("conv2d")
    params, x = some_params(model), some_samples(model)
    inside = export(model, params, calibration=Calibration(x))
    file = export(model, params, calibration=Calibration(x, float_borders=False))
    interpreter = find_runtime().interpreter(file)
    for details in (interpreter.get_input_details()[0], interpreter.get_output_details()[0]):
        assert details["dtype"] is np.int8
        assert details["quantization"][0] > 0
    np.testing.assert_array_equal(loaded(file).predict(x), loaded(inside).predict(x))


def test_a_quarter_of_the_bytes_are_left_of_a_larger_model() -> None:
    layers = [dense(256), {"type": "relu"}, dense(10)]
    model = Model(parse_spec({"input": [256], "layers": layers, "loss": "mean_squared_error"}))
    params, x = model.init(bytes(32)), some_samples(model)
    whole = export(model, params)
    small = export(model, params, calibration=Calibration(x))
    assert len(small) < 0.3 * len(whole)


@given(
    weight=st.floats(-1e-9, 1e-9),
    bias=st.floats(-1e6, 1e6, width=32),
    scale=st.floats(1e-6, 1e3),
)
def test_a_bias_beside_weights_of_nearly_nothing_fits_its_integer(
    weight: float, bias: float, scale: float
) -> None:
    model = Model(parse_spec({"input": [2], "layers": [dense(1)], "loss": "mean_squared_error"}))
    x = np.array([[0, scale], [scale, 0]], np.float32)
    graph = lower(model.spec, np.array([weight, 0, bias], np.float32), for_integers=True)
    quantise(graph, x, float_borders=False)
    (operation,) = graph.operations
    kept = operation.inputs[2]
    assert kept.quantisation is not None
    assert kept.numbers[0] * kept.quantisation.scales[0] == pytest.approx(bias, rel=1e-3, abs=1e-6)


def test_a_model_that_is_all_zero_predicts_zero() -> None:
    model = model_of("relu")
    zeros, x = np.zeros(model.layout.size, np.float32), some_samples(model)
    file = export(model, zeros, calibration=Calibration(x))
    assert not loaded(file).predict(x).any()


@pytest.mark.parametrize(
    ("samples", "says"),
    [(np.zeros((5, 7), np.float32), "shape"), (np.zeros((0, 6), np.float32), "calibration")],
)
def test_samples_that_do_not_fit_are_refused(samples: np.ndarray, says: str) -> None:
    model = model_of("dense")
    with pytest.raises(TrainingError, match=says):
        export(model, some_params(model), calibration=Calibration(samples))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_samples_that_are_no_numbers_are_refused(bad: float) -> None:
    model = model_of("dense")
    samples = np.full((5, 6), bad, np.float32)
    with pytest.raises(TrainingError, match="finite"):
        export(model, some_params(model), calibration=Calibration(samples))
