"""The roster: who shares masks with whom in one epoch, under which parameters, signed offline.

Everything that must be the same for all parties is in it, and its hash is in every share, update,
request and answer. It is signed with the enrolment key, which is never on the aggregator's host.
"""

import hashlib
from dataclasses import dataclass, field
from functools import cached_property
from typing import Annotated, Final

from protocol import refusals
from protocol.codec import pack, unpack
from protocol.errors import ConfigError, RemoteProtocolError
from protocol.messages import (
    ADDED,
    HASH_BYTES,
    KEY_BYTES,
    MAX_COHORT,
    SIGNATURE_BYTES,
    Limit,
    Word,
)
from protocol.secagg import keys
from protocol.secagg.messages import SignedRoster
from protocol.secagg.parameters import MIN_COHORT, Parameters
from protocol.stream import derive
from protocol.topics import check_id

ROSTER_VERSION: Final = 1
_MICRO: Final = 1_000_000
_Number = Annotated[int, Limit(0, 1 << 40)]


@dataclass(frozen=True, slots=True)
class _Body:
    """The fields as they are signed; lists of keys are one string of bytes each."""

    version: Annotated[int, Limit(ROSTER_VERSION, ROSTER_VERSION)]
    task: Word
    cohort: Word
    epoch: Annotated[int, Limit(1, 1 << 31)]
    valid_s: Annotated[int, Limit(1, 1 << 31)]
    scheme: Word
    num_malicious: _Number
    num_noise: _Number
    num_answers: _Number
    min_contributors: _Number
    max_contributors: _Number
    max_weight: _Number
    size: _Number
    clip_micro: _Number
    bits: _Number
    samples_cap: _Number
    staleness: Word
    devices: Annotated[tuple[Word, ...], Limit(1, MAX_COHORT)]
    identities: Annotated[bytes, Limit(KEY_BYTES, KEY_BYTES * MAX_COHORT)]
    epoch_keys: Annotated[bytes, Limit(KEY_BYTES, KEY_BYTES * MAX_COHORT)]
    endorsements: Annotated[bytes, Limit(SIGNATURE_BYTES, SIGNATURE_BYTES * MAX_COHORT)]
    aggregator: Annotated[bytes, Limit(KEY_BYTES, KEY_BYTES)]
    group: _Number = field(default=0, metadata=ADDED)
    multiplier_milli: _Number = field(default=0, metadata=ADDED)
    budget_nano: _Number = field(default=0, metadata=ADDED)


@dataclass(frozen=True, slots=True)
class RosterMember:
    """A device of a roster: its identity (Ed25519) and epoch key (X25519), endorsed by it."""

    device: str
    identity: bytes
    epoch_key: bytes
    endorsement: bytes


@dataclass(frozen=True, kw_only=True)
class Roster:
    """One epoch of one cohort. A device's index is its place in ``members``, sorted by id."""

    task: str
    cohort: str
    epoch: int
    valid_s: int
    parameters: Parameters
    members: tuple[RosterMember, ...]
    aggregator: bytes

    def index(self, device: str) -> int | None:
        """Return the index of a device, None if it is no member."""
        return self._indices.get(device)

    @cached_property
    def _indices(self) -> dict[str, int]:
        return {member.device: index for index, member in enumerate(self.members)}

    @cached_property
    def body(self) -> bytes:
        """The bytes that are signed."""
        given = self.parameters
        return pack(
            _Body(
                ROSTER_VERSION,
                self.task,
                self.cohort,
                self.epoch,
                self.valid_s,
                given.scheme,
                given.num_malicious,
                given.num_noise,
                given.num_answers,
                given.min_contributors,
                given.max_contributors,
                given.max_weight,
                given.size,
                round(given.clip * _MICRO),
                given.bits,
                given.samples_cap,
                given.staleness,
                tuple(member.device for member in self.members),
                b"".join(member.identity for member in self.members),
                b"".join(member.epoch_key for member in self.members),
                b"".join(member.endorsement for member in self.members),
                self.aggregator,
                given.group,
                given.multiplier_milli,
                given.budget_nano,
            )
        )

    @cached_property
    def hash(self) -> bytes:
        """BLAKE2b-256 of `body`: what all parties compare."""
        return hashlib.blake2b(self.body, digest_size=HASH_BYTES).digest()

    @cached_property
    def public_seed(self) -> bytes:
        """The seed of the scheme's public parameters: derived by everybody, never received."""
        return derive(self.hash, "public")

    def support_seed(self, number: int, named: bytes) -> bytes:
        """Return the public seed for updates with one support (`protocol.messages.Support`).

        Updates of devices that were told other coordinates under the same number do not unmask
        together: nobody is isolated by them. Support 0 that names nothing is the first one, or
        all coordinates: `public_seed` itself.
        """
        if number == 0 and not named:
            return self.public_seed
        return derive(self.public_seed, "support", number, named)

    def signed(self, enrolment_secret: bytes) -> SignedRoster:
        """Return the roster as it is published."""
        return SignedRoster(self.body, keys.sign(enrolment_secret, keys.ROSTER, self.body))

    def mask_id(self, dealer: int, counter: int) -> bytes:
        """Return the bytes that name one mask of one dealer, once and for all."""
        return self.hash + dealer.to_bytes(2, "little") + counter.to_bytes(8, "little")


