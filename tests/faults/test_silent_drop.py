"""A stock broker drops QoS 1 messages in silence: receipts and asking after bring all back in."""

from pathlib import Path
from signal import SIGCONT, SIGSTOP

import pytest

from protocol.codec import decode
from protocol.messages import UpdateChunk
from tests.support.audit import audit
from tests.support.bus_client import BusClient
from tests.support.federation import TASK, TOPICS, Federation

pytestmark = pytest.mark.broker

DEVICES = ("ada", "ben", "cleo", "dan", "eve", "finn")
#: One more trains when the aggregator is stopped: these many will have an update then.
ENOUGH = 3
#: A mosquitto that was told nothing: it queues 1,000 messages for a client, and drops the rest.
STOCK = "allow_anonymous true\n"
#: As many as the aggregator lets be under way, the queue, and as many again.
NUM_JUNK = 6_000
DROPPED = "Outgoing messages are being dropped for client"


def test_updates_that_the_broker_dropped_come_in_all_the_same(tmp_path: Path) -> None:
    with Federation(tmp_path, DEVICES, broker=STOCK) as federation:
        with BusClient(federation.broker.port, "eavesdropper", TOPICS.update(0, "+")) as bus:
            federation.start("--train-s", "1.5")
            federation.grows(1)
            federation.until(lambda: num_training(federation) > ENOUGH, "too few train")
            federation.signal("aggregator", SIGSTOP)
            for _ in range(NUM_JUNK):
                bus.publish(TOPICS.out("nobody"), b"junk")
            bus.settle()
            assert f"{DROPPED} faults-aggregator" in federation.broker.log
            federation.until(lambda: num_pending(federation) >= ENOUGH, "too few have trained")
            dropped = {key for name in DEVICES for key in pending(federation, name)}
            bus.until(lambda: dropped <= updates(bus), "the broker has not taken them all")
            federation.signal("aggregator", SIGCONT)
        federation.until(
            lambda: (
                dropped <= {key for name in DEVICES for key in federation.record(name).receipts}
            ),
            "not all came in",
        )
        federation.grows()
        federation.stop()
        audit(federation)


def num_training(federation: Federation) -> int:
    """Return how many devices have a lease and its model, and no update of it yet."""
    records = [federation.record(name) for name in DEVICES]
    return sum(bool(record.begun - record.stored.keys()) for record in records)


def num_pending(federation: Federation) -> int:
    """Return how many devices hold an update without a receipt."""
    return sum(bool(pending(federation, name)) for name in DEVICES)


def updates(bus: BusClient) -> set[bytes]:
    """Return the ids of the updates that were published."""
    return {
        decode(payload, (UpdateChunk,), task=TASK, sender=TOPICS.parse(topic).device).lease_id
        for topic, payload in bus.messages
    }


def pending(federation: Federation, name: str) -> list[bytes]:
    """Return the updates of a device that have no receipt yet."""
    record = federation.record(name)
    return [key for key in record.stored if key not in record.receipts]


def test_receipts_that_the_broker_dropped_are_asked_for(tmp_path: Path) -> None:
    with Federation(tmp_path, DEVICES, broker=STOCK) as federation:
        federation.start("--train-s", "0.3")
        federation.grows(1)
        federation.until(lambda: pending(federation, "ada"), "ada holds no update")
        federation.signal("ada", SIGSTOP)
        with BusClient(federation.broker.port, "raw") as bus:
            for _ in range(NUM_JUNK):
                bus.publish(TOPICS.into("ada"), b"junk")
            bus.settle()
        assert f"{DROPPED} faults-ada-" in federation.broker.log
        federation.grows()
        receipts = len(federation.record("ada").receipts)
        federation.signal("ada", SIGCONT)
        federation.until(lambda: len(federation.record("ada").receipts) > receipts + 1, "stuck")
        federation.stop()
        audit(federation)
