"""A spec as a PyTorch module computes what the engine does, and its state is the flat vector."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from device_sdk.engine import Model, parse_spec
from device_sdk.engine.specs import named_spec, spec_names
from protocol.errors import ConfigError
from tests.aggregator.export.models import MODELS, spec_of
from tests.device_sdk.adapters.plans import numbers
from tests.support.torch import gradient_of, require_torch

require_torch()
import torch  # noqa: E402 - only where it is
from torch import nn  # noqa: E402

from device_sdk.adapters.torch_modules import SpecModule, loss_function  # noqa: E402 - they import it
from device_sdk.adapters.torch_params import FlatState  # noqa: E402

Float32 = npt.NDArray[np.float32]
Layers = list[dict[str, object]]


def spec(input_: list[int], layers: Layers, loss: str = "mean_squared_error") -> dict[str, object]:
    return {"input": input_, "layers": layers, "loss": loss}


DENSE: dict[str, object] = {"type": "dense", "units": 3}
SPECS: dict[str, Mapping[str, object]] = {
    **{f"named {name}": named_spec(name) for name in spec_names()},
    **{name: spec_of(name) for name in MODELS if name != "dropout"},
    **{
        f"loss {loss}": spec([6], [DENSE], loss)
        for loss in ("huber", "binary_cross_entropy", "distillation", "softmax_cross_entropy")
    },
    "truncated": spec([11, 2], [{"type": "gru", "units": 3, "truncate": 4}]),
    "truncated, sequences": spec(
        [12, 2], [{"type": "gru", "units": 3, "return_sequences": True, "truncate": 4}]
    ),
    "static batch_norm": spec([4, 3], [{"type": "batch_norm", "static": True}]),
    "batch_norm of a cube": spec([2, 3, 2, 4], [{"type": "batch_norm"}]),
}


class Pair:
    """A model of the engine and one of PyTorch, with the same params."""

    def __init__(self, name: str) -> None:
        self.model = Model(parse_spec(SPECS[name]))
        params = self.model.init(bytes(32))
        self.params = params + np.float32(0.05) * numbers(params.shape, 3)
        self.module = SpecModule(self.model.spec)
        self.state = FlatState(self.module, self.model.spec)
        self.state.from_flat(self.params)

    def batch(self, rows: int) -> tuple[Float32, npt.NDArray[np.generic]]:
        x = numbers((rows, *self.model.spec.input))
        if self.model.spec.words[0] == "embedding":
            x = np.floor((x + 1) * 5)
        outputs = self.model.spec.shapes[-1]
        if self.model.spec.loss.dense_targets:
            return x, (numbers((rows, *outputs), 2) + 1) / 2
        labels = np.arange(rows) % outputs[0]
        labels[2:3] = -1  # masked
        return x, labels

    def run(self, x: npt.NDArray[np.floating], *, training: bool) -> Any:
        self.module.train(training)
        for layer in self.module.layers:
            if isinstance(layer, nn.Dropout):
                layer.eval()  # the engine's gradient is without
        return self.module(torch.from_numpy(x))


def relative_error(ours: npt.NDArray[np.floating], theirs: npt.NDArray[np.floating]) -> float:
    return float(np.linalg.norm(ours - theirs) / max(1e-6, float(np.linalg.norm(theirs))))


@pytest.mark.parametrize("name", SPECS)
def test_outputs_are_those_of_the_engine(name: str) -> None:
    pair = Pair(name)
    x, _ = pair.batch(8)
    with torch.no_grad():
        outputs = pair.run(x, training=False).numpy()
    assert outputs.shape == (8, *pair.model.spec.shapes[-1])
    assert relative_error(pair.model.predict(pair.params, x), outputs) < 1e-5


@pytest.mark.parametrize("rows", [8, 1])
@pytest.mark.parametrize("name", SPECS)
def test_loss_and_gradient_are_those_of_the_engine(name: str, rows: int) -> None:
    """In float64: a number next to the bend of a ReLU may be on either side in float32."""
    pair = Pair(name)
    pair.module.double()
    x, y = pair.batch(rows)
    outputs = pair.run(x.astype(np.float64), training=True)
    targets = torch.from_numpy(y)
    loss = loss_function(pair.model.spec.loss)(
        outputs, targets.double() if targets.is_floating_point() else targets
    )
    loss.backward()
    ours, gradient = pair.model.loss_and_gradient(pair.params.astype(np.float64), x, y)
    assert ours == pytest.approx(loss.item(), rel=1e-9)
    assert relative_error(gradient, gradient_of(pair.state)) < 1e-6


@pytest.mark.parametrize("name", SPECS)
def test_the_flat_vector_goes_in_and_comes_out_bit_by_bit(name: str) -> None:
    pair = Pair(name)
    assert np.array_equal(pair.state.to_flat(), pair.params)


def two_layers(units: int = 8) -> nn.Module:
    return nn.Sequential(nn.Linear(6, units), nn.ReLU(), nn.Linear(units, 3))


MLP = parse_spec(spec([6], [{"type": "dense", "units": 8}, {"type": "relu"}, DENSE]))


def test_a_module_of_ones_own_takes_the_flat_vector_too() -> None:
    model = Model(MLP)
    params, x = model.init(bytes(32)), numbers((5, 6))
    module = two_layers()
    state = FlatState(module, MLP)
    state.from_flat(params)
    outputs = module(torch.from_numpy(x)).detach().numpy()
    assert relative_error(model.predict(params, x), outputs) < 1e-5
    assert np.array_equal(state.to_flat(), params)


class Backwards(nn.Module):  # type: ignore[misc] # mypy does not look into torch
    """Registers its layers the other way round."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(8, 3)
        self.body = nn.Linear(6, 8)


def test_names_say_where_tensors_of_another_order_are() -> None:
    names = {
        "0.dense.weight": "body.weight",
        "0.dense.bias": "body.bias",
        "2.dense.weight": "head.weight",
        "2.dense.bias": "head.bias",
    }
    module = Backwards()
    state = FlatState(module, MLP, names)
    params = numbers((MLP.layout.size,))
    state.from_flat(params)
    assert np.array_equal(module.body.weight.detach().numpy().T.reshape(-1), params[:48])
    assert np.array_equal(state.to_flat(), params)


@pytest.mark.parametrize(
    ("module", "names", "problem"),
    [
        (nn.Linear(6, 8), None, "the module has 2 tensors, the plan's model 4: weight, bias for 0"),
        (two_layers(9), None, r"0\.dense\.weight: the module's '0\.weight' is \(9, 6\), not \(8,"),
        (Backwards(), None, r"0\.dense\.weight: the module's 'head\.weight' is \(3, 8\)"),
        (two_layers(), {}, r"0\.dense\.weight: the module has no '' among 0\.weight, 0\.bias"),
        (
            two_layers(),
            {"0.dense.weight": "0.bias"},
            r"0\.dense\.weight: expected a 'weight' of the module, not '0\.bias'",
        ),
    ],
)
def test_a_module_that_is_not_the_model_is_refused(
    module: Any, names: dict[str, str] | None, problem: str
) -> None:
    with pytest.raises(ConfigError, match=problem):
        FlatState(module, MLP, names)
