"""Random histories of faults: nothing counts twice, nothing is lost, nobody waits for ever.

What is a failure: an entry of the model that is larger than its one training makes it; an id that
is counted twice, or counted and refused; a receipt or refusal that the store does not know of, or
that is for other bytes than the device holds; a delta that is neither in the model nor on its
device (top-k); a device that is not served again once faults have ended; a buffer, queue or table
beyond its limit; a version that goes back; other bytes from the same seed.

What is none: a training that never reached storage, or that was refused with a reason; a lease that
ran out; time that passes.
"""

from functools import partial

import pytest

from tests.simulation.generate import history
from tests.simulation.history import History
from tests.simulation.play import play
from tests.simulation.shrink import shrink

NUM_HISTORIES = 10_000
BATCH = 495
#: Of these, without the slow tests.
NUM_QUICK = 100


def failure(played: History) -> str:
    """Play a history; return what went wrong, or nothing."""
    try:
        play(played)
    except Exception as error:  # noqa: BLE001 - a crash is a failure like any other
        return f"{type(error).__name__}: {error}"
    return ""


def fails_like(wrong: str, played: History) -> bool:
    return failure(played)[:30] == wrong[:30]


def check(seeds: range) -> None:
    for seed in seeds:
        if wrong := failure(history(seed)):
            small = shrink(history(seed), partial(fails_like, wrong))
            pytest.fail(f"history {seed}: {wrong}\n\nwhich also happens in:\n{small!r}\n")


def test_in_random_histories_everything_counts_once() -> None:
    check(range(NUM_QUICK))


@pytest.mark.slow
@pytest.mark.parametrize("start", range(NUM_QUICK, NUM_HISTORIES, BATCH))
def test_in_many_random_histories_everything_counts_once(start: int) -> None:
    check(range(start, start + BATCH))


@pytest.mark.parametrize("seed", range(20))
def test_the_same_seed_gives_the_same_bytes(seed: int) -> None:
    assert play(history(seed)) == play(history(seed))


def test_different_seeds_give_different_bytes() -> None:
    assert len({play(history(seed)) for seed in range(10)}) == 10


def test_histories_meet_what_they_are_made_for() -> None:
    """The faults leave traces: were everything quiet, the tests above would prove little."""
    kinds = {type(each).__name__ for seed in range(NUM_QUICK) for each in history(seed).operations}
    assert len(kinds) == 12
    modes = {(history(seed).mode, history(seed).codec) for seed in range(NUM_QUICK)}
    assert len(modes) == 4
