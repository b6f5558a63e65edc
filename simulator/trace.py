"""What goes into a state machine and what comes out, recorded in a real run and played again.

Session and coordinator do nothing that their calls do not tell them to. So a machine made from the
same seed, and told the same at the same times, must publish the same bytes, whether a real broker
or a simulated one was around it. `record` notes the calls of a running machine, `replay` repeats
them.

THE SECRETS OF A MACHINE ARE NEVER IN A RECORDING OF IT. Seeds and keys, from which alone the masks,
signatures and sealed boxes of a replay can come, must be handed over another way: whoever replays
makes the machine anew. Nothing outside of tests keeps them (tests/support/remade.py does, in
memory). What a device trained is in its recording, though, as it was before it was masked or
sealed. So a device with keys is recorded only where ``exposed`` says so; nothing in the product
does, and nothing must.
"""

import inspect
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import astuple, dataclass, field
from pathlib import Path
from typing import Any, Final

import msgpack
import numpy as np

from aggregator.actions import Store as StoreRecord
from aggregator.records import Standing, StandingRecord
from device_sdk.trainer import Trained
from protocol.actions import Publish
from protocol.codec import pack, unpack
from protocol.errors import ConfigError, LocalProtocolError, RemoteProtocolError
from protocol.secagg.messages import SignedRoster
from simulator.memory_store import MemoryStore

#: What shells call their machines for.
STIMULI: Final = (
    "start",
    "connected",
    "disconnected",
    "message",
    "timer",
    "trained",
    "failed",
    "asleep",
    "recalled",
    "roster",
    "decreed",
)
PUBLISH: Final = "publish"
_HEAD: Final = ["fedbus trace", 1]


@dataclass(frozen=True, slots=True)
class Entry:
    """At ``at`` (the machine's own seconds) it was told something, or asked for a publish.

    ``what`` is one of `STIMULI` with its ``arguments`` by name, or `PUBLISH` with ``topic``,
    ``payload``, ``retain`` and ``qos``.
    """

    at: float
    what: str
    arguments: Mapping[str, Any] = field(default_factory=dict)

    @property
    def is_out(self) -> bool:
        """It came out of the machine."""
        return self.what == PUBLISH

    @property
    def topic(self) -> str:
        """The topic of a message or a publish, else empty."""
        return str(self.arguments.get("topic", ""))

    @property
    def payload(self) -> bytes:
        """The payload of a message or a publish, else empty."""
        return bytes(self.arguments.get("payload", b""))


def record(machine: object, entries: list[Entry], *, exposed: bool = False) -> None:
    """Append whatever this session or coordinator is told from now on, and what it publishes.

    Raises LocalProtocolError for a device with keys, unless what it trains may be ``exposed``.
    """
    if getattr(machine, "has_keys", False) and not exposed:
        raise LocalProtocolError(
            "this device masks or seals what it trains, and its recording would have that in the"
            " open: record no such device, or, in a test, say exposed=True"
        )
    recorder = _Recorder(entries)
    for name in STIMULI:
        method = getattr(machine, name, None)
        if inspect.ismethod(method):
            setattr(machine, name, recorder.recorded(name, method))


class _Recorder:
    """Notes calls from outside; what a machine calls of itself is no stimulus."""

    def __init__(self, entries: list[Entry]) -> None:
        self._entries = entries
        self._at = 0.0
        self._is_inside = False

    def recorded(
        self, name: str, method: Callable[..., Sequence[object]]
    ) -> Callable[..., Sequence[object]]:
        """Return the method, noting each call from outside."""
        signature = inspect.signature(method)

        def call(*args: object, **kwargs: object) -> Sequence[object]:
            if self._is_inside:
                return method(*args, **kwargs)
            arguments = dict(signature.bind(*args, **kwargs).arguments)
            self._at = arguments.pop("now", self._at)
            arguments.pop("record", None)  # a replay has a store of its own
            self._entries.append(Entry(self._at, name, arguments))
            self._is_inside = True
            try:
                actions = method(*args, **kwargs)
            finally:
                self._is_inside = False
            self._entries += _published(self._at, actions)
            return actions

        return call


def replay(
    machine: object, entries: Iterable[Entry], store: MemoryStore | None = None
) -> list[Entry]:
    """Tell a machine what another was told; return what it publishes.

    ``machine`` must be as new as that one was when its recording began. A coordinator needs a
    ``store``: the one whose snapshot it was made from.
    """
    found: list[Entry] = []
    for entry in entries:
        if entry.is_out:
            continue
        method = getattr(machine, entry.what)
        arguments = dict(entry.arguments)
        if "now" in inspect.signature(method).parameters:
            arguments["now"] = entry.at
        if entry.what == "recalled" and store is not None:
            arguments["record"] = store.lease(arguments["lease_id"])
        actions = method(**arguments)
        if store is not None:
            store.commit([each.record for each in actions if isinstance(each, StoreRecord)])
        found += _published(entry.at, actions)
    return found


def _published(at: float, actions: Iterable[object]) -> list[Entry]:
    return [
        Entry(
            at,
            PUBLISH,
            {"topic": each.topic, "payload": each.payload, "retain": each.retain, "qos": each.qos},
        )
        for each in actions
        if isinstance(each, Publish)
    ]


# --- files --------------------------------------------------------------------------------------


def write_recording(path: Path, entries: Iterable[Entry]) -> None:
    """Write entries as one msgpack array, to a file of mode 0600."""
    rows = [[entry.at, entry.what, dict(entry.arguments)] for entry in entries]
    data = msgpack.packb([*_HEAD, rows], default=_plain)
    path.unlink(missing_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(data)


def read_recording(path: Path) -> list[Entry]:
    """Return what `write_recording` wrote. Raises ConfigError that names the file."""
    try:
        *head, rows = msgpack.unpackb(path.read_bytes())
        if head != _HEAD:
            raise ConfigError(f"{path}: no recording, or of another version")
        return [_entry(at, what, arguments) for at, what, arguments in rows]
    except (ValueError, TypeError, msgpack.UnpackException, RemoteProtocolError) as error:
        raise ConfigError(f"{path}: damaged: {error}") from None


def _plain(value: object) -> object:
    """Return what msgpack can hold for what a shell hands over; `_whole` is its opposite."""
    match value:
        case Trained():
            params = value.params.astype("<f4").tobytes()
            return {
                "params": params,
                "num_samples": value.num_samples,
                "metrics": dict(value.metrics),
            }
        case SignedRoster():
            return pack(value)
        case StandingRecord():
            return astuple(value)
        case Standing():
            return value.value
    raise TypeError(f"a recording cannot hold a {type(value).__name__}")


def _entry(at: float, what: str, arguments: dict[str, Any]) -> Entry:
    """Return an entry with arguments as shells hand them over."""
    if what not in (*STIMULI, PUBLISH):
        raise ValueError(f"nobody can be told {what!r}")
    if "trained" in arguments:
        trained = arguments["trained"]
        params = np.frombuffer(trained["params"], "<f4").astype(np.float32)
        arguments["trained"] = Trained(params, trained["num_samples"], trained["metrics"])
    if "signed" in arguments:
        arguments["signed"] = unpack(arguments["signed"], SignedRoster)
    if "standings" in arguments:
        arguments["standings"] = [
            StandingRecord(device, Standing(standing), *rest)
            for device, standing, *rest in arguments["standings"]
        ]
    return Entry(at, what, arguments)
