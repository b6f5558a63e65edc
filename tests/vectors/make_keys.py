"""Writes keys.json: rosters, sealed shares, requests: ``python -m tests.vectors.make_keys``.

In ``input`` what the bytes are made from, secrets included; ``bytes`` is what is sent, a msgpack
array; in ``derived`` what every party computes from it; ``expect`` either "ok" or the reason of the
refusal. Bytes are spelled in hex. Running it must change nothing: a change here means that devices
of an open epoch can no longer read each other.
"""

import json
from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path

from protocol import refusals
from protocol.codec import pack
from protocol.secagg import keys
from protocol.secagg.groups import draw_groups
from protocol.secagg.messages import Shares
from protocol.secagg.requests import make_request, request_hash
from protocol.secagg.roster import Roster
from protocol.secagg.sealing import ShareBatch, seal
from protocol.stream import derive
from tests.support.enrolment import SEED, Cohort, cohort

PATH = Path(__file__).with_name("keys.json")
TASK = "digits"
DEVICES = ("pump-1", "pump-2", "pump-3", "pump-4", "pump-5")
COHORT = cohort(DEVICES, TASK, name="pumps")
TEN = tuple(f"pump-{number:02}" for number in range(10))
BUFFER = {dealer: (dealer + 1 << 32) + dealer % 3 for dealer in range(10)}
GROUPED = cohort(TEN, TASK, name="pumps", group=3)
NEXT = cohort(DEVICES, TASK, name="pumps", epoch=2)
ENROLMENT = derive(SEED, "enrolment")
NONCE = bytes(range(24))
MASKS = {0: 7 << 32, 2: 1, 4: (1 << 63) - 1}
BATCH = ShareBatch(
    TASK, COHORT.roster.hash, 1, 0, 1, (7 << 32, (7 << 32) + 1), bytes(range(64)), b"two rows"
)

Entry = dict[str, object]


def text() -> str:
    """What the file has to hold."""
    entries = (*_keys(), *_rosters(), *_shares(), *_requests(), *_groups())
    return json.dumps(entries, indent=1) + "\n"


def _entry(
    name: str, data: bytes, expect: str = "ok", *, given: Entry, derived: Entry | None = None
) -> Entry:
    return {
        "name": name,
        "comment": f"{name}, {expect}",
        "input": _spelled(given),
        "bytes": data.hex(),
        **({} if derived is None else {"derived": _spelled(derived)}),
        "expect": expect,
    }


def _spelled(values: Entry) -> Entry:
    return {
        name: value.hex() if isinstance(value, bytes) else value for name, value in values.items()
    }


def _keys() -> Iterator[Entry]:
    secret, other = COHORT.epoch_secret("pump-1"), COHORT.epoch_secret("pump-2")
    theirs = keys.epoch_public(other)
    yield _entry("identity", keys.identity_public(SEED), given={"secret": SEED})
    yield _entry("epoch key", keys.epoch_public(secret), given={"secret": secret})
    yield _entry(
        "endorsed text",
        keys.endorsed(TASK, 1, theirs),
        given={"task": TASK, "epoch": 1, "public": theirs},
    )
    yield _entry(
        "agreed key",
        keys.agree(secret, theirs, "shares", bytes(32), 0, 1),
        given={"secret": secret, "public": theirs, "context": ["shares", "00" * 32, 0, 1]},
    )


def _rosters() -> Iterator[Entry]:
    roster, given = COHORT.roster, _members(COHORT)
    derived: Entry = {
        "body": roster.body,
        "hash": roster.hash,
        "public_seed": roster.public_seed,
        "mask_id of dealer 1, counter 2": roster.mask_id(1, 2),
    }
    yield _entry("roster", pack(COHORT.signed), given=given, derived=derived)
    weighted = cohort(DEVICES, TASK, name="pumps", samples_cap=64)
    yield _entry("roster, weighed by samples", pack(weighted.signed), given=_members(weighted))
    late = cohort(DEVICES, TASK, name="pumps", staleness="polynomial-0.5")
    yield _entry("roster, weighed by staleness", pack(late.signed), given=_members(late))
    first, second, *rest = roster.members
    swapped = (
        replace(first, epoch_key=second.epoch_key),
        replace(second, epoch_key=first.epoch_key),
    )
    bad: dict[str, tuple[Roster, bytes, str]] = {
        "roster signed by the aggregator": (roster, COHORT.aggregator, refusals.BAD_SIGNATURE),
        "epoch keys swapped": (
            replace(roster, members=(*swapped, *rest)),
            ENROLMENT,
            refusals.BAD_SIGNATURE,
        ),
        "epoch keys of another epoch": (
            replace(roster, epoch=2),
            ENROLMENT,
            refusals.BAD_SIGNATURE,
        ),
        "devices out of order": (
            replace(roster, members=roster.members[::-1]),
            ENROLMENT,
            refusals.MALFORMED,
        ),
        "no rule of staleness": (
            replace(roster, parameters=replace(roster.parameters, staleness="newest")),
            ENROLMENT,
            refusals.MALFORMED,
        ),
        "too few noise blocks": (
            replace(roster, parameters=replace(roster.parameters, num_noise=1)),
            ENROLMENT,
            refusals.MALFORMED,
        ),
    }
    for name, (changed, secret, expect) in bad.items():
        key: Entry = {"enrolment_key": COHORT.enrolment}
        yield _entry(name, pack(changed.signed(secret)), expect, given=key)


