"""docs/secure-aggregation.md is enough: its rules, in plain integers, give the frozen vectors.

Nothing of `protocol` is imported. Each function is a paragraph of the page; slow and obvious.
"""

import json
import re
import struct
from collections.abc import Iterator, Mapping, Sequence
from hashlib import blake2b
from math import isqrt
from pathlib import Path
from typing import Any

import pytest
from nacl.bindings import crypto_box_beforenm, crypto_scalarmult_base

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "secure-aggregation.md").read_text(encoding="utf-8")

Q = 2_147_389_441
P = 65_521
DEGREE = 1_024
OMEGA = 211_808_905
NUM_TESTS = 4


def vectors(name: str) -> list[dict[str, Any]]:
    entries: list[dict[str, Any]] = json.loads(
        (ROOT / "tests" / "vectors" / f"{name}.json").read_text(encoding="utf-8")
    )
    return entries


SECAGG = vectors("secagg")
PAIRWISE = {entry["name"]: entry for entry in vectors("pairwise")}


def of_kind(kind: str) -> list[dict[str, Any]]:
    return [entry for entry in SECAGG if entry["kind"] == kind]


def name(entry: Mapping[str, Any]) -> str:
    return str(entry["name"])


# --- 2. seeds and streams --------------------------------------------------------------------


def derive(seed: bytes, *labels: str | bytes | int) -> bytes:
    digest = blake2b(digest_size=32, key=seed, person=b"fedbus.derive")
    for label in labels:
        if isinstance(label, str):
            kind, data = b"s", label.encode()
        elif isinstance(label, bytes):
            kind, data = b"b", label
        else:
            size = label.bit_length() // 8 + 1
            kind, data = b"i", label.to_bytes(size, "little", signed=True)
        digest.update(kind + struct.pack("<Q", len(data)) + data)
    return digest.digest()


def rotated(word: int, bits: int) -> int:
    return (word << bits | word >> 32 - bits) & 0xFFFF_FFFF


def quarter_round(state: list[int], places: Sequence[int]) -> None:
    a, b, c, d = places
    for target, added, turned, bits in ((a, b, d, 16), (c, d, b, 12), (a, b, d, 8), (c, d, b, 7)):
        state[target] = (state[target] + state[added]) & 0xFFFF_FFFF
        state[turned] = rotated(state[turned] ^ state[target], bits)


def chacha20(key: bytes) -> Iterator[int]:
    """Bytes of RFC 8439's ChaCha20, counter from 0, nonce "LibsodiumDRG"."""
    constants = struct.unpack("<4I", b"expand 32-byte k")
    nonce = struct.unpack("<3I", b"LibsodiumDRG")
    counter = 0
    while True:
        start = [*constants, *struct.unpack("<8I", key), counter, *nonce]
        state = list(start)
        for _ in range(10):
            for column in range(4):
                quarter_round(state, range(column, 16, 4))
            for diagonal in range(4):
                quarter_round(state, [4 * row + (diagonal + row) % 4 for row in range(4)])
        words = [(one + two) & 0xFFFF_FFFF for one, two in zip(state, start, strict=True)]
        yield from struct.pack("<16I", *words)
        counter += 1


def stream(seed: bytes) -> Iterator[int]:
    page = 0
    while True:
        key = blake2b(
            struct.pack("<Q", page), digest_size=32, key=seed, person=b"fedbus.stream"
        ).digest()
        generator = chacha20(key)
        for _ in range(16_384):
            yield next(generator)
        page += 1


def taken(source: Iterator[int], count: int) -> bytes:
    return bytes(next(source) for _ in range(count))


def word_bytes(modulus: int) -> int:
    return 2 if modulus <= 1 << 16 else 4


def uniform(seed: bytes, count: int, modulus: int) -> list[int]:
    source = stream(seed)
    found: list[int] = []
    mask = (1 << (modulus - 1).bit_length()) - 1
    while len(found) < count:
        word = int.from_bytes(taken(source, word_bytes(modulus)), "little") & mask
        if word < modulus:
            found.append(word)
    return found


