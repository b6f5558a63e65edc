"""What must hold of holders and their answers: an auditor of every storage and the bus.

Devices in ``malicious`` (at most t) are not held to it: they give what they like.
"""

from collections.abc import Collection, Iterator, Mapping
from itertools import combinations

import msgpack

from device_sdk.answers import ANSWER
from device_sdk.evidence import EVIDENCE
from device_sdk.holding import SHARE
from device_sdk.membership import ROSTER
from device_sdk.secagg import Member
from device_sdk.session import ANSWERS
from protocol import refusals
from protocol.codec import decode, unpack
from protocol.messages import AGGREGATOR, CheckIn
from protocol.secagg.groups import draw_groups
from protocol.secagg.messages import (
    Dealt,
    Holdings,
    RecoveryAnswer,
    RecoveryRefusal,
    RecoveryRequest,
    SignedRoster,
)
from protocol.secagg.requests import check_request, named_masks, request_hash
from protocol.secagg.roster import Roster
from protocol.topics import Kind, Topics
from tests.simulation.exposed import Mask, Sum, exposed, fewest_devices

Storage = Mapping[str, bytes]
Said = CheckIn | Dealt | Holdings | RecoveryAnswer | RecoveryRefusal
_SAID: tuple[type[Said], ...] = (CheckIn, Dealt, Holdings, RecoveryAnswer, RecoveryRefusal)


