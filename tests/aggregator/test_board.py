"""What is shown on ``mon/`` again, and what is not."""

from aggregator.monitor.board import Board
from protocol.topics import Topics


def test_what_changes_by_itself_is_no_news_however_deep_it_lies() -> None:
    board = Board(Topics("fedbus/1", "t"))
    report = {
        "open_for_s": 1,
        "epochs": {"all": {"epoch": 1, "ends_in_s": 50}},
        "buffers": [{"epoch_ends_in_s": 9}],
    }
    assert board.show("rounds", report)
    later = {
        "open_for_s": 2,
        "epochs": {"all": {"epoch": 1, "ends_in_s": 49}},
        "buffers": [{"epoch_ends_in_s": 8}],
    }
    assert board.show("rounds", later) == []
    assert board.show("rounds", {**later, "buffers": []})
    assert board.show("rounds", {**later, "epochs": {"all": {"epoch": 2, "ends_in_s": 49}}})
