"""The conformance suite over paho and a real mosquitto, with either version of MQTT."""

from collections.abc import Callable, Iterator

import pytest

from tests.support.check_transport import CHECKS, Bus, settings
from tests.support.mosquitto import Mosquitto, broker
from tests.transport.paho_bus import PahoBus

__all__ = ["broker"]

pytestmark = pytest.mark.broker


@pytest.fixture(params=["5", "3.1.1"])
def bus(request: pytest.FixtureRequest, broker: Mosquitto) -> Iterator[PahoBus]:
    running = PahoBus(broker.port, str(request.param))
    yield running
    running.close()


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_conformance(check: Callable[[Bus], None], bus: PahoBus) -> None:
    check(bus)


def test_how_fast_publishes_go_out_is_measured(bus: PahoBus) -> None:
    transport = bus.connected(settings("sender")).transport
    assert transport.counters.uplink_bytes_per_s == 0
    for _ in range(5):
        transport.publish("speed", bytes(50_000))
    bus.until(lambda: transport.counters.uplink_bytes_per_s > 0)
    assert transport.counters.uplink_bytes_per_s > 10_000
