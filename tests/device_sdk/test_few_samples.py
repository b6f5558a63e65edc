"""No update leaves a device that was made from fewer samples than `MIN_SAMPLES`."""

import pytest

from device_sdk.config import DeviceConfig
from protocol.errors import ConfigError
from protocol.messages import MIN_SAMPLES, CheckIn
from tests.support.handset import Handset

DELTA = (1.0, 0.0, 0.0, 0.0, 0.0, 0.0)


def test_a_device_with_too_few_samples_asks_for_no_work() -> None:
    device = Handset(num_samples=MIN_SAMPLES - 1, min_samples=MIN_SAMPLES)
    device.connect()
    device.wait()
    assert device.said() == []
    assert device.session.counts["declined_few_samples"] == 2


def test_a_device_with_just_enough_samples_does() -> None:
    device = Handset(num_samples=MIN_SAMPLES, min_samples=MIN_SAMPLES)
    device.connect()
    (message,) = device.said()
    assert isinstance(message, CheckIn)


def test_what_was_trained_on_too_few_samples_stays_on_the_device() -> None:
    """Data may shrink, and a trainer may not know before how much there is."""
    device = Handset(num_samples=MIN_SAMPLES, min_samples=6)  # training says 5
    device.reports(DELTA)
    assert device.session.pending is None
    assert device.session.failure == "trained on 5 samples: an update needs at least 6"
    assert device.session.counts["trainings_failed"] == 1


def test_no_configuration_asks_for_fewer() -> None:
    with pytest.raises(ConfigError, match="min_samples must be at least 8, not 7"):
        DeviceConfig(task="t", device="d", state_dir="s", min_samples=7)
