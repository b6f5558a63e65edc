"""Robust rules in a plain buffer: strata, samples, restarts, alerts."""

from typing import Any

import numpy as np
import pytest

from aggregator.robust.config import RobustConfig
from aggregator.robust.history import History, Seen
from aggregator.robust.rows import Row, RowBuffer, capped
from aggregator.scheduling.buffered import Buffered
from aggregator.task_config import StrategyConfig
from protocol.vectors.packing import SparseDelta
from tests.aggregator.conftest import MakeDesk
from tests.support.desk import Desk

RULES = ("norm_clip", "median", "trimmed_mean", "multi_krum", "geometric_median", "centred_clip")
ONE, SIX = [0.1, 0.0, 0.0, 0.0, 0.0, 0.0], Buffered(goal=6)


def row(device: str, values: list[float], *, claim: int = 1, group: int = 0) -> Row:
    delta = SparseDelta(None, np.array(values, np.float32), len(values))
    return Row(device.encode(), device, delta, 1.0, claim, group)


def buffer(config: RobustConfig, rows: list[Row], seen: list[Seen] | None = None) -> RowBuffer:
    history = History({}, 2, has_centre=False)
    history.counted(seen or [], np.zeros(2))
    found = RowBuffer(config, 2, history)
    for each in rows:
        found.add(each)
    return found


def play(desk: Desk, restart_at: set[int]) -> bytes:
    """Five devices tell the truth and one exaggerates; restarts before these updates."""
    number = 0
    for turn in range(2):
        leases = {name: desk.lease(name) for name in "abcdef"}
        for place, (name, lease) in enumerate(leases.items()):
            if number in restart_at:
                desk.restart()
            delta = [0.1 * (turn + place == index) + 0.01 for index in range(6)]
            size = -20.0 if name == "f" else 1.0
            desk.send(name, lease, [size * value for value in delta], num_samples=8 + place)
            number += 1
    return desk.params.tobytes()


@pytest.mark.parametrize(
    ("rule", "strategy"), [*((rule, "stratified") for rule in RULES), ("norm_clip", "fedadam")]
)
def test_a_restart_in_mid_buffer_changes_no_byte(
    make_desk: MakeDesk, rule: str, strategy: str
) -> None:
    """What a rule compares is the journal, and what is usual is stored with the version."""
    settings: dict[str, Any] = {
        "buffered": SIX,
        "weigh_by_samples": True,
        "robust": RobustConfig(rule=rule, attackers=0.16),
        "strategy": StrategyConfig(name=strategy),
    }
    through, restarted = make_desk(**settings), make_desk(**settings)
    assert play(through, set()) == play(restarted, {1, 6, 9})
    assert restarted.coordinator.version == 2
    assert restarted.coordinator.counts["starts"] == 4


@pytest.mark.parametrize("rule", RULES)
def test_one_of_six_that_lies_does_not_turn_the_step(make_desk: MakeDesk, rule: str) -> None:
    desk = make_desk(buffered=SIX, robust=RobustConfig(rule=rule, attackers=0.16))
    for turn in range(3):
        for name in "abcde":
            desk.send(name, desk.lease(name), ONE)
        before = desk.params.copy()
        desk.send("liar", desk.lease("liar"), [-100.0 * value for value in ONE])
        assert desk.coordinator.version == turn + 1
        assert 0.05 < (desk.params - before)[0] <= 0.1001


def test_a_buffer_of_liars_alone_goes_no_farther_than_is_usual() -> None:
    """They are the majority by chance; only earlier buffers know better."""
    seen = [Seen(0.1, 1)] * 20
    rows = [row(name, [-50.0, 0.0]) for name in "abc"]
    judged = buffer(RobustConfig(rule="norm_clip", clip=2.0), rows, seen).judged(by_number=False)
    np.testing.assert_allclose(judged.vector, [-0.2, 0.0])


