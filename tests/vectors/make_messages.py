"""Writes messages.json: whole messages, good and bad: ``python -m tests.vectors.make_messages``.

Running it must change nothing: a change here means that devices in the field can no longer talk to
us, and that WIRE_VERSION has to be raised.
"""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import msgpack

from protocol import refusals
from protocol.chunks import checksum
from protocol.codec import encode, encode_update, open_envelope, pack, seal
from protocol.identity import Signer
from protocol.messages import (
    AGGREGATOR,
    CheckIn,
    ChunksMissing,
    Difference,
    DifferenceChunk,
    Held,
    Lease,
    Manifest,
    ModelChunk,
    Plan,
    Receipt,
    Refusal,
    Update,
    UpdateChunk,
)
from protocol.secagg import keys
from protocol.secagg.messages import AnyMessage as Message
from protocol.secagg.messages import (
    Dealt,
    Holdings,
    MaskedUpdate,
    RecoveryAnswer,
    RecoveryRefusal,
    RecoveryRequest,
    RoundAdvertised,
    RoundAnswer,
    RoundCertificate,
    RoundDealers,
    RoundKeys,
    RoundOpened,
    RoundOutcome,
    RoundShares,
    RoundSignature,
    Shares,
    SharesWanted,
    SignedRoster,
    Support,
)
from tests.support.messages import KINDS

PATH = Path(__file__).with_name("messages.json")
TASK = "digits"
DEVICE = "pump-7"
PREFIX = "fedbus/1"
TOPIC = f"{PREFIX}/{TASK}/dev/{DEVICE}/out"
ID = bytes(range(16))
INSTALL = bytes(range(16, 32))
HASH = bytes(range(32))
LEASE = (ID, INSTALL, 41, HASH, 9640, 1, "topk-0.1/int8", 700, 0, 600)
DIFFERENCE = Difference("topk-0.01/int8/calibrated", "float16", b"\x01\x02\x03")
UPDATE = Update(3, "topk-0.01/int8", 120, b"\x01\x02\x03")
MASKED = MaskedUpdate(3, HASH, (7 << 32) + 1, 4, b"\x01\x02\x03")
SIGNATURE = bytes(range(64))
IDENTITY = bytes(range(64, 96))
#: Devices sign these with their identity, so that no broker can say them in their place.
SIGNED = (
    *(Dealt, Holdings, RecoveryAnswer, RecoveryRefusal),
    *(RoundKeys, RoundShares, RoundSignature, RoundAnswer),
)
LAST_MASK = (1 << 63) - 1

Entry = dict[str, object]

