"""Writes secagg.json: secure aggregation, good and bad: ``python -m tests.vectors.make_secagg``.

Bytes are spelled in hex. ``bytes`` is what the call in ``kind`` gives for ``input``, ``expect``
either "ok" or a reason of `protocol.refusals`. Elements are as `field.to_bytes` spells them; values
and sums are little-endian int32, packed values uint32. Running it must change nothing: a change
here means that devices in the field mask or share otherwise than the aggregator unmasks.
"""

import itertools
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np

from protocol import refusals
from protocol.secagg import consistency, scheme, shares
from protocol.secagg.field import P16, Q31, Elements, to_bytes, uniform
from protocol.secagg.fixedpoint import pack
from protocol.secagg.parameters import LIGHTSECAGG, SEEDMASK, Parameters, defaults
from protocol.secagg.shares import Sharing
from protocol.stream import Stream, derive

PATH = Path(__file__).with_name("secagg.json")

SEED = bytes(range(32))
PUBLIC = bytes(range(32, 64))
MASK_ID = b"a mask's name"
SHORT = 9

Entry = dict[str, object]


def text() -> str:
    """What the file has to hold."""
    entries = (
        *_dealt(),
        *_receipts(),
        *_recovered(),
        *_packed(),
        *_encoded(),
        *_grids(),
        *_masked(),
        *_unmasked(),
    )
    return json.dumps(entries, indent=1) + "\n"


def _entry(name: str, kind: str, given: Entry, result: bytes | None, expect: str = "ok") -> Entry:
    entry: Entry = {"name": name, "kind": kind, "input": given}
    if result is not None:
        entry["bytes"] = result.hex()
    return {**entry, "expect": expect}


def _int32(values: Elements) -> bytes:
    return values.astype("<i4").tobytes()


# --- sharing ---------------------------------------------------------------------------------


def _secret(size: int, modulus: int) -> Elements:
    return Stream(derive(SEED, "secret")).integers(modulus, size)


def _dealt() -> Iterator[Entry]:
    for modulus in (P16, Q31):
        for numbers, size in (((3, 3, 2), 3), ((8, 6, 4), 5), ((10, 7, 3), 1)):
            sharing = Sharing(*numbers, modulus)
            secret = _secret(size, modulus)
            rows = shares.deal(secret, sharing, SEED)
            committed = consistency.commitments(MASK_ID, rows, modulus)
            root = consistency.root(MASK_ID, committed)
            given: Entry = {
                "sharing": asdict(sharing),
                "secret": to_bytes(secret, modulus).hex(),
                "seed": SEED.hex(),
                "mask_id": MASK_ID.hex(),
            }
            name = f"shares of {size} elements, N, U, T = {numbers}, modulo {modulus}"
            entry = _entry(name, "deal", given, to_bytes(rows, modulus))
            entry["commitments"] = b"".join(committed).hex()
            entry["root"] = root.hex()
            entry["receipt_of_0"] = consistency.receipt(root, rows[0], modulus).hex()
            yield entry


def _receipts() -> Iterator[Entry]:
    """For shares around 1024 elements, and for one that fills three rows of the table."""
    for modulus, size in ((P16, 1_024), (P16, 1_025), (P16, 2_100), (Q31, 2_048), (Q31, 2_049)):
        row = uniform(PUBLIC, (size + shares.TEST_COLUMNS,), modulus)
        given: Entry = {
            "modulus": modulus,
            "size": size,
            "seed": PUBLIC.hex(),
            "root": SEED.hex(),
        }
        name = f"a receipt for a share of {size} elements modulo {modulus}"
        yield _entry(name, "receipt", given, consistency.receipt(SEED, row, modulus))


def _answers(sharing: Sharing, size: int) -> tuple[Elements, dict[int, Elements]]:
    """The sum of two secrets, and everybody's answer."""
    secret = _secret(2 * size, sharing.modulus).reshape(2, size)
    dealt = [shares.deal(one, sharing, derive(SEED, i)) for i, one in enumerate(secret)]
    answers = {
        holder: shares.add(np.stack([rows[holder] for rows in dealt]), sharing.modulus)
        for holder in range(sharing.num_holders)
    }
    return secret.sum(axis=0) % sharing.modulus, answers