def test_groups_remember_what_was_kept() -> None:
    """The mean of a group goes into later steps (`aggregator.strata`): lies must not."""
    rows = [row("a", [1.0, 0.0]), row("b", [1.0, 0.0]), row("c", [1.0, 0.0], group=1)]
    rows.append(row("d", [-1000.0, 0.0], group=1))
    judged = buffer(RobustConfig(rule="geometric_median"), rows).judged(by_number=False)
    assert judged.weights == {0: 2.0, 1: 2.0}
    assert judged.means[0][1].tolist() == [1.0, 0.0]
    np.testing.assert_allclose(judged.means[1][1], [0.5, 0.0], atol=1e-3)
    np.testing.assert_allclose(judged.vector, [1.0, 0.0], atol=1e-3)
    assert dict(judged.kept)["d"] < 1e-3


def test_without_outliers_it_is_what_the_running_sum_gives(make_desk: MakeDesk) -> None:
    drawn = np.random.default_rng(1).uniform(0.5, 1.0, (3, 6, 6)).astype(np.float32)
    desks = [
        make_desk(
            buffered=SIX, weigh_by_samples=True, robust=RobustConfig(rule=rule, samples_ratio=0.0)
        )
        for rule in ("mean", "norm_clip")
    ]
    for deltas in drawn:
        for desk in desks:
            leases = {name: desk.lease(name) for name in "abcdef"}
            for count, (name, lease) in enumerate(leases.items()):
                desk.send(name, lease, list(deltas[count]), num_samples=8 + count)
    np.testing.assert_allclose(desks[0].params, desks[1].params, atol=1e-6)


def test_clipping_without_full_rows_is_clipping_with_them() -> None:
    rng = np.random.default_rng(0)
    rows = [row(str(each), list(rng.standard_normal(2) * 3 ** (each % 3))) for each in range(9)]
    config = RobustConfig(rule="norm_clip", clip=1.0)
    deltas = np.stack([each.delta.dense() for each in rows]).astype(np.float64)
    judged, combined = buffer(config, rows).judged(by_number=False), config.combine()
    np.testing.assert_allclose(judged.vector, combined(deltas, np.ones(9)).vector, rtol=1e-6)
    assert min(judged.kept, key=lambda each: each[1])[1] < 0.5


def test_dividing_by_the_number_of_updates_shortens_late_steps() -> None:
    rows = [row(name, [1.0, 2.0]) for name in "ab"]
    late = [Row(each.lease_id, each.device, each.delta, 0.5, 1) for each in rows]
    assert buffer(RobustConfig(), late).judged(by_number=True).vector.tolist() == [0.5, 1.0]
    assert buffer(RobustConfig(), late).judged(by_number=False).vector.tolist() == [1.0, 2.0]


@pytest.mark.parametrize("rule", ["mean", "norm_clip"])
def test_a_million_samples_weigh_what_a_few_do(make_desk: MakeDesk, rule: str) -> None:
    """The usual claim: its device, and the group of it, outweigh nobody."""
    desk = make_desk(buffered=SIX, weigh_by_samples=True, robust=RobustConfig(rule=rule))
    before = desk.params
    for _ in range(2):
        before = desk.params.copy()
        for name in "abcde":
            desk.send(name, desk.lease(name), ONE, num_samples=20)
        liar = desk.lease("liar")
        desk.send("liar", liar, [-value for value in ONE], num_samples=1_000_000)
    np.testing.assert_allclose((desk.params - before)[0], 0.1 * (5 - 1) / (5 + 1), rtol=1e-4)


def test_no_usual_claim_and_no_limit_leave_a_claim_alone() -> None:
    assert capped(1_000_000, RobustConfig(samples_ratio=3.0), None) == 1_000_000
    assert capped(1_000_000, RobustConfig(samples_ratio=0.0), 10.0) == 1_000_000
    assert capped(1_000_000, RobustConfig(samples_ratio=3.0), 10.0) == 30
    assert capped(5, RobustConfig(samples_ratio=3.0), 0.1) == 1


def test_a_buffer_of_which_much_is_left_out_is_told_of(make_desk: MakeDesk) -> None:
    desk = make_desk(buffered=SIX)
    for size in (1.0, 1.0, 40.0):
        for number, name in enumerate("abcdef"):
            scale = size if number else 1.0
            desk.send(name, desk.lease(name), [scale * value for value in ONE])
    (alert,) = [each for each in desk.coordinator.alerts if "robust" in each]
    assert alert == "buffer: robust: norm_clip left out 83% of 6 updates"
