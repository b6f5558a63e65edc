"""What goes into a state machine and what comes out, recorded in a real run and played again.

Session and coordinator do nothing that their calls do not tell them to. So a machine made from the
same seed, and told the same at the same times, must publish the same bytes, whether a real broker
or a simulated one was around it. `record` notes the calls of a running machine, `replay` repeats
them. Plain tasks only: the secrets of secure ones are not written down.
"""

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import msgpack
import numpy as np

from aggregator.actions import Store as StoreRecord
from device_sdk.trainer import Trained
from protocol.actions import Publish
from protocol.errors import ConfigError
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


def record(machine: object, entries: list[Entry]) -> None:
    """Append whatever this session or coordinator is told from now on, and what it publishes."""
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
    """Write entries as one msgpack array."""
    rows = [[entry.at, entry.what, dict(entry.arguments)] for entry in entries]
    path.write_bytes(msgpack.packb([*_HEAD, rows], default=_plain))


def read_recording(path: Path) -> list[Entry]:
    """Return what `write_recording` wrote. Raises ConfigError that names the file."""
    try:
        *head, rows = msgpack.unpackb(path.read_bytes())
        if head != _HEAD:
            raise ConfigError(f"{path}: no recording, or of another version")
        return [_entry(at, what, arguments) for at, what, arguments in rows]
    except (ValueError, TypeError, msgpack.UnpackException) as error:
        raise ConfigError(f"{path}: damaged: {error}") from None


def _plain(value: object) -> Mapping[str, object]:
    if isinstance(value, Trained):
        metrics = dict(value.metrics)
        params = value.params.astype("<f4").tobytes()
        return {"params": params, "num_samples": value.num_samples, "metrics": metrics}
    raise TypeError(f"a recording cannot hold a {type(value).__name__}")


def _entry(at: float, what: str, arguments: dict[str, Any]) -> Entry:
    if what not in (*STIMULI, PUBLISH):
        raise ValueError(f"nobody can be told {what!r}")
    trained = arguments.get("trained")
    if trained is not None:
        params = np.frombuffer(trained["params"], "<f4").astype(np.float32)
        arguments["trained"] = Trained(params, trained["num_samples"], trained["metrics"])
    return Entry(at, what, arguments)