GOOD: list[tuple[str, Message]] = [
    (DEVICE, CheckIn(INSTALL, -1, 180, ("dense", "topk", "float32", "int8"))),
    (DEVICE, CheckIn(INSTALL, 41, 180, ("dense", "float32"), ID)),
    (AGGREGATOR, Lease(*LEASE)),
    (AGGREGATOR, ChunksMissing(ID, (0, 2, 19_999))),
    (AGGREGATOR, ChunksMissing(ID, ())),
    (AGGREGATOR, Held(ID)),
    (AGGREGATOR, Receipt(ID, 42)),
    (AGGREGATOR, Refusal(ID, refusals.TOO_STALE, "21 behind")),
    (AGGREGATOR, Refusal(b"", refusals.DUPLICATE_DEVICE, "cloned", 3600, INSTALL)),
    (DEVICE, UpdateChunk(ID, checksum(encode_update(UPDATE)), 0, 1, encode_update(UPDATE))),
    (DEVICE, UpdateChunk(ID, 0xFFFF_FFFF, 6, 7, b"\xff" * 5)),
    (AGGREGATOR, ModelChunk(41, 0, b"\x00\x00\x80\x3f")),
    (AGGREGATOR, Plan('{"input": [2]}', "{}", "dense/float32", 60)),
    (AGGREGATOR, Manifest(42, HASH, 9640, 1, (ID, INSTALL))),
    (AGGREGATOR, Support(4, b"\x01\x05\x00\x2a")),
    (AGGREGATOR, Support(5, b"")),
    (AGGREGATOR, SignedRoster(b"a roster's body", SIGNATURE)),
    (DEVICE, Dealt(HASH, (7 << 32, LAST_MASK), bytes(range(96)))),
    (DEVICE, Shares(HASH, bytes(range(24)), b"sealed")),
    (DEVICE, Holdings(HASH, 0, (0, 127), (7 << 32, LAST_MASK), SIGNATURE)),
    (DEVICE, Holdings(HASH, 1, (), (), b"")),
    (AGGREGATOR, SharesWanted(HASH, 127, (7 << 32,))),
    (AGGREGATOR, RecoveryRequest(b"a request's body", SIGNATURE)),
    (DEVICE, RecoveryAnswer(HASH, b"\x00\x00\xff\xff\xff\x7f")),
    (DEVICE, RecoveryRefusal(HASH, refusals.MASK_USED, "mask 1 of pump-3")),
    (DEVICE, UpdateChunk(ID, checksum(encode_update(MASKED)), 0, 1, encode_update(MASKED))),
    (AGGREGATOR, RoundOpened(HASH, LAST_MASK)),
    (DEVICE, RoundKeys(LAST_MASK, bytes(range(96)), SIGNATURE)),
    (AGGREGATOR, RoundAdvertised(LAST_MASK, (0, 127), bytes(range(160)) * 2)),
    (DEVICE, RoundShares(LAST_MASK, bytes(range(88)))),
    (AGGREGATOR, RoundDealers(LAST_MASK, (0, 127), bytes(range(88)))),
    (AGGREGATOR, RoundOutcome(LAST_MASK, (0, 127), SIGNATURE * 2)),
    (DEVICE, RoundSignature(LAST_MASK, SIGNATURE)),
    (AGGREGATOR, RoundCertificate(LAST_MASK, (127,), SIGNATURE)),
    (DEVICE, RoundAnswer(LAST_MASK, bytes(range(72)))),
    (DEVICE, CheckIn(INSTALL, 41, 180, ("dense", "differences"), unreachable=1)),
    (AGGREGATOR, Lease(*LEASE, upload_after_s=30)),
    (AGGREGATOR, Lease(*LEASE, keyframe=40, model="int8", base=38)),
    (AGGREGATOR, Lease(*LEASE, model="float16")),
    (AGGREGATOR, Manifest(42, HASH, 4820, 1, (ID, INSTALL), 40, "float16")),
    (AGGREGATOR, DifferenceChunk(42, 0, 1, pack(DIFFERENCE))),
    (AGGREGATOR, DifferenceChunk(42, 6, 7, b"\xff" * 5)),
]


def text() -> str:
    """What the file has to hold."""
    entries = (*_good(), *_bad(), *_bad_fields(), *_bad_signatures(), *_updates())
    return json.dumps(entries, indent=1) + "\n"


def _entry(
    name: str, sender: str, kind: str, data: bytes, expect: str, *, identity: bytes = b""
) -> Entry:
    signer = {"identity": identity.hex(), "topic": TOPIC} if identity else {}
    return {
        "name": name,
        "comment": f"{kind}, {expect}",
        "input": {"task": TASK, "sender": sender, "kind": kind, **signer},
        "bytes": data.hex(),
        "expect": expect,
    }


def _good() -> Iterator[Entry]:
    for number, (sender, message) in enumerate(GOOD):
        starts = 1 << 20 if number % 2 else 1
        counter = (starts << 32) + number
        kind = type(message).__name__
        if isinstance(message, SIGNED):
            data = encode(message, task=TASK, sender=sender, counter=counter, sign=_sign)
            identity = keys.identity_public(IDENTITY)
        else:
            data, identity = encode(message, task=TASK, sender=sender, counter=counter), b""
        yield _entry(f"good {number} {kind}", sender, kind, data, "ok", identity=identity)


