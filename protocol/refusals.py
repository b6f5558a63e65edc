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
NOT_ENROLLED: Final = "not_enrolled"
WRONG_ROSTER: Final = "wrong_roster"
BAD_SIGNATURE: Final = "bad_signature"
UNKNOWN_KEY: Final = "unknown_key"
REPLAYED: Final = "replayed"
OLD_START: Final = "old_start"
MASK_USED: Final = "mask_used"
STALE_SUPPORT: Final = "stale_support"
SHARES_MISSING: Final = "shares_missing"
WRONG_MEMBERS: Final = "wrong_members"
EXCLUDED: Final = "excluded"
QUARANTINED: Final = "quarantined"
REVOKED: Final = "revoked"
OVER_BUDGET: Final = "over_budget"
PRIVACY_SPENT: Final = "privacy_spent"
FEW_SAMPLES: Final = "few_samples"

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
    NOT_ENROLLED: "no open roster of this task names the device: enrol it for the next epoch",
    WRONG_ROSTER: "masked under another roster than the one that is open",
    BAD_SIGNATURE: "the signature is not that of the key which the sender is known by",
    UNKNOWN_KEY: "no certificate is known for the key that signed this: send it along",
    REPLAYED: "said before: the sender has counted further since",
    OLD_START: "the device has started more often, as far as is known: count on from there",
    MASK_USED: "this mask has been used already",
    STALE_SUPPORT: "the coordinates it was masked for are no longer the common ones",
    SHARES_MISSING: "shares of a mask that the request names are not held",
    WRONG_MEMBERS: "a request must name enough devices, each once, in order, at weight 1",
    FEW_SAMPLES: "the device has too few samples: an update could give them away",
    QUARANTINED: "the device is quarantined: `fedbus devices show` says why, `release` ends it",
    REVOKED: "the device is revoked: nothing of it is taken any more",
    OVER_BUDGET: "more messages at once than [conduct] allows a device: dropped unread",
    EXCLUDED: "excluded until the next epoch: it gave a share that was proven wrong",
    PRIVACY_SPENT: "its privacy budget is spent: the task may learn no more from this device",
}

#: After these the device keeps the delta, as residual.
FOLDED: Final[frozenset[str]] = frozenset(
    {TOO_STALE, INCOMPLETE, SUPERSEDED, RECOVERY_FAILED, WRONG_ROSTER, STALE_SUPPORT}
)
