"""A device that leaves its id to a twin comes back as after a start."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest

from device_sdk.config import DeviceConfig
from device_sdk.device import Device
from device_sdk.trainer import NumpyTrainer
from transport import Connected, Disconnected
from transport.paho import PahoTransport

CONNECTED = Connected("5", session_present=False, max_packet_bytes=65_536)
TAKEN_OVER = Disconnected("Session taken over", taken_over=True)


@pytest.fixture
def device(tmp_path: Path) -> Iterator[Device]:
    config = DeviceConfig(task="t", device="a", state_dir=str(tmp_path))
    made = Device(config, NumpyTrainer(data=(np.zeros((9, 4)), np.zeros(9, np.int64))))
    made._come(0.0)
    yield made
    made._leave()


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[PahoTransport, str]]:
    """What is subscribed to, and over which transport."""
    asked: list[tuple[PahoTransport, str]] = []

    def subscribe(
        transport: PahoTransport, filters: Sequence[str], *, qos: int = 1, retained: bool = False
    ) -> None:
        assert qos == 1
        assert retained is not any(each.endswith("/in") for each in filters)
        asked.extend((transport, each) for each in filters)

    monkeypatch.setattr(PahoTransport, "subscribe", subscribe)
    return asked


def test_it_subscribes_to_everything_over_its_new_connection(
    asked: list[tuple[PahoTransport, str]], device: Device
) -> None:
    device._handle(CONNECTED)
    device._twins.gives_way = True
    before, session = device._transport, device._session
    device._handle(TAKEN_OVER)
    assert device._transport is not before
    device._handle(CONNECTED)
    first, second = (
        {each for by, each in asked if by is transport} for transport in (before, device._transport)
    )
    assert second == first
    assert device.topics.plan() in second
    assert device._session is not session  # what was stale at the first start may not be now


def test_who_does_not_give_way_goes_on(
    asked: list[tuple[PahoTransport, str]], device: Device
) -> None:
    device._handle(CONNECTED)
    before = device._transport
    device._handle(TAKEN_OVER)
    assert device._transport is before
    assert asked[-1] == (before, device.topics.info("a"))  # to hear who did it
