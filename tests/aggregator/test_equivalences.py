"""Methods that must coincide, and do, to the last bit (McMahan et al. 2017)."""

import numpy as np
from sklearn.datasets import load_digits

from aggregator.robust.config import RobustConfig
from aggregator.scheduling.buffered import Buffered
from device_sdk.engine.model import Model
from device_sdk.engine.spec import parse_spec
from device_sdk.trainer import Assignment, NumpyTrainer
from protocol.stream import derive
from protocol.vectors.layout import params_from_bytes
from tests.aggregator.conftest import MakeDesk

MODEL = {
    "input": [64],
    "layers": [{"type": "dense", "units": 10}],
    "loss": "softmax_cross_entropy",
}
TRAINING = {"epochs": 1, "batch_size": 32, "learning_rate": 0.1}


def test_one_device_with_all_data_is_central_sgd(make_desk: MakeDesk) -> None:
    """The delta is rounded to float32 once on its way, in both."""
    x, y = load_digits(return_X_y=True)
    trainer = NumpyTrainer(data=((x / 16).astype(np.float32), y))
    desk = make_desk(model=MODEL, buffered=Buffered(goal=1), weigh_by_samples=True)
    first = desk.store.params(0)
    assert first is not None
    central = params_from_bytes(first, Model(parse_spec(MODEL)).layout.size)
    for number in range(3):
        seed = derive(bytes(32), number)
        lease = desk.lease("a")
        assignment = Assignment(desk.params, lease.version, MODEL, TRAINING, seed)
        trained = trainer.train(assignment)
        delta = trained.params - desk.params
        desk.send("a", lease, list(delta), num_samples=trained.num_samples)
        plain = trainer.train(Assignment(central, number, MODEL, TRAINING, seed)).params
        central = (central.astype(np.float64) + (plain - central)).astype(np.float32)
    assert desk.coordinator.version == 3
    assert desk.params.tobytes() == central.tobytes()


def test_the_weighted_mean_divides_by_the_participants_only(make_desk: MakeDesk) -> None:
    """Over those who took part, not over all who could."""
    unlimited = RobustConfig(samples_ratio=0.0)
    desk = make_desk(buffered=Buffered(goal=2), weigh_by_samples=True, robust=unlimited)
    leases = {device: desk.lease(device) for device in "abcd"}
    desk.send("a", leases["a"], [4.0, 0, 0, 0, 0, 0], num_samples=30)
    desk.send("b", leases["b"], [0, 4.0, 0, 0, 0, 0], num_samples=10)
    np.testing.assert_allclose(desk.step[:2], [3.0, 1.0], rtol=1e-6)
