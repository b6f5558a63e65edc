"""Writes pairwise.json: a round of four devices, step by step, and the rings of sparse graphs.

Run it with ``python -m tests.vectors.make_pairwise``. In ``input``: what the step starts from, with
the bytes of earlier entries by their names; ``bytes`` is what it gives (hex), ``expect`` either
"ok" or the reason of the refusal. Device 3 drops out before it uploads. Running it must change
nothing: a change here means that devices of two versions no longer cancel each other's masks.
"""

import json
from collections.abc import Iterator
from pathlib import Path

from protocol import refusals
from protocol.secagg import pairwise, pairwise_keys
from protocol.secagg.graph import graph
from protocol.secagg.pairwise_keys import Round
from tests.support.pairwise import SEED, World, parameters, roster

PATH = Path(__file__).with_name("pairwise.json")

WORLD = World(Round(roster(parameters(4, 1, 3, size=5)), 7), (0, 1, 2, 3))
OUTCOME = WORLD.outcome(3)

Entry = dict[str, object]


def text() -> str:
    """What the file has to hold."""
    return json.dumps([*_devices(), *_aggregator(), *_bad(), *_graphs()], indent=1) + "\n"


def _entry(name: str, comment: str, given: Entry, data: bytes, expect: str = "ok") -> Entry:
    return {
        "name": name,
        "comment": comment,
        "input": given,
        "bytes": data.hex(),
        "expect": expect,
    }


def _devices() -> Iterator[Entry]:
    context: Entry = {
        "task": WORLD.round.roster.task,
        "roster_hash": WORLD.round.roster.hash.hex(),
        "round": WORLD.round.number,
    }
    for index in WORLD.dealers:
        part, at = WORLD.part(index), {**context, "device": index}
        secrets, publics = part.secrets, WORLD.publics[index]
        own = b"".join((secrets.box_key, secrets.mask_key, secrets.self_seed, secrets.share_seed))
        yield _entry(f"secrets {index}", "box key, mask key, self seed, share seed", at, own)
        yield _entry(f"publics {index}", "box key, mask key, commitment", at, publics.to_bytes())
        signed = pairwise_keys.keys_message(WORLD.round, index, publics)
        yield _entry(f"advertisement {index}", "what is signed", at, signed)
        for holder, pair in pairwise_keys.make_shares(part).items():
            to = {**at, "holder": holder, "threshold": WORLD.round.graph.threshold}
            yield _entry(f"shares {index} for {holder}", "of mask key, of self seed", to, pair)
            if holder != index:
                sealed = pairwise_keys.seal(part, holder, WORLD.publics[holder], pair)
                yield _entry(f"sealed {index} for {holder}", "as it travels", to, sealed)
        values = {**at, "dealers": WORLD.dealers, "values": WORLD.values(index).tolist()}
        yield _entry(f"body {index}", "masked", values, WORLD.body(index))


def _aggregator() -> Iterator[Entry]:
    told: Entry = {"dealers": WORLD.dealers, "survivors": OUTCOME.survivors}
    yield _entry("view", "what every dealer signs", {"dealers": WORLD.dealers}, WORLD.view.message)
    yield _entry("outcome", "what every survivor signs", told, OUTCOME.message)
    signatures = WORLD.signatures(OUTCOME)
    for index in OUTCOME.survivors:
        answer = WORLD.answer(index, OUTCOME, signatures)
        yield _entry(f"answer {index}", "self seeds of 0 to 2, mask key of 3", told, answer)
    result = pairwise.unmask(
        WORLD.round, WORLD.publics, OUTCOME, WORLD.total(OUTCOME), WORLD.answers(OUTCOME)
    )
    yield _entry("sum", "int64, little-endian", told, result.astype("<i8").tobytes())


def _bad() -> Iterator[Entry]:
    answer = WORLD.answer(0, OUTCOME, WORLD.signatures(OUTCOME))
    given: Entry = {"dealers": WORLD.dealers, "survivors": OUTCOME.survivors, "holder": 0}
    cases = (
        ("empty", b"", refusals.MALFORMED),
        ("a byte short", answer[:-1], refusals.MALFORMED),
        ("a share too many", answer + answer[:36], refusals.MALFORMED),
        ("an element not below the prime", b"\xff" * 4 + answer[4:], refusals.MALFORMED),
    )
    for comment, data, reason in cases:
        yield _entry("bad answer", comment, given, data, reason)
    yield _entry("bad answer", "of a dropout", {**given, "holder": 3}, answer,
                 refusals.WRONG_MEMBERS)  # fmt: skip


def _graphs() -> Iterator[Entry]:
    for size in ((50, 5, 35), (51, 5, 36), (100, 10, 70), (128, 12, 96)):
        net = graph(SEED, *size)
        given: Entry = {"seed": SEED.hex(), "num_devices": size[0], "num_malicious": size[1]}
        given |= {"num_answers": size[2], "degree": net.degree, "threshold": net.threshold}
        yield _entry(f"ring of {size[0]}", "devices in order", given, bytes(net.ring))


if __name__ == "__main__":
    PATH.write_text(text(), encoding="utf-8")
