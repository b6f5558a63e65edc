"""Running statistics of batch normalisation, as the aggregator lets them follow the devices."""

import hashlib
from collections import deque

import numpy as np
import pytest

from aggregator.bandwidth import BandwidthConfig
from aggregator.records import VersionRecord
from aggregator.scheduling.buffered import Buffered
from aggregator.statistics import LEAST_PART, gain_of, statistics_of
from aggregator.strategy import Strategy
from aggregator.strategy.adaptive import fedadam
from aggregator.strategy.fedavg import fedavg, fedavgm
from aggregator.versions import Versions
from device_sdk.engine.spec import parse_spec
from device_sdk.engine.subset import trained_subset
from protocol.messages import CheckIn, Lease
from protocol.vectors.layout import params_to_bytes
from tests.aggregator.conftest import MakeDesk
from tests.support.desk import install_id

SPEC = {
    "input": [3],
    "layers": [
        {"type": "dense", "units": 4},
        {"type": "batch_norm"},
        {"type": "dense", "units": 2},
    ],
    "loss": "softmax_cross_entropy",
}
MODEL = parse_spec(SPEC)
SUBSET = trained_subset(MODEL, {})
STATISTICS = statistics_of(MODEL, SUBSET)
VARIANCES = STATISTICS.variances
MEANS = STATISTICS.where & ~VARIANCES


def versions(strategy: Strategy) -> Versions:
    params = np.ones(MODEL.layout.size, np.float32)
    data = params_to_bytes(params)
    first = VersionRecord(0, data, hashlib.sha256(data).digest())
    return Versions(strategy, SUBSET, first, STATISTICS)


def test_statistics_are_found_by_their_layer() -> None:
    named = SUBSET.layout.views(STATISTICS.where.astype(np.float32))
    assert {name for name, view in named.items() if view.all()} == {
        "1.batch_norm.mean",
        "1.batch_norm.variance",
    }
    assert VARIANCES.sum() == 4
    some = trained_subset(MODEL, {"trainable": ["2.*"]})
    assert not statistics_of(MODEL, some).where.any()


@pytest.mark.parametrize("strategy", [fedavg(), fedavgm(), fedadam()])
def test_no_strategy_moves_statistics(strategy: Strategy) -> None:
    line = versions(strategy)
    delta = np.full(MODEL.layout.size, 0.5)
    for _ in range(3):
        before = line.params.copy()
        line.step(delta, (bytes(16),), gain=0.25)
        moved = line.params - before
        np.testing.assert_allclose(moved[STATISTICS.where], 0.125, rtol=1e-6)
        assert not np.allclose(moved[~STATISTICS.where], 0.125)


def test_a_variance_never_becomes_nothing() -> None:
    line = versions(fedavg())
    for number in range(1, 5):
        line.step(np.full(MODEL.layout.size, -0.98), (bytes(16),))
        assert np.allclose(line.params[VARIANCES], LEAST_PART**number, atol=0.02)
        assert line.params[VARIANCES].min() > 0


@pytest.mark.parametrize("staleness", [0, 1, 2, 5, 12])
def test_they_settle_however_late_all_updates_are(staleness: int) -> None:
    """And would not with a full step, once updates are two versions late."""
    target = np.linspace(0.2, 3.0, MODEL.layout.size)
    ends = {}
    for gain in (gain_of(staleness), 1.0):
        line = versions(fedavg())
        bases = deque([line.params] * (staleness + 1), maxlen=staleness + 1)
        for _ in range(200):
            line.step(target - bases[0], (bytes(16),), gain=gain)
            bases.append(line.params)
        ends[gain] = np.abs(line.params - target)[MEANS].max()
    assert ends[gain_of(staleness)] < 0.01
    assert (ends[1.0] > 10) == (staleness >= 2)


def test_what_is_enlarged_because_few_coordinates_travel_is_made_small_again() -> None:
    assert gain_of(3, 0.1) == pytest.approx(0.025)


def test_two_buffers_of_one_base_leave_a_model_that_predicts(make_desk: MakeDesk) -> None:
    """As in every asynchronous task: what is counted second was trained from the version before."""
    desk = make_desk(model=SPEC, buffered=Buffered(goal=2))
    names = ["a", "b", "c", "d"]
    leases = {name: desk.lease(name) for name in names}
    delta = np.zeros(MODEL.layout.size, np.float32)
    delta[VARIANCES] = -0.983
    for name, lease in leases.items():
        desk.send(name, lease, delta.tolist())
    assert desk.coordinator.version == 2
    params = desk.coordinator.versions.params
    assert params[VARIANCES].min() > 0
    outputs = desk.coordinator.model.predict(params, np.ones((5, 3), np.float32))
    assert np.isfinite(outputs).all()


def test_what_one_device_sends_enlarged_is_made_small_again_beside_others(
    make_desk: MakeDesk,
) -> None:
    """Leases name different codecs; the task's own enlarges nothing."""
    desk = make_desk(
        model=SPEC,
        codec="topk-1/float32",
        bandwidth=BandwidthConfig(uplink_codecs=("randk-0.25/float32",)),
        buffered=Buffered(goal=1),
    )
    before = desk.params.copy()
    message = CheckIn(install_id("a"), -1, 10, ("randk", "float32"))
    desk.hear(desk.coordinator.topics.out("a"), desk.sealed("a", message))
    lease = desk.last("a")
    assert isinstance(lease, Lease)
    desk.send("a", lease, [1.0] * MODEL.layout.size)
    moved = (desk.params - before)[STATISTICS.where]
    np.testing.assert_allclose(moved[moved != 0], 1.0, rtol=0.1)
