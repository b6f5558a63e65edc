"""Sessions around a table: a broker in memory whose every byte is written to a file."""

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final, Unpack

import numpy as np
import numpy.typing as npt

from aggregator.publication import Publication
from device_sdk.engine.model import Model
from device_sdk.engine.spec import parse_spec
from device_sdk.identity import Keys
from protocol.identity import Signer
from protocol.messages import Manifest, ModelChunk, Plan
from protocol.secagg.messages import AnyMessage as Message
from protocol.topics import Topics
from tests.privacy.attacks import Attacker
from tests.privacy.byte_log import ByteLog, write_entry
from tests.privacy.reading import Spoils
from tests.support.circle import keys_of
from tests.support.enrolment import Overrides, cohort
from tests.support.handset import Handset

#: 972 params: chance alone correlates two updates by less than 0.15.
MODEL: Final[Mapping[str, Any]] = {
    "input": [80],
    "loss": "softmax_cross_entropy",
    "layers": [{"type": "dense", "units": 12}],
}
SIZE: Final = Model(parse_spec(MODEL)).layout.size
NAMES: Final = tuple(f"device-{number}" for number in range(1, 9))
#: N, t, T, U = 8, 1, 4, 5.
PARAMETERS: Final[Overrides] = {
    "num_malicious": 1,
    "num_noise": 4,
    "num_answers": 5,
    "min_contributors": 3,
    "size": SIZE + 1,
}
_QUIET_WITHIN: Final = 30
_SOON_S: Final = 2.0

Vector = npt.NDArray[np.float32]


class Table:
    """A cohort that has been told plan, roster and model. A `tests.privacy.attacks.Voice`.

    ``trained`` has what devices trained, by lease id: it is for whoever judges, not for attackers.
    """

    def __init__(self, folder: Path, **overrides: Unpack[Overrides]) -> None:
        self.path = folder / "bytes.log"
        self.topics = Topics("fedbus/1", "t")
        self.trained: dict[bytes, Vector] = {}
        chosen: Overrides = {**PARAMETERS, **overrides}
        self._cohort = cohort(NAMES, **chosen)
        self._draw = np.random.default_rng(1)
        self._retained: dict[str, bytes] = {}
        self._subscribed: dict[str, set[str]] = {name: set() for name in NAMES}
        signer = Signer(self._cohort.aggregator, self.topics.prefix)
        self._publication = Publication(self.topics, 0, signer)
        self.handsets = [Handset(name=name, keys=self.keys(name)) for name in NAMES]
        self._tell_all()

    def keys(self, name: str) -> Keys:
        """Return a device's keys, for an attacker that has them."""
        return keys_of(self._cohort, name)

    def attacker(self, *insiders: str) -> Attacker:
        """Return an attacker in the aggregator's place, with its key and the keys of some."""
        spoils = Spoils(
            enrolment=self._cohort.enrolment,
            aggregator=self._cohort.aggregator,
            insiders={name: self.keys(name) for name in insiders},
        )
        return Attacker(ByteLog(self.path, self.topics), self.topics, spoils, self)

    def sums(self, *names: str) -> None:
        """Let devices train, and sum their updates as an honest aggregator does."""
        aggregator = self.attacker()
        masks = []
        for name in names:
            update = aggregator.lead(name, self._cohort.roster.epoch)
            assert update is not None
            masks.append((name, update.counter))
        assert len(aggregator.sum_of(masks)) == len(NAMES)
        for name in names:
            aggregator.settle(name)

    @property
    def counts(self) -> Counter[str]:
        """What all devices have counted."""
        return sum((handset.session.counts for handset in self.handsets), Counter())

    # --- a voice -----------------------------------------------------------------------------

    def say(self, topic: str, payload: bytes, *, retain: bool = False) -> None:
        """Publish anything."""
        write_entry(self.path, topic, payload)
        if retain:
            self._retained[topic] = payload
        for handset in self.handsets:
            if any(_matches(one, topic) for one in self._subscribed[handset.name]):
                handset.receive(topic, payload)

    def wait(self, until: Callable[[], bool]) -> bool:
        """Let everybody talk until nobody has anything to say."""
        for _ in range(_QUIET_WITHIN):
            if not sum(self._turn(handset) for handset in self.handsets):
                return until()
        raise AssertionError("they talk without end")

    def _turn(self, handset: Handset) -> int:
        if handset.session.timer_at <= handset.now + _SOON_S:
            handset.wait()
        if handset.training is not None:
            delta = (self._draw.standard_normal(SIZE) / 10).astype(np.float32)
            self.trained[handset.training.lease_id] = delta
            handset.trains(list(delta))
        new = handset.subscribed - self._subscribed[handset.name]
        self._subscribed[handset.name] = set(handset.subscribed)
        for topic, payload in list(self._retained.items()):
            if any(_matches(one, topic) for one in new):
                handset.receive(topic, payload)
        published, handset.published = handset.published, []
        for publish in published:
            self.say(publish.topic, publish.payload, retain=publish.retain)
        return len(published) + len(new)

    # --- what an aggregator says at first ----------------------------------------------------

    def _tell_all(self) -> None:
        for handset in self.handsets:
            handset.connect()
            self._subscribed[handset.name] = set(handset.subscribed)
        params = bytes(4 * SIZE)
        digest = hashlib.sha256(params).digest()
        self._tell(self.topics.roster("all"), self._cohort.signed)
        self._tell(self.topics.plan(), Plan(json.dumps(MODEL), "{}", "dense/float32", 600))
        self._tell(self.topics.manifest(), Manifest(1, digest, len(params), 1))
        self._tell(self.topics.model(1, 0), ModelChunk(1, 0, params))
        self.wait(lambda: True)

    def _tell(self, topic: str, message: Message) -> None:
        publish = self._publication.message(topic, message, retain=True)
        self.say(publish.topic, publish.payload, retain=publish.retain)


def _matches(topic_filter: str, topic: str) -> bool:
    wanted, levels = topic_filter.split("/"), topic.split("/")
    if len(wanted) != len(levels):
        return False
    return all(one in {"+", level} for one, level in zip(wanted, levels, strict=True))
