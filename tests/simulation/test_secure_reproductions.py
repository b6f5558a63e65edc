"""Secure histories in which something once went wrong, made as small as they would go.

Each was found by the random histories. The name says what must hold, the docstring what happened.
N, t, T and U stand in each.
"""

from collections.abc import Sequence

from tests.simulation.history import (
    AdvanceTime,
    Drop,
    FailStorage,
    FailStore,
    Join,
    Leave,
    RestartAggregator,
    RestartBroker,
    RestartDevice,
)
from tests.simulation.secure_history import (
    NextRoster,
    Numbers,
    Replay,
    SecureHistory,
    SecureOperation,
)
from tests.simulation.secure_play import play_secure

FIVE = Numbers(5, 1, 3, 4)
SIX = Numbers(6, 1, 3, 5)
SEVEN = Numbers(7, 1, 4, 5)
EIGHT = Numbers(8, 2, 5, 6)


def history(
    seed: int,
    numbers: Numbers,
    operations: Sequence[SecureOperation],
    *,
    mode: str = "buffered",
    support: str = "dense",
    scheme: str = "lightsecagg",
    weighted: bool = False,
    packet_bytes: int = 1 << 16,
    valid_s: int = 100_000,
) -> SecureHistory:
    return SecureHistory(
        seed,
        mode,
        scheme,
        support,
        weighted=weighted,
        numbers=numbers,
        packet_bytes=packet_bytes,
        valid_s=valid_s,
        operations=tuple(operations),
    )


def joins(names: str) -> tuple[Join, ...]:
    return tuple(Join(name) for name in names)


def test_updates_that_few_hold_together_do_not_wait_for_each_other() -> None:
    """Two that came first kept three others out of the buffer, and all waited for ever."""
    operations: list[SecureOperation] = [
        *joins("abcd"),
        AdvanceTime(11.9),
        AdvanceTime(9.3),
        FailStorage("a"),
        FailStore(kept=False),
    ]
    play_secure(history(84, FIVE, operations, support="randk-0.25", packet_bytes=2560))


def test_buffers_that_can_be_one_become_one() -> None:
    """After a restart holders' words trickled in: three buffers with two, two and one for ever."""
    operations: list[SecureOperation] = [
        *joins("abcd"),
        FailStorage("b"),
        AdvanceTime(11.2),
        RestartAggregator(0, 5.06),
        RestartDevice("c", 8, 29.14),
        FailStore(kept=True),
        FailStorage("d"),
        RestartBroker(forget=True, down_s=0.34),
    ]
    play_secure(history(1258, FIVE, operations, support="randk-0.25"))


def test_a_holder_whose_word_came_late_is_asked() -> None:
    """One holder was dead, its will lost with the broker; who held the shares too was not asked."""
    operations: list[SecureOperation] = [
        *joins("abcdef"),
        AdvanceTime(9.36),
        AdvanceTime(0.35),
        AdvanceTime(6.42),
        RestartBroker(forget=False, down_s=0.09),
        Leave("f"),
        AdvanceTime(1.89),
        Replay(153),
    ]
    play_secure(history(344, SEVEN, operations, scheme="seedmask"))


def test_a_member_whose_masks_nobody_has_heard_of_names_them_again() -> None:
    """The broker had dropped its Dealt: it asked for a lease for ever, with masks at hand."""
    operations: list[SecureOperation] = [
        Join("d"),
        RestartDevice("d", after=0, down_s=0.83),
        AdvanceTime(0.86),
        Drop(5),
    ]
    play_secure(history(563, SIX, operations, mode="rounds"))


def test_a_member_that_missed_the_next_roster_asks_for_it() -> None:
    """The broker had dropped it: all that the device said under the old one was refused."""
    operations: list[SecureOperation] = [Join("e"), AdvanceTime(6.06), NextRoster(), Drop(15)]
    play_secure(history(5174, SIX, operations, scheme="seedmask", weighted=True))


def test_a_device_that_joins_while_an_epoch_drains_is_served_in_the_next() -> None:
    """It was turned away, and slept for an hour whatever roster came."""
    operations: list[SecureOperation] = [*joins("abcdef"), AdvanceTime(8.85), Leave("f")]
    play_secure(history(9, EIGHT, operations, support="randk-0.25", packet_bytes=2560))


def test_an_update_between_two_epochs_loses_no_delta() -> None:
    """It was refused as not_enrolled, after which devices drop their delta."""
    operations: list[SecureOperation] = [
        *joins("bcdeg"),
        AdvanceTime(7.61),
        RestartAggregator(8, 0.08),
        FailStorage("g"),
        AdvanceTime(2.99),
        RestartDevice("c", 2, 29.04),
    ]
    play_secure(history(335, SEVEN, operations, support="plan-0.25", valid_s=80))


def test_a_roster_is_laid_down_before_anybody_has_come() -> None:
    operations: list[SecureOperation] = [
        NextRoster(),
        *joins("abcde"),
        AdvanceTime(5.0),
        NextRoster(),
    ]
    play_secure(history(5, FIVE, operations))
