"""Rounds of `pairwise` end counted, with the exact sum of the survivors, or are given up.

Whoever vanishes, restarts, or hears things twice, late, in another order or never.
"""

import random
from collections.abc import Sequence

import pytest

from protocol.messages import UpdateChunk
from protocol.secagg.messages import AnyMessage as Message
from protocol.secagg.messages import (
    RoundAdvertised,
    RoundAnswer,
    RoundCertificate,
    RoundDealers,
    RoundKeys,
    RoundOpened,
    RoundOutcome,
    RoundShares,
    RoundSignature,
)
from tests.support.round_world import Hook, RoundWorld, usual

pytestmark = pytest.mark.usefixtures("remembered_crypto")

#: What is said when a device vanishes, and whether its update is in the sum all the same.
VANISHING: dict[str, tuple[type[Message], bool]] = {
    "before advertising": (RoundOpened, False),
    "after advertising": (RoundKeys, False),
    "after dealing": (RoundShares, False),
    "before uploading": (RoundDealers, False),
    "after uploading": (UpdateChunk, True),
    "after signing": (RoundSignature, True),
    "after answering": (RoundAnswer, True),
}
EVERY_WORD: tuple[type[Message], ...] = (
    RoundOpened,
    RoundKeys,
    RoundAdvertised,
    RoundShares,
    RoundDealers,
    UpdateChunk,
    RoundOutcome,
    RoundSignature,
    RoundCertificate,
    RoundAnswer,
)


def some(*values: int, fast: int) -> list[object]:
    """The first ``fast`` of these cases are tried always, the others when there is time."""
    slow = pytest.mark.slow
    return [*values[:fast], *(pytest.param(each, marks=slow) for each in values[fast:])]


def test_undisturbed_rounds_count_everybody() -> None:
    rounds = RoundWorld(6)
    assert rounds.reaches(5, 60.0)
    assert rounds.audit.violations == []
    assert set(rounds.audit.counted) == {tuple(rounds.names)}


@pytest.mark.parametrize("stage", VANISHING)
def test_a_device_that_vanishes_for_ever_costs_no_more_than_itself(stage: str) -> None:
    kind, counts = VANISHING[stage]
    rounds = RoundWorld(6)

    def hook(said: type[Message] | None, device: str) -> Sequence[float]:
        if said is kind and device == "d02":
            rounds.soon(lambda: rounds.device(2).lose_power())
        return usual(said, device)

    rounds.hook = hook
    assert rounds.reaches(1)
    assert ("d02" in rounds.audit.counted[0]) == counts
    assert len(rounds.audit.counted[0]) == 5 + counts
    assert rounds.reaches(3)
    assert rounds.audit.violations == []


@pytest.mark.parametrize("stage", VANISHING)
def test_a_device_that_comes_back_takes_part_again(stage: str) -> None:
    kind, _ = VANISHING[stage]
    rounds = RoundWorld(6)
    cut: list[float] = []

    def hook(said: type[Message] | None, device: str) -> Sequence[float]:
        if said is kind and device == "d02" and not cut:
            cut.append(rounds.world.now)
            rounds.soon(lambda: rounds.device(2).lose_power(down_s=0.5))
        return usual(said, device)

    rounds.hook = hook
    assert rounds.reaches(3)
    assert cut
    assert rounds.audit.counted[-1] == tuple(rounds.names)
    assert rounds.audit.violations == []


@pytest.mark.parametrize("after", range(12))
def test_a_device_may_lose_power_at_any_write_or_word(after: int) -> None:
    rounds = RoundWorld(6)
    rounds.world.run_for(1.0)
    rounds.device(1).lose_power(after=after, down_s=0.4)
    assert rounds.reaches(3)
    assert rounds.audit.counted[-1] == tuple(rounds.names)
    assert rounds.audit.violations == []


@pytest.mark.parametrize("kind", EVERY_WORD, ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("which", some(4, 1, 6, fast=1))
def test_the_aggregator_may_restart_at_every_stage(kind: type[Message], which: int) -> None:
    rounds = RoundWorld(6)
    heard: list[str] = []

    def hook(said: type[Message] | None, device: str) -> Sequence[float]:
        if said is kind:
            heard.append(device)
            if len(heard) == which:
                rounds.soon(lambda: rounds.world.server.lose_power(down_s=1.0))
        return usual(said, device)

    rounds.hook = hook
    assert rounds.reaches(2)
    assert len(heard) > which
    assert rounds.audit.violations == []


@pytest.mark.parametrize("after", some(*range(0, 40, 5), *range(1, 40, 5), fast=8))
def test_the_aggregator_may_lose_power_at_any_commit_or_word(after: int) -> None:
    rounds = RoundWorld(5)
    rounds.world.run_for(1.0)
    rounds.world.server.lose_power(after=after, down_s=0.7)
    assert rounds.reaches(3)
    assert rounds.audit.violations == []


@pytest.mark.parametrize("stage", ["before uploading", "after uploading", "after signing"])
def test_too_many_that_vanish_end_the_round_and_not_the_task(stage: str) -> None:
    kind, _ = VANISHING[stage]
    rounds = RoundWorld(6)
    gone: set[str] = set()

    def hook(said: type[Message] | None, device: str) -> Sequence[float]:
        if said is kind and device in {"d01", "d02", "d03"} - gone:
            gone.add(device)
            index = rounds.names.index(device)
            rounds.soon(lambda: rounds.device(index).lose_power(down_s=70.0))
        return usual(said, device)

    rounds.hook = hook
    assert rounds.reaches(3, 600.0)
    assert len(gone) == 3
    assert rounds.audit.violations == []


def shaken(draw: random.Random) -> Hook:
    """Copies are lost, doubled, late and overtake each other."""

    def hook(_said: type[Message] | None, _device: str) -> Sequence[float]:
        chance = draw.random()
        if chance < 0.02:
            return ()
        if chance < 0.1:
            return (draw.uniform(0.01, 3.0), draw.uniform(0.01, 3.0))
        return (draw.uniform(0.01, 0.6),)

    return hook


def is_up(rounds: RoundWorld) -> bool:
    """Whether the aggregator and all devices are there."""
    sessions = [device.session for device in rounds.world.devices.values()]
    return rounds.world.server.coordinator is not None and None not in sessions


@pytest.mark.parametrize("seed", some(*range(24), fast=5))
def test_whatever_happens_sums_are_exact_and_the_task_goes_on(seed: int) -> None:
    draw = random.Random(seed)  # noqa: S311 - a sample of cases, not a secret
    rounds = RoundWorld(draw.choice([3, 5, 7]), seed=seed)
    rounds.hook = shaken(draw)
    server = rounds.world.server
    for _ in range(draw.randrange(3, 12)):
        rounds.world.run_for(draw.uniform(0.1, 15.0))
        device = rounds.device(draw.randrange(len(rounds.names)))
        match draw.randrange(6):
            case 0 | 1 | 2:
                device.lose_power(after=draw.randrange(12), down_s=draw.choice([0.3, 4.0, 40.0]))
            case 3:
                device.fail_next_write()
            case 4:
                server.lose_power(after=draw.randrange(20), down_s=draw.choice([0.3, 5.0]))
            case 5:
                server.store.fail_next(kept=draw.random() < 0.5)
    rounds.hook = usual
    rounds.world.run_until(lambda: is_up(rounds), 60.0)
    assert rounds.reaches(rounds.version + 2, 400.0)
    assert rounds.audit.violations == []
    assert rounds.audit.num("outcome") >= len(rounds.audit.counted)
