"""What the coordinator asks of the service, beside `protocol.actions`."""

from dataclasses import dataclass

from aggregator.records import Record
from protocol.actions import Publish, Subscribe, Unsubscribe


@dataclass(frozen=True, slots=True)
class Store:
    """Make this record durable before anything that follows leaves."""

    record: Record


@dataclass(frozen=True, slots=True)
class Recall:
    """Look a closed lease up in the store, and hand what it says to `Coordinator.recalled`."""

    lease_id: bytes
    device: str


Action = Store | Publish | Subscribe | Unsubscribe | Recall
