"""What all tests share: how many cases are drawn, and what is done once they are collected."""

import gc
import signal

from hypothesis import HealthCheck, settings

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
    """Leave thousands of tests and their modules, which stay to the end, out of collections."""
    gc.collect()
    gc.freeze()
