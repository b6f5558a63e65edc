"""A session on a dict, without a bus: what tests say to it and hear from it."""

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from device_sdk.actions import Action, Delete, Keep, Store, Train
from device_sdk.identity import Keys
from device_sdk.session import Session
from device_sdk.trainer import Trained
from protocol.actions import Publish, Subscribe, Unsubscribe
from protocol.codec import decode, encode
from protocol.messages import AGGREGATOR, Lease, Manifest, ModelChunk, Plan, UpdateChunk
from protocol.secagg.messages import AnyMessage as Message
from protocol.stream import derive
from protocol.topics import Kind, Topics
from tests.support.enrolment import SIGNER
from tests.support.messages import KINDS

Vector = npt.NDArray[np.float32]
INSTALL = b"installation-one"
MODEL: Mapping[str, Any] = {
    "input": [2],
    "layers": [{"type": "dense", "units": 2}],
    "loss": "softmax_cross_entropy",
}
SIZE = 6


class Handset:
    """One device (``a``) of task ``t``; `reboot` keeps only what was stored.

    With ``keys`` the task is secure.
    """

    def __init__(
        self,
        stored: Mapping[str, bytes] | None = None,
        *,
        num_samples: int = 5,
        min_samples: int = 1,
        name: str = "a",
        keys: Keys | None = None,
        stock: int = 2,
        max_share_bytes: int = 4 << 20,
    ) -> None:
        self.name = name
        self._num_samples = num_samples
        self._min_samples = min_samples
        self._keys = keys
        self._stock = stock
        self._max_share_bytes = max_share_bytes
        self.signer = None if keys is None else SIGNER
        self._num_heard = 0
        self._num_starts = 0
        self.declines = ""  #: why it would not train now
        self.power = math.inf  #: how many more actions it lasts for
        self.topics = Topics("fedbus/1", "t")
        self.now = 500.0
        self.flash: dict[str, bytes] = dict(stored or {})
        self.published: list[Publish] = []
        self.subscribed: set[str] = set()
        self.training: Train | None = None
        self.log: list[Action] = []
        self.session = self._new_session()

    def _new_session(self) -> Session:
        #: As a shell draws it: another one a start.
        self.seed = derive(bytes(32), self.name, self._num_starts)
        session = Session(
            self.topics,
            self.name,
            INSTALL,
            stored=dict(self.flash),
            seed=self.seed,
            birth={"boot": "x"},
            num_samples=lambda: self._num_samples,
            min_samples=self._min_samples,
            declines=lambda: self.declines,
            keys=self._keys,
            stock=self._stock,
            max_share_bytes=self._max_share_bytes,
        )
        self._num_starts += 1
        self.perform(session.start(self.now))
        return session

    def reboot(self) -> None:
        """Lose everything but the flash; there is power again."""
        self.power = math.inf
        self.training = None
        self.published.clear()
        self.subscribed.clear()
        self.session = self._new_session()

    def perform(self, actions: Sequence[Action]) -> None:
        """What the device's shell does, in order, while there is power."""
        for action in actions:
            if self.power == 0:
                return
            self.power -= 1
            self.log.append(action)
            match action:
                case Store(key, data) | Keep(key, data):
                    self.flash[key] = data
                case Delete(key):
                    self.flash.pop(key, None)
                case Publish():
                    self.published.append(action)
                case Subscribe(filters):
                    self.subscribed |= set(filters)
                case Unsubscribe(filters):
                    self.subscribed -= set(filters)
                case Train():
                    self.training = action

    # --- what happens to it ------------------------------------------------------------------

    def connect(self, max_packet_bytes: int = 65_536) -> None:
        """The bus is there."""
        self.perform(self.session.connected(max_packet_bytes, self.now))

    def hear(self, topic: str, message: Message, *, start: int = 1) -> None:
        """A message of the aggregator's arrives."""
        self._num_heard += 1
        counter = (start << 32) + self._num_heard
        sign = None if self.signer is None else self.signer.on(topic)
        payload = encode(message, task="t", sender=AGGREGATOR, counter=counter, sign=sign)
        self.receive(topic, payload)

    def receive(self, topic: str, payload: bytes) -> None:
        """Bytes arrive."""
        self.perform(self.session.message(topic, payload, self.now))

    def hear_in(self, message: Message) -> None:
        """A message arrives on the device's own topic."""
        self.hear(self.topics.into(self.name), message)

    def hear_plan(
        self, codec: str = "dense/float32", *, start: int = 1, training: str = "{}"
    ) -> None:
        """The plan arrives."""
        plan = Plan(json.dumps(MODEL), training, codec, 60)
        self.hear(self.topics.plan(), plan, start=start)

    def hear_manifest(self, version: int, *counted: bytes) -> None:
        """A manifest arrives."""
        self.hear(self.topics.manifest(), Manifest(version, bytes(32), 4, 1, counted))

    def lease(
        self,
        params: Vector,
        *,
        codec: str = "dense/float32",
        number: int = 1,
        mask_epoch: int = 0,
    ) -> Lease:
        """Return a lease for these params as version ``number``."""
        data = params.astype("<f4").tobytes()
        digest = hashlib.sha256(data).digest()
        lease_id = number.to_bytes(16, "big")
        return Lease(
            lease_id,
            INSTALL,
            number,
            digest,
            len(data),
            1,
            codec,
            10_000,
            0,
            600,
            mask_epoch=mask_epoch,
        )

    def deliver_model(self, lease: Lease, params: Vector) -> None:
        """The chunks of the leased version arrive."""
        chunk = ModelChunk(lease.version, 0, params.astype("<f4").tobytes())
        self.hear(self.topics.model(lease.version, 0), chunk)

    def trains(self, delta: Sequence[float], *, skipped: int = 0) -> None:
        """Training ends with this delta, after it has left out some steps."""
        assert self.training is not None, "nothing to train"
        params = self.training.assignment.params + np.asarray(delta, np.float32)
        lease_id, self.training = self.training.lease_id, None
        trained = Trained(params.astype(np.float32), 5, {"skipped_steps": skipped})
        self.perform(self.session.trained(lease_id, trained, self.now))

    def reports(
        self,
        delta: Sequence[float],
        *,
        codec: str = "dense/float32",
        number: int = 1,
        mask_epoch: int = 0,
        skipped: int = 0,
    ) -> Lease:
        """Go all the way from idle to an update without receipt."""
        params = np.zeros(SIZE, np.float32)
        if not self.session.online:
            self.connect()
            self.hear_plan(codec)
        lease = self.lease(params, codec=codec, number=number, mask_epoch=mask_epoch)
        self.hear_in(lease)
        self.deliver_model(lease, params)
        self.trains(delta, skipped=skipped)
        return lease

    def wait(self) -> None:
        """Time passes until the session's own timer."""
        assert self.session.timer_at < float("inf"), "no timer is set"
        self.now = self.session.timer_at
        self.perform(self.session.timer(self.now))

    # --- what it said ------------------------------------------------------------------------

    def said(self) -> list[Message]:
        """Take the messages it has published since the last call."""
        sent = [self._message(publish) for publish in self.published]
        self.published.clear()
        return [message for message in sent if message is not None]

    def chunks(self) -> list[UpdateChunk]:
        """Take the update chunks among them."""
        return [message for message in self.said() if isinstance(message, UpdateChunk)]

    def _message(self, publish: Publish) -> Message | None:
        if self.topics.parse(publish.topic).kind not in {Kind.OUT, Kind.UPDATE}:
            return None
        return decode(publish.payload, tuple(KINDS), task="t", sender=self.name)
