"""What is said in secure tasks beside `protocol.messages`: one frozen class per message.

A file of its own, so that a device of another task starts without it.
"""

from dataclasses import dataclass
from typing import Annotated, Final

from protocol.messages import (
    MAX_HELD,
    Body,
    Chunk,
    Flag,
    Hash,
    Limit,
    MaskCounter,
    Member,
    Members,
    Message,
    Nonce,
    RoundPublics,
    Signature,
    Small,
    Stock,
    Text,
    Version,
    Word,
)


@dataclass(frozen=True, slots=True)
class MaskedUpdate:
    """A masked delta against one version; travels inside `UpdateChunk` in secure tasks.

    ``counter`` names the mask, ``support`` the coordinates (0 when dense), ``body`` is what the
    scheme's ``mask`` made.
    """

    base_version: Version
    roster_hash: Hash
    counter: MaskCounter
    support: Version
    body: Body


@dataclass(frozen=True, slots=True)
class Support:
    """The coordinates that updates have in common, retained: those named and a random part.

    ``indices`` is as in `protocol.vectors.sparse`, or empty; the rest is drawn from ``number``.
    """

    number: Version
    indices: Small


@dataclass(frozen=True, slots=True)
class SignedRoster:
    """A cohort's roster (`protocol.secagg.roster`), and the enrolment key's signature over it."""

    body: Annotated[bytes, Limit(1, 55_000)]
    signature: Signature


@dataclass(frozen=True, slots=True)
class Dealt:
    """A dealer says which masks it has dealt since it started, with the commitments to shares.

    ``commitments`` has 16 bytes for each mask and holder, mask by mask. Masks of the same dealer
    that are not named any more are lost and will not be used.
    """

    roster_hash: Hash
    counters: Stock
    commitments: Small


@dataclass(frozen=True, slots=True)
class Shares:
    """Shares of a stock of masks for one holder, sealed (`protocol.secagg.sealing`)."""

    roster_hash: Hash
    nonce: Nonce
    sealed: Small


@dataclass(frozen=True, slots=True)
class Holdings:
    """A holder says which masks it holds shares of; ``whole``: these and no others.

    Entry ``i`` is mask ``counters[i]`` of the dealer with index ``dealers[i]``; ``receipts`` has
    for each the 4 elements of the dealers' test and the 16 bytes of the holder's witness.
    """

    roster_hash: Hash
    whole: Flag
    dealers: Annotated[tuple[Member, ...], Limit(0, MAX_HELD)]
    counters: Annotated[tuple[MaskCounter, ...], Limit(0, MAX_HELD)]
    receipts: Small


@dataclass(frozen=True, slots=True)
class SharesWanted:
    """The aggregator asks a dealer: this holder lacks your shares of these masks; deal again."""

    roster_hash: Hash
    holder: Member
    counters: Stock


@dataclass(frozen=True, slots=True)
class RecoveryRequest:
    """The sum of which masks is wanted (`protocol.secagg.requests`), signed by the aggregator."""

    body: Small
    signature: Signature


@dataclass(frozen=True, slots=True)
class RecoveryAnswer:
    """A holder's one answer to a request: the sum of its shares, as field elements."""

    request_hash: Hash
    elements: Chunk


@dataclass(frozen=True, slots=True)
class RecoveryRefusal:
    """A holder does not answer a request, and why (a word of `protocol.refusals`)."""

    request_hash: Hash
    reason: Word
    detail: Text


@dataclass(frozen=True, slots=True)
class RoundOpened:
    """A round of `pairwise` begins; ``number`` names it in all that follows, and no other round."""

    roster_hash: Hash
    number: MaskCounter


@dataclass(frozen=True, slots=True)
class RoundKeys:
    """A device's keys for one round, signed (`protocol.secagg.pairwise_keys`)."""

    number: MaskCounter
    keys: RoundPublics
    signature: Signature


@dataclass(frozen=True, slots=True)
class RoundAdvertised:
    """Who advertised: for each member, in order, the fields of its `RoundKeys`, joined."""

    number: MaskCounter
    members: Members
    keys: Small


@dataclass(frozen=True, slots=True)
class RoundShares:
    """A dealer's shares, sealed: for each neighbour that advertised, in order, 88 bytes."""

    number: MaskCounter
    sealed: Small


@dataclass(frozen=True, slots=True)
class RoundDealers:
    """Who dealt, and what those of them that are neighbours sealed for the receiver, in order."""

    number: MaskCounter
    dealers: Members
    sealed: Small


@dataclass(frozen=True, slots=True)
class RoundOutcome:
    """Whose updates arrived, and for each of them, in order, its signature of its view."""

    number: MaskCounter
    survivors: Members
    views: Small


@dataclass(frozen=True, slots=True)
class RoundSignature:
    """A survivor signs the outcome: the only one that it ever signs in this round."""

    number: MaskCounter
    signature: Signature


@dataclass(frozen=True, slots=True)
class RoundCertificate:
    """A quorum signed the outcome: for each signer, in order, its signature."""

    number: MaskCounter
    signers: Members
    signatures: Small


@dataclass(frozen=True, slots=True)
class RoundAnswer:
    """A survivor's shares of what removes the masks: 36 bytes of each dealer, in order."""

    number: MaskCounter
    shares: Small


SecureMessage = (
    Support
    | SignedRoster
    | Dealt
    | Shares
    | Holdings
    | SharesWanted
    | RecoveryRequest
    | RecoveryAnswer
    | RecoveryRefusal
    | RoundOpened
    | RoundKeys
    | RoundAdvertised
    | RoundShares
    | RoundDealers
    | RoundOutcome
    | RoundSignature
    | RoundCertificate
    | RoundAnswer
)
AnyMessage = Message | SecureMessage
#: What a device says in a round of `pairwise`, and what it is told.
RoundSaid = RoundKeys | RoundShares | RoundSignature | RoundAnswer
RoundTold = RoundOpened | RoundAdvertised | RoundDealers | RoundOutcome | RoundCertificate

#: As `protocol.messages.KINDS`, whose numbers these continue.
KINDS: Final[dict[type[SecureMessage], int]] = {
    Support: 11,
    SignedRoster: 12,
    Dealt: 13,
    Shares: 14,
    Holdings: 15,
    SharesWanted: 16,
    RecoveryRequest: 17,
    RecoveryAnswer: 18,
    RecoveryRefusal: 19,
    RoundOpened: 20,
    RoundKeys: 21,
    RoundAdvertised: 22,
    RoundShares: 23,
    RoundDealers: 24,
    RoundOutcome: 25,
    RoundSignature: 26,
    RoundCertificate: 27,
    RoundAnswer: 28,
}