class Holders:
    """Watches what holders store and say. ``requests`` are the aggregator's, as it stored them."""

    def __init__(self, topics: Topics, storages: Mapping[str, Storage]) -> None:
        self.malicious: frozenset[str] = frozenset()
        self.rosters: dict[bytes, Roster] = {}
        self.requests: dict[bytes, RecoveryRequest] = {}
        self.forged: dict[bytes, RecoveryRequest] = {}
        self.dealt: dict[bytes, dict[int, int]] = {}
        #: Everything that went from one to another, or to all, to be replayed.
        self.log: list[tuple[str, bytes]] = []
        self.rare: list[tuple[str, bytes]] = []
        self._topics = topics
        self._storages = storages
        self._answers: dict[bytes, dict[str, bytes]] = {}
        self._used: dict[tuple[bytes, str], dict[Mask, bytes]] = {}
        self._bound: dict[tuple[bytes, str], dict[Mask, frozenset[Mask]]] = {}
        self._epochs: dict[str, int] = {}

    # --- storage -----------------------------------------------------------------------------

    def stored(self, device: str, key: str, data: bytes) -> None:
        if key.startswith(ANSWER):
            self._answered(device, data)
        elif key == ROSTER:
            self._followed(device, unpack(data, SignedRoster))

    def _answered(self, device: str, data: bytes) -> None:
        """A holder puts a mask into one answer, ever; the same request gets the same bytes."""
        roster_hash, hash_, body, signature, elements, masks = msgpack.unpackb(data)
        roster = self.rosters[roster_hash]
        asked = check_request(RecoveryRequest(body, signature), roster)
        named = {(dealer, counter) for dealer, counter in masks}
        assert named == set(asked.items()), "an answer over other masks than were asked for"
        assert len(asked) >= roster.parameters.min_contributors, "an answer over too few devices"
        first = self._answers.setdefault(hash_, {}).setdefault(device, elements)
        if device in self.malicious:
            return
        assert first == elements, "two answers to one request"
        used = self._used.setdefault((roster_hash, device), {})
        for mask in named:
            assert used.setdefault(mask, hash_) == hash_, "a mask in two answers"
        buffer = frozenset(named_masks(RecoveryRequest(body, signature)).items())
        bound = self._bound.setdefault((roster_hash, device), {})
        for mask in buffer:
            assert bound.setdefault(mask, buffer) == buffer, "a mask in two buffers"

    def _followed(self, device: str, signed: SignedRoster) -> None:
        """Devices keep the highest epoch, and of each epoch one roster."""
        epoch = next(each.epoch for each in self.rosters.values() if each.body == signed.body)
        if device not in self.malicious:
            assert epoch > self._epochs.get(device, 0), "an epoch came back"
            self._epochs[device] = epoch

    # --- the bus -----------------------------------------------------------------------------

    def published(self, topic: str, payload: bytes) -> None:
        address = self._topics.parse(topic)
        if address.kind in {Kind.IN, Kind.OUT, Kind.SHARE, Kind.UPDATE}:
            self.log.append((topic, payload))
        if address.kind in {Kind.ROSTER, Kind.SUPPORT}:
            self.rare.append((topic, payload))
        if address.kind is Kind.OUT:
            said = decode(payload, _SAID, task=self._topics.task, sender=address.device)
            self._said(address.device, said)
        elif address.kind is Kind.IN:
            told = decode(
                payload, (*ANSWERS, *Member.told), task=self._topics.task, sender=AGGREGATOR
            )
            if isinstance(told, RecoveryRequest):
                hash_ = request_hash(told)
                known = hash_ in self.requests or hash_ in self.forged
                assert known, "asked before the request was stored"

    def _said(self, device: str, said: Said) -> None:
        match said:
            case Dealt(roster_hash, counters):
                index = self.rosters[roster_hash].index(device)
                assert index is not None
                self.dealt.setdefault(roster_hash, {})[index] = counters[-1]
            case RecoveryAnswer(hash_, elements) if device not in self.malicious:
                self._sent(device, hash_, elements)
            case RecoveryRefusal(reason=refusals.MASK_USED) if device not in self.malicious:
                proven = any(key.startswith(EVIDENCE) for key in self._storages[device])
                assert proven, "a conflict that was not kept as evidence"

    def _sent(self, device: str, hash_: bytes, elements: bytes) -> None:
        """An answer is stored and its shares are erased before it is sent."""
        stored = self._answers.get(hash_, {}).get(device)
        assert stored == elements, "an answer was sent that is not the one stored"
        for roster_hash, mask in self._shares(device):
            used = self._used.get((roster_hash, device), {})
            assert used.get(mask) != hash_, "an answer was sent before its shares were erased"

    def _shares(self, device: str) -> Iterator[tuple[bytes, Mask]]:
        for key, data in self._storages[device].items():
            if key.startswith(SHARE):
                roster_hash, dealer, counter, *_ = msgpack.unpackb(data)
                yield roster_hash, (dealer, counter)

    # --- what follows ------------------------------------------------------------------------

    def named(self, request: RecoveryRequest) -> tuple[Roster, Mapping[int, int], int]:
        """Return the roster of a request, the masks it names, and which group of them it wants."""
        _, roster_hash, _, members, counters, _, *group = msgpack.unpackb(request.body)
        buffer = dict(zip(members, counters, strict=True))
        return self.rosters[roster_hash], buffer, sum(group)

    def masks(self, request: RecoveryRequest) -> tuple[Roster, Mapping[int, int]]:
        """Return the roster of a request, and the masks it asks for, allowed or not."""
        roster, buffer, group = self.named(request)
        groups = draw_groups(roster, buffer)
        if not 1 <= group <= len(groups):
            return roster, buffer
        return roster, {dealer: buffer[dealer] for dealer in groups[group - 1]}

    def request_for(self, roster: Roster, masks: Mapping[int, int]) -> bytes:
        """Return the hash of the one stored request for a sum."""
        found = [
            hash_
            for hash_, request in self.requests.items()
            if self.masks(request) == (roster, masks)
        ]
        assert len(found) == 1, f"a sum with {len(found)} stored requests"
        return found[0]

    def answers(self, hash_: bytes) -> Mapping[str, bytes]:
        """Return every answer to a request, by device."""
        return self._answers.get(hash_, {})

    def holding(
        self, roster_hash: bytes, masks: Collection[Mask], among: Collection[str]
    ) -> set[str]:
        """Return who of these has shares of all the masks, or has put them into answers."""
        found = set()
        for device in among:
            own = {mask for of, mask in self._shares(device) if of == roster_hash}
            if set(masks) <= own | self._used.get((roster_hash, device), {}).keys():
                found.add(device)
        return found

    def check_exposed(self) -> None:
        """What honest holders' answers span shows sums over min_contributors devices only.

        Whichever t holders are the malicious ones, those that were rolled back among them.
        """
        for roster in self.rosters.values():
            given = roster.parameters
            answered = {
                device: _sums(used)
                for (roster_hash, device), used in self._used.items()
                if roster_hash == roster.hash
            }
            members = {member.device for member in roster.members}
            num_more = given.num_malicious - len(members & self.malicious)
            known = set()
            for more in combinations(sorted(members - self.malicious), num_more):
                honest = [sums for device, sums in answered.items() if device not in more]
                known.add(frozenset(exposed(honest, given.num_noise + 1 - given.num_malicious)))
            # Most choices of the malicious leave the same to be known.
            fewest = min(fewest_devices(sums) for sums in known)
            assert fewest >= given.min_contributors, "a sum over too few devices"


def _sums(used: Mapping[Mask, bytes]) -> list[Sum]:
    """Return which masks went into one answer together."""
    hashes = set(used.values())
    return [frozenset(mask for mask, of in used.items() if of == each) for each in hashes]
