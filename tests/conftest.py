"""What all tests share: how many cases are drawn, and what is done once they are collected."""

import gc
import signal
from functools import lru_cache

import pytest
from hypothesis import HealthCheck, settings

from protocol import identity
from protocol.secagg import keys

# Half of the usual number: each run draws others, and finds are kept and tried again. No deadline:
# how long something takes on a busy machine says nothing.
settings.register_profile(
    "fedbus", max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("fedbus")

# What a shell starts in the background ignores Ctrl-C, and so would all that tests start.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_finish() -> None:
    """Leave thousands of tests and their modules, which stay to the end, out of collections.

    And collect less often than after 700 more objects than before: a twentieth of the time.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000)


@pytest.fixture
def remembered_crypto(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compute no signature and no agreed key twice, in tests of many machines in one process.

    What one has checked each of the others checks again, from the same bytes to the same answer.
    Refusals are not remembered.
    """
    for module, name in (
        (identity, "crypto_sign"),
        (identity, "crypto_sign_open"),
        (keys, "crypto_box_beforenm"),
        (keys, "crypto_scalarmult_base"),
    ):
        monkeypatch.setattr(module, name, lru_cache(maxsize=20_000)(getattr(module, name)))
