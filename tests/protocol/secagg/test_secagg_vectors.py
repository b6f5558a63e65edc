"""If one of these fails, devices in the field can no longer be summed: raise WIRE_VERSION."""

import json
from collections.abc import Callable
from typing import TypedDict

import numpy as np
import pytest

from protocol import refusals
from protocol.errors import RemoteProtocolError
from protocol.secagg import consistency, scheme, shares
from protocol.secagg.field import Elements, from_bytes, to_bytes, uniform
from protocol.secagg.fixedpoint import pack, unpack
from protocol.secagg.parameters import Parameters
from protocol.secagg.shares import TEST_COLUMNS, RecoveryError, Sharing, columns
from tests.vectors import make_secagg


class SharingFields(TypedDict):
    num_holders: int
    num_answers: int
    num_noise: int
    modulus: int


class ParameterFields(TypedDict):
    scheme: str
    num_devices: int
    num_malicious: int
    num_noise: int
    num_answers: int
    min_contributors: int
    max_contributors: int
    max_weight: int
    size: int
    clip: float
    bits: int
    samples_cap: int
    staleness: str


class Input(TypedDict, total=False):
    sharing: SharingFields
    parameters: ParameterFields
    secret: str
    seed: str
    public_seed: str
    mask_id: str
    root: str
    modulus: int
    size: int
    answers: dict[str, str]
    width: int
    values: str
    body: str
    bodies: list[str]
    secret_seeds: list[str]
    num_samples: int
    staleness: int


class Vector(TypedDict, total=False):
    name: str
    kind: str
    input: Input
    bytes: str
    expect: str
    commitments: str
    root: str
    receipt_of_0: str
    liars: list[int]
    secret_begins: str
    derived: dict[str, int]


VECTORS: list[Vector] = json.loads(make_secagg.PATH.read_text(encoding="utf-8"))


def int32(text: str) -> Elements:
    return np.frombuffer(bytes.fromhex(text), "<i4").astype(np.int64)


def secret_of(given: Input) -> tuple[Elements, Sharing]:
    sharing = Sharing(**given["sharing"])
    data = bytes.fromhex(given["secret"])
    size = len(data) // len(to_bytes(np.zeros(1, np.int64), sharing.modulus))
    return from_bytes(data, sharing.modulus, size), sharing


def dealt(given: Input) -> bytes:
    secret, sharing = secret_of(given)
    return to_bytes(shares.deal(secret, sharing, bytes.fromhex(given["seed"])), sharing.modulus)


def receipted(given: Input) -> bytes:
    shape = (given["size"] + TEST_COLUMNS,)
    row = uniform(bytes.fromhex(given["seed"]), shape, given["modulus"])
    return consistency.receipt(bytes.fromhex(given["root"]), row, given["modulus"])


def recovered(given: Input) -> shares.Recovered:
    sharing, size = Sharing(**given["sharing"]), given["size"]
    answers = {
        int(holder): from_bytes(bytes.fromhex(row), sharing.modulus, columns(size, sharing))
        for holder, row in given["answers"].items()
    }
    return shares.recover(answers, sharing, size)


def recovered_bytes(given: Input) -> bytes:
    return to_bytes(recovered(given).secret, given["sharing"]["modulus"])


def packed(given: Input) -> bytes:
    values = np.frombuffer(bytes.fromhex(given["values"]), "<u4").astype(np.int64)
    data = pack(values, given["width"])
    np.testing.assert_array_equal(unpack(data, given["width"], values.size), values)
    return data


def encoded(given: Input) -> bytes:
    values = np.frombuffer(bytes.fromhex(given["values"]), "<f4")
    parameters = Parameters(**given["parameters"])
    elements, _ = parameters.encode(values, given["num_samples"], given["staleness"])
    return elements.astype("<i4").tobytes()


def gridded(given: Input) -> bytes:
    return np.array(Parameters(**given["parameters"]).grid, "<i4").tobytes()


def masked(given: Input) -> bytes:
    parameters, seed = Parameters(**given["parameters"]), bytes.fromhex(given["seed"])
    chosen = scheme(parameters.scheme)
    public_seed, values = bytes.fromhex(given["public_seed"]), int32(given["values"])
    return chosen.mask(parameters, public_seed, chosen.secret(parameters, seed), values, seed)


