"""A float32 file computes what the engine does, layer by layer."""

import numpy as np
import pytest

from aggregator.export import export
from aggregator.export.graph import Graph
from aggregator.export.lower import lower
from aggregator.export.reference import run
from aggregator.export.simplify import simplify
from device_sdk.engine import TrainingError
from tests.aggregator.export.models import MODELS, loaded, model_of, some_params, some_samples


@pytest.mark.parametrize("name", MODELS)
def test_the_file_predicts_as_the_engine_does(name: str) -> None:
    model = model_of(name)
    params, x = some_params(model), some_samples(model)
    expected = model.predict(params, x)
    np.testing.assert_allclose(
        loaded(export(model, params)).predict(x), expected, rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize("name", MODELS)
def test_so_does_the_graph_before_and_after_it_is_simplified(name: str) -> None:
    model = model_of(name)
    params, x = some_params(model), some_samples(model)
    expected = model.predict(params, x)
    for for_integers in (False, True):
        graph = lower(model.spec, params, for_integers=for_integers)
        for _ in range(2):
            (outputs,) = run(graph, [x.astype(np.float64)], lambda *_: None)
            # For integers, a layer norm has no epsilon.
            np.testing.assert_allclose(
                outputs, expected, rtol=1e-5, atol=1e-3 if for_integers else 1e-5
            )
            simplify(graph)


def kinds(name: str) -> list[str]:
    model = model_of(name)
    graph = lower(model.spec, some_params(model), for_integers=False)
    simplify(graph)
    return [each.kind for each in graph.operations]


def test_a_batch_norm_and_an_activation_are_part_of_the_convolution() -> None:
    assert kinds("batch_norm after") == ["CONV_2D", "RESHAPE"]
    assert kinds("batch_norm of a dense") == ["FULLY_CONNECTED", "FULLY_CONNECTED"]


def test_a_batch_norm_stays_where_nothing_can_take_it() -> None:
    assert kinds("batch_norm before") == ["MUL", "ADD", "CONV_2D", "RESHAPE"]


def test_what_a_residual_reads_is_not_folded_away() -> None:
    expected = ["CONV_2D", "RELU", "CONV_2D", "ADD", "MEAN"]
    assert kinds("add") == expected


def test_series_are_turned_into_images_once() -> None:
    assert kinds("pools of a series").count("RESHAPE") == 2


def test_a_recurrence_is_as_small_as_one_step_of_it() -> None:
    model = model_of("gru")
    graph = lower(model.spec, some_params(model), for_integers=False)
    (loop,) = [each for each in graph.operations if each.kind == "WHILE"]
    _, body = loop.graphs
    assert isinstance(body, Graph)
    assert len(body.operations) == 14
    assert len(export(model, some_params(model))) < 6_000


def test_params_of_another_model_are_refused() -> None:
    model = model_of("dense")
    with pytest.raises(TrainingError, match="35 params"):
        export(model, np.zeros(34, np.float32))