def _recovered() -> Iterator[Entry]:
    for modulus in (P16, Q31):
        sharing = Sharing(8, 5, 3, modulus)
        total, answers = _answers(sharing, 3)
        lied = {holder: answer.copy() for holder, answer in answers.items()}
        lied[6][0] = (lied[6][0] + 1) % modulus
        worse = {**lied, 2: (answers[2] + 1) % modulus}
        failed = refusals.RECOVERY_FAILED
        cases: tuple[tuple[str, Mapping[int, Elements], tuple[int, ...], str], ...] = (
            ("the first five", {h: answers[h] for h in range(5)}, (), "ok"),
            ("the last five", {h: answers[h] for h in range(3, 8)}, (), "ok"),
            ("all", answers, (), "ok"),
            ("one wrong, two to spare", {h: lied[h] for h in range(1, 8)}, (6,), "ok"),
            ("one too few", {h: answers[h] for h in range(4)}, (), failed),
            ("one wrong, one to spare", {h: lied[h] for h in range(2, 8)}, (), failed),
            ("two wrong, three to spare", worse, (), failed),
        )
        for comment, given, liars, expect in cases:
            entry = _entry(
                f"answers modulo {modulus}: {comment}",
                "recover",
                {
                    "sharing": asdict(sharing),
                    "size": 3,
                    "answers": {h: to_bytes(row, modulus).hex() for h, row in given.items()},
                },
                to_bytes(total, modulus) if expect == "ok" else None,
                expect,
            )
            yield {**entry, "liars": liars} if expect == "ok" else entry


# --- bodies ----------------------------------------------------------------------------------


def _packed() -> Iterator[Entry]:
    for width in (1, 8, 11, 16, 24, 31, 32):
        values = Stream(derive(SEED, "packed")).integers(1 << width, 9)
        given: Entry = {"width": width, "values": values.astype("<u4").tobytes().hex()}
        yield _entry(f"nine values of {width} bits", "pack", given, pack(values, width))


def _parameters(name: str, num_devices: int, size: int, bits: int) -> Parameters:
    malicious, noise, answers = defaults(num_devices)
    given = Parameters(
        scheme=name,
        num_devices=num_devices,
        num_malicious=malicious,
        num_noise=noise,
        num_answers=answers,
        min_contributors=malicious + 2,
        max_contributors=num_devices,
        size=size,
        clip=1.0,
        bits=bits,
        samples_cap=100,
    )
    given.check()
    return given


#: The third has two blocks, of which the second is cut off.
COHORTS = (
    _parameters(SEEDMASK, 3, SHORT, 16),
    _parameters(SEEDMASK, 8, SHORT, 12),
    _parameters(SEEDMASK, 8, 1_030, 17),
    _parameters(LIGHTSECAGG, 3, SHORT, 16),
    _parameters(LIGHTSECAGG, 8, 101, 16),
)


def _name(given: Parameters) -> str:
    bits = f", {given.bits} bits" if given.scheme == SEEDMASK else ""
    return f"{given.scheme}, N = {given.num_devices}, {given.size} elements{bits}"


def _values(given: Parameters, device: int) -> Elements:
    """Extreme at first, then anything; the count says 10 samples more for each device."""
    span = 2 * given.limit + 1
    values = Stream(derive(SEED, "values", device)).integers(span, given.size) - given.limit
    values[:2] = given.limit, -given.limit
    values[-1] = given.level(10 * (1 + device)) * given.step
    return values


