"""All of this folder needs a real broker."""

import pytest

from tests.support.mosquitto import require_mosquitto


@pytest.fixture(autouse=True)
def mosquitto() -> None:
    """Skip without mosquitto, or fail where CI promises one."""
    require_mosquitto()
