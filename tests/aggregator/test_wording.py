"""What is waited for, in the grammar of one and of many."""

import pytest

from aggregator.scheduling.buffered import Buffered
from aggregator.scheduling.rounds import Rounds
from aggregator.wording import many
from tests.aggregator.conftest import MakeDesk

ONE = [1.0, 0, 0, 0, 0, 0]


@pytest.mark.parametrize(("number", "said"), [(0, "0 updates"), (1, "1 update"), (2, "2 updates")])
def test_one_is_singular(number: int, said: str) -> None:
    assert many(number, "update") == said


def test_the_last_update_is_one_more_update(make_desk: MakeDesk) -> None:
    desk = make_desk(buffered=Buffered(goal=2, min_contributors=2))
    assert desk.coordinator.waiting_for(desk.now) == "2 more updates (0 of 2)"
    desk.send("ada", desk.lease("ada"), ONE)
    assert desk.coordinator.waiting_for(desk.now) == (
        "1 more update (1 of 2), among them from 1 more device"
    )


def test_a_round_of_one_waits_for_one_device(make_desk: MakeDesk) -> None:
    desk = make_desk(mode="rounds", rounds=Rounds(size=1))
    assert desk.coordinator.waiting_for(desk.now) == "1 device to check in (0 waiting)"
