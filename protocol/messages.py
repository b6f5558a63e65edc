"""One frozen class per message. Each field carries its limit; `codec` enforces all of them.

Numbers of a model travel as raw little-endian bytes; what a device trains with (the plan's
``model``) is JSON text, because engines in other languages must read it too.
"""

from dataclasses import dataclass, field
from typing import Annotated, Final

WIRE_VERSION: Final = 1

LEASE_ID_BYTES: Final = 16
INSTALL_ID_BYTES: Final = 16
HASH_BYTES: Final = 32
KEY_BYTES: Final = 32
SIGNATURE_BYTES: Final = 64
NONCE_BYTES: Final = 24
#: A cohort has at most so many devices, and a dealer at most so many masks at once.
MAX_COHORT: Final = 128
MAX_STOCK: Final = 16
#: The largest packet body we send unless the broker names a smaller limit, envelope included.
CHUNK_BYTES: Final = 60_000
MAX_MODEL_BYTES: Final = 1 << 30
MAX_CHUNKS: Final = 20_000
MAX_COUNTED: Final = 3_000
MAX_VERSION: Final = 1 << 40
MAX_SAMPLES: Final = 1 << 40
MAX_DOCUMENT_CHARS: Final = 50_000
COUNTER_START_BITS: Final = 32


@dataclass(frozen=True, slots=True)
class Limit:
    """Bounds of a field: of an int its value, of bytes, text and tuples the length."""

    low: int
    high: int


LeaseId = Annotated[bytes, Limit(LEASE_ID_BYTES, LEASE_ID_BYTES)]
MaybeLeaseId = Annotated[bytes, Limit(0, LEASE_ID_BYTES)]
InstallId = Annotated[bytes, Limit(INSTALL_ID_BYTES, INSTALL_ID_BYTES)]
MaybeInstallId = Annotated[bytes, Limit(0, INSTALL_ID_BYTES)]
Hash = Annotated[bytes, Limit(HASH_BYTES, HASH_BYTES)]
Version = Annotated[int, Limit(0, MAX_VERSION)]
MaybeVersion = Annotated[int, Limit(-1, MAX_VERSION)]
Count = Annotated[int, Limit(0, MAX_SAMPLES)]
#: The upper bits count a sender's starts (``starts << COUNTER_START_BITS``).
Counter = Annotated[int, Limit(0, (1 << 63) - 1)]
Checksum = Annotated[int, Limit(0, (1 << 32) - 1)]
ChunkCount = Annotated[int, Limit(1, MAX_CHUNKS)]
ChunkIndex = Annotated[int, Limit(0, MAX_CHUNKS - 1)]
ChunkIndices = Annotated[tuple[ChunkIndex, ...], Limit(0, MAX_CHUNKS)]
Word = Annotated[str, Limit(1, 64)]
Words = Annotated[tuple[Word, ...], Limit(0, 32)]
Text = Annotated[str, Limit(0, 500)]
Document = Annotated[str, Limit(2, MAX_DOCUMENT_CHARS)]
Seconds = Annotated[int, Limit(0, 1 << 31)]
Size = Annotated[int, Limit(0, MAX_MODEL_BYTES)]
Chunk = Annotated[bytes, Limit(0, 1 << 20)]
Body = Annotated[bytes, Limit(0, MAX_MODEL_BYTES)]
Partition = Annotated[int, Limit(0, 65_535)]
Permille = Annotated[int, Limit(1, 1000)]
Ids = Annotated[tuple[LeaseId, ...], Limit(0, MAX_COUNTED)]
Signature = Annotated[bytes, Limit(SIGNATURE_BYTES, SIGNATURE_BYTES)]
Nonce = Annotated[bytes, Limit(NONCE_BYTES, NONCE_BYTES)]
Member = Annotated[int, Limit(0, MAX_COHORT - 1)]
Members = Annotated[tuple[Member, ...], Limit(0, MAX_COHORT)]
#: Names one mask of a dealer in an epoch; a dealer never gives the same one twice.
MaskCounter = Annotated[int, Limit(0, (1 << 63) - 1)]
Stock = Annotated[tuple[MaskCounter, ...], Limit(1, MAX_STOCK)]
MAX_HELD: Final = 1_024
Flag = Annotated[int, Limit(0, 1)]
Small = Annotated[bytes, Limit(0, 60_000)]
RoundPublics = Annotated[bytes, Limit(3 * KEY_BYTES, 3 * KEY_BYTES)]


