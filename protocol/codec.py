"""Bytes to messages and back: msgpack arrays, every field checked against its limit.

A binary message is one msgpack array, the envelope::

    [wire version, kind, task, sender, counter, body, key id, signature]

and ``body`` holds the message's own array, fields in the order of its class. Those at the end that
were added to the protocol later (`protocol.messages.ADDED`) are left out as long as they hold their
defaults, so that older programs read what says nothing new. Whatever the bytes, decoding returns a
message or raises RemoteProtocolError, never anything else.
"""

import itertools
from collections.abc import Callable, Collection, Iterable
from dataclasses import fields, replace
from typing import (
    TYPE_CHECKING,
    Any,
    Final,
    NamedTuple,
    TypeVar,
    get_args,
    get_origin,
    get_type_hints,
)

import msgpack

from protocol import refusals
from protocol.errors import LocalProtocolError, RemoteProtocolError
from protocol.messages import ADDED, KINDS, SIGNATURE_BYTES, WIRE_VERSION, Envelope, Limit, Update

if TYPE_CHECKING:
    from protocol.secagg.messages import AnyMessage, MaskedUpdate

#: What an envelope with its names and keys can add to a body.
ENVELOPE_BYTES: Final = 256

M = TypeVar("M")


class _Field(NamedTuple):
    """What a field takes: its type on the wire, and its limits; ``item`` for those of a list."""

    name: str
    kind: type
    low: int
    high: int
    item: "_Field | None" = None

    @property
    def check(self) -> "_Check":
        return self.kind, self.low, self.high, self

    def __str__(self) -> str:
        return f"{self.name}: expected {self.kind.__name__} of {self.low} to {self.high}"


#: A field as a bare tuple: it is taken apart for each value of each message.
_Check = tuple[Any, int, int, _Field]

_ANY_NUMBER: Final = Limit(-(1 << 63), (1 << 64) - 1)


def _field(name: str, annotation: Any) -> _Field:  # noqa: ANN401 - a typing construct
    kind, limit = get_args(annotation) or (annotation, _ANY_NUMBER)
    if get_origin(kind) is not tuple:
        return _Field(name, kind, limit.low, limit.high)
    return _Field(name, list, limit.low, limit.high, _field(f"{name}[]", get_args(kind)[0]))


class _Layout:
    """The fields of one class, in order; reads an unpacked array into the class."""

    def __init__(self, cls: type) -> None:
        hints = get_type_hints(cls, include_extras=True)
        self.cls = cls
        self.fields = tuple(_field(field.name, hints[field.name]) for field in fields(cls))
        self.defaults = [field.default for field in fields(cls) if field.metadata == ADDED]
        self._num_needed = len(self.fields) - len(self.defaults)
        self.names = [field.name for field in self.fields]
        self._checks = [field.check for field in self.fields]
        self._lists = [at for at, field in enumerate(self.fields) if field.item is not None]

    def read(self, values: Any) -> Any:  # noqa: ANN401 - msgpack yields anything
        """Build the message; its lists become tuples. Raises RemoteProtocolError."""
        return self.cls(*self.check(values))

    def check(self, values: Any) -> list[Any]:  # noqa: ANN401
        """Return what the message is built from. Raises RemoteProtocolError."""
        if type(values) is not list or not self._num_needed <= len(values) <= len(self.fields):
            raise self._malformed(f"{len(self.fields)} fields expected")
        values += self.defaults[len(values) - self._num_needed :]
        if (wrong := _first_wrong(values, self._checks)) is not None:
            raise self._malformed(str(wrong))
        for at in self._lists:
            item = self.fields[at].item
            if item is not None and not _all_fit(values[at], item):
                raise self._malformed(str(item))
            values[at] = tuple(values[at])
        checked: list[Any] = values
        return checked

    def shortened(self, values: list[Any]) -> list[Any]:
        """Return the values without those at the end that say nothing new."""
        end = len(values)
        for default in reversed(self.defaults):
            if values[end - 1] != default:
                break
            end -= 1
        return values[:end]

    def _malformed(self, problem: str) -> RemoteProtocolError:
        return RemoteProtocolError(refusals.MALFORMED, f"{self.cls.__name__}.{problem}")


def _first_wrong(values: Iterable[Any], checks: Iterable[_Check]) -> _Field | None:
    # One loop without calls: every message of every device comes through here.
    for value, (kind, low, high, field) in zip(values, checks, strict=False):
        if type(value) is not kind or not low <= (value if kind is int else len(value)) <= high:
            return field
    return None


def _all_fit(items: list[Any], item: _Field) -> bool:
    if item.kind is not bytes:
        return _first_wrong(items, itertools.repeat(item.check)) is None
    # A manifest's thousands of ids are checked in C.
    if not items:
        return True
    if set(map(type, items)) != {bytes}:
        return False
    return item.low <= min(map(len, items)) and max(map(len, items)) <= item.high


_ENVELOPE: Final = _Layout(Envelope)
# Of the classes that have travelled: a device sees a few of them only.
_KINDS: Final[dict[type, int]] = dict(KINDS)
_LAYOUTS: Final[dict[type, _Layout]] = {}


