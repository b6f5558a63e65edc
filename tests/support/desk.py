"""A coordinator on its real store, without a bus: what tests say to it and hear from it."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from aggregator.actions import Action, Recall, Store
from aggregator.coordinator import Coordinator
from aggregator.secure_config import Enrolment
from aggregator.store import open_store
from aggregator.task_config import TaskConfig
from protocol.actions import Publish
from protocol.chunks import checksum
from protocol.codec import decode, encode, encode_update
from protocol.errors import ConfigError, RemoteProtocolError
from protocol.messages import AGGREGATOR, CheckIn, Lease, Update, UpdateChunk
from protocol.secagg.messages import AnyMessage as Message
from protocol.topics import Kind
from protocol.vectors.layout import params_from_bytes
from protocol.vectors.packing import encode as encode_delta
from protocol.vectors.packing import parse_codec
from protocol.vectors.support import support_seed
from tests.support.messages import KINDS

#: Softmax regression with 2 inputs and 2 classes: 6 params.
MODEL: Mapping[str, Any] = {
    "input": [2],
    "layers": [{"type": "dense", "units": 2}],
    "loss": "softmax_cross_entropy",
}
CODECS = (
    *("dense", "topk", "randk", "float32", "float16", "int8"),
    *("calibrated", "differences"),
)
Vector = npt.NDArray[np.float32]


def task_config(**settings: Any) -> TaskConfig:
    """A small task: dense float32, all weights one, unless told otherwise."""
    plain: dict[str, Any] = {"model": MODEL, "codec": "dense/float32", "weigh_by_samples": False}
    return TaskConfig(task="t", **{**plain, **settings})


def install_id(device: str) -> bytes:
    """The installation that a device has in tests, from its name."""
    return device.encode().ljust(16, b".")[:16]


class Desk:
    """Keeps what was published; `restart` throws the coordinator away as a crash would.

    ``enrolment``: of a secure task. ``silent`` loses what is published from then on, as a crash
    between commit and publish does.
    """

    def __init__(
        self, directory: Path, config: TaskConfig, enrolment: Enrolment | None = None
    ) -> None:
        self.config = config
        self.enrolment = enrolment
        self.silent = False
        self.now = 1000.0
        self.retained: dict[str, bytes] = {}
        self.said: list[tuple[str, Message]] = []
        self._directory = directory
        self._starts = 0
        self._counter = 1 << 32
        self._open()

    def _open(self) -> None:
        self._starts += 1
        self.store = open_store(
            self._directory, self.config.task, keep_versions=self.config.keep_versions
        )
        seed = self._starts.to_bytes(32, "little")
        try:
            self.coordinator = Coordinator(
                self.config, self.store.snapshot(), seed, self.now, self.enrolment
            )
        except ConfigError:
            self.store.close()
            raise
        self.perform(self.coordinator.start(self.now))
        self.perform(self.coordinator.connected(65_536, self.now))

    def restart(self) -> None:
        """Crash, and come back from the store."""
        self.store.close()
        self._open()

    def close(self) -> None:
        """Let the store's files go."""
        self.store.close()

    # --- what happens to the coordinator -----------------------------------------------------

    def hear(self, topic: str, payload: bytes) -> None:
        """A message arrives."""
        self.perform(self.coordinator.message(topic, payload, self.now))

    def wait(self, seconds: float) -> None:
        """Time passes, timer by timer."""
        until = self.now + seconds
        while (due := self.coordinator.timer_at(self.now)) <= until:
            self.now = max(self.now, due)
            self.perform(self.coordinator.timer(self.now))
            if self.coordinator.timer_at(self.now) <= self.now:
                break
        self.now = until
        self.perform(self.coordinator.timer(self.now))

    def check_in(self, device: str, pending: bytes = b"", *, installation: str = "") -> None:
        """A device is there, or asks after an update."""
        message = CheckIn(install_id(installation or device), -1, 10, CODECS, pending)
        self.hear(self.coordinator.topics.out(device), self.sealed(device, message))

    def lease(self, device: str) -> Lease:
        """Check a device in and return the lease it got."""
        self.check_in(device)
        lease = self.last(device)
        assert isinstance(lease, Lease), lease
        return lease

    def update(
        self, lease: Lease, delta: Sequence[float] | Vector, *, num_samples: int = 1, **other: Any
    ) -> bytes:
        """Return the bytes of an update for a lease; ``other`` fields replace the right ones."""
        layout = self.coordinator.trained.layout
        body = encode_delta(
            np.asarray(delta, np.float32),
            parse_codec(lease.codec),
            layout,
            rounding_seed=bytes(32),
            support_seed=support_seed(self.config.task, lease.version),
        )
        fields = {"base_version": lease.version, "codec": lease.codec, "body": body, **other}
        return encode_update(Update(num_samples=num_samples, **fields))

    def send(self, device: str, lease: Lease, delta: Sequence[float], **other: Any) -> None:
        """A whole update arrives, in one packet."""
        update = self.update(lease, delta, **other)
        self.send_chunk(device, UpdateChunk(lease.lease_id, checksum(update), 0, 1, update))

    def send_chunk(self, device: str, chunk: UpdateChunk) -> None:
        """One chunk arrives on the device's own topic."""
        self.hear(self.coordinator.topics.update(0, device), self.sealed(device, chunk))

    def sealed(self, device: str, message: Message) -> bytes:
        """Return a message in its envelope."""
        self._counter += 1
        return encode(message, task=self.config.task, sender=device, counter=self._counter)

    # --- what it said ------------------------------------------------------------------------

    def last(self, device: str) -> Message | None:
        """Return the newest message to a device."""
        return next((message for to, message in reversed(self.said) if to == device), None)

    @property
    def params(self) -> Vector:
        """The current params."""
        return self.coordinator.versions.params

    @property
    def step(self) -> Vector:
        """How far the params are from version 0's."""
        first = self.store.params(0)
        assert first is not None, "version 0 is kept in small tests: raise keep_versions"
        return self.params - params_from_bytes(first, self.params.size)

    def refused(self, reason: str) -> int:
        """How often a reason refused something."""
        return self.coordinator.counts[f"refused_{reason}"]

    def perform(self, actions: Sequence[Action]) -> None:
        """Do what the coordinator decided: one commit, then the rest."""
        self.store.commit([action.record for action in actions if isinstance(action, Store)])
        for action in actions:
            if isinstance(action, Publish) and not self.silent:
                self._published(action)
            if isinstance(action, Recall):
                record = self.store.lease(action.lease_id)
                self.perform(self.coordinator.recalled(action.device, action.lease_id, record))

    def _published(self, publish: Publish) -> None:
        if publish.retain:
            self.retained.pop(publish.topic, None)
            if publish.payload:
                self.retained[publish.topic] = publish.payload
        address = self.coordinator.topics.parse(publish.topic)
        if address.kind is not Kind.IN:
            return
        try:
            message = decode(
                publish.payload, tuple(KINDS), task=self.config.task, sender=AGGREGATOR
            )
        except RemoteProtocolError as error:
            raise AssertionError(f"the coordinator said something unreadable: {error}") from error
        self.said.append((address.device, message))
