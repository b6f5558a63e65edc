"""A cohort of sessions on dicts, and an aggregator that is honest unless a test says otherwise."""

import json
from collections.abc import Mapping, Sequence
from typing import TypeVar, Unpack

import numpy as np
import numpy.typing as npt

from device_sdk.identity import Keys, parse_keys
from protocol.actions import Publish
from protocol.codec import decode, unpack
from protocol.identity import check_envelope
from protocol.messages import UpdateChunk
from protocol.secagg import scheme
from protocol.secagg.field import from_bytes
from protocol.secagg.messages import AnyMessage as Message
from protocol.secagg.messages import (
    Dealt,
    Holdings,
    MaskedUpdate,
    RecoveryAnswer,
    RecoveryRefusal,
    RecoveryRequest,
)
from protocol.secagg.requests import make_request
from protocol.secagg.roster import RosterMember
from protocol.secagg.shares import columns, recover
from protocol.topics import Kind
from tests.support.enrolment import Cohort, Overrides, cohort
from tests.support.handset import SIZE, Handset
from tests.support.messages import KINDS

K = TypeVar("K")
NAMES = ("a", "b", "c", "d", "e")


def keys_of(given: Cohort, device: str) -> Keys:
    """Return what a device reads from its keys file."""
    return parse_keys(json.dumps(given.keys[device]))


class Circle:
    """Devices ``a``, ``b``, ... of one roster. `settle` lets them talk until all is said.

    ``said`` has what they told the aggregator, in order, as (index, message). ``codec`` and
    ``epoch`` are those of leases.
    """

    def __init__(
        self,
        names: Sequence[str] = NAMES,
        *,
        codec: str = "dense/seedmask",
        stock: int = 2,
        max_share_bytes: int = 4 << 20,
        **overrides: Unpack[Overrides],
    ) -> None:
        overrides.setdefault("size", SIZE + 1)
        overrides.setdefault("scheme", codec.split("/")[1])
        self.codec = codec
        self.cohort = cohort(names, **overrides)
        self.scheme = scheme(self.cohort.roster.parameters.scheme)
        self.said: list[tuple[int, Message]] = []
        self.handsets = [
            Handset(
                name=name,
                keys=keys_of(self.cohort, name),
                stock=stock,
                max_share_bytes=max_share_bytes,
            )
            for name in names
        ]

    def join(self) -> None:
        """Everybody connects, hears plan and roster, and deals."""
        for handset in self.handsets:
            handset.connect()
            handset.hear_plan(self.codec)
            self.hear_roster(handset)
        self.settle()

    def hear_roster(self, handset: Handset, given: Cohort | None = None) -> None:
        """A roster arrives at one device."""
        roster = (given or self.cohort).signed
        handset.hear(handset.topics.roster("all"), roster)

    def restart(self, name: str) -> None:
        """A device loses its memory and comes back."""
        handset = self[name]
        handset.reboot()
        handset.connect()
        handset.hear_plan(self.codec)
        self.hear_roster(handset)
        self.settle()

    def settle(self) -> None:
        """Deliver what was published, and let short timers run, until nobody says a thing."""
        for _ in range(20):
            if not sum(self._turn(handset) for handset in self.handsets):
                return
        raise AssertionError("they talk without end")

    def _turn(self, handset: Handset) -> int:
        if handset.session.timer_at <= handset.now + 1.0:
            handset.wait()
        published, handset.published = handset.published, []
        for publish in published:
            self._deliver(handset, publish)
        return len(published)

    def _deliver(self, sender: Handset, publish: Publish) -> None:
        address = sender.topics.parse(publish.topic)
        if address.kind is Kind.SHARE:
            self[address.to].receive(publish.topic, publish.payload)
        if address.kind in {Kind.OUT, Kind.UPDATE}:
            message = decode(publish.payload, tuple(KINDS), task="t", sender=sender.name)
            if isinstance(message, Dealt | Holdings | RecoveryAnswer | RecoveryRefusal):
                identity = self.member(sender.name).identity
                check_envelope(identity, publish.payload, topic=publish.topic, prefix="fedbus/1")
            self.said.append((self.index(sender.name), message))

    def __getitem__(self, name: str) -> Handset:
        return next(handset for handset in self.handsets if handset.name == name)

    def index(self, name: str) -> int:
        """Return a device's place in the roster."""
        index = self.cohort.roster.index(name)
        assert index is not None
        return index

    def member(self, name: str) -> RosterMember:
        """Return a device's entry in the roster."""
        return self.cohort.roster.members[self.index(name)]

    # --- updates and recovery ----------------------------------------------------------------

    def reports(self, name: str, delta: Sequence[float], *, number: int = 1) -> MaskedUpdate:
        """Let a device train and send; return its update."""
        handset = self[name]
        epoch = self.cohort.roster.epoch
        handset.reports(delta, codec=self.codec, number=number, mask_epoch=epoch)
        self.settle()
        chunk = [message for _, message in self.said if isinstance(message, UpdateChunk)][-1]
        return unpack(chunk.data, MaskedUpdate)

    def pending(self, name: str) -> bytes:
        """Return the id of the update that a device has under way."""
        pending = self[name].session.pending
        assert pending is not None
        return pending.lease_id

    def request(self, masks: Mapping[int, int]) -> RecoveryRequest:
        """Return the signed request for these masks (dealer's index -> counter)."""
        return make_request(self.cohort.roster, masks, self.cohort.aggregator)

    def ask(self, name: str, request: RecoveryRequest) -> list[Message]:
        """Ask one holder; return what it says to that."""
        before = len(self.said)
        self[name].hear_in(request)
        self.settle()
        return [message for _, message in self.said[before:]]

    def sums(
        self, updates: Mapping[int, MaskedUpdate], named: bytes = b""
    ) -> npt.NDArray[np.int64]:
        """Recover the sums of updates (by dealer) from everybody's answers.

        ``named``: the coordinates that their support named.
        """
        roster = self.cohort.roster
        given, way = roster.parameters, self.scheme
        total = np.zeros(given.size, np.int64)
        for update in updates.values():
            way.add(given, total, update.body)
        request = self.request({index: update.counter for index, update in updates.items()})
        sharing = way.sharing(given)
        width = columns(way.secret_size(given), sharing)
        answers = {}
        for handset in self.handsets:
            for message in self.ask(handset.name, request):
                if isinstance(message, RecoveryAnswer):
                    elements = from_bytes(message.elements, sharing.modulus, width)
                    answers[self.index(handset.name)] = elements
        secret = recover(answers, sharing, way.secret_size(given)).secret
        seed = roster.support_seed(next(iter(updates.values())).support, named)
        return way.unmask(given, seed, total, len(updates), secret)

    def of(self, name: str, kind: type[K]) -> list[K]:
        """Return what a device has said of one kind, oldest first."""
        index = self.index(name)
        return [said for by, said in self.said if by == index and isinstance(said, kind)]