def open_roster(signed: SignedRoster, enrolment_key: bytes) -> Roster:
    """Check a roster and everything in it.

    Raises RemoteProtocolError: ``bad_signature`` of the roster or of an epoch key, ``malformed``
    for parameters, members or keys that cannot be.
    """
    keys.check_signature(enrolment_key, keys.ROSTER, signed.body, signed.signature)
    roster = _read(unpack(signed.body, _Body))
    try:
        check_roster(roster)
    except ConfigError as error:
        raise RemoteProtocolError(refusals.MALFORMED, f"roster: {error}") from None
    if roster.body != signed.body:
        # Everybody hashes the same bytes, whether received or written anew.
        raise RemoteProtocolError(refusals.MALFORMED, "roster: not in its shortest spelling")
    for member in roster.members:
        keys.check_epoch_key(member.epoch_key)
        text = keys.endorsed(roster.task, roster.epoch, member.epoch_key)
        keys.check_signature(member.identity, keys.EPOCH_KEY, text, member.endorsement)
    return roster


def check_roster(roster: Roster) -> None:
    """Raise ConfigError, saying why, for a roster that must not be used."""
    check_id(roster.task, "task")
    check_id(roster.cohort, "cohort")
    devices = [member.device for member in roster.members]
    for device in devices:
        check_id(device, "device")
    if devices != sorted(set(devices)):
        raise ConfigError("devices must be sorted, each once")
    for what in ("identity", "epoch_key"):
        if len({getattr(member, what) for member in roster.members}) != len(devices):
            raise ConfigError(f"two devices have the same {what}")
    given = roster.parameters
    if given.num_devices != len(devices):
        raise ConfigError(f"{len(devices)} devices, not {given.num_devices}")
    given.check()
    if round(given.clip * _MICRO) / _MICRO != given.clip:
        raise ConfigError(f"clip {given.clip}: give at most 6 digits after the point")
    if given.min_contributors < MIN_COHORT:
        raise ConfigError(
            f"min_contributors = {given.min_contributors}: of two, each knows the other from their"
            f" sum; at least {MIN_COHORT}"
        )
    if given.max_weight != 1:
        raise ConfigError(f"max_weight {given.max_weight}: holders answer for weight 1 alone")


def _read(body: _Body) -> Roster:
    count = len(body.devices)
    lengths = (len(body.identities), len(body.epoch_keys), len(body.endorsements))
    if lengths != (KEY_BYTES * count, KEY_BYTES * count, SIGNATURE_BYTES * count):
        raise RemoteProtocolError(refusals.MALFORMED, "roster: not a key of each kind a device")
    identities = _pieces(body.identities, KEY_BYTES)
    epoch_keys = _pieces(body.epoch_keys, KEY_BYTES)
    endorsements = _pieces(body.endorsements, SIGNATURE_BYTES)
    rows = zip(body.devices, identities, epoch_keys, endorsements, strict=True)
    return Roster(
        task=body.task,
        cohort=body.cohort,
        epoch=body.epoch,
        valid_s=body.valid_s,
        parameters=Parameters(
            scheme=body.scheme,
            num_devices=count,
            num_malicious=body.num_malicious,
            num_noise=body.num_noise,
            num_answers=body.num_answers,
            min_contributors=body.min_contributors,
            max_contributors=body.max_contributors,
            max_weight=body.max_weight,
            size=body.size,
            clip=body.clip_micro / _MICRO,
            bits=body.bits,
            samples_cap=body.samples_cap,
            staleness=body.staleness,
            group=body.group,
            multiplier_milli=body.multiplier_milli,
            budget_nano=body.budget_nano,
        ),
        members=tuple(RosterMember(*row) for row in rows),
        aggregator=body.aggregator,
    )


def _pieces(data: bytes, size: int) -> list[bytes]:
    return [data[at : at + size] for at in range(0, len(data), size)]