def _bad() -> Iterator[Entry]:
    body = msgpack.packb([ID])
    held = KINDS[Held]
    envelopes: dict[str, tuple[object, str]] = {
        "empty array": ([], refusals.MALFORMED),
        "a map": ({}, refusals.MALFORMED),
        "next wire version": ([2, held, TASK, AGGREGATOR, 1, body, b"", b""], "wire_version"),
        "version is true": ([True, held, TASK, AGGREGATOR, 1, body, b"", b""], refusals.MALFORMED),
        "a field short": ([1, held, TASK, AGGREGATOR, 1, body, b""], refusals.MALFORMED),
        "body is text": ([1, held, TASK, AGGREGATOR, 1, "x", b"", b""], refusals.MALFORMED),
        "other task": ([1, held, "other", AGGREGATOR, 1, body, b"", b""], refusals.WRONG_TASK),
        "other sender": ([1, held, TASK, DEVICE, 1, body, b"", b""], refusals.WRONG_SENDER),
        "unknown kind": ([1, 99, TASK, AGGREGATOR, 1, body, b"", b""], refusals.WRONG_KIND),
        "another kind": ([1, 5, TASK, AGGREGATOR, 1, body, b"", b""], refusals.WRONG_KIND),
        "counter below 0": ([1, held, TASK, AGGREGATOR, -1, body, b"", b""], refusals.MALFORMED),
        "id a byte short": (
            [1, held, TASK, AGGREGATOR, 1, msgpack.packb([ID[:15]]), b"", b""],
            refusals.MALFORMED,
        ),
        "body with a tail": (
            [1, held, TASK, AGGREGATOR, 1, body + b"\xc0", b"", b""],
            refusals.MALFORMED,
        ),
        "empty body": ([1, held, TASK, AGGREGATOR, 1, b"", b"", b""], refusals.MALFORMED),
    }
    for name, (envelope, expect) in envelopes.items():
        yield _entry(name, AGGREGATOR, "Held", msgpack.packb(envelope), expect)
    yield _entry("nothing at all", AGGREGATOR, "Held", b"", refusals.MALFORMED)
    good = msgpack.packb([1, held, TASK, AGGREGATOR, 1, body, b"", b""])
    yield _entry("cut off", AGGREGATOR, "Held", good[:-3], refusals.MALFORMED)


def _bad_fields() -> Iterator[Entry]:
    """Messages of secure tasks with one field outside its limit."""
    fields: dict[str, tuple[str, type[Message], list[object]]] = {
        "a roster without a body": (AGGREGATOR, SignedRoster, [b"", SIGNATURE]),
        "a roster's signature a byte short": (AGGREGATOR, SignedRoster, [b"b", SIGNATURE[:-1]]),
        "no mask dealt": (DEVICE, Dealt, [HASH, [], b""]),
        "17 masks dealt": (DEVICE, Dealt, [HASH, list(range(17)), b""]),
        "a mask below 0": (DEVICE, Dealt, [HASH, [-1], bytes(16)]),
        "a mask of 2^63": (DEVICE, Dealt, [HASH, [1 << 63], bytes(16)]),
        "a nonce of 12 bytes": (DEVICE, Shares, [HASH, bytes(12), b"sealed"]),
        "sealed as text": (DEVICE, Shares, [HASH, bytes(24), "sealed"]),
        "whole is true": (DEVICE, Holdings, [HASH, True, [], [], b""]),
        "whole is 2": (DEVICE, Holdings, [HASH, 2, [], [], b""]),
        "the 129th member": (DEVICE, Holdings, [HASH, 0, [128], [1], bytes(32)]),
        "shares for nobody": (AGGREGATOR, SharesWanted, [HASH, None, [1]]),
        "a roster hash of 31 bytes": (AGGREGATOR, SharesWanted, [HASH[:31], 1, [1]]),
        "a request unsigned": (AGGREGATOR, RecoveryRequest, [b"body", b""]),
        "an answer to nothing": (DEVICE, RecoveryAnswer, [b"", b"\x00\x00"]),
        "elements as a list": (DEVICE, RecoveryAnswer, [HASH, [1, 2]]),
        "a refusal without a reason": (DEVICE, RecoveryRefusal, [HASH, "", ""]),
        "a support below 0": (AGGREGATOR, Support, [-1, b""]),
        "a round below 0": (AGGREGATOR, RoundOpened, [HASH, -1]),
        "two keys of three": (DEVICE, RoundKeys, [1, bytes(64), SIGNATURE]),
        "129 dealers": (AGGREGATOR, RoundDealers, [1, [1] * 129, b""]),
        "a view's signatures as a list": (AGGREGATOR, RoundOutcome, [1, [1], [SIGNATURE]]),
        "an outcome unsigned": (DEVICE, RoundSignature, [1, b""]),
    }
    for name, (sender, cls, values) in fields.items():
        envelope = [1, KINDS[cls], TASK, sender, 1, msgpack.packb(values), b"", b""]
        data = msgpack.packb(envelope)
        yield _entry(name, sender, cls.__name__, data, refusals.MALFORMED)


