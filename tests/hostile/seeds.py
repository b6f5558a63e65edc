"""Good inputs of every target, for the search to begin from."""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

import numpy as np

from aggregator.telemetry import SATURATED, UPLINK
from device_sdk.held import HeldModel, pack_held
from device_sdk.redeem import Token, token_text
from fedbus.announcements import Announcement, announced_text
from protocol import joining
from protocol.codec import encode, pack
from protocol.identity import Certificate, certify, identity_public
from protocol.messages import Update
from protocol.secagg import fixedpoint
from protocol.secagg.requests import make_request
from protocol.topics import Topics
from protocol.vectors import packing, sparse
from tests.hostile.targets import CLASSES, CODECS, COHORT, LAYOUT
from tests.simulation.test_garbage_decoders import MESSAGES

_SEED: Final = bytes(32)
_MODEL: Final = {
    "input": [8, 8, 1],
    "layers": [
        {"type": "conv2d", "filters": 2, "kernel": 3, "name": "a"},
        {"type": "relu"},
        {"type": "flatten"},
        {"type": "dense", "units": 3},
    ],
    "loss": "softmax_cross_entropy",
}
_TRAINING: Final = {"epochs": 2, "batch_size": 8, "learning_rate": 0.1, "trainable": ["*dense*"]}

_BIRTH: Final = {
    "boot": "a",
    "next_epoch": {"epoch": 2, "key": "00" * 32, "endorsement": "00" * 64},
}
#: What a device tells of itself, and all reports of an aggregator in one.
_TOLD: Final = {"turned_away": "x", "bytes_up": 9, "bytes_down": 1e6, "receipts": 3}
_REPORT: Final = {
    "state": "online",
    "mqtt": "5",
    "mode": "rounds",
    "version": 7,
    "waiting_for": "x",
    "evaluated_version": 7,
    "accuracy": 0.8,
    "updates_accepted": 3,
    "late": ["a"],
    "refused": {"too_stale": 2},
    "offline_names": ["a"],
    "alerts": ["a: x"],
    "training": {"a": "version 7"},
    "leases": {"rule": "x", "held_back_by": "x", "floor": "x", "sites": {"s": {"training": 1}}},
    "privacy": {"mechanism": "x", "epsilon": 1.5, "delta": 1e-5, "since_version": 3},
    "epochs": {"all": {"epoch": 1, "devices": 5, "ends_in_s": 60}},
    "stalls": {"all": {"left": 2, "needed": 3, "what": "x", "kept_out": ["b"], "to_enrol": 1}},
    "buffers": [{"cohort": "all", "state": "recovering", "missing_from": ["a"], "holders": 3}],
    "round": {"cohort": "all", "needed": 3, "waits_for": "shares", "missing_from": ["a"]},
}


def seeds() -> Mapping[str, Sequence[bytes]]:
    """Return them by the name of the target."""
    topics = Topics("fedbus/1", "t")
    device = (topics.state("a"), topics.out("a"), topics.into("a"), topics.update(0, "a"))
    task = (topics.plan(), topics.manifest(), topics.model(3, 0), topics.roster("all"))
    request = make_request(COHORT.roster, {0: 1, 1: 2, 2: 3}, COHORT.aggregator)
    certificate = Certificate("t", "a", identity_public(_SEED), 1)
    held = HeldModel(3, _SEED, np.zeros(4, np.float32))
    return {
        "envelopes": [encode(each, task="t", sender="a", counter=7) for each in MESSAGES],
        "bodies": list(_bodies()),
        "updates": list(_updates()),
        "params": [np.arange(4, dtype="<f4").tobytes()],
        "indices": list(_indices()),
        "elements": [bytes([width - 1]) + _element_bytes(width) for width in (1, 8, 13, 16, 31)],
        "topics": [each.encode() for each in (*device, *task, topics.monitor("rounds"))],
        "plans": [json.dumps(each).encode() for each in (_MODEL, _TRAINING)],
        "words": [*(str(codec).encode() for codec in CODECS), b"polynomial-0.5", b"32 MiB"],
        "rosters": [COHORT.roster.body],
        "requests": [request.body],
        "shares": [bytes(100), certify(certificate, _SEED)],
        "joinings": list(_joinings()),
        "files": [pack_held(held, _MODEL), *map(str.encode, _texts())],
        "denied": [json.dumps({"devices": ["a", "monitor"]}).encode()],
        "telemetry": [json.dumps({UPLINK: 1.5, SATURATED: 9}).encode()],
        "births": [json.dumps(_BIRTH).encode()],
        "views": [json.dumps(each).encode() for each in (_TOLD, _REPORT)],
    }


def _texts() -> Iterator[str]:
    yield json.dumps(COHORT.keys["a"])
    yield token_text(Token("t", "fedbus/1", "a", "h", 1, "p", _SEED, "", "", "all", 1))
    yield announced_text({"a": Announcement(2, _SEED, bytes(64))})


def _joinings() -> Iterator[bytes]:
    own = identity_public(_SEED)
    yield joining.ask(joining.Request("t", "a", own, own, 0, b"", b""), _SEED, _SEED)
    yield joining.answer(joining.Reply(own, b"", b"", own, own, "no such token"), _SEED)


def _bodies() -> Iterator[bytes]:
    for each in (*MESSAGES, Update(3, "dense/float32", 9, b"body")):
        yield bytes([CLASSES.index(type(each))]) + pack(each)


def _updates() -> Iterator[bytes]:
    delta = np.linspace(-1, 1, LAYOUT.size, dtype=np.float32)
    for at, codec in enumerate(CODECS):
        body = packing.encode(delta, codec, LAYOUT, rounding_seed=_SEED, support_seed=_SEED)
        yield bytes([at]) + body


def _indices() -> Iterator[bytes]:
    for size, count in ((401, 4), (1021, 200), (5, 5)):
        chosen = np.arange(count, dtype=np.int64)
        yield bytes([(size - 1) // 4, count - 1]) + sparse.encode_indices(chosen, size)


def _element_bytes(width: int) -> bytes:
    return fixedpoint.pack(np.zeros(16, np.int64), width)