def small(seed: bytes, count: int) -> list[int]:
    source = stream(seed)
    return [sum(taken(source, 8)) - 1_020 for _ in range(count)]


# --- 3. elements -----------------------------------------------------------------------------


def to_bytes(elements: Sequence[int], modulus: int) -> bytes:
    return b"".join(each.to_bytes(word_bytes(modulus), "little") for each in elements)


def from_bytes(data: bytes, modulus: int) -> list[int]:
    size = word_bytes(modulus)
    found = [int.from_bytes(data[at : at + size], "little") for at in range(0, len(data), size)]
    assert all(each < modulus for each in found)
    return found


def pack(values: Sequence[int], width: int) -> bytes:
    whole = sum(value << width * index for index, value in enumerate(values))
    return whole.to_bytes(-(-width * len(values) // 8), "little")


def unpack(data: bytes, width: int, count: int) -> list[int]:
    whole = int.from_bytes(data, "little")
    return [whole >> width * index & (1 << width) - 1 for index in range(count)]


def rows_of(data: bytes, modulus: int, num_rows: int) -> list[list[int]]:
    elements = from_bytes(data, modulus)
    size = len(elements) // num_rows
    return [elements[at : at + size] for at in range(0, len(elements), size)]


# --- 4. parameters ---------------------------------------------------------------------------


def shift_of(given: Mapping[str, Any]) -> int:
    return int(31 - given["bits"]) if given["scheme"] == "seedmask" else 0


def noise_of(given: Mapping[str, Any]) -> int:
    return 1_020 + (1 << shift_of(given) - 1) if given["scheme"] == "seedmask" else 0


def modulus_of(given: Mapping[str, Any]) -> int:
    return {"seedmask": Q, "lightsecagg": P, "pairwise": 1 << 32}[given["scheme"]]


def derived(given: Mapping[str, Any]) -> dict[str, int]:
    most = given["max_contributors"] * given["max_weight"]
    noise = noise_of(given)
    largest = (1 << 31) - 1 if given["scheme"] == "pairwise" else 15 * modulus_of(given) // 32
    limit = largest // most - noise
    step = 2 * most * noise + 1
    return {"limit": limit, "step": step, "levels": limit // step}


# --- 5. from a delta to elements -------------------------------------------------------------


def weight_of(rule: str, staleness: int) -> float:
    name, *numbers = rule.split("-")
    if name == "polynomial":
        return float((1 + staleness) ** -float(numbers[0]))
    if name == "hinge" and staleness > int(numbers[1]):
        return 1 / (1 + float(numbers[0]) * (staleness - int(numbers[1])))
    return 1.0


def encode(
    given: Mapping[str, Any], values: Sequence[float], num_samples: int, staleness: int
) -> tuple[list[int], int]:
    """The elements, and how many values the clip has cut. Python rounds ties to even, too."""
    own, cap = derived(given), given["samples_cap"]
    levels, limit = own["levels"], own["limit"]
    full = -(-min(max(num_samples, 1), cap) * levels // cap) if cap else levels
    level = max(1, round(full * max(weight_of(given["staleness"], staleness), 1 / 8)))
    highest = -(-limit * level // levels)
    scale = limit / given["clip"]
    nearest = [round(value * (scale * (level / levels))) for value in values]
    cut = [max(-highest, min(highest, each)) for each in nearest]
    num_cut = sum(abs(value) > given["clip"] for value in values)
    return [*cut, level * own["step"]], num_cut


# --- 6. packed sharing -----------------------------------------------------------------------


def value_at(points: Sequence[int], values: Sequence[int], target: int, modulus: int) -> int:
    """Lagrange: the polynomial of degree < len(points) through the points, at ``target``."""
    total = 0
    for place, value in zip(points, values, strict=True):
        above = below = 1
        for other in points:
            if other != place:
                above = above * (target - other) % modulus
                below = below * (place - other) % modulus
        total += value * above * pow(below, -1, modulus)
    return total % modulus


def columns_of(size: int, sharing: Mapping[str, int]) -> int:
    return -(-size // (sharing["num_answers"] - sharing["num_noise"]))


def deal(secret: Sequence[int], sharing: Mapping[str, int], seed: bytes) -> list[list[int]]:
    num_holders, num_answers = sharing["num_holders"], sharing["num_answers"]
    num_noise, modulus = sharing["num_noise"], sharing["modulus"]
    num_blocks, num_columns = num_answers - num_noise, columns_of(len(secret), sharing)
    padded = [*secret, *[0] * (num_blocks * num_columns - len(secret))]
    tests = uniform(derive(seed, "tests"), num_blocks * NUM_TESTS, modulus)
    data = [
        padded[block * num_columns : (block + 1) * num_columns]
        + tests[block * NUM_TESTS : (block + 1) * NUM_TESTS]
        for block in range(num_blocks)
    ]
    width = num_columns + NUM_TESTS
    drawn = uniform(derive(seed, "noise"), num_noise * width, modulus)
    first = [drawn[at : at + width] for at in range(0, len(drawn), width)]
    points = [*range(1, num_blocks + 1), *range(num_answers + 1, num_answers + num_noise + 1)]
    known = list(zip(*data, *first, strict=True))
    others = [
        [value_at(points, column, num_answers + 1 + holder, modulus) for column in known]
        for holder in range(num_noise, num_holders)
    ]
    return first + others


def recover(
    answers: Mapping[int, Sequence[int]], sharing: Mapping[str, int], size: int
) -> list[int]:
    num_answers, modulus = sharing["num_answers"], sharing["modulus"]
    holders = sorted(answers)[:num_answers]
    points = [num_answers + 1 + holder for holder in holders]
    columns = list(zip(*(answers[holder] for holder in holders), strict=True))
    blocks = range(1, num_answers - sharing["num_noise"] + 1)
    found = [value_at(points, column, at, modulus) for at in blocks for column in columns]
    return found[:size]


# --- 7. the dealers' test --------------------------------------------------------------------


def prefixed(mask_id: bytes) -> bytes:
    return len(mask_id).to_bytes(2, "little") + mask_id


def commitment(mask_id: bytes, holder: int, row: Sequence[int], modulus: int) -> bytes:
    data = prefixed(mask_id) + holder.to_bytes(2, "little") + to_bytes(row, modulus)
    return blake2b(data, digest_size=16, person=b"fedbus.share").digest()


def root_of(mask_id: bytes, commitments: Sequence[bytes]) -> bytes:
    data = prefixed(mask_id) + b"".join(commitments)
    return blake2b(data, digest_size=32, person=b"fedbus.root").digest()


def receipt(root: bytes, row: Sequence[int], modulus: int) -> list[int]:
    share, tests = row[:-NUM_TESTS], row[-NUM_TESTS:]
    width = min(len(share), 1_024)
    rows = [share[at : at + width] for at in range(0, len(share), width)]
    factors = uniform(derive(root, "receipt"), NUM_TESTS * (width + len(rows) - 1), modulus)
    v = list(zip(*cut(factors[: NUM_TESTS * width], width), strict=True))
    u = [(1, 0, 0, 0), *zip(*cut(factors[NUM_TESTS * width :], len(rows) - 1), strict=True)]
    said = list(tests)
    for u_i, row_i in zip(u, rows, strict=True):
        for v_j, element in zip(v, row_i, strict=False):
            for k, coefficient in enumerate(times(u_i, v_j)):
                said[k] += coefficient * element
    return [each % modulus for each in said]


def cut(numbers: Sequence[int], size: int) -> list[Sequence[int]]:
    return [numbers[at * size : (at + 1) * size] for at in range(NUM_TESTS)]


def times(one: Sequence[int], other: Sequence[int]) -> list[int]:
    """The product of two cubic polynomials, x^4 being 23."""
    found = [0] * NUM_TESTS
    for a, x in enumerate(one):
        for b, y in enumerate(other):
            found[(a + b) % NUM_TESTS] += x * y * (1 if a + b < NUM_TESTS else 23)
    return found


# --- 8. and 9. seedmask and lightsecagg ------------------------------------------------------


def secret_of(given: Mapping[str, Any], seed: bytes) -> list[int]:
    own = derive(seed, "secret")
    if given["scheme"] == "lightsecagg":
        return uniform(own, given["size"], P)
    return [number % Q for number in small(own, DEGREE)]


def public_times(public_seed: bytes, secret: Sequence[int], size: int) -> list[int]:
    """(a s), from the values of both at the roots."""
    num_blocks = -(-size // DEGREE)
    public = uniform(derive(public_seed, "seedmask a", DEGREE, Q), num_blocks * DEGREE, Q)
    powers = [1]
    for _ in range(2 * DEGREE - 1):
        powers.append(powers[-1] * OMEGA % Q)
    at_roots = [
        sum(each * powers[j * (2 * k + 1) % (2 * DEGREE)] for j, each in enumerate(secret)) % Q
        for k in range(DEGREE)
    ]
    scale = pow(DEGREE, -1, Q)
    found = []
    for place in range(size):
        block, j = divmod(place, DEGREE)
        a_hat = public[block * DEGREE : (block + 1) * DEGREE]
        total = sum(
            a * s % Q * powers[-j * (2 * k + 1) % (2 * DEGREE)]
            for k, (a, s) in enumerate(zip(a_hat, at_roots, strict=True))
        )
        found.append(total * scale % Q)
    return found


def mask(given: Mapping[str, Any], public_seed: bytes, values: Sequence[int], seed: bytes) -> bytes:
    secret = secret_of(given, seed)
    if given["scheme"] == "lightsecagg":
        return to_bytes([(x + z) % P for x, z in zip(values, secret, strict=True)], P)
    product = public_times(public_seed, secret, given["size"])
    errors = small(derive(seed, "errors"), given["size"])
    whole = [(x + y + e) % Q for x, y, e in zip(values, product, errors, strict=True)]
    return pack([each >> shift_of(given) for each in whole], given["bits"])


def unmask(
    given: Mapping[str, Any],
    public_seed: bytes,
    bodies: Sequence[bytes],
    secret_sum: Sequence[int],
) -> list[int]:
    size, modulus = given["size"], modulus_of(given)
    if given["scheme"] == "lightsecagg":
        read = [from_bytes(body, P) for body in bodies]
        mask_sum = list(secret_sum)
        offset = 0
    else:
        read = [unpack(body, given["bits"], size) for body in bodies]
        mask_sum = public_times(public_seed, secret_sum, size)
        offset = (len(bodies) << shift_of(given)) >> 1
    totals = [sum(column) << shift_of(given) for column in zip(*read, strict=True)]
    half = modulus // 2
    return [
        (total + offset - masked + half) % modulus - half
        for total, masked in zip(totals, mask_sum, strict=True)
    ]


def int32(data: bytes) -> list[int]:
    return [each for (each,) in struct.iter_unpack("<i", data)]


# --- 11. pairwise ----------------------------------------------------------------------------


def page_words(seed: bytes, count: int) -> list[int]:
    found: list[int] = []
    while len(found) < count:
        source = chacha20(derive(seed, len(found) // 16_384))
        page = taken(source, 4 * min(16_384, count - len(found)))
        found += [each for (each,) in struct.iter_unpack("<I", page)]
    return found


def limbs_of(secret: bytes) -> list[int]:
    return unpack(secret, 30, 9)


# --- the claims ------------------------------------------------------------------------------


@pytest.mark.parametrize("entry", of_kind("deal"), ids=name)
def test_sharing_as_specified_gives_the_frozen_rows(entry: dict[str, Any]) -> None:
    given = entry["input"]
    sharing, modulus = given["sharing"], given["sharing"]["modulus"]
    secret = from_bytes(bytes.fromhex(given["secret"]), modulus)
    rows = deal(secret, sharing, bytes.fromhex(given["seed"]))
    assert b"".join(to_bytes(row, modulus) for row in rows).hex() == entry["bytes"]
    mask_id = bytes.fromhex(given["mask_id"])
    committed = [commitment(mask_id, holder, row, modulus) for holder, row in enumerate(rows)]
    assert b"".join(committed).hex() == entry["commitments"]
    root = root_of(mask_id, committed)
    assert root.hex() == entry["root"]
    assert to_bytes(receipt(root, rows[0], modulus), modulus).hex() == entry["receipt_of_0"]


@pytest.mark.parametrize("entry", of_kind("receipt"), ids=name)
def test_receipts_for_long_shares_are_as_specified(entry: dict[str, Any]) -> None:
    given, modulus = entry["input"], entry["input"]["modulus"]
    row = uniform(bytes.fromhex(given["seed"]), given["size"] + NUM_TESTS, modulus)
    said = receipt(bytes.fromhex(given["root"]), row, modulus)
    assert to_bytes(said, modulus).hex() == entry["bytes"]


@pytest.mark.parametrize("entry", of_kind("deal"), ids=name)
def test_receipts_of_all_holders_lie_on_one_polynomial(entry: dict[str, Any]) -> None:
    sharing = entry["input"]["sharing"]
    modulus, num_answers = sharing["modulus"], sharing["num_answers"]
    rows = rows_of(bytes.fromhex(entry["bytes"]), modulus, sharing["num_holders"])
    receipts = [receipt(bytes.fromhex(entry["root"]), row, modulus) for row in rows]
    points = list(range(num_answers + 1, num_answers + 1 + len(rows)))
    for element in range(NUM_TESTS):
        values = [each[element] for each in receipts]
        for point, value in zip(points, values, strict=True):
            known = points[:num_answers], values[:num_answers]
            assert value_at(*known, point, modulus) == value


@pytest.mark.parametrize(
    "entry", [entry for entry in of_kind("recover") if entry["expect"] == "ok"], ids=name
)
def test_answers_decode_as_specified(entry: dict[str, Any]) -> None:
    given = entry["input"]
    modulus = given["sharing"]["modulus"]
    answers = {
        int(holder): from_bytes(bytes.fromhex(row), modulus)
        for holder, row in given["answers"].items()
        if int(holder) not in entry["liars"]
    }
    found = recover(answers, given["sharing"], given["size"])
    assert to_bytes(found, modulus).hex() == entry["bytes"]


@pytest.mark.parametrize("entry", of_kind("pack"), ids=name)
def test_bits_are_packed_as_specified(entry: dict[str, Any]) -> None:
    values = [each for (each,) in struct.iter_unpack("<I", bytes.fromhex(entry["input"]["values"]))]
    assert pack(values, entry["input"]["width"]).hex() == entry["bytes"]


@pytest.mark.parametrize("entry", of_kind("encode"), ids=name)
def test_values_become_elements_as_specified(entry: dict[str, Any]) -> None:
    given = entry["input"]
    values = [each for (each,) in struct.iter_unpack("<f", bytes.fromhex(given["values"]))]
    elements, num_cut = encode(
        given["parameters"], values, given["num_samples"], given["staleness"]
    )
    assert elements == int32(bytes.fromhex(entry["bytes"]))
    assert num_cut == entry["num_saturated"]


@pytest.mark.parametrize("entry", of_kind("grid"), ids=name)
def test_private_sums_are_counted_in_the_steps_specified(entry: dict[str, Any]) -> None:
    given = entry["input"]["parameters"]
    honest = max(given["min_contributors"], given["group"]) - given["num_malicious"]
    milli = given["multiplier_milli"]
    limit = derived(given)["limit"]
    found: list[int] = []
    for log_sigma in range(2, 21):
        bound = isqrt(10**6 * honest * 4**log_sigma) // milli
        most = bound + 16 * 2**log_sigma
        found = [bound, log_sigma, limit // most] if most <= limit else found
    assert found == int32(bytes.fromhex(entry["bytes"]))
    assert entry["cost"] == -(-5 * 10**14 // milli**2)


@pytest.mark.parametrize("entry", of_kind("mask"), ids=name)
def test_masking_as_specified_gives_the_frozen_bodies(entry: dict[str, Any]) -> None:
    given = entry["input"]
    parameters = given["parameters"]
    assert derived(parameters) == entry["derived"]
    seed, public = bytes.fromhex(given["seed"]), bytes.fromhex(given["public_seed"])
    begins = to_bytes(secret_of(parameters, seed)[:9], modulus_of(parameters))
    assert begins.hex() == entry["secret_begins"]
    body = mask(parameters, public, int32(bytes.fromhex(given["values"])), seed)
    assert body.hex() == entry["bytes"]


@pytest.mark.parametrize("entry", of_kind("unmask"), ids=name)
def test_sums_unmask_as_specified(entry: dict[str, Any]) -> None:
    given = entry["input"]
    parameters = given["parameters"]
    secrets = [secret_of(parameters, bytes.fromhex(seed)) for seed in given["secret_seeds"]]
    secret_sum = [sum(column) % modulus_of(parameters) for column in zip(*secrets, strict=True)]
    bodies = [bytes.fromhex(body) for body in given["bodies"]]
    sums = unmask(parameters, bytes.fromhex(given["public_seed"]), bodies, secret_sum)
    bound = len(bodies) * (derived(parameters)["limit"] + noise_of(parameters))
    if entry["expect"] == "ok":
        assert sums == int32(bytes.fromhex(entry["bytes"]))
    assert (max(map(abs, sums)) <= bound) == (entry["expect"] == "ok")


@pytest.mark.parametrize("index", range(4))
def test_a_pairwise_body_is_masked_as_specified(index: int) -> None:
    own = PAIRWISE[f"body {index}"]["input"]
    context = own["task"], bytes.fromhex(own["roster_hash"]), own["round"]
    _, mask_key, self_seed, _ = rows_bytes(PAIRWISE[f"secrets {index}"])
    total = [a + b for a, b in zip(own["values"], page_words(self_seed, 5), strict=True)]
    for other in own["dealers"]:
        if other == index:
            continue
        _, public, _ = rows_bytes(PAIRWISE[f"publics {other}"])
        pair = min(index, other), max(index, other)
        agreed = crypto_box_beforenm(public, mask_key)
        seed = derive(agreed, "agreed", "pairwise", "mask", *context, *pair)
        sign = 1 if index < other else -1
        total = [a + sign * b for a, b in zip(total, page_words(seed, 5), strict=True)]
    body = b"".join((each % (1 << 32)).to_bytes(4, "little") for each in total)
    assert body.hex() == PAIRWISE[f"body {index}"]["bytes"]


@pytest.mark.parametrize("index", range(4))
def test_pairwise_keys_and_shares_are_as_specified(index: int) -> None:
    box, mask_key, self_seed, share_seed = rows_bytes(PAIRWISE[f"secrets {index}"])
    commitment_ = derive(self_seed, "pairwise commitment")
    publics = crypto_scalarmult_base(box) + crypto_scalarmult_base(mask_key) + commitment_
    assert publics.hex() == PAIRWISE[f"publics {index}"]["bytes"]
    limbs = limbs_of(mask_key) + limbs_of(self_seed)
    threshold = PAIRWISE[f"shares {index} for 0"]["input"]["threshold"]
    noise = uniform(share_seed, (threshold - 1) * len(limbs), Q)
    for holder in range(4):
        point = holder + 1
        row = [
            sum(
                each * point**power
                for power, each in enumerate([limb, *noise[column :: len(limbs)]])
            )
            % Q
            for column, limb in enumerate(limbs)
        ]
        assert to_bytes(row, Q).hex() == PAIRWISE[f"shares {index} for {holder}"]["bytes"]


def rows_bytes(entry: Mapping[str, Any]) -> list[bytes]:
    data = bytes.fromhex(entry["bytes"])
    return [data[at : at + 32] for at in range(0, len(data), 32)]


def test_the_worked_example_is_that_of_the_vectors() -> None:
    example = PAGE.split("## 13.")[1]
    entry = of_kind("deal")[0]
    spelled = re.findall(r"[0-9a-f]{6,}", example)
    modulus = entry["input"]["sharing"]["modulus"]
    rows = rows_of(bytes.fromhex(entry["bytes"]), modulus, 3)
    for row in rows:
        assert " ".join(map(str, row)) in re.sub(r"[ |]+", " ", example), row
    for key in ("root", "receipt_of_0"):
        assert entry[key] in spelled, key
