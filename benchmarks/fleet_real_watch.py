"""Real devices at work, as somebody sees them who reads all their messages at the broker.

From when what was said follows how long everything takes that is not training: a message's way, an
answer, fetching a model, encoding and storing an update. The virtual run is given just that.
"""

import time
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from statistics import median
from typing import Final, Self

from benchmarks.watcher import Watcher
from broker_config.accounts import AGGREGATOR as ACCOUNT
from broker_config.running import Broker
from protocol.codec import decode
from protocol.errors import RemoteProtocolError
from protocol.messages import AGGREGATOR, CheckIn, Manifest, UpdateChunk
from protocol.topics import Kind
from transport import Message

#: What the simulator's aggregator collects before it decides (`simulator.server`), seconds.
TURN_S: Final = 0.02

#: The shortest latency that is given to the simulator.
LEAST_S: Final = 0.001

#: Nothing takes longer, however busy the machine is.
LIMIT_S: Final = 600.0

Training = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Overheads:
    """Medians, in seconds.

    ``latency_s``: from the broker to a client. A check-in is answered after three such ways (to the
    aggregator, the lease, the model) and `TURN_S`; it is a third of what was measured beyond that.
    ``device_s``: what is to be added to each training, the time from its end to its update at the
    broker; and, below 0, what a real answer takes less than the simulator's shortest.
    """

    latency_s: float
    device_s: float


class Watch:
    """Follows a task from before its first message; a context manager.

    ``seconds`` is the time from the first check-in that is answered until the last update that was
    waited for is counted.
    """

    def __init__(self, task: str, broker: Broker) -> None:
        base = f"fedbus/1/{task}"
        filters = [f"{base}/dev/+/state", f"{base}/dev/+/out", f"{base}/up/+/+"]
        self.seconds = 0.0
        self._watcher = Watcher(task, broker, account=ACCOUNT, filters=filters)
        self._started = False
        self._online: set[str] = set()
        self._checked_in: dict[str, list[float]] = defaultdict(list)
        self._updated: dict[str, dict[bytes, float]] = defaultdict(dict)
        self._counted: set[bytes] = set()

    def __enter__(self) -> Self:
        self._watcher.__enter__()
        self._messages = self._watcher.messages()
        return self

    def __exit__(self, *_: object) -> None:
        self._watcher.__exit__()

    def await_online(self, devices: Collection[str]) -> None:
        """Return when all of them are there. Raises TimeoutError."""
        self._until(lambda: self._online >= set(devices))

    def follow(self, num_updates: int) -> None:
        """Return when so many updates are counted. Raises TimeoutError."""
        self._until(lambda: len(self._counted) >= num_updates)
        first = min(times[0] for times in self._checked_in.values())
        self.seconds = time.monotonic() - first

    def overheads(self, trainings: Mapping[str, Sequence[Training]]) -> Overheads:
        """Return what is not training; ``trainings`` are when each of a device's began and ended.

        The n-th training of a device is that of its n-th update.
        """
        answered, reported = [], []
        for device, updated in self._updated.items():
            own = trainings[device]
            reported += [at - ended for at, (_, ended) in zip(updated.values(), own, strict=False)]
            asked = self._checked_in[device]
            answered += [
                begun - asked[place - 1]
                for begun, _ in own
                if (place := bisect_right(asked, begun)) > 0
            ]
        answer_s = median(answered)
        latency_s = max(LEAST_S, (answer_s - TURN_S) / 3)
        return Overheads(latency_s, median(reported) + answer_s - TURN_S - 3 * latency_s)

    # --- inside ------------------------------------------------------------------------------

    def _until(self, done: Callable[[], bool]) -> None:
        deadline = time.monotonic() + LIMIT_S
        while not done():
            if time.monotonic() > deadline:
                raise TimeoutError(f"not within {LIMIT_S:.0f} s")
            message = next(self._messages)
            with suppress(RemoteProtocolError):  # not every kind is of interest
                self._note(message, time.monotonic())

    def _note(self, message: Message, now: float) -> None:
        topics = self._watcher.topics
        address = topics.parse(message.topic)
        device, payload, task = address.device, message.payload, topics.task
        match address.kind:
            case Kind.STATE if payload == b"online":
                self._online.add(device)
            case Kind.OUT if self._started:
                if not decode(payload, (CheckIn,), task=task, sender=device).pending:
                    self._checked_in[device].append(now)
            case Kind.UPDATE:
                chunk = decode(payload, (UpdateChunk,), task=task, sender=device)
                self._updated[device].setdefault(chunk.lease_id, now)
            case Kind.MANIFEST:
                manifest = decode(payload, (Manifest,), task=task, sender=AGGREGATOR)
                self._started = True
                self._counted.update(manifest.counted)
