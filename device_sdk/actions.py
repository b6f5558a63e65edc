"""What the session asks of the device's shell, beside `protocol.actions`."""

from dataclasses import dataclass

from device_sdk.trainer import Assignment
from protocol.actions import Publish, Subscribe, Unsubscribe


@dataclass(frozen=True, slots=True)
class Store:
    """Make these bytes durable under a key before anything that follows leaves."""

    key: str
    data: bytes


@dataclass(frozen=True, slots=True)
class Delete:
    """Forget a key."""

    key: str


@dataclass(frozen=True, slots=True)
class Train:
    """Train, off the network loop, and report to `Session.trained` or `Session.failed`."""

    lease_id: bytes
    assignment: Assignment


Action = Store | Delete | Train | Publish | Subscribe | Unsubscribe
