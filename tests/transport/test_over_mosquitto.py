"""The conformance suite over paho and a real mosquitto, with either version of MQTT."""

from collections.abc import Callable, Iterator

import pytest

from tests.support.check_transport import CHECKS, Bus
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
