"""Whether the broker keeps and delivers what it has acknowledged."""

from typing import Final

import nacl.utils

from broker_config.checks.findings import Finding, fail, ok, skip, warn
from broker_config.checks.visitors import (
    ANSWER_S,
    QUIET_S,
    Bench,
    Visitors,
    drawn_id,
    visit,
)
from broker_config.mosquitto import DROPPED_TOPIC
from transport import PacketTooLargeError, Will

NUM_QUEUED: Final = 1_500
"""More than stock brokers queue (1,000), in all 1.5 MB."""

NUM_IN_FLIGHT: Final = 200
CHUNK_PACKET_BYTES: Final = 65_536
"""The largest packet that fedbus sends: a chunk, its envelope and its topic."""

_PAYLOAD_BYTES: Final = 1_000
_BURST_S: Final = 20.0
_SETTLE_S: Final = 0.3
_TOPIC_ROOM: Final = 16  # what stands in a PUBLISH beside topic and payload, properties included


def check_packet_size(bench: Bench) -> Finding:
    """Return whether a chunk of an update fits, as announced and as tried."""
    topic = bench.topics.update(0, bench.device.account)
    with Visitors() as visitors:
        reader = visitors.admit(visit(bench.aggregator))
        writer = visitors.admit(visit(bench.device))
        announced = writer.transport.max_packet_bytes
        size = min(CHUNK_PACKET_BYTES, announced)
        reader.subscribe(topic)
        if not visitors.bring_together(writer, topic, reader):
            return _no_way("packet-size")
        chunk = nacl.utils.random(size - len(topic) - _TOPIC_ROOM)
        try:
            writer.publish(topic, chunk)
        except PacketTooLargeError as error:
            return fail("packet-size", str(error), _RAISE_PACKET)
        arrived = visitors.wait(lambda: reader.heard(chunk) or writer.cuts > 0, ANSWER_S)
    if not arrived or not reader.heard(chunk):
        how = "cost the connection" if writer.cuts else "was acknowledged and is lost"
        return fail("packet-size", f"a packet of {size:,} bytes {how}", _RAISE_PACKET)
    if size < CHUNK_PACKET_BYTES:
        return warn(
            "packet-size",
            f"{announced:,} bytes at most: updates and models travel in smaller chunks",
            _RAISE_PACKET,
        )
    return ok("packet-size", f"a chunk of {size:,} bytes arrives")


_RAISE_PACKET: Final = (
    f"let packets have {CHUNK_PACKET_BYTES:,} bytes (mosquitto: max_packet_size 262144, and no "
    "message_size_limit)"
)


def check_retained(bench: Bench) -> Finding:
    """Return whether who comes later finds the plan."""
    topic, plan = bench.topics.plan(), b"plan " + nacl.utils.random(8)
    with Visitors() as visitors:
        writer = visitors.admit(visit(bench.aggregator))
        writer.subscribe(topic)
        if not visitors.bring_together(writer, topic, writer):
            return _no_way("retained")
        writer.publish(topic, plan, retain=True)
        visitors.wait(lambda: writer.heard(plan) or writer.cuts > 0, ANSWER_S)
        late = visitors.admit(visit(bench.device))
        late.subscribe(topic)
        found = visitors.wait(lambda: late.heard(plan) or writer.cuts > 0, ANSWER_S)
        found = found and late.heard(plan)
        writer.publish(topic, b"", retain=True)
        visitors.settle(0.1)
    if not found:
        return fail(
            "retained",
            "a retained message is not kept for who comes later",
            "allow retained messages (mosquitto: retain_available true): plan and models are",
        )
    return ok("retained", "who comes later finds the plan")


def check_will(bench: Bench) -> Finding:
    """Return whether the aggregator hears of a device that vanished."""
    topic, last = bench.topics.state(bench.device.account), b"gone " + nacl.utils.random(8)
    with Visitors() as visitors:
        reader = visitors.admit(visit(bench.aggregator))
        mortal = visitors.admit(visit(bench.device, will=Will(topic, last, retain=False)))
        reader.subscribe(topic)
        if not visitors.bring_together(mortal, topic, reader):
            return _no_way("will")
        visitors.break_off(mortal)
        told = visitors.wait(lambda: reader.heard(last), ANSWER_S)
    if told:
        return ok("will", "a device that vanishes is reported offline")
    return warn(
        "will",
        "the last will of a device that vanished was not published",
        "allow wills: without them, devices that lost power are taken to be online",
    )


def check_away(bench: Bench) -> Finding:
    """Return whether the broker keeps messages for a device that sleeps."""
    topic, client_id = bench.topics.into(bench.device.account), drawn_id()
    with Visitors() as visitors:
        writer = visitors.admit(visit(bench.aggregator))
        device = visitors.admit(visit(bench.device, client_id=client_id, stays=True))
        device.subscribe(topic)
        if not visitors.bring_together(writer, topic, device):
            return _no_way("away")
        visitors.dismiss(device)
        lease = b"lease " + nacl.utils.random(8)
        writer.publish(topic, lease)
        visitors.settle(0.2)
        back = visitors.admit(visit(bench.device, client_id=client_id, stays=True))
        kept = visitors.wait(lambda: back.heard(lease), ANSWER_S)
        visitors.dismiss(back)
        _forget_session(visitors, bench, client_id, is_device=True)
    if kept:
        return ok("away", "what is sent to a sleeping device waits for it")
    return fail(
        "away",
        "a message for a device that was away is lost",
        "keep sessions (mosquitto: persistence true, no queue limit of 0; amqtt: accounts with "
        "passwords): devices that sleep never hear of their leases",
    )


