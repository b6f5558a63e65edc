"""The specification and the code say the same."""

import re
from dataclasses import fields
from pathlib import Path

from protocol import refusals
from protocol.identity import CERTIFICATE, ENVELOPE, Certificate, SignedCertificate
from protocol.messages import Difference, Update
from protocol.secagg import keys, requests, roster, sealing
from protocol.secagg.messages import MaskedUpdate
from protocol.secagg.pairwise import OUTCOME, VIEW
from protocol.secagg.pairwise_keys import ADVERTISEMENT
from protocol.topics import Kind
from tests.support.messages import KINDS

PAGE = (Path(__file__).parents[2] / "docs" / "wire-format.md").read_text(encoding="utf-8")
INSIDE = {
    "certificate": SignedCertificate,
    "certificate body": Certificate,
    "roster body": roster._Body,
    "share batch": sealing.ShareBatch,
    "signed batch": sealing._SignedBatch,
    "request body": requests._Body,
}


def test_every_message_is_specified_with_its_fields_in_order() -> None:
    for cls, number in KINDS.items():
        row = re.search(rf"^\| {number} \| {cls.__name__} \| (.*) \|$", PAGE, re.MULTILINE)
        assert row, cls
        assert re.findall(r"`(\w+)`", row[1]) == [field.name for field in fields(cls)], cls


def test_the_update_is_specified() -> None:
    text = PAGE.split("is the Update, a msgpack array:")[1].split("\n\n")[0]
    assert re.findall(r"`(\w+)`", text) == [field.name for field in fields(Update)]


def test_the_difference_is_specified() -> None:
    text = PAGE.split("is the Difference, a msgpack array:")[1].split("\n\n")[0]
    assert re.findall(r"`(\w+)`", text) == [field.name for field in fields(Difference)]


def test_the_masked_update_is_specified() -> None:
    text = PAGE.split("In a secure task it is the MaskedUpdate:")[1].split("\n\n")[0]
    assert re.findall(r"`(\w+)`", text) == [field.name for field in fields(MaskedUpdate)]


def test_what_is_signed_and_sealed_is_specified() -> None:
    for name, cls in INSIDE.items():
        row = re.search(rf"^\| {name} \| (.*) \|$", PAGE, re.MULTILINE)
        assert row, name
        assert re.findall(r"`(\w+)`", row[1]) == [field.name for field in fields(cls)], name


def test_every_purpose_of_a_signature_is_specified() -> None:
    of_messages = (keys.ROSTER, keys.EPOCH_KEY, keys.SHARES, keys.REQUEST, ENVELOPE, CERTIFICATE)
    for purpose in (*of_messages, ADVERTISEMENT, VIEW, OUTCOME):
        assert f"| `{purpose.decode()[:-1]}` |" in PAGE, purpose


def test_every_refusal_is_specified_with_its_meaning() -> None:
    rows = dict(re.findall(r"^\| `(\w+)` \| (.*) \|$", PAGE.split("## Refusals")[1], re.MULTILINE))
    assert rows == refusals.MEANING


def test_every_topic_is_specified() -> None:
    spelled = {"device": "<id>", "to": "<to>", "part": "<part>", "shelf": "<shelf>"}
    spelled["cohort"] = "<cohort>"
    for kind in Kind:
        sender = "<from>" if kind is Kind.SHARE else "<id>"
        names = {**spelled, "device": sender, "index": "<n>", "what": "<what>"}
        assert f"| `{kind.value.format_map(names)}` |" in PAGE, kind