def _encoded() -> Iterator[Entry]:
    """Values between and beyond the clip, by samples and by versions late."""
    plain = _parameters(SEEDMASK, 8, SHORT, 16)
    values = np.array([0.0, 1.0, -1.0, 1.5, -7.0, 0.1, -0.3, 1e-9], np.float32)
    for rule, num_samples, staleness in (
        ("constant", 37, 5),
        ("polynomial-0.5", 37, 0),
        ("polynomial-0.5", 37, 5),
        ("polynomial-0.5", 250, 500),
        ("hinge-0.25-2", 1, 2),
        ("hinge-0.25-2", 1, 9),
    ):
        given = replace(plain, staleness=rule)
        given.check()
        elements, num_saturated = given.encode(values, num_samples, staleness)
        entry = _entry(
            f"elements of {num_samples} samples, {staleness} versions late, {rule}",
            "encode",
            {
                "parameters": asdict(given),
                "values": values.astype("<f4").tobytes().hex(),
                "num_samples": num_samples,
                "staleness": staleness,
            },
            _int32(elements),
        )
        yield {**entry, "num_saturated": num_saturated}


def _grids() -> Iterator[Entry]:
    """In which steps private sums are counted: bound, log sigma and unit."""
    for plain, milli in itertools.product(COHORTS, (100, 1000, 2345, 5000)):
        given = replace(plain, samples_cap=0, multiplier_milli=milli, budget_nano=10**12)
        given.check()
        entry = _entry(
            f"noise of {milli / 1000:g} times the clip: {_name(given)}",
            "grid",
            {"parameters": asdict(given)},
            _int32(np.array(given.grid)),
        )
        yield {**entry, "cost": given.cost_nano}


def _masked() -> Iterator[Entry]:
    for given in COHORTS:
        chosen = scheme(given.scheme)
        secret, values = chosen.secret(given, SEED), _values(given, 0)
        entry = _entry(
            f"an update: {_name(given)}",
            "mask",
            {
                "parameters": asdict(given),
                "public_seed": PUBLIC.hex(),
                "seed": SEED.hex(),
                "values": _int32(values).hex(),
            },
            body := chosen.mask(given, PUBLIC, secret, values, SEED),
        )
        modulus = chosen.sharing(given).modulus
        derived = {"limit": given.limit, "step": given.step, "levels": given.levels}
        yield {
            **entry,
            "secret_begins": to_bytes(secret[:SHORT], modulus).hex(),
            "derived": derived,
        }
        if given.size > SHORT:
            continue
        wrong = {
            "a byte short": body[:-1],
            "a byte too long": body + b"\0",
            "all bits set": bytes([255]) * len(body),
        }
        for comment, data in wrong.items():
            bad: Entry = {"parameters": asdict(given), "body": data.hex()}
            name = f"an update, {comment}: {_name(given)}"
            yield _entry(name, "add", bad, None, refusals.MALFORMED)


def _unmasked() -> Iterator[Entry]:
    """Sums of three updates; the secrets that are summed are named by their seeds."""
    for given in COHORTS:
        chosen = scheme(given.scheme)
        seeds = [derive(SEED, "device", device) for device in range(3)]
        secrets = [chosen.secret(given, seed) for seed in seeds]
        total, bodies = np.zeros(given.size, np.int64), []
        for device, (seed, secret) in enumerate(zip(seeds, secrets, strict=True)):
            bodies.append(chosen.mask(given, PUBLIC, secret, _values(given, device), seed))
            chosen.add(given, total, bodies[-1])
        secret_sum = np.sum(secrets, axis=0) % chosen.sharing(given).modulus
        sums = chosen.unmask(given, PUBLIC, total, len(bodies), secret_sum)
        right: Entry = {
            "parameters": asdict(given),
            "public_seed": PUBLIC.hex(),
            "bodies": [body.hex() for body in bodies],
            "secret_seeds": [seed.hex() for seed in seeds],
        }
        yield _entry(f"a sum: {_name(given)}", "unmask", right, _int32(sums))
        if given.size > SHORT:
            wrong = {**right, "secret_seeds": [seed.hex() for seed in seeds[1:]]}
            name = f"a sum, a secret missing: {_name(given)}"
            yield _entry(name, "unmask", wrong, None, refusals.RECOVERY_FAILED)


if __name__ == "__main__":
    PATH.write_text(text(), encoding="utf-8")
