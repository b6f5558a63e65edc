"""``kill -9`` of devices: what was stored is sent as it is, and counts once."""

import hashlib
import sys
import time
from pathlib import Path

import pytest

from device_sdk.pending import PENDING, Pending, unpack_pending
from device_sdk.storage import Storage
from protocol.codec import decode
from protocol.identity import unseal
from protocol.messages import UpdateChunk
from tests.support.audit import audit
from tests.support.bus_client import BusClient
from tests.support.federation import TASK, TOPICS, TWO_CHUNKS, Federation
from tests.support.moments import seeded
from tests.support.mosquitto import PERSISTENT

pytestmark = pytest.mark.broker

DEVICES = ("ada", "ben", "cleo", "dan")
NUM_KILLS = 50
SIGKILL_STATUS = -9


def test_killed_between_storing_and_publishing_it_sends_exactly_what_it_stored(
    tmp_path: Path,
) -> None:
    task = {"model": TWO_CHUNKS, "codec": "dense/float32"}
    with Federation(tmp_path, DEVICES, task=task, broker=PERSISTENT) as federation:
        federation.start()
        federation.grows()
        with BusClient(federation.broker.port, "eavesdropper", TOPICS.update(0, "ada")) as bus:
            for nth in (1, 3):
                dies_holding_an_update_and_sends_it(federation, bus, nth)
        federation.all_go_on()
        federation.stop()
        audit(federation)


def dies_holding_an_update_and_sends_it(federation: Federation, bus: BusClient, nth: int) -> None:
    federation.kill("ada")
    federation.start_device("ada", "--die-after-storing", str(nth))
    federation.until(lambda: not federation.is_running("ada"), "nothing was stored")
    assert federation.status("ada") == SIGKILL_STATUS
    pending = stored(federation, "ada")
    bus.settle()
    assert pending.lease_id not in updates(bus)
    federation.start_device("ada")
    federation.until(lambda: pending.lease_id in updates(bus, 1), "never sent")
    sent = opened(federation, pending.lease_id, updates(bus)[pending.lease_id])
    assert hashlib.sha256(sent).digest() == hashlib.sha256(pending.update).digest()
    federation.until(lambda: pending.lease_id in federation.record("ada").receipts, "no receipt")


def opened(federation: Federation, lease_id: bytes, sealed: bytes) -> bytes:
    """Return a sealed update as only the aggregator can read it."""
    secret = bytes.fromhex((federation.folder / "aggregator.key").read_text().strip())
    return unseal(sealed, secret, lease_id)


def stored(federation: Federation, name: str) -> Pending:
    """Return the update that a dead device holds."""
    return unpack_pending(Storage(federation.state_dir(name)).load()[PENDING])


def updates(bus: BusClient, wait_s: float = 0.0) -> dict[bytes, bytes]:
    """Return the whole updates that went over the bus."""
    bus.step(wait_s)
    pieces: dict[bytes, dict[int, bytes]] = {}
    whole = {}
    for topic, payload in bus.messages:
        device = TOPICS.parse(topic).device
        chunk = decode(payload, (UpdateChunk,), task=TASK, sender=device)
        have = pieces.setdefault(chunk.lease_id, {})
        assert have.setdefault(chunk.index, chunk.data) == chunk.data, "other bytes, same id"
        if len(have) == chunk.num_chunks:
            whole[chunk.lease_id] = b"".join(data for _, data in sorted(have.items()))
    return whole


def test_killed_at_fifty_moments_every_update_counts_once(tmp_path: Path) -> None:
    moments = seeded()
    with Federation(tmp_path, DEVICES) as federation:
        federation.start()
        federation.grows()
        for _ in range(NUM_KILLS):
            name = moments.choice(DEVICES)
            time.sleep(moments.uniform(0.0, 0.6))  # the moment is the point
            federation.kill(name)
            federation.start_device(name)
        federation.all_go_on()
        federation.stop()
        sys.stdout.write(f"{audit(federation)}\n")