def _members(enrolled: Cohort) -> Entry:
    roster = enrolled.roster
    parameters = roster.parameters
    return {
        "enrolment_secret": ENROLMENT,
        "enrolment_key": enrolled.enrolment,
        "task": roster.task,
        "cohort": roster.cohort,
        "epoch": roster.epoch,
        "valid_s": roster.valid_s,
        "parameters": {
            field.name: getattr(parameters, field.name)
            for field in fields(parameters)
            if field.name != "group" or parameters.group
        },
        "members": [
            {
                "device": device,
                "identity_secret": enrolled.identity(device).hex(),
                "epoch_secret": enrolled.epoch_secret(device).hex(),
            }
            for device in (member.device for member in roster.members)
        ],
        "aggregator": roster.aggregator,
    }


def _shares() -> Iterator[Entry]:
    shares = _sealed(BATCH)
    inside: Entry = {"batch": pack(BATCH), "counters": list(BATCH.counters), "rows": BATCH.rows}
    between: Entry = {"dealer": 0, "holder": 1}
    yield _entry("shares", pack(shares), given={**between, **inside, "nonce": NONCE})
    flipped = replace(shares, sealed=shares.sealed[:-1] + bytes([shares.sealed[-1] ^ 1]))
    later = seal(
        NEXT.roster,
        replace(BATCH, roster_hash=NEXT.roster.hash, epoch=2),
        identity=NEXT.identity("pump-1"),
        epoch_secret=NEXT.epoch_secret("pump-1"),
        nonce=NONCE,
    )
    bad: list[tuple[str, Shares, Entry, str]] = [
        ("for another holder", shares, {"dealer": 0, "holder": 2}, refusals.BAD_SIGNATURE),
        ("from another dealer", shares, {"dealer": 2, "holder": 1}, refusals.BAD_SIGNATURE),
        ("sent back", shares, {"dealer": 1, "holder": 0}, refusals.BAD_SIGNATURE),
        ("a bit of the tag", flipped, between, refusals.BAD_SIGNATURE),
        ("of another roster", later, between, refusals.WRONG_ROSTER),
        ("another epoch inside", _sealed(replace(BATCH, epoch=2)), between, refusals.WRONG_ROSTER),
        ("another task inside", _sealed(replace(BATCH, task="t")), between, refusals.WRONG_ROSTER),
        ("a root short", _sealed(replace(BATCH, roots=bytes(32))), between, refusals.MALFORMED),
    ]
    for name, message, places, expect in bad:
        yield _entry(f"shares, {name}", pack(message), expect, given=places)


def _sealed(batch: ShareBatch) -> Shares:
    return seal(
        COHORT.roster,
        batch,
        identity=COHORT.identity("pump-1"),
        epoch_secret=COHORT.epoch_secret("pump-1"),
        nonce=NONCE,
    )


def _requests() -> Iterator[Entry]:
    roster, secret = COHORT.roster, COHORT.aggregator
    request = make_request(roster, MASKS, secret)
    asked: Entry = {"masks": {str(dealer): counter for dealer, counter in MASKS.items()}}
    derived: Entry = {"body": request.body, "hash": request_hash(request)}
    given: Entry = {"aggregator_secret": secret, **asked}
    yield _entry("request", pack(request), given=given, derived=derived)
    bad = {
        "by another key": (make_request(roster, MASKS, SEED), refusals.BAD_SIGNATURE),
        "for another epoch": (make_request(NEXT.roster, MASKS, secret), refusals.WRONG_ROSTER),
        "for two devices": (make_request(roster, {0: 1, 1: 1}, secret), refusals.WRONG_MEMBERS),
        "for a stranger": (make_request(roster, {**MASKS, 5: 1}, secret), refusals.WRONG_MEMBERS),
        "for a group": (make_request(roster, MASKS, secret, group=1), refusals.WRONG_MEMBERS),
    }
    for name, (message, expect) in bad.items():
        yield _entry(f"request, {name}", pack(message), expect, given={})


def _groups() -> Iterator[Entry]:
    """A cohort of ten whose buffers of ten are summed in groups of three, three and four."""
    roster, secret = GROUPED.roster, GROUPED.aggregator
    yield _entry("roster, in groups", pack(GROUPED.signed), given=_members(GROUPED))
    groups = draw_groups(roster, BUFFER)
    for number, dealers in enumerate(groups, start=1):
        request = make_request(roster, BUFFER, secret, group=number)
        asked: Entry = {
            "aggregator_secret": secret,
            "masks": {str(dealer): counter for dealer, counter in BUFFER.items()},
            "group": number,
            "dealers": list(dealers),
        }
        derived: Entry = {"body": request.body, "hash": request_hash(request)}
        yield _entry(f"group request, number {number}", pack(request), given=asked, derived=derived)
    bad = {
        "for all of them": make_request(roster, BUFFER, secret),
        "for a fourth group": make_request(roster, BUFFER, secret, group=len(groups) + 1),
        "for a buffer of eight": make_request(
            roster, {dealer: BUFFER[dealer] for dealer in range(8)}, secret, group=1
        ),
    }
    for name, message in bad.items():
        yield _entry(f"group request, {name}", pack(message), refusals.WRONG_MEMBERS, given={})


if __name__ == "__main__":
    PATH.write_text(text(), encoding="utf-8")
