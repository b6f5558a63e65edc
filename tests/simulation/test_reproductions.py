"""Histories in which something once went wrong, made as small as they would go.

Each was found by the random histories. The name says what must hold, the docstring what happened.
"""

import pytest

from device_sdk.plan import read_plan
from protocol.errors import RemoteProtocolError
from protocol.messages import Plan
from tests.simulation.history import (
    AdvanceTime,
    Drop,
    Duplicate,
    History,
    Join,
    Operation,
    RestartBroker,
    RestartDevice,
)
from tests.simulation.play import play


def test_a_device_that_missed_the_plan_asks_for_it() -> None:
    """With lease and model, but without a plan, a device waited for ever: it had no timer."""
    operations = (Join("d"), Join("b"), AdvanceTime(0.02), Drop(9))
    play(History(6468, "buffered", "dense/float32", 1 << 16, operations))


def test_a_device_that_missed_the_plan_and_fetches_chunks_asks_for_it() -> None:
    operations = (Join("a"), Join("b"), Join("c"), Join("e"), AdvanceTime(0.03), Drop(9))
    play(History(73, "buffered", "dense/float32", 1024, operations))


def test_a_refusal_that_comes_before_the_plan_loses_no_delta() -> None:
    """What had been sent could not be folded without a layout, and was dropped.

    After a reboot the broker's queue brings the refusal first, and the retained plan later.
    """
    operations = (
        *(Join("b"), Join("c"), Join("d"), AdvanceTime(8.87)),
        RestartDevice("b", after=2, down_s=0.02),
    )
    play(History(930, "rounds", "topk-0.001/float32", 1024, operations))


def test_a_refusal_that_comes_after_a_broker_restart_loses_no_delta() -> None:
    operations = (
        *(Join("a"), Join("b"), RestartDevice("b", after=4, down_s=20.19), AdvanceTime(0.99)),
        RestartBroker(forget=False, down_s=3.65),
    )
    play(History(5040, "rounds", "topk-0.001/float32", 1024, operations))


def test_a_late_copy_of_a_used_lease_is_not_trained_again() -> None:
    """The receipt that the second update got was for the first, whose bytes were others."""
    seconds = (4.39, 0.27, 0.35, 0.19, 1.62)
    passing = tuple(AdvanceTime(each) for each in seconds)
    late = (Duplicate(0, 5.61), AdvanceTime(1.12))
    operations: tuple[Operation, ...] = (Join("a"), Join("b"), *passing, *late)
    play(History(818, "rounds", "dense/float32", 1 << 16, operations))


def test_a_late_copy_of_a_check_in_loses_no_delta() -> None:
    """It ended the lease that was still being trained; after ``superseded`` the delta was lost."""
    operations = (
        *(Join("a"), AdvanceTime(0.2), Duplicate(9, 2.34)),
        *(AdvanceTime(0.29), Duplicate(8, 19.64)),
    )
    play(History(503, "buffered", "topk-0.001/float32", 1 << 16, operations))


def test_a_late_copy_of_a_check_in_in_a_round_loses_no_delta() -> None:
    operations = (
        *(Join("a"), AdvanceTime(4.68), AdvanceTime(0.37)),
        *(Duplicate(4, 4.53), Duplicate(1, 17.7)),
    )
    play(History(434, "rounds", "topk-0.001/float32", 1 << 16, operations))


@pytest.mark.parametrize("text", ["99", "[]", "null", '"x"', "true"])
def test_a_plan_whose_model_is_no_object_is_refused(text: str) -> None:
    """It ended the device's process with a TypeError."""
    with pytest.raises(RemoteProtocolError):
        read_plan(Plan(text, "{}", "dense/float32"))
