"""Random histories of secure tasks: sums alone are known, each update counts once, nothing hangs.

N, t, T and U of each history are among `secure_generate.CIRCLES`. What is a failure is said beside
each check of `secure_audit`, `secure_holders` and `secure_plaintext`, in the words of DESIGN
section 4; that nothing hangs, in `secure_play`. In a quarter of the histories somebody has the
aggregator's key and asks whom they like for sums of their own choice, and a malicious device goes
back to old copies of its storage.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import pytest

from tests.simulation.history import AdvanceTime, Join
from tests.simulation.secure_generate import grouped_history, secure_history
from tests.simulation.secure_history import Ask, Numbers, SecureHistory, SecureOperation
from tests.simulation.secure_play import SecurePlayer, play_secure
from tests.simulation.shrink import shrink

pytestmark = pytest.mark.usefixtures("remembered_crypto")

SIX = Numbers(6, 1, 3, 4)
#: Which request to ask for a part of: counted around, the last one, however many there are.
LAST = 840
NUM_QUICK = 8
NUM_HISTORIES = 160
NUM_GROUPED = 24
BATCH = 20


def failure(played: SecureHistory) -> str:
    """Play a history; return what went wrong, or nothing."""
    try:
        play_secure(played)
    except Exception as error:  # noqa: BLE001 - a crash is a failure like any other
        return f"{type(error).__name__}: {error}"
    return ""


def fails_like(wrong: str, played: SecureHistory) -> bool:
    return failure(played)[:24] == wrong[:24]


def check(seeds: range, history_of: Callable[[int], SecureHistory] = secure_history) -> None:
    for seed in seeds:
        if wrong := failure(history_of(seed)):
            small = shrink(history_of(seed), partial(fails_like, wrong))
            pytest.fail(f"history {seed}: {wrong}\n\nwhich also happens in:\n{small!r}\n")


def test_in_random_secure_histories_sums_alone_are_known() -> None:
    check(range(NUM_QUICK))


@pytest.mark.slow
@pytest.mark.parametrize("start", range(NUM_QUICK, NUM_QUICK + NUM_HISTORIES, BATCH))
def test_in_many_random_secure_histories_sums_alone_are_known(start: int) -> None:
    check(range(start, start + BATCH))


def test_in_random_histories_sums_of_groups_alone_are_known() -> None:
    check(range(NUM_QUICK // 4), grouped_history)


@pytest.mark.slow
@pytest.mark.parametrize("start", range(NUM_QUICK, NUM_QUICK + NUM_GROUPED, BATCH // 5))
def test_in_many_random_histories_sums_of_groups_alone_are_known(start: int) -> None:
    check(range(start, start + BATCH // 5), grouped_history)


@pytest.mark.parametrize("seed", range(3))
def test_the_same_seed_gives_the_same_bytes(seed: int) -> None:
    assert play_secure(secure_history(seed)) == play_secure(secure_history(seed))


def test_histories_meet_what_they_are_made_for() -> None:
    """Without faults, epochs and attacks of every kind the tests above would prove little."""
    histories = [secure_history(seed) for seed in range(NUM_QUICK + NUM_HISTORIES)]
    kinds = {type(each).__name__ for history in histories for each in history.operations}
    assert len(kinds) == 16
    assert len({(each.scheme, each.support) for each in histories}) == 6
    assert len({each.numbers for each in histories}) == 7
    assert {each.mode for each in histories} == {"buffered", "rounds"}


def test_whoever_has_the_aggregators_key_is_answered_and_refused() -> None:
    """So that the checks of what answers expose have something to check."""
    operations: list[SecureOperation] = [
        *(Join(name) for name in "abcdef"),
        AdvanceTime(5.0),
        Ask(base=0, change=0, holders=0b000111),
        AdvanceTime(1.0),
        Ask(base=LAST, change=1, holders=0b111111),
        AdvanceTime(1.0),
    ]
    player = SecurePlayer(replace(secure_history(0), numbers=SIX, operations=tuple(operations)))
    player.run()
    holders = player.audit.holders
    assert sorted(len(holders.answers(each)) for each in holders.forged) == [3, 3]
    assert sum(_conflicts(player)) == 3


def _conflicts(player: SecurePlayer) -> list[int]:
    sessions = [device.session for device in player.world.devices.values()]
    return [each.counts["conflicting_requests"] for each in sessions if each is not None]
