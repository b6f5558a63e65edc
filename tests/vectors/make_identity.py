"""Writes the frozen vectors of certificates, signed envelopes and sealed updates.

    python -m tests.vectors.make_identity

Run it again only for what was added: a vector that changes breaks devices in the field.
"""

import json
from pathlib import Path

from protocol import refusals
from protocol.codec import encode, pack
from protocol.identity import (
    Certificate,
    SignedCertificate,
    Signer,
    certify,
    identity_public,
    seal,
    sign,
)
from protocol.messages import AGGREGATOR, CheckIn, Receipt
from protocol.secagg.keys import ROSTER

PATH = Path(__file__).with_name("identity.json")
PREFIX, TASK, DEVICE = "fedbus/1", "digits", "pump-7"
OPERATOR, IDENTITY, OWN = bytes(range(32)), bytes(range(32, 64)), bytes(range(64, 96))
SEED = bytes(range(96, 128))
LEASE = bytes(range(16))
PLAIN = Certificate(TASK, DEVICE, identity_public(IDENTITY), 3)

Entry = dict[str, object]


def text() -> str:
    """Return the file's text."""
    entries = [*_certificates(), *_envelopes(), *_sealed()]
    return json.dumps(entries, indent=1) + "\n"


def _entry(name: str, given: dict[str, object], data: bytes, expect: str) -> Entry:
    return {"name": name, "input": given, "bytes": data.hex(), "expect": expect}


def _certificates() -> list[Entry]:
    enrolment = {"enrolment_key": identity_public(OPERATOR).hex()}
    body = pack(PLAIN)
    wrong_purpose = pack(SignedCertificate(body, sign(OPERATOR, ROSTER, body)))
    return [
        _entry(name, {"what": "certificate", **enrolment}, data, expect)
        for name, data, expect in (
            ("a certificate", certify(PLAIN, OPERATOR), "ok"),
            ("of another operator", certify(PLAIN, OWN), refusals.BAD_SIGNATURE),
            ("signed as a roster", wrong_purpose, refusals.BAD_SIGNATURE),
            ("cut off", certify(PLAIN, OPERATOR)[:-1], refusals.MALFORMED),
            ("nothing", b"", refusals.MALFORMED),
        )
    ]


def _envelopes() -> list[Entry]:
    out, into = (f"{PREFIX}/{TASK}/dev/{DEVICE}/{leaf}" for leaf in ("out", "in"))
    check_in = CheckIn(bytes(16), -1, 10, (), certificate=certify(PLAIN, OPERATOR))
    said = _signed(check_in, DEVICE, Signer(IDENTITY, PREFIX), out)
    told = _signed(Receipt(bytes(16), 4), AGGREGATOR, Signer(OWN, PREFIX), into)
    device, aggregator = identity_public(IDENTITY).hex(), identity_public(OWN).hex()
    other = out.replace(DEVICE, "pump-8")
    flipped = said[:20] + bytes([said[20] ^ 1]) + said[21:]
    return [
        _entry(name, {"what": "envelope", "topic": topic, "key": key}, data, expect)
        for name, topic, key, data, expect in (
            ("a device's check-in", out, device, said, "ok"),
            ("the aggregator's receipt", into, aggregator, told, "ok"),
            ("brought as another's", other, device, said, refusals.BAD_SIGNATURE),
            ("brought back", into, device, said, refusals.BAD_SIGNATURE),
            ("checked with another key", out, aggregator, said, refusals.BAD_SIGNATURE),
            ("a bit changed", out, device, flipped, refusals.BAD_SIGNATURE),
        )
    ]


def _signed(message: CheckIn | Receipt, sender: str, signer: Signer, topic: str) -> bytes:
    return encode(
        message,
        task=TASK,
        sender=sender,
        counter=(2 << 32) + 5,
        sign=signer.on(topic),
        key_id=signer.key_id,
    )


def _sealed() -> list[Entry]:
    plain = b"an update"
    data = seal(plain, identity_public(OWN), SEED, LEASE)
    given: dict[str, object] = {
        "what": "sealed",
        "secret": OWN.hex(),
        "lease": LEASE.hex(),
        "plain": plain.hex(),
    }
    other = {**given, "lease": bytes(16).hex()}
    return [
        _entry("sealed", {**given, "seed": SEED.hex()}, data, "ok"),
        _entry("sealed, a bit changed", given, data[:-1] + b"\0", refusals.MALFORMED),
        _entry("sealed to another", {**given, "secret": IDENTITY.hex()}, data, refusals.MALFORMED),
        _entry("sealed under another lease", other, data, refusals.MALFORMED),
        _entry("shorter than a seal", given, data[:40], refusals.MALFORMED),
    ]


if __name__ == "__main__":
    PATH.write_text(text(), encoding="utf-8")