def added(given: Input) -> bytes:
    parameters = Parameters(**given["parameters"])
    total = np.zeros(parameters.size, np.int64)
    scheme(parameters.scheme).add(parameters, total, bytes.fromhex(given["body"]))
    return total.astype("<i4").tobytes()


def unmasked(given: Input) -> bytes:
    parameters = Parameters(**given["parameters"])
    parameters.check()
    chosen = scheme(parameters.scheme)
    total = np.zeros(parameters.size, np.int64)
    for body in given["bodies"]:
        chosen.add(parameters, total, bytes.fromhex(body))
    secrets = [chosen.secret(parameters, bytes.fromhex(seed)) for seed in given["secret_seeds"]]
    sums = chosen.unmask(
        parameters,
        bytes.fromhex(given["public_seed"]),
        total,
        len(given["bodies"]),
        np.sum(secrets, axis=0) % chosen.sharing(parameters).modulus,
    )
    return sums.astype("<i4").tobytes()


KINDS: dict[str, Callable[[Input], bytes]] = {
    "deal": dealt,
    "receipt": receipted,
    "recover": recovered_bytes,
    "pack": packed,
    "encode": encoded,
    "grid": gridded,
    "mask": masked,
    "add": added,
    "unmask": unmasked,
}


def of_kind(kind: str) -> list[Vector]:
    return [vector for vector in VECTORS if vector["kind"] == kind and vector["expect"] == "ok"]


def name(vector: Vector) -> str:
    return vector["name"]


@pytest.mark.parametrize("vector", VECTORS, ids=name)
def test_a_call_gives_the_frozen_bytes_or_refusal(vector: Vector) -> None:
    call = KINDS[vector["kind"]]
    if vector["expect"] == "ok":
        assert call(vector["input"]).hex() == vector["bytes"]
    elif vector["expect"] == refusals.RECOVERY_FAILED:
        with pytest.raises(RecoveryError):
            call(vector["input"])
    else:
        with pytest.raises(RemoteProtocolError) as refusal:
            call(vector["input"])
        assert refusal.value.reason == vector["expect"]


@pytest.mark.parametrize("vector", of_kind("deal"), ids=name)
def test_dealt_shares_have_the_frozen_commitments_and_receipts(vector: Vector) -> None:
    secret, sharing = secret_of(vector["input"])
    mask_id = bytes.fromhex(vector["input"]["mask_id"])
    width = columns(secret.size, sharing) + TEST_COLUMNS
    data = bytes.fromhex(vector["bytes"])
    rows = from_bytes(data, sharing.modulus, sharing.num_holders * width).reshape(-1, width)
    committed = consistency.commitments(mask_id, rows, sharing.modulus)
    assert b"".join(committed).hex() == vector["commitments"]
    root = consistency.root(mask_id, committed)
    assert root.hex() == vector["root"]
    assert consistency.receipt(root, rows[0], sharing.modulus).hex() == vector["receipt_of_0"]


@pytest.mark.parametrize("vector", of_kind("recover"), ids=name)
def test_the_frozen_liars_are_named(vector: Vector) -> None:
    assert recovered(vector["input"]).liars == tuple(vector["liars"])


@pytest.mark.parametrize("vector", of_kind("mask"), ids=name)
def test_secrets_and_limits_are_the_frozen_ones(vector: Vector) -> None:
    parameters = Parameters(**vector["input"]["parameters"])
    parameters.check()
    limits = (parameters.limit, parameters.step, parameters.levels)
    assert limits == tuple(vector["derived"][key] for key in ("limit", "step", "levels"))
    chosen = scheme(parameters.scheme)
    secret = chosen.secret(parameters, bytes.fromhex(vector["input"]["seed"]))
    data = to_bytes(secret, chosen.sharing(parameters).modulus).hex()
    assert data.startswith(vector["secret_begins"])


def test_the_generator_changes_nothing() -> None:
    assert make_secagg.text() == make_secagg.PATH.read_text(encoding="utf-8")


def test_names_say_which_vector_is_meant() -> None:
    names = [vector["name"] for vector in VECTORS]
    assert len(set(names)) == len(names)
    assert {vector["kind"] for vector in VECTORS} == set(KINDS)
