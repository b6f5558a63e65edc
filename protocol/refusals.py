"""Why something was refused. One word per reason: on the wire, in counters, on ``mon/``, in docs.

What a device does with the delta of a refused update follows from the reason alone: ``FOLDED``
reasons say that the update was sound and merely not used, so that its delta may go into the
residual of the next training; after any other reason it is discarded.
"""

from typing import Final

MALFORMED: Final = "malformed"
WIRE_VERSION: Final = "wire_version"
WRONG_KIND: Final = "wrong_kind"
WRONG_TASK: Final = "wrong_task"
WRONG_SENDER: Final = "wrong_sender"
OVERSIZE: Final = "oversize"
DUPLICATE_DEVICE: Final = "duplicate_device"
UNKNOWN_LEASE: Final = "unknown_lease"
WRONG_CODEC: Final = "wrong_codec"
WRONG_SHAPE: Final = "wrong_shape"
NOT_FINITE: Final = "not_finite"
FUTURE_VERSION: Final = "future_version"
WRONG_BASE: Final = "wrong_base"
TOO_STALE: Final = "too_stale"
INCOMPLETE: Final = "incomplete"
SUPERSEDED: Final = "superseded"
BUSY: Final = "busy"
RECOVERY_FAILED: Final = "recovery_failed"

#: Reason -> the sentence a person reads.
MEANING: Final[dict[str, str]] = {
    MALFORMED: "the bytes are not a message of this protocol",
    WIRE_VERSION: "the sender speaks another wire version: update the older side",
    WRONG_KIND: "this kind of message does not belong on this topic",
    WRONG_TASK: "the message is for another task than its topic",
    WRONG_SENDER: "the sender named inside differs from the one in the topic",
    OVERSIZE: "larger than the lease or the protocol allows",
    DUPLICATE_DEVICE: "another installation has this device id: choose another, or release it",
    UNKNOWN_LEASE: "no such lease was given to this device",
    WRONG_CODEC: "encoded with another codec than the lease asks for",
    WRONG_SHAPE: "the number of values does not match the model",
    NOT_FINITE: "contains NaN or infinity",
    FUTURE_VERSION: "based on a model version that does not exist yet",
    WRONG_BASE: "based on another model version than the lease names",
    TOO_STALE: "based on a model version older than the task's limit",
    INCOMPLETE: "chunks stayed missing after they were asked for",
    SUPERSEDED: "the device has asked for a new lease since, holding no update for this one",
    BUSY: "too many unfinished updates at once: try again later",
    RECOVERY_FAILED: "the masks of its buffer could not be recovered",
}

#: After these the device keeps the delta, as residual.
FOLDED: Final[frozenset[str]] = frozenset({TOO_STALE, INCOMPLETE, SUPERSEDED, RECOVERY_FAILED})
