"""With the same weights and the same batch, PyTorch has the same outputs and gradients."""

import numpy as np
import numpy.typing as npt
import pytest

from device_sdk.engine import Model, parse_spec
from device_sdk.engine.specs import named_spec, spec_names
from protocol.stream import Stream
from tests.support.torch import gradient_of, require_torch

require_torch()
import torch  # noqa: E402 - only where it is

from device_sdk.adapters.torch_modules import SpecModule, loss_function  # noqa: E402 - they import it
from device_sdk.adapters.torch_params import FlatState  # noqa: E402

Float32 = npt.NDArray[np.float32]
SEED = bytes(range(32))


def numbers(shape: tuple[int, ...], label: int) -> Float32:
    uniform = Stream(bytes([label]) * 32).uniform(int(np.prod(shape))).reshape(shape)
    return uniform * np.float32(2) - np.float32(1)


def relative_error(ours: npt.NDArray[np.floating], theirs: npt.NDArray[np.floating]) -> float:
    return float(np.linalg.norm(ours - theirs) / np.linalg.norm(theirs))


@pytest.mark.parametrize("name", spec_names())
def test_every_named_spec_is_torchs_in_float32(name: str) -> None:
    model = Model(parse_spec(named_spec(name)))
    outputs_shape = model.spec.shapes[-1]
    params = model.init(SEED)
    params += np.float32(0.05) * np.cos(np.arange(params.size, dtype=np.float32))
    x, rows = numbers((8, *model.spec.input), 1), np.arange(8)
    dense = model.spec.loss.dense_targets
    y = numbers((8, *outputs_shape), 2) if dense else rows % outputs_shape[0]
    module = SpecModule(model.spec)
    state = FlatState(module, model.spec)
    state.from_flat(params)
    module.eval()
    with torch.no_grad():
        outputs = module(torch.from_numpy(x)).numpy()
    assert relative_error(model.predict(params, x), outputs) < 1e-5
    module.train()
    loss = loss_function(model.spec.loss)(module(torch.from_numpy(x)), torch.from_numpy(y))
    loss.backward()
    our_loss, gradient = model.loss_and_gradient(params, x, y)
    assert our_loss == pytest.approx(loss.item(), rel=1e-5)
    assert relative_error(gradient, gradient_of(state)) < 1e-5
