"""All checks in turn: who gets in, who may do what, what is kept."""

from collections.abc import Callable, Iterator
from typing import Final

from broker_config.checks.clock import check_clock
from broker_config.checks.delivery import (
    check_away,
    check_dropped,
    check_in_flight,
    check_packet_size,
    check_queue,
    check_retained,
    check_shared,
    check_will,
)
from broker_config.checks.findings import Finding, Verdict, fail, skip
from broker_config.checks.reach import (
    check_connect,
    check_own_certificate,
    check_strangers,
    check_tls,
)
from broker_config.checks.rights import check_rights
from broker_config.checks.visitors import Bench, Side
from protocol.topics import Topics
from transport import TransportError

_BETWEEN_SIDES: Final[tuple[tuple[str, Callable[[Bench], Finding]], ...]] = (
    ("packet-size", check_packet_size),
    ("retained", check_retained),
    ("will", check_will),
    ("away", check_away),
    ("queue", check_queue),
    ("in-flight", check_in_flight),
    ("shared", check_shared),
)


def examine(topics: Topics, aggregator: Side, device: Side | None) -> Iterator[Finding]:
    """Yield what each check found, as soon as it did: together some ten seconds.

    ``topics`` are those of a task of which nobody is a part. Without a ``device`` only what the
    aggregator's account can find out alone.
    """
    sides = [aggregator] if device is None else [aggregator, device]
    yield check_clock()
    yield from check_tls(aggregator)
    yield from filter(None, map(check_own_certificate, sides))
    doors = [check_connect(side) for side in sides]
    yield from doors
    yield from check_strangers(sides[-1])
    if any(door.verdict is not Verdict.OK for door in doors):
        yield skip("between-sides", "not all got in, so nothing else was tried")
        return
    if device is None:
        yield skip("between-sides", "no device's account to try", "say --device device.toml")
        return
    bench = Bench(topics, aggregator, device)
    yield check_dropped(bench)
    yield from check_rights(bench)
    for name, check in _BETWEEN_SIDES:
        yield _guarded(name, check, bench)


def _guarded(name: str, check: Callable[[Bench], Finding], bench: Bench) -> Finding:
    """A broker that ends connections in the middle of a check has failed it."""
    try:
        return check(bench)
    except TransportError as error:
        return fail(name, f"the connection did not last: {error}", "look in the broker's log")
