"""A desk per test: a coordinator on a real store in a fresh directory."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.desk import Desk, task_config
from tests.support.secure_desk import SecureDesk

MakeDesk = Callable[..., Desk]
MakeSecure = Callable[..., SecureDesk]


@pytest.fixture
def make_desk(tmp_path: Path) -> Iterator[MakeDesk]:
    """Return a function that opens a desk with the task settings given."""
    desks: list[Desk] = []

    def make(**settings: Any) -> Desk:
        config = task_config(**{"keep_versions": 50, **settings})
        desks.append(Desk(tmp_path / str(len(desks)), config))
        return desks[-1]

    yield make
    for desk in desks:
        desk.close()


@pytest.fixture
def make_secure(tmp_path: Path) -> Iterator[MakeSecure]:
    """Return a function that opens the desk of a secure task; arguments as `SecureDesk`."""
    desks: list[SecureDesk] = []

    def make(*arguments: Any, **settings: Any) -> SecureDesk:
        desks.append(SecureDesk(tmp_path / f"secure-{len(desks)}", *arguments, **settings))
        return desks[-1]

    yield make
    for desk in desks:
        desk.close()
