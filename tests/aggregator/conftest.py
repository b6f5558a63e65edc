"""A desk per test: a coordinator on a real store in a fresh directory."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.desk import Desk, task_config

MakeDesk = Callable[..., Desk]


@pytest.fixture
def make_desk(tmp_path: Path) -> Iterator[MakeDesk]:
    """Return a function that opens a desk with the task settings given."""
    desks: list[Desk] = []

    def make(**settings: Any) -> Desk:
        config = task_config(keep_versions=50, **settings)
        desks.append(Desk(tmp_path / str(len(desks)), config))
        return desks[-1]

    yield make
    for desk in desks:
        desk.close()