def _bad_signatures() -> Iterator[Entry]:
    message = RecoveryAnswer(HASH, b"\x01\x00")
    good = encode(message, task=TASK, sender=DEVICE, counter=1, sign=_sign)
    opened = open_envelope(good)
    wrong = {
        "not signed": encode(message, task=TASK, sender=DEVICE, counter=1),
        "a signature a byte short": seal(replace(opened, signature=opened.signature[:-1])),
        "a signature of zeros": seal(replace(opened, signature=bytes(64))),
        "signed, then counted on": seal(replace(opened, counter=2)),
        "signed, then another body": seal(
            replace(opened, body=pack(replace(message, elements=b"\x02\x00")))
        ),
        "signed, then given a key id": seal(replace(opened, key_id=b"1")),
        "signed by another identity": encode(
            message,
            task=TASK,
            sender=DEVICE,
            counter=1,
            sign=Signer(HASH, PREFIX).on(TOPIC),
        ),
        "signed for another purpose": encode(
            message,
            task=TASK,
            sender=DEVICE,
            counter=1,
            sign=lambda data: keys.sign(IDENTITY, keys.SHARES, data),
        ),
    }
    wrong["signed for another topic"] = encode(
        message,
        task=TASK,
        sender=DEVICE,
        counter=1,
        sign=Signer(IDENTITY, PREFIX).on(f"{PREFIX}/{TASK}/up/0/{DEVICE}"),
    )
    public = keys.identity_public(IDENTITY)
    for name, data in wrong.items():
        yield _entry(name, DEVICE, "RecoveryAnswer", data, refusals.BAD_SIGNATURE, identity=public)


def _updates() -> Iterator[Entry]:
    """What the chunks of an update hold: no envelope, so sender and task are the chunks'."""
    bad: dict[str, list[object]] = {
        "an update's fields for a masked one": [3, "dense/float32", 120, b"\x01"],
        "a masked update without a body": [3, HASH, 1, 4],
        "masked against version -1": [-1, HASH, 1, 4, b"\x01"],
        "a mask's counter as bytes": [3, HASH, b"\x01", 4, b"\x01"],
    }
    yield _entry("a masked update", DEVICE, "MaskedUpdate", encode_update(MASKED), "ok")
    for name, values in bad.items():
        yield _entry(name, DEVICE, "MaskedUpdate", msgpack.packb(values), refusals.MALFORMED)


def _sign(data: bytes) -> bytes:
    return Signer(IDENTITY, PREFIX).on(TOPIC)(data)


if __name__ == "__main__":
    PATH.write_text(text(), encoding="utf-8")
