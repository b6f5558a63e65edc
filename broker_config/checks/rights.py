"""Whether the broker's access rules are those of `protocol.topics`: asked by loop-back.

Both sides publish to every topic there is, those of another device included, and listen to every
topic. What ought to arrive and does not is a right too few, what arrives and ought not one too
many. A broker need not say that it refuses (in MQTT 3.1.1 it cannot), so only what arrives counts.
What is not allowed is tried by connections of their own and with QoS 0: brokers may end a
connection for it, and nothing must be sent again then.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from broker_config.accounts import Rights
from broker_config.checks.findings import Finding, fail, ok
from broker_config.checks.visitors import (
    ANSWER_S,
    MARK,
    Bench,
    Side,
    Visitor,
    Visitors,
    visit,
)
from protocol.topics import Kind, Topics
from transport import TransportError

OTHER: Final = "doctor-other"
_SETTLE_S: Final = 0.4
_NUM_LISTED: Final = 6


@dataclass(frozen=True, slots=True, order=True)
class Heard:
    """One message that went from one side to another (or to itself)."""

    writer: str
    topic: str
    reader: str


@dataclass(frozen=True, slots=True)
class _Party:
    """A side with the probe topics that it may (or may not) write and read.

    ``voice`` is a topic that it may write, and that both it and the other side could read.
    """

    side: Side
    writes: tuple[str, ...]
    writes_not: tuple[str, ...]
    reads: tuple[str, ...]
    reads_not: tuple[str, ...]
    voice: str


def probe_topics(topics: Topics, device: str) -> tuple[str, ...]:
    """Return a topic of every kind, of ``device`` and of a device that there is not."""
    fields = {"part": 0, "cohort": "doctor", "shelf": 0, "index": 0, "what": "doctor"}
    names = [
        kind.value.format_map({"device": sender, "to": to, **fields})
        for kind in Kind
        for sender in (device, OTHER)
        for to in (device, OTHER)
    ]
    return tuple(dict.fromkeys(f"{topics.prefix}/{topics.task}/{name}" for name in names))


def check_rights(bench: Bench) -> list[Finding]:
    """Return whether own topics arrive, and whether foreign ones stay shut."""
    every = probe_topics(bench.topics, bench.device.account)
    rights = Rights(bench.topics.prefix, bench.topics.task)
    voices = (bench.topics.plan(), bench.topics.out(bench.device.account))
    parties = tuple(
        _party(side, every, rights, voice)
        for side, voice in zip((bench.aggregator, bench.device), voices, strict=True)
    )
    expected = {
        Heard(writer.side.name, topic, reader.side.name)
        for writer in parties
        for reader in parties
        for topic in set(writer.writes) & set(reader.reads)
    }
    everything = f"{bench.topics.prefix}/{bench.topics.task}/#"
    heard = _loop_back(parties, everything, expected)
    return [_own(expected, heard), _foreign(parties, heard - expected, len(every))]


def _party(side: Side, every: Iterable[str], rights: Rights, voice: str) -> _Party:
    def those(access: str, *, allowed: bool) -> tuple[str, ...]:
        return tuple(topic for topic in every if rights.may(side.account, access, topic) is allowed)

    return _Party(
        side,
        writes=those("write", allowed=True),
        writes_not=those("write", allowed=False),
        reads=those("read", allowed=True),
        reads_not=those("read", allowed=False),
        voice=voice,
    )


def _loop_back(parties: Sequence[_Party], everything: str, expected: set[Heard]) -> set[Heard]:
    """Have both sides publish everything while both listen to everything; return who heard what."""
    with Visitors() as visitors:
        talkers = [visitors.admit(visit(party.side)) for party in parties]
        listeners: list[tuple[_Party, Visitor]] = []
        for party, other, talker in zip(parties, parties[::-1], talkers[::-1], strict=True):
            ears = _Ears(visitors, party, talker, other.voice)
            listeners += [(party, each) for each in ears.open(party.reads)]
            listeners += [(party, each) for each in ears.open((*party.reads_not, everything))]
        for party, talker in zip(parties, talkers, strict=True):
            for topic in party.writes:
                talker.publish(topic, party.side.name.encode())
            _intrude(visitors, party, party.writes_not)
        visitors.wait(lambda: expected <= _heard(listeners), ANSWER_S)
        visitors.settle(_SETTLE_S)
        return _heard(listeners)


def _heard(listeners: Iterable[tuple[_Party, Visitor]]) -> set[Heard]:
    return {
        Heard(message.payload.decode("ascii", "replace"), message.topic, party.side.name)
        for party, listener in listeners
        for message in listener.messages
        if not message.payload.startswith(MARK)
    }


@dataclass(slots=True)
class _Ears:
    """Opens listeners of a side, in force when they are returned if they can be."""

    visitors: Visitors
    party: _Party
    talker: Visitor  # of the other side,
    voice: str  # whom one can hear here,
    hears: bool = True  # as far as is known

    def open(self, filters: Sequence[str]) -> Iterator[Visitor]:
        """Subscribe to all at once; one a connection where the broker ends it for some of them."""
        listener = self.visitors.admit(visit(self.party.side))
        listener.subscribe(*filters)
        listener.subscribe(self.voice)
        if self.hears:
            heard = self.visitors.bring_together(self.talker, self.voice, listener)
            self.hears = heard or listener.cuts > 0
        else:
            self.visitors.settle(_SETTLE_S)
        if not listener.cuts:
            yield listener
            return
        self.visitors.dismiss(listener)
        if len(filters) > 1:
            for topic_filter in filters:
                yield from self.open((topic_filter,))


def _intrude(visitors: Visitors, party: _Party, topics: Sequence[str]) -> None:
    """Publish where it is not allowed; one a connection where the broker ends it for that."""
    intruder = visitors.admit(visit(party.side))
    for topic in topics:
        with suppress(TransportError):
            intruder.publish(topic, party.side.name.encode(), qos=0)
    visitors.wait(lambda: intruder.cuts > 0, _SETTLE_S)
    visitors.dismiss(intruder)
    if intruder.cuts and len(topics) > 1:
        for topic in topics:
            _intrude(visitors, party, (topic,))


def _own(expected: set[Heard], heard: set[Heard]) -> Finding:
    missing = expected - heard
    if not missing:
        return ok("own-topics", f"all {len(expected)} ways between the two sides are open")
    if missing == expected:
        return fail(
            "own-topics",
            "nothing arrives, from neither side",
            "the rules know neither account, or one task only: make them with `fedbus broker "
            "config`, and give each account the name that stands in its topics; where the rules "
            "name a task, stop that task and say --task with its name",
        )
    ways = [f"{each.topic} from {each.writer} to {each.reader}" for each in sorted(missing)]
    return fail(
        "own-topics",
        f"{len(missing)} of {len(expected)} ways are shut: {_listed(ways)}",
        "grant them: `fedbus broker config` writes the rules that are needed",
    )


def _foreign(parties: Sequence[_Party], leaks: set[Heard], num_topics: int) -> Finding:
    if not leaks:
        return ok("foreign-topics", f"{num_topics} topics tried: each side keeps to its own")
    written = {
        f"{party.side.name} writes {leak.topic}"
        for party in parties
        for leak in leaks
        if leak.writer == party.side.name and leak.topic in party.writes_not
    }
    read = {
        f"{party.side.name} reads {leak.topic}"
        for party in parties
        for leak in leaks
        if leak.reader == party.side.name and leak.topic in party.reads_not
    }
    return fail(
        "foreign-topics",
        f"{len(written | read)} rights too many: {_listed(sorted(written | read))}",
        "rules by account, everything else denied: `fedbus broker config` writes them",
    )


def _listed(ways: Sequence[str]) -> str:
    more = len(ways) - _NUM_LISTED
    return ", ".join(ways[:_NUM_LISTED]) + (f" and {more} more" if more > 0 else "")
