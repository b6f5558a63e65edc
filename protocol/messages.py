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
#: No more differences lead from one version to another.
MAX_DIFFERENCES: Final = 64
MAX_VERSION: Final = 1 << 40
MAX_SAMPLES: Final = 1 << 40
#: An update is made from no fewer: what can be read back from less, `fedbus audit` shows.
MIN_SAMPLES: Final = 8
MAX_DOCUMENT_CHARS: Final = 50_000
COUNTER_START_BITS: Final = 32
#: No sender has started more often; whoever says so is not told to count on from there.
MAX_STARTS: Final = 1 << 30


@dataclass(frozen=True, slots=True)
class Limit:
    """Bounds of a field: of an int its value, of bytes, text and tuples the length."""

    low: int
    high: int


#: Metadata of a field at the end of a class that was in use without it; see `protocol.codec`.
ADDED: Final = {"added": True}

LeaseId = Annotated[bytes, Limit(LEASE_ID_BYTES, LEASE_ID_BYTES)]
MaybeLeaseId = Annotated[bytes, Limit(0, LEASE_ID_BYTES)]
InstallId = Annotated[bytes, Limit(INSTALL_ID_BYTES, INSTALL_ID_BYTES)]
MaybeCertificate = Annotated[bytes, Limit(0, 400)]
MaybeInstallId = Annotated[bytes, Limit(0, INSTALL_ID_BYTES)]
Hash = Annotated[bytes, Limit(HASH_BYTES, HASH_BYTES)]
Version = Annotated[int, Limit(0, MAX_VERSION)]
MaybeVersion = Annotated[int, Limit(-1, MAX_VERSION)]
Count = Annotated[int, Limit(0, MAX_SAMPLES)]
#: The upper bits count a sender's starts (``starts << COUNTER_START_BITS``).
Counter = Annotated[int, Limit(0, (1 << 63) - 1)]
Start = Annotated[int, Limit(0, MAX_STARTS)]
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
    pending update with held, receipt, refusal or the chunks it misses. ``unreachable`` is 1 if the
    model of its lease could not be put together from what is retained: then it gets that lease
    again, or the next one, with a model that is published whole. ``certificate``, from the
    start until the aggregator answers and after the refusal ``unknown_key``: what
    `protocol.identity.certify` makes.
    """

    install_id: InstallId
    held_version: MaybeVersion
    num_samples: Count
    codecs: Words
    pending: MaybeLeaseId = b""
    unreachable: Flag = field(default=0, metadata=ADDED)
    certificate: MaybeCertificate = field(default=b"", metadata=ADDED)


@dataclass(frozen=True, slots=True)
class Lease:
    """The right to train one version once. The lease id is the update's id.

    ``install_id`` names the installation it is for: a cloned device reads the same topic. The
    update is not to be sent sooner than ``upload_after_s`` after the lease came.

    The model can be fetched whole: ``model_bytes`` in ``num_chunks``, numbers of the type
    ``model``, published for version ``keyframe`` (-1: for ``version`` itself), after which the
    differences up to ``version`` follow. For a device that holds version ``base`` the differences
    from there on are enough (-1: no others than after the keyframe). ``model_hash`` is the SHA-256
    of what comes out, as float32.
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
    upload_after_s: Seconds = field(default=0, metadata=ADDED)
    keyframe: MaybeVersion = field(default=-1, metadata=ADDED)
    model: Word = field(default="float32", metadata=ADDED)
    base: MaybeVersion = field(default=-1, metadata=ADDED)


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
    ``install_id`` names the one installation it is meant for. With ``old_start``, ``newest_start``
    is how often the device had started when it was heard of last: it is to count on from there.
    """

    lease_id: MaybeLeaseId
    reason: Word
    detail: Text
    retry_s: Seconds = 0
    install_id: MaybeInstallId = b""
    newest_start: Start = field(default=0, metadata=ADDED)


@dataclass(frozen=True, slots=True)
class UpdateChunk:
    """A piece of an encoded `Update`. One that fits one packet is chunk 0 of 1.

    ``checksum`` is the CRC-32 of the whole update: chunks of two updates under one lease (a device
    that lost the first one trained again) are never put together. ``sealed``: that whole is the
    update as `protocol.identity.seal` seals it to the aggregator.
    """

    lease_id: LeaseId
    checksum: Checksum
    index: ChunkIndex
    num_chunks: ChunkCount
    data: Chunk
    sealed: Flag = field(default=0, metadata=ADDED)


@dataclass(frozen=True, slots=True)
class ModelChunk:
    """A piece of a version's params, as `protocol.vectors.hidden` writes them."""

    version: Version
    index: ChunkIndex
    data: Chunk


@dataclass(frozen=True, slots=True)
class DifferenceChunk:
    """A piece of the encoded `Difference` that leads to ``version`` from the one before."""

    version: Version
    index: ChunkIndex
    num_chunks: ChunkCount
    data: Chunk


@dataclass(frozen=True, slots=True)
class Difference:
    """What is added to the model that all devices hold; travels inside `DifferenceChunk`.

    ``body`` is of the trained params, as its codec wrote it. Then all params are rounded to the
    number type ``model``, in which the version is published whole, too (float32: as they are).
    """

    codec: Word
    model: Word
    body: Body


@dataclass(frozen=True, slots=True)
class Plan:
    """What to train and how. ``model`` and ``training`` are JSON objects."""

    model: Document
    training: Document
    codec: Word
    check_in_s: Seconds = 60


@dataclass(frozen=True, slots=True)
class Manifest:
    """The current version, and the ids of the updates counted in it: their receipts.

    How its model is fetched: as `Lease` says.
    """

    version: Version
    model_hash: Hash
    model_bytes: Size
    num_chunks: ChunkCount
    counted: Ids = ()
    keyframe: MaybeVersion = field(default=-1, metadata=ADDED)
    model: Word = field(default="float32", metadata=ADDED)


@dataclass(frozen=True, slots=True)
class Update:
    """A delta against one version, as its codec wrote it; travels inside `UpdateChunk`."""

    base_version: Version
    codec: Word
    num_samples: Count
    body: Body


@dataclass(frozen=True, slots=True)
class Envelope:
    """What every binary message is wrapped in; `codec` wraps and unwraps it.

    ``counter`` grows with every message of a sender. ``key_id`` and ``signature`` are empty where
    nobody has keys; a signature covers the topic and the received bytes before it
    (`protocol.identity`).
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
    | DifferenceChunk
)

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
    DifferenceChunk: 29,
}
#: The aggregator's name in the envelope's ``sender``; a device may not have it as its id.
AGGREGATOR: Final = "_aggregator"
