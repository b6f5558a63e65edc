"""What is fuzzed: every decoder of bytes that others send. Each takes any bytes and says nothing.

A decoder may refuse (RemoteProtocolError; ConfigError where people write the text); whatever else
it raises is a finding. What it takes must survive being written and read again.
"""

import contextlib
import json
from collections.abc import Callable, Sequence
from typing import Final

import numpy as np

from aggregator.telemetry import saturated_values, uplink_speed
from device_sdk.config import parse_bytes
from device_sdk.engine.spec import parse_spec
from device_sdk.held import MODEL, unpack_held
from device_sdk.identity import parse_keys
from device_sdk.plan import read_plan
from device_sdk.redeem import parse_token
from device_sdk.twins import Twins
from fedbus import denials
from fedbus.announcements import Collector, announced_text, parse_announced
from fedbus.screen import picture
from fedbus.status import status_lines
from fedbus.view import TaskView
from protocol import codec, identity, joining
from protocol.errors import ConfigError, RemoteProtocolError
from protocol.locked import is_locked
from protocol.messages import Difference, Plan, Update
from protocol.secagg import fixedpoint, keys
from protocol.secagg.common import read_named
from protocol.secagg.field import Q31, from_bytes
from protocol.secagg.messages import (
    MaskedUpdate,
    RecoveryRequest,
    Shares,
    SignedRoster,
)
from protocol.secagg.requests import open_request
from protocol.secagg.roster import open_roster
from protocol.secagg.sealing import Boxes
from protocol.staleness import parse_staleness
from protocol.topics import Topics, check_id
from protocol.vectors import packing, sparse
from protocol.vectors.hidden import parse_downlink
from protocol.vectors.layout import Layout, Tensor, params_from_bytes
from tests.support.enrolment import cohort
from tests.support.messages import KINDS
from transport import Message
from transport.config import BrokerConfig

Target = Callable[[bytes], None]

_TOPICS: Final = Topics("fedbus/1", "t")
LAYOUT: Final = Layout((Tensor("w", (25, 4)), Tensor("b", (4,))))
SEED: Final = bytes(32)
CODECS: Final = [
    packing.parse_codec(f"{support}/{dtype}")
    for support in ("dense", "topk-0.1", "topk-0.9", "randk-0.3")
    for dtype in ("float32", "float16", "int8", "int4", "ternary")
]
CLASSES: Final = (*KINDS, Update, Difference, MaskedUpdate)
COHORT: Final = cohort("abcde")
_WATCHED: Final = (
    *(_TOPICS.monitor(what) for what in ("aggregator", "rounds", "metrics", "devices", "alerts")),
    *(_TOPICS.info("a"), _TOPICS.telemetry("a")),
)


def envelopes(data: bytes) -> None:
    """The envelope, and the message in it, whatever its kind."""
    with contextlib.suppress(RemoteProtocolError):
        envelope = codec.open_envelope(data)
        assert codec.open_envelope(codec.seal(envelope)) == envelope
        for cls in KINDS:
            with contextlib.suppress(RemoteProtocolError):
                codec.read(envelope, (cls,), task=envelope.task, sender=envelope.sender)


def bodies(data: bytes) -> None:
    """The arrays of all classes; the first byte chooses one."""
    cls = CLASSES[_first(data) % len(CLASSES)]
    with contextlib.suppress(RemoteProtocolError):
        message = codec.unpack(data[1:], cls)
        assert codec.unpack(codec.pack(message), cls) == message


def updates(data: bytes) -> None:
    """The numbers of an update; the first byte chooses its codec."""
    spec = CODECS[_first(data) % len(CODECS)]
    with contextlib.suppress(RemoteProtocolError):
        decoded = packing.decode(data[1:], spec, LAYOUT, support_seed=SEED).dense()
        assert decoded.shape == (LAYOUT.size,)
        assert np.isfinite(decoded).all()