def check_queue(bench: Bench) -> Finding:
    """Return whether a burst outlasts the aggregator's absence: `NUM_QUEUED` messages, 1.5 MB."""
    topic, client_id = bench.topics.update(0, bench.device.account), drawn_id()
    with Visitors() as visitors:
        writer = visitors.admit(visit(bench.device))
        reader = visitors.admit(visit(bench.aggregator, client_id=client_id, stays=True))
        reader.subscribe(topic)
        if not visitors.bring_together(writer, topic, reader):
            return _no_way("queue")
        visitors.dismiss(reader)
        for number in range(NUM_QUEUED):
            writer.publish(topic, number.to_bytes(4, "big") * (_PAYLOAD_BYTES // 4))
        counters = writer.transport.counters
        visitors.wait(lambda: counters.published >= NUM_QUEUED, _BURST_S)
        visitors.settle(_SETTLE_S)
        num_sent = counters.published
        back = visitors.admit(visit(bench.aggregator, client_id=client_id, stays=True))
        visitors.wait_for(back, NUM_QUEUED, _BURST_S)
        num_kept = back.count(topic)
        visitors.dismiss(back)
        _forget_session(visitors, bench, client_id, is_device=False)
    if num_sent < NUM_QUEUED:
        return skip("queue", f"the broker took {num_sent} of {NUM_QUEUED} messages in time")
    if num_kept >= NUM_QUEUED:
        return ok("queue", f"{NUM_QUEUED:,} messages wait for an aggregator that is away")
    return fail(
        "queue",
        f"{NUM_QUEUED - num_kept:,} of {NUM_QUEUED:,} messages were acknowledged and dropped",
        "raise the queue a client (mosquitto: max_queued_messages 1000000 and max_queued_bytes "
        "268435456; EMQX: mqtt.max_mqueue_len)",
    )


def check_in_flight(bench: Bench) -> Finding:
    """Return how many messages reach an aggregator that has not acknowledged any yet."""
    topic = bench.topics.update(0, bench.device.account)
    with Visitors() as visitors:
        writer = visitors.admit(visit(bench.device))
        reader = visitors.admit(visit(bench.aggregator), acknowledges=False)
        reader.subscribe(topic)
        if not visitors.bring_together(writer, topic, reader):
            return _no_way("in-flight")
        for number in range(NUM_IN_FLIGHT):
            writer.publish(topic, number.to_bytes(4, "big"))
        num_open = min(visitors.wait_for(reader, NUM_IN_FLIGHT, _BURST_S), NUM_IN_FLIGHT)
    if num_open >= NUM_IN_FLIGHT:
        return ok("in-flight", f"{num_open} messages wait for one commit of the aggregator")
    return warn(
        "in-flight",
        f"{num_open} messages at most wait for a commit of the aggregator",
        "raise what may be unacknowledged (mosquitto: max_inflight_messages 2000; EMQX: "
        "mqtt.max_inflight; RabbitMQ: mqtt.prefetch): each commit waits for a full window",
    )


def check_shared(bench: Bench) -> Finding:
    """Return whether shared subscriptions deliver: some brokers grant them and do not."""
    topic = bench.topics.out(bench.device.account)
    shared = f"$share/{drawn_id()}/{topic}"
    with Visitors() as visitors:
        writer = visitors.admit(visit(bench.device))
        witness = visitors.admit(visit(bench.aggregator))
        worker = visitors.admit(visit(bench.aggregator))
        worker.subscribe(shared)
        witness.subscribe(topic)
        if not visitors.bring_together(writer, topic, witness):
            return _no_way("shared")
        delivers = visitors.bring_together(writer, topic, worker)
        refused = shared in worker.refused or worker.cuts > 0
    if delivers:
        return ok("shared", "shared subscriptions deliver")
    if refused:
        return ok("shared", "shared subscriptions are refused; partitions of topics do without")
    return warn(
        "shared",
        "shared subscriptions are granted and deliver nothing",
        "use none here; fedbus does not, its workers split the load by topic",
    )


def check_dropped(bench: Bench) -> Finding:
    """Return how many acknowledged messages the broker has lost, where it says."""
    with Visitors() as visitors:
        reader = visitors.admit(visit(bench.aggregator))
        reader.subscribe(DROPPED_TOPIC)
        if not visitors.wait(lambda: bool(reader.messages), QUIET_S):
            return skip("dropped", f"the broker does not say ({DROPPED_TOPIC})")
    said = reader.messages[-1].payload.decode("ascii", "replace")
    if said.strip() == "0":
        return ok("dropped", "no message since the broker started")
    return warn(
        "dropped",
        f"{said} messages since the broker started",
        "look in its log for whom; this examination adds to the count where the queue check fails",
    )


def _forget_session(visitors: Visitors, bench: Bench, client_id: str, *, is_device: bool) -> None:
    side = bench.device if is_device else bench.aggregator
    visitors.dismiss(visitors.admit(visit(side, client_id=client_id)))


def _no_way(check: str) -> Finding:
    return fail(check, "no message passes between the two sides", "see own-topics")
