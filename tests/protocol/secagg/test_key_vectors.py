"""The frozen rosters, sealed shares and requests are read as written."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from protocol.codec import unpack
from protocol.errors import RemoteProtocolError
from protocol.secagg import keys
from protocol.secagg.messages import RecoveryRequest, Shares, SignedRoster
from protocol.secagg.requests import check_request, open_request, request_hash
from protocol.secagg.roster import open_roster
from protocol.secagg.sealing import open_shares
from tests.vectors import make_keys
from tests.vectors.make_keys import COHORT, DEVICES, GROUPED

VECTORS: list[dict[str, Any]] = json.loads(make_keys.PATH.read_text(encoding="utf-8"))


def read_roster(given: dict[str, Any], data: bytes) -> dict[str, Any]:
    roster = open_roster(unpack(data, SignedRoster), bytes.fromhex(given["enrolment_key"]))
    assert roster.task == given["task"]
    devices = [member["device"] for member in given["members"]]
    assert [member.device for member in roster.members] == devices
    parameters = {name: getattr(roster.parameters, name) for name in given["parameters"]}
    assert parameters == given["parameters"]
    return {
        "body": roster.body,
        "hash": roster.hash,
        "public_seed": roster.public_seed,
        "mask_id of dealer 1, counter 2": roster.mask_id(1, 2),
    }


def read_shares(given: dict[str, Any], data: bytes) -> dict[str, Any]:
    batch = open_shares(
        COHORT.roster,
        unpack(data, Shares),
        dealer=given["dealer"],
        holder=given["holder"],
        epoch_secret=COHORT.epoch_secret(DEVICES[given["holder"]]),
    )
    assert list(batch.counters) == given["counters"]
    assert batch.rows.hex() == given["rows"]
    return {}


def read_request(given: dict[str, Any], data: bytes) -> dict[str, Any]:
    request = unpack(data, RecoveryRequest)
    masks = check_request(request, COHORT.roster)
    assert {str(dealer): counter for dealer, counter in masks.items()} == given["masks"]
    return {"body": request.body, "hash": request_hash(request)}


def read_group_request(given: dict[str, Any], data: bytes) -> dict[str, Any]:
    request = unpack(data, RecoveryRequest)
    asked = open_request(request, GROUPED.roster)
    assert {str(dealer): counter for dealer, counter in asked.buffer.items()} == given["masks"]
    assert asked.group == given["group"]
    assert list(asked.masks) == given["dealers"]
    return {"body": request.body, "hash": request_hash(request)}


READERS: dict[str, Callable[[dict[str, Any], bytes], dict[str, Any]]] = {
    "shares": read_shares,
    "request": read_request,
    "group request": read_group_request,
}


def messages() -> list[dict[str, Any]]:
    names = ("identity", "epoch key", "endorsed text", "agreed key")
    return [vector for vector in VECTORS if vector["name"] not in names]


def test_making_the_vectors_of_keys_again_changes_nothing() -> None:
    assert make_keys.PATH.read_text(encoding="utf-8") == make_keys.text()


@pytest.mark.parametrize("vector", messages(), ids=lambda vector: vector["name"])
def test_a_frozen_message_is_read_or_refused_as_written(vector: dict[str, Any]) -> None:
    """If this fails, devices of an open epoch can no longer read each other."""
    read = READERS.get(vector["name"].split(",")[0], read_roster)
    given, data = vector["input"], bytes.fromhex(vector["bytes"])
    if vector["expect"] == "ok":
        derived = {name: value.hex() for name, value in read(given, data).items()}
        assert vector.get("derived", derived) == derived
        return
    with pytest.raises(RemoteProtocolError) as refused:
        read(given, data)
    assert refused.value.reason == vector["expect"]


def test_the_frozen_keys_are_ours() -> None:
    by_name = {vector["name"]: vector for vector in VECTORS}
    secret = bytes.fromhex(by_name["epoch key"]["input"]["secret"])
    assert keys.epoch_public(secret).hex() == by_name["epoch key"]["bytes"]
    agreed = by_name["agreed key"]["input"]
    public, (label, roster_hash, *places) = bytes.fromhex(agreed["public"]), agreed["context"]
    key = keys.agree(secret, public, label, bytes.fromhex(roster_hash), *places)
    assert key.hex() == by_name["agreed key"]["bytes"]
