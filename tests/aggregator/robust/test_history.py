"""What is usual, and that a restart remembers it."""

import numpy as np

from aggregator.actions import Store
from aggregator.records import DocumentRecord
from aggregator.robust.history import NUM_REMEMBERED, History, Seen

STEP = np.array([0.5, -0.25])


def documents(history: History, seen: list[Seen]) -> dict[str, bytes]:
    found = {}
    for action in history.counted(seen, STEP):
        assert isinstance(action, Store)
        assert isinstance(action.record, DocumentRecord)
        found[action.record.key] = action.record.data
    return found


def test_a_restart_remembers_what_was_usual_and_the_last_step() -> None:
    stored = documents(History({}, 2, has_centre=True), [Seen(1.0, 10), Seen(3.0, 30)])
    again = History(stored, 2, has_centre=True)
    assert again.usual_norm([2.0]) == 2.0
    assert again.usual_samples() == 20
    assert again.centre.tolist() == STEP.tolist()
    assert History({}, 2, has_centre=True).centre.tolist() == [0.0, 0.0]
    assert set(documents(History({}, 2, has_centre=False), [Seen(1.0, 1)])) == {"robust/usual"}


def test_only_the_newest_are_remembered() -> None:
    history = History({}, 2, has_centre=False)
    history.counted([Seen(100.0, 1)] * 300, STEP)
    history.counted([Seen(1.0, 5)] * NUM_REMEMBERED, STEP)
    assert history.usual_norm([100.0] * 10) == 1.0
    assert history.usual_samples([1] * 10) == 5


def test_no_change_is_no_measure_of_length() -> None:
    history = History({}, 2, has_centre=False)
    assert history.usual_norm([0.0, 0.0]) == 0.0
    assert history.usual_norm([0.0, 0.0, 4.0]) == 4.0
    assert history.usual_samples() is None
