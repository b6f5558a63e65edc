"""The reconnect storm over mutual TLS, with few clients: all come back, and nothing is lost."""

import pytest

from benchmarks import trust_tls
from tests.support.mosquitto import require_mosquitto


@pytest.mark.broker
@pytest.mark.slow
def test_after_the_brokers_death_all_come_back_over_tls_and_nothing_is_lost() -> None:
    require_mosquitto()
    report = trust_tls.measure(quick=True)
    assert report["back"] == report["devices"] == trust_tls.QUICK_DEVICES
    assert report["updates_counted"] == trust_tls.UPDATES * trust_tls.QUICK_DEVICES
    assert report["updates_lost"] == report["counted_twice"] == 0