def _unpack(data: bytes) -> Any:  # noqa: ANN401
    size = len(data)
    try:
        return msgpack.unpackb(
            data, max_bin_len=size, max_str_len=size, max_array_len=size, max_map_len=0
        )
    except (ValueError, msgpack.UnpackException, RecursionError, OverflowError) as error:
        raise RemoteProtocolError(refusals.MALFORMED, f"not msgpack: {error}") from None


def _layout(cls: type) -> _Layout:
    layout = _LAYOUTS.get(cls)
    if layout is None:
        layout = _LAYOUTS[cls] = _Layout(cls)
    return layout


def _kind(cls: type) -> int:
    kind = _KINDS.get(cls)
    if kind is None:
        from protocol.secagg import messages  # noqa: PLC0415 - in secure tasks only

        _KINDS.update(messages.KINDS)
        kind = _KINDS[cls]
    return kind


def pack(value: object) -> bytes:
    """Return a dataclass whose fields carry limits as one msgpack array, without an envelope.

    Raises LocalProtocolError if a field is outside its limit.
    """
    layout = _layout(type(value))
    raw = [list(v) if type(v) is tuple else v for v in (getattr(value, n) for n in layout.names)]
    try:
        layout.check(raw)
    except RemoteProtocolError as error:
        raise LocalProtocolError(f"a message outside its limits: {error.detail}") from None
    packed: bytes = msgpack.packb(layout.shortened(raw) if layout.defaults else raw)
    return packed


def unpack(data: bytes, cls: type[M]) -> M:
    """Return what `pack` wrote. Raises RemoteProtocolError (``malformed``) for other bytes."""
    value: M = _layout(cls).read(_unpack(data))
    return value


def encode(
    message: "AnyMessage",
    *,
    task: str,
    sender: str,
    counter: int,
    sign: Callable[[bytes], bytes] | None = None,
    key_id: bytes = b"",
) -> bytes:
    """Return the bytes of a message as they travel; ``sign`` signs all of them before its result.

    ``key_id`` names the key that it signs with. Raises LocalProtocolError if a field is outside
    its limit: that is a bug on this side.
    """
    envelope = Envelope(_kind(type(message)), task, sender, counter, pack(message), key_id)
    if sign is None:
        return seal(envelope)
    unsigned = seal(replace(envelope, signature=bytes(SIGNATURE_BYTES)))[:-SIGNATURE_BYTES]
    return unsigned + sign(unsigned)


def seal(envelope: Envelope) -> bytes:
    """Return the bytes of an envelope. Raises LocalProtocolError outside its limits."""
    values = [getattr(envelope, name) for name in _ENVELOPE.names]
    try:
        _ENVELOPE.check(values)
    except RemoteProtocolError as error:
        raise LocalProtocolError(f"an envelope outside its limits: {error.detail}") from None
    packed: bytes = msgpack.packb([WIRE_VERSION, *values])
    return packed


def open_envelope(data: bytes) -> Envelope:
    """Take the envelope off, its body still unread.

    Raises RemoteProtocolError: ``malformed`` or ``wire_version``.
    """
    values = _unpack(data)
    if type(values) is not list or not values or type(values[0]) is not int:
        raise RemoteProtocolError(refusals.MALFORMED, "not an envelope")
    if values[0] != WIRE_VERSION:
        raise RemoteProtocolError(
            refusals.WIRE_VERSION, f"version {values[0]}, this side speaks {WIRE_VERSION}"
        )
    return Envelope(*_ENVELOPE.check(values[1:]))


def decode(data: bytes, allowed: Collection[type[M]], *, task: str, sender: str) -> M:
    """Return the message in ``data``, one of the classes ``allowed`` here.

    ``task`` and ``sender`` come from the topic, where the broker's rules prove them. Raises
    RemoteProtocolError: ``malformed``, ``wire_version``, ``wrong_task``, ``wrong_sender`` or
    ``wrong_kind``.
    """
    return read(open_envelope(data), allowed, task=task, sender=sender)


def read(envelope: Envelope, allowed: Collection[type[M]], *, task: str, sender: str) -> M:
    """Return the message in an envelope that is open, as `decode` does. Raises as it does."""
    if envelope.task != task:
        raise RemoteProtocolError(refusals.WRONG_TASK, f"for {envelope.task!r}")
    if envelope.sender != sender:
        raise RemoteProtocolError(refusals.WRONG_SENDER, f"from {envelope.sender!r}")
    for cls in allowed:
        if _kind(cls) == envelope.kind:
            message: M = _layout(cls).read(_unpack(envelope.body))
            return message
    raise RemoteProtocolError(refusals.WRONG_KIND, f"kind {envelope.kind} here")


def encode_update(update: "Update | MaskedUpdate") -> bytes:
    """Return an update as it is stored, and cut into chunks to be sent."""
    return pack(update)


def decode_update(data: bytes) -> Update:
    """Parse a reassembled update. Raises RemoteProtocolError (``malformed``)."""
    return unpack(data, Update)
