"""What a curious relay tries, and one that has the aggregator's place and key.

Every attack gets a byte log, the keys that it is said to have, and (but for the first) a voice on
the bus. It returns guesses of what single devices trained; how good they are, the test says.
"""

import itertools
import json
import secrets
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Final, Protocol

import msgpack

from aggregator.publication import Publication
from device_sdk.identity import Keys
from protocol.identity import Signer
from protocol.messages import COUNTER_START_BITS, LEASE_ID_BYTES, Lease, Receipt
from protocol.secagg import keys
from protocol.secagg.field import Q31, Elements
from protocol.secagg.messages import AnyMessage as Message
from protocol.secagg.messages import MaskedUpdate, RecoveryRequest
from protocol.secagg.requests import make_request, request_hash
from protocol.secagg.roster import Roster, RosterMember
from protocol.topics import Topics
from tests.privacy.byte_log import ByteLog, Sealed
from tests.privacy.reading import Guess, Mask, Reader, Rows, Spoils

_TRIES: Final = 5
_BUDGET_BYTES: Final = 100_000
Guesses = list[Guess]


class Voice(Protocol):
    """A place on the bus, with the rights of whoever may say anything."""

    def say(self, topic: str, payload: bytes, *, retain: bool = False) -> None:
        """Publish; what it leads to will be in the log."""

    def wait(self, until: Callable[[], bool]) -> bool:
        """Wait until it holds, or for as long as anybody would take; return whether it does."""


class Attacker(Reader):
    """A reader in the aggregator's place: it signs with its key, and counts as after a restart."""

    def __init__(self, log: ByteLog, topics: Topics, spoils: Spoils, voice: Voice) -> None:
        super().__init__(log, topics, spoils)
        self._voice = voice
        num_starts = 1 + (log.counter >> COUNTER_START_BITS)
        signer = Signer(spoils.aggregator, topics.prefix)
        self._publication = Publication(topics, num_starts << COUNTER_START_BITS, signer)

    # --- what it says ------------------------------------------------------------------------

    def say(self, topic: str, message: Message, *, retain: bool = False) -> None:
        """Say something as the aggregator."""
        publish = self._publication.message(topic, message, retain=retain)
        self._voice.say(publish.topic, publish.payload, retain=publish.retain)

    def relay(self, sealed: Sealed) -> None:
        """Say again what a device has said."""
        self._voice.say(sealed.topic, sealed.payload)

    def wait(self, until: Callable[[], object]) -> bool:
        """Read the log until something is in it."""

        def holds() -> bool:
            self.log.read()
            return bool(until())

        return self._voice.wait(holds)

    def ask(self, request: RecoveryRequest, holders: Collection[str] = ()) -> dict[int, Elements]:
        """Ask holders (everybody) for an answer; return the rows of those that gave one.

        Those whose keys it has it need not ask.
        """
        hash_ = request_hash(request)
        asked = [name for name in holders or self.names if name not in self.spoils.insiders]
        before = self.log.num_said.copy()
        for name in asked:
            self.say(self.topics.into(name), request)
        said = self.log.num_said
        self.wait(lambda: all(said[hash_, name] > before[hash_, name] for name in asked))
        return {at: row for at, row in self.answered(hash_).items() if self.names[at] in asked}

    def sum_of(self, masks: Sequence[Mask], holders: Collection[str] = ()) -> dict[int, Elements]:
        """Ask for the sum of some masks as the rules have it; return the rows that it gets."""
        return self.ask(self.request(masks), holders) | self.insiders_sum(tuple(masks))

    def request(self, masks: Sequence[Mask]) -> RecoveryRequest:
        """Return the request for these masks."""
        named = {self.names.index(device): counter for device, counter in masks}
        return make_request(self.roster, named, self.spoils.aggregator)

    def any_request(
        self, members: Sequence[int], counters: Sequence[int], weights: Sequence[int]
    ) -> RecoveryRequest:
        """Return a request that says anything, well signed."""
        roster = self.roster
        fields = [roster.task, roster.hash, roster.epoch, members, counters, weights]
        body: bytes = msgpack.packb([list(x) if isinstance(x, tuple) else x for x in fields])
        return RecoveryRequest(body, keys.sign(self.spoils.aggregator, keys.REQUEST, body))

    def refused(self) -> set[str]:
        """Return the reasons that devices gave for not answering."""
        self.log.read()
        return {reason for said in self.log.refusals.values() for reason in said.values()}

    # --- what it has others do ---------------------------------------------------------------

    def lead(self, device: str, epoch: int) -> MaskedUpdate | None:
        """Let a device train: a receipt for what it has sent, then a lease."""
        self.log.read()
        manifest = self.log.manifest
        assert manifest is not None, "no model"
        lease = Lease(
            secrets.token_bytes(LEASE_ID_BYTES),
            self.log.check_ins[device].install_id,
            manifest.version,
            manifest.model_hash,
            manifest.model_bytes,
            manifest.num_chunks,
            f"dense/{self.roster.parameters.scheme}",
            _BUDGET_BYTES,
            partition=0,
            ttl_s=600,
            mask_epoch=epoch,
        )
        for _ in range(_TRIES):
            self.settle(device)
            self.say(self.topics.into(device), lease)
            if self.wait(lambda: lease.lease_id in self.log.updates):
                return self.log.updates[lease.lease_id][1]
        return None

    def settle(self, device: str) -> None:
        """Give a device the receipt that it waits for, if it does."""
        self.log.read()
        if lease_id := self.log.last_update(device):
            self.say(self.topics.into(device), Receipt(lease_id, 0))

    def fresh(self, count: int) -> list[Mask]:
        """Return masks of updates that nobody has summed, of so many devices that are no insiders.

        If there are too few, devices are told to train.
        """
        honest = [name for name in self.names if name not in self.spoils.insiders]
        found = dict(sorted(self.updates().keys() - self.summed()))
        for device in honest:
            if len(found.keys() & set(honest)) >= count:
                break
            update = None if device in found else self.lead(device, self.roster.epoch)
            if update is not None:
                found[device] = update.counter
        return [(device, found[device]) for device in honest if device in found][:count]


