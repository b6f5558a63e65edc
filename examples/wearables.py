"""A user's own Trainer: what a person does, from the motion sensors of a phone or a watch.

One device is one person. Its windows never leave it; nor does any statistic of them, as features
are scaled by constants that follow from the sensors and not from anybody's data: accelerations in
multiples of g, turning rates in multiples of 2 rad/s, so that what a body does is of order 1. (To
standardise by the mean and deviation of all people, somebody would have to collect them first.)

Data: GeoTec, "Dataset of inertial measurements of smartphones and smartwatches for human activity
recognition" (M. Matey-Sanz et al., Data in Brief, 2023), as windows of 64 samples at 50 Hz.

One person's device::

    python -m examples.wearables device.toml ../shared/data/har_phone_watch/har_phone.npz 5

The aggregator needs `MODEL` and `TRAINING` in its configuration.
"""

import argparse
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from device_sdk import Assignment, Device, NumpyTrainer, Trained, Trainer

Float32 = npt.NDArray[np.float32]

ACTIVITIES: Final = ("seated", "standing up", "walking", "turning", "sitting down")
#: These people train nobody's model: it is tested on them.
HELD_OUT: Final = (3, 7, 11, 15, 19, 23)
PEOPLE: Final = tuple(person for person in range(1, 24) if person not in HELD_OUT)
NUM_BINS: Final = 7
NUM_FEATURES: Final = 6 * (5 + NUM_BINS)
#: One unit of each channel: g in m/s^2, three times; 2 rad/s, three times.
UNITS: Final = (9.81, 9.81, 9.81, 2.0, 2.0, 2.0)

#: What the aggregator's configuration says.
MODEL: Final[dict[str, object]] = {
    "input": [NUM_FEATURES],
    "layers": [
        {"type": "dense", "units": 32},
        {"type": "relu"},
        {"type": "dense", "units": len(ACTIVITIES)},
    ],
    "loss": "softmax_cross_entropy",
}
TRAINING: Final[dict[str, object]] = {"epochs": 2, "batch_size": 16, "learning_rate": 0.1}


@dataclass(frozen=True, slots=True)
class Recordings:
    """Windows of some people: features (n, `NUM_FEATURES`), activities (n,)."""

    x: Float32
    y: npt.NDArray[np.int64]


def features(windows: npt.NDArray[np.floating]) -> Float32:
    """Return the features of windows (n, time, channel), in `UNITS`.

    Of each channel: mean, deviation, least, largest, the mean step between neighbours, and the
    amplitudes of the lowest `NUM_BINS` frequencies above zero, over the length of the window.
    """
    scaled = windows.astype(np.float32) / np.array(UNITS, np.float32)
    spectrum = np.abs(np.fft.rfft(scaled - scaled.mean(axis=1, keepdims=True), axis=1))
    parts = [
        scaled.mean(axis=1),
        scaled.std(axis=1),
        scaled.min(axis=1),
        scaled.max(axis=1),
        np.abs(np.diff(scaled, axis=1)).mean(axis=1),
        *(spectrum[:, 1 + bin_] / scaled.shape[1] for bin_ in range(NUM_BINS)),
    ]
    return np.concatenate(parts, axis=1).astype(np.float32)


def recordings(file: Path, people: tuple[int, ...]) -> Recordings:
    """Read the windows of some people from ``har_phone.npz`` or ``har_watch.npz``."""
    with np.load(file, allow_pickle=False) as data:
        theirs = np.isin(data["subject"], people)
        return Recordings(features(data["x"][theirs]), data["y"][theirs].astype(np.int64))


class Person(Trainer):
    """The device that one person wears or carries."""

    def __init__(self, file: Path, person: int) -> None:
        own = recordings(file, (person,))
        self._trainer = NumpyTrainer(data=(own.x, own.y))

    def num_samples(self) -> int:
        """Windows at hand."""
        return self._trainer.num_samples()

    def train(self, assignment: Assignment) -> Trained:
        """Train on the windows at hand, with the SDK's own engine."""
        return self._trainer.train(assignment)


def main() -> None:
    """Take part as one person until told to stop."""
    parser = argparse.ArgumentParser(prog="wearables", description="One person's device.")
    parser.add_argument("config", type=Path)
    parser.add_argument("file", type=Path)
    parser.add_argument("person", type=int, choices=PEOPLE)
    options = parser.parse_args()
    device = Device.from_config(options.config, Person(options.file, options.person))
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: device.stop())
    device.run()


if __name__ == "__main__":
    main()
