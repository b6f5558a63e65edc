"""What the session asks of the device's shell, beside `protocol.actions`."""

import math
from dataclasses import dataclass

from device_sdk.trainer import Assignment
from protocol.actions import Publish, Subscribe, Unsubscribe


@dataclass(frozen=True, slots=True)
class Store:
    """Make these bytes durable under a key before anything that follows leaves."""

    key: str
    data: bytes


@dataclass(frozen=True, slots=True)
class Keep:
    """Make these bytes durable under a key if there is room: nothing rests on them."""

    key: str
    data: bytes


@dataclass(frozen=True, slots=True)
class Delete:
    """Forget a key."""

    key: str


@dataclass(frozen=True, slots=True)
class Train:
    """Train, off the network loop, and report to `Session.trained` or `Session.failed`.

    Training that waits until ``ends_at`` for its conditions is abandoned: the lease has run out.
    """

    lease_id: bytes
    assignment: Assignment
    ends_at: float = math.inf


Action = Store | Keep | Delete | Train | Publish | Subscribe | Unsubscribe