@dataclass(frozen=True, slots=True)
class CheckIn:
    """A device says that it is available, and asks after the update it still holds, if any.

    ``pending`` is that update's id, or empty: the aggregator answers with a lease, or for a
    pending update with held, receipt, refusal or the chunks it misses.
    """

    install_id: InstallId
    held_version: MaybeVersion
    num_samples: Count
    codecs: Words
    pending: MaybeLeaseId = b""


@dataclass(frozen=True, slots=True)
class Lease:
    """The right to train one version once. The lease id is the update's id.

    ``install_id`` names the installation it is for: a cloned device reads the same topic.
    """

    lease_id: LeaseId
    install_id: InstallId
    version: Version
    model_hash: Hash
    model_bytes: Size
    num_chunks: ChunkCount
    codec: Word
    budget_bytes: Size
    partition: Partition
    ttl_s: Seconds
    width_permille: Permille = 1000
    mask_epoch: Version = 0


@dataclass(frozen=True, slots=True)
class ChunksMissing:
    """Send these chunks of a pending update (again)."""

    lease_id: LeaseId
    indices: ChunkIndices


@dataclass(frozen=True, slots=True)
class Held:
    """The update is in the journal and waits for its buffer: no need to send it again."""

    lease_id: LeaseId


@dataclass(frozen=True, slots=True)
class Receipt:
    """The update is counted in ``version``."""

    lease_id: LeaseId
    version: Version


@dataclass(frozen=True, slots=True)
class Refusal:
    """The update (or, with an empty id, the check-in) will not be used, and why.

    ``reason`` is a word of `protocol.refusals`; ``retry_s`` says when asking again makes sense. An
    ``install_id`` names the one installation it is meant for.
    """

    lease_id: MaybeLeaseId
    reason: Word
    detail: Text
    retry_s: Seconds = 0
    install_id: MaybeInstallId = b""


@dataclass(frozen=True, slots=True)
class UpdateChunk:
    """A piece of an encoded `Update`. One that fits one packet is chunk 0 of 1.

    ``checksum`` is the CRC-32 of the whole update: chunks of two updates under one lease (a device
    that lost the first one trained again) are never put together.
    """

    lease_id: LeaseId
    checksum: Checksum
    index: ChunkIndex
    num_chunks: ChunkCount
    data: Chunk


@dataclass(frozen=True, slots=True)
class ModelChunk:
    """A piece of a version's params (float32, little-endian)."""

    version: Version
    index: ChunkIndex
    data: Chunk


@dataclass(frozen=True, slots=True)
class Plan:
    """What to train and how. ``model`` and ``training`` are JSON objects."""

    model: Document
    training: Document
    codec: Word
    check_in_s: Seconds = 60


@dataclass(frozen=True, slots=True)
class Manifest:
    """The current version, and the ids of the updates counted in it: their receipts."""

    version: Version
    model_hash: Hash
    model_bytes: Size
    num_chunks: ChunkCount
    counted: Ids = ()


@dataclass(frozen=True, slots=True)
class Update:
    """A delta against one version, as its codec wrote it; travels inside `UpdateChunk`."""

    base_version: Version
    codec: Word
    num_samples: Count
    body: Body


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


@dataclass(frozen=True, slots=True)
class Envelope:
    """What every binary message is wrapped in; `codec` wraps and unwraps it.

    ``counter`` grows with every message of a sender. ``key_id`` and ``signature`` are empty until
    devices have keys; a signature covers the received bytes before it.
    """

    kind: int
    task: Word
    sender: Word
    counter: Counter
    body: Body
    key_id: Annotated[bytes, Limit(0, 32)] = field(default=b"")
    signature: Annotated[bytes, Limit(0, 64)] = field(default=b"")


Message = (
    CheckIn
    | Lease
    | ChunksMissing
    | Held
    | Receipt
    | Refusal
    | UpdateChunk
    | ModelChunk
    | Plan
    | Manifest
    | Support
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
#: What devices say in rounds of `pairwise`.
RoundSaid = RoundKeys | RoundShares | RoundSignature | RoundAnswer
#: What the aggregator says there.
RoundTold = RoundOpened | RoundAdvertised | RoundDealers | RoundOutcome | RoundCertificate

#: Message kind on the wire. A number is never given a second meaning.
KINDS: Final[dict[type[Message], int]] = {
    CheckIn: 1,
    Lease: 2,
    ChunksMissing: 3,
    Held: 4,
    Receipt: 5,
    Refusal: 6,
    UpdateChunk: 7,
    ModelChunk: 8,
    Plan: 9,
    Manifest: 10,
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
#: The aggregator's name in the envelope's ``sender``; a device may not have it as its id.
AGGREGATOR: Final = "_aggregator"
