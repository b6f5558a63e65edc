"""Fleets in which the slow devices are others than the fast ones: who has what, and how fast.

- digits: 20 devices; the 6 slow ones hold most of the digits 7 to 9 (`benchmarks.async_time`).
- wearables: the phone and the watch of 17 people; watches are slow. Tested on 6 other people.
- speech: 36 devices of a few speakers each, every third slow. Tested on other speakers, and on
  clips that slow devices' speakers keep back.

The same seed deals the same data and draws the same durations, whatever the method.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from benchmarks import async_time
from benchmarks.learning import wearables_folder
from device_sdk.trainer import Assignment
from examples import wearables

Float32 = npt.NDArray[np.float32]
Labels = npt.NDArray[np.int64]

#: How long a training takes, from and to.
FAST_S: Final = (1.0, 5.0)
SLOW_S: Final = (20.0, 40.0)
SPAN_S: Final = 300.0
NUM_SPEAKING_DEVICES: Final = 36
#: One of so many clips of a slow device is kept back for the test.
KEPT_BACK: Final = 4
#: Windows of 64 samples follow each other by 16.
OVERLAP: Final = 4


class Samples(NamedTuple):
    """Samples and their labels."""

    x: Float32
    y: Labels


@dataclass(frozen=True, slots=True)
class Setup:
    """A task, and its devices: the data of each, and the range of its durations in seconds.

    ``held_out`` is what everybody's accuracy is measured on, ``slow`` what the slow group's is,
    ``root`` what the operator has of its own.
    """

    model: Mapping[str, object]
    training: Mapping[str, object]
    shards: tuple[Samples, ...]
    speeds: tuple[tuple[float, float], ...]
    held_out: Samples
    slow: Samples
    target: float
    goal: int = 10
    root: Samples | None = None

    def duration(self, seed: int, index: int) -> Callable[[Assignment], float]:
        """Return how long the trainings of a device take, one after the other."""
        rng = np.random.default_rng([seed, 2, index])
        low, high = self.speeds[index]
        return lambda _assignment: float(rng.uniform(low, high))


def digits(seed: int) -> Setup:
    """The set-up of `benchmarks.async_time`."""
    x, y = async_time.digits()
    _, rows = async_time.split(seed)
    slow = rows[np.isin(y[rows], async_time.SLOW_CLASSES)]
    return Setup(
        async_time.MODEL,
        async_time.TRAINING,
        tuple(Samples(x[mine], y[mine]) for mine in async_time.deal(seed)),
        tuple((low, high) for low, high, count in async_time.SPEEDS for _ in range(count)),
        Samples(x[rows], y[rows]),
        Samples(x[slow], y[slow]),
        async_time.TARGET,
        goal=5,
    )


def phones_and_watches(_seed: int) -> Setup:
    """Two devices a person: a fast phone and a slow watch, windows that do not overlap."""
    files = [wearables_folder() / f"har_{sensor}.npz" for sensor in ("phone", "watch")]
    shards = [_person(file, (person,)) for file in files for person in wearables.PEOPLE]
    strangers = [_person(file, wearables.HELD_OUT) for file in files]
    each = len(wearables.PEOPLE)
    return Setup(
        wearables.MODEL,
        wearables.TRAINING,
        tuple(shards),
        (FAST_S,) * each + (SLOW_S,) * each,
        _joined(strangers),
        strangers[1],
        0.67,
    )


def _person(file: Path, people: tuple[int, ...]) -> Samples:
    found = wearables.recordings(file, people)
    return Samples(found.x[::OVERLAP], found.y[::OVERLAP])


def speech(seed: int) -> Setup:
    """Devices of a few speakers each, the last third of them slow."""
    clips, speakers, is_test = _clips()
    rng = np.random.default_rng([seed, 3])
    voices = rng.permutation(np.unique(speakers[~is_test & (speakers >= 0)]))
    place = {int(voice): index % NUM_SPEAKING_DEVICES for index, voice in enumerate(voices)}
    silence = rng.integers(NUM_SPEAKING_DEVICES, size=len(speakers))
    where = np.array([place.get(int(each), -1) for each in speakers])
    where = np.where(speakers < 0, silence, where)
    where[is_test] = -1
    num_slow = NUM_SPEAKING_DEVICES // 3
    is_slow = where >= NUM_SPEAKING_DEVICES - num_slow
    back = is_slow & (rng.permutation(len(where)) % KEPT_BACK == 0)
    mine = [~back & (where == index) for index in range(NUM_SPEAKING_DEVICES)]
    return Setup(
        SPEECH_MODEL,
        {"epochs": 2, "batch_size": 16, "learning_rate": 0.02},
        tuple(_some(clips, rows) for rows in mine),
        (FAST_S,) * (NUM_SPEAKING_DEVICES - num_slow) + (SLOW_S,) * num_slow,
        _some(clips, is_test),
        _some(clips, back),
        0.55,
    )


#: 16 moments of 20 bands.
_MOMENTS, _BANDS = 16, 20
SPEECH_MODEL: Final = {
    "input": [_MOMENTS * _BANDS],
    "layers": [{"type": "dense", "units": 64}, {"type": "relu"}, {"type": "dense", "units": 12}],
    "loss": "softmax_cross_entropy",
}


def speech_file() -> Path:
    """Return where the clips should be: below ``FEDBUS_DATA``."""
    return wearables_folder().parent / "speech_commands_test" / "speech_commands.npz"


def _clips() -> tuple[Samples, Labels, npt.NDArray[np.bool_]]:
    """Return clips as log energies (pooled over time and bands, by each clip's own loudness)."""
    with np.load(speech_file(), allow_pickle=False) as data:
        low, high = data["logmel_scale"]
        energies = data["logmel_u8"].astype(np.float32) * ((high - low) / 255) + low
        y, speakers, is_test = data["y"], data["speaker"], data["is_test"]
    pooled = energies[:, : 3 * _MOMENTS].reshape(len(y), _MOMENTS, 3, _BANDS, 2).mean(axis=(2, 4))
    pooled -= pooled.mean(axis=(1, 2), keepdims=True)
    x = (pooled / 3).reshape(len(y), -1).astype(np.float32)
    return Samples(x, y.astype(np.int64)), speakers.astype(np.int64), is_test


def _some(samples: Samples, rows: npt.NDArray[np.bool_]) -> Samples:
    return Samples(samples.x[rows], samples.y[rows])


def _joined(several: list[Samples]) -> Samples:
    return Samples(
        np.concatenate([each.x for each in several]), np.concatenate([each.y for each in several])
    )
