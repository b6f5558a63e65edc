"""Asynchronous methods through the coordinator and its store."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from aggregator.fairness import FairnessConfig
from aggregator.robust.config import RobustConfig
from aggregator.scheduling.buffered import Buffered
from aggregator.task_config import StalenessConfig, StrategyConfig, TaskConfig
from protocol.errors import ConfigError
from tests.aggregator.conftest import MakeDesk
from tests.support.desk import Desk, Vector, task_config

SIZE = 6
FOUR = ("a", "b", "c", "d")
ONE_BY_ONE = Buffered(goal=1)


def strategy(name: str, **options: float) -> StrategyConfig:
    return StrategyConfig(name=name, options=options)


def ones(value: float) -> list[float]:
    return [value] * SIZE


# --- FedAsync ------------------------------------------------------------------------------------


def test_fedasync_undoes_what_others_did_since_the_base(make_desk: MakeDesk) -> None:
    """Alpha 0.5, constant: w1 = w0 + 0.5 * 4; w2 = 0.5 w1 + 0.5 (w0 + 6)."""
    desk = make_desk(
        strategy=strategy("fedasync", alpha=0.5),
        buffered=ONE_BY_ONE,
        staleness=StalenessConfig(rule="constant"),
    )
    slow = desk.lease("slow")
    desk.send("a", desk.lease("a"), ones(4.0))
    np.testing.assert_allclose(desk.step, 2.0, rtol=1e-6)
    desk.send("slow", slow, ones(6.0))
    np.testing.assert_allclose(desk.step, 0.5 * 2.0 + 0.5 * 6.0, rtol=1e-6)


def test_fedasync_with_alpha_1_takes_the_fresh_model_of_the_device(make_desk: MakeDesk) -> None:
    desk = make_desk(strategy=strategy("fedasync", alpha=1.0), buffered=ONE_BY_ONE)
    for value in (1.0, -3.0):
        before = desk.params.copy()
        desk.send("a", desk.lease("a"), ones(value))
        np.testing.assert_array_equal(desk.params, before + np.float32(value))


def test_fedasync_weighs_late_updates_by_the_tasks_rule(make_desk: MakeDesk) -> None:
    """Staleness 1 with exponent 1: half of alpha."""
    desk = make_desk(
        strategy=strategy("fedasync", alpha=1.0),
        buffered=ONE_BY_ONE,
        staleness=StalenessConfig(rule="polynomial", exponent=1.0),
    )
    slow = desk.lease("slow")
    desk.send("a", desk.lease("a"), ones(4.0))
    desk.send("slow", slow, ones(0.0))
    np.testing.assert_allclose(desk.step, 2.0, rtol=1e-6)


def test_fedasync_refuses_what_was_trained_on_a_base_that_is_gone(make_desk: MakeDesk) -> None:
    desk = make_desk(strategy=strategy("fedasync"), buffered=ONE_BY_ONE)
    slow = desk.lease("slow")
    desk.send("a", desk.lease("a"), ones(1.0))
    desk.restart()  # older bases are in nobody's memory now
    before = desk.params.copy()
    desk.send("slow", slow, ones(1.0))
    assert desk.refused("too_stale") == 1
    np.testing.assert_array_equal(desk.params, before)
    desk.send("b", desk.lease("b"), ones(1.0))
    assert desk.coordinator.version == 2


@pytest.mark.parametrize("settings", [{"buffered": Buffered(goal=2)}, {"mode": "rounds"}])
def test_fedasync_takes_updates_one_by_one(settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="one by one"):
        task_config(strategy=strategy("fedasync"), **settings)


# --- CA2FL, with the caches here -----------------------------------------------------------------


def arrivals(seed: int, num: int) -> list[list[tuple[str, Vector]]]:
    """Buffers of four of seven devices, each with a delta."""
    rng = np.random.default_rng(seed)
    names = [f"d{number}" for number in range(7)]
    return [
        [
            (str(name), rng.uniform(-0.5, 0.5, SIZE).astype(np.float32))
            for name in rng.choice(names, 4, replace=False)
        ]
        for _ in range(num)
    ]


def played(desk: Desk, buffers: Sequence[Sequence[tuple[str, Vector]]], *, restarts: bool) -> None:
    caches: dict[str, npt.NDArray[np.float32]] = {}
    is_calibrated = desk.config.strategy.name == "calibrated"
    for number, buffer in enumerate(buffers):
        for name, delta in buffer:
            lease = desk.lease(name)
            sent = delta - caches.get(name, np.zeros(SIZE, np.float32)) if is_calibrated else delta
            desk.send(name, lease, list(sent))
        caches |= dict(buffer)
        if restarts and number % 3 == 0:
            desk.restart()


def test_caches_here_make_the_steps_of_caches_on_devices(make_desk: MakeDesk) -> None:
    buffers = arrivals(1, 12)
    ours = make_desk(strategy=strategy("ca2fl"), buffered=Buffered(goal=4))
    twin = make_desk(strategy=strategy("calibrated"), buffered=Buffered(goal=4))
    for desk in (ours, twin):
        played(desk, buffers, restarts=desk is ours)
        assert desk.coordinator.version == 12
    np.testing.assert_allclose(ours.params, twin.params, atol=1e-6)


def test_only_caches_that_changed_are_stored(make_desk: MakeDesk) -> None:
    desk = make_desk(strategy=strategy("ca2fl"), buffered=Buffered(goal=2))
    for pair in ("ab", "bc"):
        for name in pair:
            desk.send(name, desk.lease(name), ones(float(ord(name))))
    documents = desk.store.snapshot().documents
    held = {key: np.frombuffer(data, "<f4") for key, data in documents.items() if "cache" in key}
    assert sorted(held) == ["cache/a", "cache/b", "cache/c"]
    assert all((cache == ord(key[-1])).all() for key, cache in held.items())


def test_more_caches_than_the_limit_are_refused_with_their_size() -> None:
    few = task_config(strategy=strategy("ca2fl"), max_devices=1000)
    few.check()
    limit = FairnessConfig(max_cache_bytes=1000)
    with pytest.raises(ConfigError, match="24000 bytes for 1000: lower max_devices"):
        task_config(strategy=strategy("ca2fl"), max_devices=1000, fairness=limit).check()


# --- where methods coincide ----------------------------------------------------------------------


@pytest.mark.parametrize("name", ["fedbuff", "ca2fl", "stratified"])
def test_with_every_device_in_every_buffer_it_is_fedavg(make_desk: MakeDesk, name: str) -> None:
    """ALGORITHMS of either side: no delay, all there, so nothing is late and nobody is lacking."""
    desks = [
        make_desk(
            buffered=Buffered(goal=4), strategy=strategy(each), robust=RobustConfig(rule="mean")
        )
        for each in (name, "fedavg")
    ]
    deltas = np.random.default_rng(2).uniform(-0.1, 0.1, (5, 4, SIZE)).astype(np.float32)
    for several in deltas:
        for desk in desks:
            leases = {each: desk.lease(each) for each in FOUR}
            for each, delta in zip(FOUR, several, strict=True):
                desk.send(each, leases[each], list(delta))
    assert desks[0].coordinator.version == 5
    np.testing.assert_allclose(desks[0].params, desks[1].params, atol=1e-7)


def test_stratified_with_strength_0_is_fedbuff_without_staleness_weights(
    make_desk: MakeDesk,
) -> None:
    desks = [
        make_desk(buffered=Buffered(goal=4), strategy=strategy("stratified", strength=0.0)),
        make_desk(
            buffered=Buffered(goal=4),
            strategy=strategy("fedbuff"),
            staleness=StalenessConfig(rule="constant"),
        ),
    ]
    for desk in desks:
        played(desk, arrivals(3, 6), restarts=False)
    np.testing.assert_allclose(desks[0].params, desks[1].params, atol=1e-6)


def test_the_default_of_a_plain_buffered_task_is_stratified(make_desk: MakeDesk) -> None:
    desks = [
        make_desk(buffered=Buffered(goal=4), **settings)
        for settings in ({}, {"strategy": strategy("stratified")})
    ]
    for desk in desks:
        played(desk, arrivals(4, 6), restarts=False)
    assert desks[0].params.tobytes() == desks[1].params.tobytes()
    assert isinstance(desks[0].coordinator.config, TaskConfig)


def test_stratified_lets_the_slow_ones_pull_while_they_are_at_work(make_desk: MakeDesk) -> None:
    """Two fast devices pull up one number, a slow one another; it comes every eighth version."""
    pulls = {}
    for name in ("fedbuff", "stratified"):
        desk = make_desk(buffered=Buffered(goal=2), strategy=strategy(name))
        slow = desk.lease("slow")
        for turn in range(32):
            if turn % 8 == 7:
                desk.send("slow", slow, [0.0, 1.0, 0, 0, 0, 0])
            for each in "ab":
                desk.send(each, desk.lease(each), [1.0, 0.0, 0, 0, 0, 0])
            if turn % 8 == 7:
                slow = desk.lease("slow")
        pulls[name] = desk.step[1] / desk.step[0]
    assert pulls["stratified"] > 1.5 * pulls["fedbuff"]


def test_a_group_that_has_left_pulls_no_more(make_desk: MakeDesk) -> None:
    """What it wanted last would be added to every step for ever, with nobody to say: enough."""
    desk = make_desk(buffered=Buffered(goal=1))
    slow = desk.lease("slow")
    for _ in range(3):
        desk.send("fast", desk.lease("fast"), ones(0.0))
    desk.send("slow", slow, ones(1.0))
    after = [desk.params.copy()]
    for version in range(60):
        desk.send("fast", desk.lease("fast"), ones(0.0))
        after.append(desk.params.copy())
        if version == 20:
            desk.restart()
    assert (after[10] > after[0]).all(), "it is only slow, as far as is known"
    np.testing.assert_array_equal(after[50], after[60])
