"""The page of states and the table in the code say the same."""

import re
from pathlib import Path

from device_sdk.states import TRANSITIONS

PAGE = (Path(__file__).parents[2] / "docs" / "protocol.md").read_text(encoding="utf-8")


def test_the_devices_states_are_drawn_as_they_are() -> None:
    table = PAGE.split("# A lease's states")[0]
    rows = re.findall(r"^\| ([a-z ]+) \| ([a-z ]+) \| ([a-z ]+) \|$", table, re.MULTILINE)
    drawn = {(state, event): target for state, event, target in rows if state != "in state"}
    assert drawn == {
        (state.value, event): target.value for (state, event), target in TRANSITIONS.items()
    }
