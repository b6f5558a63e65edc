"""What the aggregator keeps: one frozen class per thing its store holds.

The coordinator asks for these to be written, in order; the store gives them back as a `Snapshot`.
No wall time decides anything, so none is here: a lease that was open gets its full time again
after a restart.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum


class Standing(Enum):
    """Whether a device may take part."""

    ADMITTED = "admitted"
    QUARANTINED = "quarantined"
    REVOKED = "revoked"


class LeaseState(Enum):
    """Where an update is, as far as its lease row knows."""

    OPEN = "open"
    JOURNALLED = "journalled"
    COUNTED = "counted"
    REFUSED = "refused"


@dataclass(frozen=True, slots=True)
class DeviceRecord:
    """A device id, bound to the installation that used it first.

    An empty ``install_id`` releases the id: the next installation that uses it gets it.
    ``counter`` is that of the newest check-in that led to a lease: none up to it leads to another.
    """

    device: str
    install_id: bytes
    counter: int = 0


@dataclass(frozen=True, slots=True)
class LeaseRecord:
    """A lease: also the record by which an update counts once.

    It is written once, open; the other records move it on, and the store gives it back in its
    present ``state``. ``outcome`` is the version that counted it (as text) or the reason it was
    refused.
    """

    lease_id: bytes
    device: str
    version: int
    codec: str
    state: LeaseState = LeaseState.OPEN
    outcome: str = ""


@dataclass(frozen=True, slots=True)
class JournalRecord:
    """An admitted update that waits in a buffer. Its lease becomes ``journalled`` with it.

    ``sequence`` grows by one per admitted update; sums are taken in its order.
    """

    sequence: int
    lease_id: bytes
    update: bytes


@dataclass(frozen=True, slots=True)
class RefusalRecord:
    """A lease whose update will never be used: it becomes ``refused``, its journal entry goes.

    A lease that is counted or refused already stays as it is.
    """

    lease_id: bytes
    reason: str


@dataclass(frozen=True, slots=True)
class Published:
    """What devices can fetch of a version.

    ``difference`` (an encoded `protocol.messages.Difference`, empty for none) leads to it from the
    version before; ``full`` is the whole model, of the number type ``model`` (empty: not published
    whole). A ``full`` that is empty with a ``model`` stands for the version's params as they are.
    """

    model: str = ""
    full: bytes = b""
    difference: bytes = b""


@dataclass(frozen=True, slots=True)
class VersionRecord:
    """A model version, the ids counted in it, and the strategy's state after it.

    Writing it counts the ids: their leases become ``counted``, their journal entries go. Devices
    are given what is ``published`` of it, whose hash is ``model_hash``; with it, what was published
    of versions before ``published_since`` goes.
    """

    version: int
    params: bytes
    model_hash: bytes
    counted: tuple[bytes, ...] = ()
    strategy_state: Mapping[str, bytes] = field(default_factory=dict)
    published: Published = Published("float32")
    published_since: int = 0


@dataclass(frozen=True, slots=True)
class CounterRecord:
    """Counters by name, as totals (updates accepted, refusals by reason, ...)."""

    totals: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class DocumentRecord:
    """Bytes under a key, whole: a roster, a recovery request, a support. Empty: forget the key."""

    key: str
    data: bytes


@dataclass(frozen=True, slots=True)
class StandingRecord:
    """A device that may not simply take part, and why; one that is admitted again is forgotten.

    ``is_cut``: the broker is told to let it in no more.
    """

    device: str
    standing: Standing
    reason: str = ""
    is_cut: bool = False


@dataclass(frozen=True, slots=True)
class EvidenceRecord:
    """How often something happened that counts against a device, and the points it has left."""

    device: str
    kind: str
    count: int
    points: float


Record = (
    DeviceRecord
    | LeaseRecord
    | JournalRecord
    | RefusalRecord
    | VersionRecord
    | CounterRecord
    | DocumentRecord
    | StandingRecord
    | EvidenceRecord
)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Everything a coordinator is rebuilt from; ``version`` is None in an empty store.

    ``leases`` are the open and the journalled ones, ``journal`` is in order of sequence, and
    ``live_params`` holds the params of those versions that a lease in ``leases`` still names and of
    the newest ones, as far as they are kept; ``published`` what devices can fetch, by version.
    """

    version: VersionRecord | None
    devices: tuple[DeviceRecord, ...]
    leases: tuple[LeaseRecord, ...]
    journal: tuple[JournalRecord, ...]
    live_params: Mapping[int, bytes]
    totals: Mapping[str, int]
    next_sequence: int
    documents: Mapping[str, bytes] = field(default_factory=dict)
    published: Mapping[int, Published] = field(default_factory=dict)
    standings: tuple[StandingRecord, ...] = ()
    evidence: tuple[EvidenceRecord, ...] = ()
