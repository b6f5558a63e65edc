"""What codecs cost in accuracy: real digits, 20 devices, label skew Dirichlet(0.3), rounds of all.

Without error feedback top-k of 1 % must be clearly worse: else feedback is not wired at all.
"""

from functools import cache
from statistics import fmean
from typing import Final

import numpy as np
import numpy.typing as npt
import pytest

from device_sdk.engine import Model, parse_spec
from device_sdk.pending import Residual
from device_sdk.reporting import make_pending
from device_sdk.trainer import Assignment, NumpyTrainer
from fedbus.datasets import load, split
from protocol.codec import decode_update
from protocol.messages import Lease
from protocol.stream import derive
from protocol.vectors.packing import decode, parse_codec
from protocol.vectors.support import support_seed

MODEL: Final = {
    "input": [64],
    "layers": [{"type": "dense", "units": 32}, {"type": "relu"}, {"type": "dense", "units": 10}],
    "loss": "softmax_cross_entropy",
}
TRAINING: Final = {"epochs": 2, "batch_size": 16, "learning_rate": 0.1}
SEEDS: Final = (0,)
ROUNDS: Final = 60
DENSE: Final = "dense/float32"
TOP: Final = "topk-0.01/int8"

Vector = npt.NDArray[np.float32]


class Sender:
    """One device: what it sends of its deltas."""

    def __init__(self, name: str, codec: str, *, feeds_back: bool) -> None:
        self._name = name
        self._codec = codec
        self._feeds_back = feeds_back
        self._residual: Residual | None = None

    def sends(self, model: Model, delta: Vector, version: int) -> Vector:
        """Return what the aggregator reads; the rest is kept until the next."""
        lease = Lease(bytes(16), bytes(16), version, bytes(32), 0, 1, self._codec, 1 << 20, 0, 60)
        pending = make_pending(
            "t",
            lease,
            delta,
            1,
            layout=model.layout,
            residual=self._residual,
            rounding_seed=derive(bytes(32), self._name, version),
        )
        if self._feeds_back and pending.residual:
            self._residual = Residual(bytes(16), pending.residual, version=version + 1)
        update = decode_update(pending.update)
        seed = support_seed("t", version)
        return decode(
            update.body, parse_codec(update.codec), model.layout, support_seed=seed
        ).dense()


@cache
def accuracy(codec: str, *, feeds_back: bool = True) -> float:
    """The mean over seeds, and over the last five rounds."""
    return fmean(run(codec, seed, feeds_back=feeds_back) for seed in SEEDS)


def run(codec: str, seed: int, *, feeds_back: bool) -> float:
    parts = split(load(None), devices=20, alpha=0.3, seed=seed)
    model = Model(parse_spec(MODEL))
    params = model.init(derive(bytes(32), seed)).astype(np.float32)
    trainers = [NumpyTrainer(data=(part.x, part.y)) for part in parts.devices]
    senders = [Sender(str(at), codec, feeds_back=feeds_back) for at in range(len(trainers))]
    last = []
    for version in range(ROUNDS):
        total = np.zeros(params.size)
        for at, (trainer, sender) in enumerate(zip(trainers, senders, strict=True)):
            own = derive(bytes(32), seed, version, at)
            trained = trainer.train(Assignment(params, version, MODEL, TRAINING, own))
            total += sender.sends(model, trained.params - params, version)
        params = (params + total / len(trainers)).astype(np.float32)
        found = model.evaluate(params, parts.held_out.x, parts.held_out.y)
        last.append(found.accuracy or 0.0)
    return fmean(last[-5:])


@pytest.mark.slow
def test_error_feedback_makes_up_for_what_top_k_leaves_out() -> None:
    with_it, without = accuracy(TOP), accuracy(TOP, feeds_back=False)
    assert with_it >= accuracy(DENSE) - 0.02
    assert without <= with_it - 0.04


@pytest.mark.slow
@pytest.mark.parametrize("codec", ["dense/int4", "dense/ternary"])
def test_coarse_unbiased_levels_need_no_feedback(codec: str) -> None:
    assert accuracy(codec) >= accuracy(DENSE) - 0.01