def params(data: bytes) -> None:
    """A model's numbers."""
    with contextlib.suppress(RemoteProtocolError):
        found = params_from_bytes(data, len(data) // 4)
        assert np.isfinite(found).all()


def indices(data: bytes) -> None:
    """Coordinates, in every coding; the first two bytes are the size and the count."""
    size = 1 + 4 * _first(data)
    count = 1 + _first(data[1:]) % size
    for read in (sparse.decode_indices, read_named):
        with contextlib.suppress(RemoteProtocolError):
            found = read(data[2:], size, count)
            assert (np.diff(found) > 0).all()
            assert not found.size or 0 <= found[0] <= found[-1] < size


def elements(data: bytes) -> None:
    """Masked numbers; the first byte chooses their width."""
    width = 1 + _first(data) % 32
    count = 8 * max(0, len(data) - 1) // width
    with contextlib.suppress(RemoteProtocolError):
        found = fixedpoint.unpack(data[1:], width, count)
        assert fixedpoint.pack(found, width) == data[1:]
    with contextlib.suppress(RemoteProtocolError):
        assert (from_bytes(data[1:], Q31, (len(data) - 1) // 4) < Q31).all()


def topics(data: bytes) -> None:
    """Topic names."""
    with contextlib.suppress(RemoteProtocolError):
        _TOPICS.parse(data.decode("utf-8", "replace"))


def plans(data: bytes) -> None:
    """The plan's documents, and a model spec on its own."""
    text = data.decode("latin-1")
    with contextlib.suppress(RemoteProtocolError):
        read_plan(Plan(text, "{}", "dense/float32"))
    with contextlib.suppress(RemoteProtocolError):
        read_plan(Plan('{"input": [2]}', text, "dense/float32"))
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        return
    with contextlib.suppress(ConfigError):
        parse_spec(document if isinstance(document, dict) else {})


def words(data: bytes) -> None:
    """Names of codecs, rules and sizes."""
    text = data.decode("latin-1")
    parsers: Sequence[Callable[[str], object]] = (
        packing.parse_codec,
        parse_downlink,
        parse_staleness,
        parse_bytes,
    )
    for parse in parsers:
        with contextlib.suppress(ConfigError):
            parse(text)


def rosters(data: bytes) -> None:
    """A roster that the operator's key has signed, whatever it says."""
    signature = keys.sign(SEED, keys.ROSTER, data)
    with contextlib.suppress(RemoteProtocolError):
        found = open_roster(SignedRoster(data, signature), keys.identity_public(SEED))
        assert found.body == data


def requests(data: bytes) -> None:
    """A request that the aggregator's key has signed, whatever it asks."""
    signature = keys.sign(COHORT.aggregator, keys.REQUEST, data)
    with contextlib.suppress(RemoteProtocolError):
        asked = open_request(RecoveryRequest(data, signature), COHORT.roster)
        assert len(asked.masks) >= COHORT.roster.parameters.min_contributors


def shares(data: bytes) -> None:
    """Sealed shares, and certificates."""
    boxes = Boxes(COHORT.roster, 0, COHORT.epoch_secret("a"))
    with contextlib.suppress(RemoteProtocolError):
        boxes.open(Shares(COHORT.roster.hash, data[:24].ljust(24, b"\0"), data[24:]), 1)
    with contextlib.suppress(RemoteProtocolError):
        identity.open_certificate(data, COHORT.enrolment)


def joinings(data: bytes) -> None:
    """What devices with a one-time token ask for, and are answered; also under the right token."""
    with contextlib.suppress(RemoteProtocolError):
        joining.asked_for(data)
        joining.open_request(data, SEED)
    with contextlib.suppress(RemoteProtocolError):
        joining.open_reply(data, SEED, SEED)
    with contextlib.suppress(RemoteProtocolError):
        asked = codec.unpack(data, joining.Request)
        joining.open_request(joining.ask(asked, SEED, SEED), SEED)
    with contextlib.suppress(RemoteProtocolError):
        joining.open_reply(joining.answer(codec.unpack(data, joining.Reply), SEED), SEED, SEED)


def files(data: bytes) -> None:
    """What is read from a device's own files, which a full disk or an old version may have cut."""
    unpack_held({MODEL: data})
    text = data.decode("latin-1")
    is_locked(text)
    for parse in (parse_keys, parse_token, parse_announced):
        with contextlib.suppress(ConfigError):
            parse(text)


def denied(data: bytes) -> None:
    """Whom an aggregator wants denied, to `fedbus broker up`."""
    with contextlib.suppress(ConfigError):
        for name in denials.named(data):
            check_id(name, "device")


def telemetry(data: bytes) -> None:
    """What the aggregator reads of telemetry, and counts with."""
    for read in (uplink_speed, saturated_values):
        with contextlib.suppress(RemoteProtocolError):
            assert 0 <= float(read(data)) < float("inf")


def births(data: bytes) -> None:
    """A birth, to a twin and to `fedbus enrol collect`."""
    Twins("b").hear(data, retained=True)
    collector = Collector(BrokerConfig(), _TOPICS)
    collector.handle(Message(_TOPICS.info("a"), data, retain=True, token=0))
    assert parse_announced(announced_text(collector.announced)) == collector.announced


def views(data: bytes) -> None:
    """Reports and what devices say of themselves, to `fedbus watch` and `fedbus status`."""
    view = TaskView(_TOPICS)
    for topic in _WATCHED:
        view.see(topic, data)
    for line in status_lines(view):
        assert line.isprintable(), line
    picture(view, title="t", max_rows=5)


def _first(data: bytes) -> int:
    return data[0] if data else 0


TARGETS: Final[dict[str, Target]] = {
    each.__name__: each
    for each in (
        *(envelopes, bodies, updates, params, indices, elements, topics, plans, words),
        *(rosters, requests, shares, joinings, files, denied, telemetry, births, views),
    )
}