# --- (a) to (h) ------------------------------------------------------------------------------


def read_relayed_shares(reader: Reader) -> Guesses:
    """(a) Decode single masks from the shares that the relay passed on, as in FedML."""
    updates, relayed = reader.updates(), reader.relayed_rows()
    return [
        reader.guess({mask: 1}, reader.secret(relayed[mask])) for mask in updates if mask in relayed
    ]


def subtract_recorded_sums(reader: Reader) -> Guesses:
    """(b) Of two answered requests, one of which has one mask more, take the difference."""
    guesses = []
    for more, less in itertools.permutations(reader.log.answers, 2):
        rest = set(reader.masks_of(more)) - set(reader.masks_of(less))
        if len(rest) == 1 and set(reader.masks_of(less)) < set(reader.masks_of(more)):
            secret = _difference(reader, reader.answered(more), reader.answered(less))
            guesses.append(reader.guess(dict.fromkeys(rest, 1), secret))
    return guesses


def ask_again_without_one(attacker: Attacker) -> Guesses:
    """(b) Ask for the masks of an answered request again, but for one of them."""
    guesses = subtract_recorded_sums(attacker)
    for hash_ in _answered(attacker):
        *others, victim = attacker.masks_of(hash_)
        if rows := attacker.sum_of(others):
            whole = attacker.answered(hash_) | attacker.insiders_sum(attacker.masks_of(hash_))
            guesses.append(attacker.guess({victim: 1}, _difference(attacker, whole, rows)))
    return guesses


def show_halves_different_sums(attacker: Attacker) -> Guesses:
    """(c) One half of the holders is asked for all masks, the other for all but one.

    Nobody is asked twice but those whose keys the attacker has.
    """
    masks = attacker.fresh(attacker.roster.parameters.min_contributors + 1)
    *others, victim = masks
    honest = [name for name in attacker.names if name not in attacker.spoils.insiders]
    half = len(honest) // 2
    whole = attacker.sum_of(masks, honest[half:])
    rest = attacker.sum_of(others, honest[:half])
    return [attacker.guess({victim: 1}, _difference(attacker, whole, rest))]


def invent_members(attacker: Attacker) -> Guesses:
    """(d) Announce a roster in which all but one are invented, and let that one train."""
    own = secrets.token_bytes(32)
    victim = next(name for name in attacker.names if name not in attacker.spoils.insiders)
    roster, sybils = _invented(attacker, victim)
    attacker.say(attacker.topics.roster(roster.cohort), roster.signed(own), retain=True)
    for _ in range(2):  # it deals when it has a receipt for what it sent
        attacker.settle(victim)
        if attacker.wait(lambda: len(_shares_for(attacker, sybils)) >= len(sybils)):
            break
    else:
        return []
    rows: dict[int, dict[int, Elements]] = {}
    for sealed in _shares_for(attacker, sybils):
        holder = roster.index(sealed.holder)
        assert holder is not None
        for counter, row in attacker.opened(sealed, roster, sybils):
            rows.setdefault(counter, {})[holder] = row
    update = attacker.lead(victim, roster.epoch)
    if update is None or update.counter not in rows:
        return []
    mask = (victim, update.counter)
    secret_sum = attacker.secret(rows[update.counter], roster)
    return [attacker.guess({mask: 1}, secret_sum, {mask: update}, roster.public_seed)]


def ask_for_one(attacker: Attacker) -> Guesses:
    """(e) Ask for one update alone: openly, three times, and among two of weight 0."""
    (device, counter), (second, its), (third, other) = attacker.fresh(3)
    at, beside, behind = (attacker.names.index(name) for name in (device, second, third))
    ordered = sorted([(at, counter, 1), (beside, its, 0), (behind, other, 0)])
    bodies = [
        ([at], [counter], [1]),
        ([at] * 3, [counter] * 3, [1] * 3),
        tuple(map(list, zip(*ordered, strict=True))),
    ]
    guesses = []
    for body in bodies:
        rows = attacker.ask(attacker.any_request(*body))
        times = len(body[0]) if set(body[0]) == {at} else 1
        if rows:
            whole = {holder: row * pow(times, -1, Q31) % Q31 for holder, row in rows.items()}
            whole |= attacker.insiders_sum(((device, counter),))
            guesses.append(attacker.guess({(device, counter): 1}, attacker.secret(whole)))
    return guesses


def replay_with_another_mask(attacker: Attacker) -> Guesses:
    """(f) Say an answered request again: as it was, and with a newer mask of one member."""
    guesses = []
    fresh = dict(attacker.fresh(attacker.roster.parameters.min_contributors + 1))
    for hash_ in _answered(attacker):
        masks = dict(attacker.masks_of(hash_))
        once = attacker.answered(hash_)
        attacker.ask(attacker.log.requests[hash_])
        again = {name: said[-1] for name, said in attacker.log.answers[hash_].items()}
        first = {name: said[0] for name, said in attacker.log.answers[hash_].items()}
        assert again == first, "two answers to one request"
        for victim in fresh.keys() & masks.keys():
            rows = attacker.sum_of(sorted({**masks, victim: fresh[victim]}.items()))
            if rows:
                secret = _difference(attacker, rows, once)
                new, old = (victim, fresh[victim]), (victim, masks[victim])
                guesses.append(attacker.guess({new: 1, old: -1}, secret))
    return guesses


def deal_used_shares_again(attacker: Attacker) -> Guesses:
    """(g) Relay sealed shares of summed masks once more, so that they can be asked for again."""
    guesses = []
    for hash_ in _answered(attacker):
        *others, victim = attacker.masks_of(hash_)
        dealers = {device for device, _ in others}
        for sealed in attacker.log.sealed[:]:
            if sealed.dealer in dealers and sealed.holder not in attacker.spoils.insiders:
                attacker.relay(sealed)
        if rows := attacker.sum_of(others):
            whole = attacker.answered(hash_) | attacker.insiders_sum(attacker.masks_of(hash_))
            guesses.append(attacker.guess({victim: 1}, _difference(attacker, whole, rows)))
    return guesses


def choose_a(attacker: Attacker) -> Guesses:
    """(h) Say that the public polynomial is 0, wherever something can be said; read the update."""
    plan = attacker.log.plan
    assert plan is not None
    training = {**json.loads(plan.training), "public": {"a": 0}, "public_seed": "00" * 32}
    attacker.say(attacker.topics.plan(), replace(plan, training=json.dumps(training)), retain=True)
    honest = [name for name in attacker.names if name not in attacker.spoils.insiders]
    guesses = []
    for device in honest[-2:]:
        update = attacker.lead(device, attacker.roster.epoch)
        if update is not None:
            mask = (device, update.counter)
            guesses.append(attacker.guess({mask: 1}, attacker.secret({}), {mask: update}))
    attacker.say(attacker.topics.plan(), plan, retain=True)
    return guesses


# --- parts of them ---------------------------------------------------------------------------


def _answered(attacker: Attacker) -> Iterator[bytes]:
    """The newest requests that enough holders have answered."""
    needed = attacker.roster.parameters.num_answers
    enough = [hash_ for hash_, said in attacker.log.answers.items() if len(said) >= needed]
    yield from enough[-2:]


def _difference(reader: Reader, more: Rows, less: Rows) -> Elements:
    """Decode two sums of secrets and subtract them."""
    return (reader.secret(more) - reader.secret(less)) % Q31


def _invented(attacker: Attacker, victim: str) -> tuple[Roster, Mapping[str, Keys]]:
    """A roster of the next epoch: the victim, with the key that it announced, and inventions."""
    epoch = attacker.roster.epoch + 1
    sybils = {}
    members = []
    for number in range(len(attacker.names) - 1):
        name = f"sybil-{number}"
        identity, secret = secrets.token_bytes(32), secrets.token_bytes(32)
        sybils[name] = Keys(
            attacker.roster.task, name, "", identity, {epoch: secret}, b"", b"", b""
        )
        public = keys.epoch_public(secret)
        text = keys.endorsed(attacker.roster.task, epoch, public)
        endorsement = keys.sign(identity, keys.EPOCH_KEY, text)
        members.append(RosterMember(name, keys.identity_public(identity), public, endorsement))
    announced = attacker.log.births[victim]["next_epoch"]
    known = attacker.roster.members[attacker.names.index(victim)]
    key, endorsement = bytes.fromhex(announced["key"]), bytes.fromhex(announced["endorsement"])
    members.append(RosterMember(victim, known.identity, key, endorsement))
    members.sort(key=lambda member: member.device)
    roster = replace(attacker.roster, epoch=epoch, members=tuple(members))
    return roster, sybils


def _shares_for(attacker: Attacker, names: Collection[str]) -> list[Sealed]:
    return [sealed for sealed in attacker.log.sealed if sealed.holder in names]
