"""Bytes to messages and back: msgpack arrays, every field checked against its limit.

A binary message is one msgpack array, the envelope::

    [wire version, kind, task, sender, counter, body, key id, signature]

and ``body`` holds the message's own array, fields in the order of its class. Whatever the bytes,
decoding returns a message or raises RemoteProtocolError, never anything else.
"""

from collections.abc import Callable, Collection
from dataclasses import fields
from typing import Any, Final, TypeVar, get_args, get_origin, get_type_hints

import msgpack

from protocol import refusals
from protocol.errors import LocalProtocolError, RemoteProtocolError
from protocol.messages import KINDS, WIRE_VERSION, Envelope, Limit, Message, Update

#: What an envelope with its names and keys can add to a body.
ENVELOPE_BYTES: Final = 256

M = TypeVar("M")
#: Takes a decoded value; returns it as its field wants it, or raises _FieldError.
_Reader = Callable[[Any], Any]


class _FieldError(Exception):
    """A value that its field does not take."""


def _scalar_reader(kind: type, limit: Limit) -> _Reader:
    low, high = limit.low, limit.high

    def read_number(value: Any) -> Any:  # noqa: ANN401 - msgpack yields anything
        if type(value) is not int or not low <= value <= high:
            raise _FieldError(f"expected a whole number from {low} to {high}")
        return value

    def read_string(value: Any) -> Any:  # noqa: ANN401
        if not isinstance(value, bytes if kind is bytes else str) or not low <= len(value) <= high:
            raise _FieldError(f"expected {kind.__name__} of {low} to {high}")
        return value

    return read_number if kind is int else read_string


def _tuple_reader(item: _Reader, limit: Limit) -> _Reader:
    def read(value: Any) -> Any:  # noqa: ANN401
        if type(value) is not list or not limit.low <= len(value) <= limit.high:
            raise _FieldError(f"expected {limit.low} to {limit.high} items")
        return tuple(item(element) for element in value)

    return read


def _reader(annotation: Any) -> _Reader:  # noqa: ANN401 - a typing construct
    kind, limit = get_args(annotation)
    if get_origin(kind) is tuple:
        return _tuple_reader(_reader(get_args(kind)[0]), limit)
    return _scalar_reader(kind, limit)


class _Layout:
    """The fields of one class: names, and a reader that knows the limit of each."""

    def __init__(self, cls: type) -> None:
        hints = get_type_hints(cls, include_extras=True)
        self.cls = cls
        self.names = [field.name for field in fields(cls)]
        self.readers = [hints[name] for name in self.names]
        self.readers = [_reader(hint) if get_args(hint) else hint for hint in self.readers]

    def read(self, values: Any) -> Any:  # noqa: ANN401
        """Build the message from its unpacked array."""
        if type(values) is not list or len(values) != len(self.readers):
            raise RemoteProtocolError(
                refusals.MALFORMED, f"{self.cls.__name__}: expected {len(self.readers)} fields"
            )
        try:
            return self.cls(
                *[read(value) for read, value in zip(self.readers, values, strict=True)]
            )
        except _FieldError:
            raise self._named(values) from None

    def _named(self, values: list[Any]) -> RemoteProtocolError:
        for name, read, value in zip(self.names, self.readers, values, strict=True):
            try:
                read(value)
            except _FieldError as error:
                return RemoteProtocolError(
                    refusals.MALFORMED, f"{self.cls.__name__}.{name}: {error}"
                )
        raise AssertionError("a field was refused and then accepted")


def _kind_reader(value: Any) -> int:  # noqa: ANN401
    if type(value) is not int:
        raise _FieldError("expected a kind number")
    return value


def _envelope_layout() -> _Layout:
    layout = _Layout(Envelope)
    layout.readers[layout.names.index("kind")] = _kind_reader
    return layout


_ENVELOPE: Final = _envelope_layout()
_UPDATE: Final = _Layout(Update)
_LAYOUTS: Final = {number: _Layout(cls) for cls, number in KINDS.items()}


def _unpack(data: bytes) -> Any:  # noqa: ANN401
    size = len(data)
    try:
        return msgpack.unpackb(
            data, max_bin_len=size, max_str_len=size, max_array_len=size, max_map_len=0
        )
    except (ValueError, msgpack.UnpackException, RecursionError, OverflowError) as error:
        raise RemoteProtocolError(refusals.MALFORMED, f"not msgpack: {error}") from None


def _pack(value: Message | Update) -> bytes:
    layout = _UPDATE if isinstance(value, Update) else _LAYOUTS[KINDS[type(value)]]
    raw = [list(v) if type(v) is tuple else v for v in (getattr(value, n) for n in layout.names)]
    try:
        layout.read(raw)
    except RemoteProtocolError as error:
        raise LocalProtocolError(f"a message outside its limits: {error.detail}") from None
    packed: bytes = msgpack.packb(raw)
    return packed


def encode(message: Message, *, task: str, sender: str, counter: int) -> bytes:
    """Return the bytes of a message as they travel.

    Raises LocalProtocolError if a field is outside its limit: that is a bug on this side.
    """
    return seal(Envelope(KINDS[type(message)], task, sender, counter, _pack(message)))


def seal(envelope: Envelope) -> bytes:
    """Return the bytes of an envelope. Raises LocalProtocolError outside its limits."""
    values = [getattr(envelope, name) for name in _ENVELOPE.names]
    try:
        _ENVELOPE.read(values)
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
    envelope: Envelope = _ENVELOPE.read(values[1:])
    return envelope


def decode(data: bytes, allowed: Collection[type[M]], *, task: str, sender: str) -> M:
    """Return the message in ``data``, one of the classes ``allowed`` here.

    ``task`` and ``sender`` come from the topic, where the broker's rules prove them. Raises
    RemoteProtocolError: ``malformed``, ``wire_version``, ``wrong_task``, ``wrong_sender`` or
    ``wrong_kind``.
    """
    envelope = open_envelope(data)
    if envelope.task != task:
        raise RemoteProtocolError(refusals.WRONG_TASK, f"for {envelope.task!r}")
    if envelope.sender != sender:
        raise RemoteProtocolError(refusals.WRONG_SENDER, f"from {envelope.sender!r}")
    layout = _LAYOUTS.get(envelope.kind)
    if layout is None or layout.cls not in allowed:
        raise RemoteProtocolError(refusals.WRONG_KIND, f"kind {envelope.kind} here")
    message: M = layout.read(_unpack(envelope.body))
    return message


def encode_update(update: Update) -> bytes:
    """Return an update as it is stored, and cut into chunks to be sent."""
    return _pack(update)


def decode_update(data: bytes) -> Update:
    """Parse a reassembled update. Raises RemoteProtocolError (``malformed``)."""
    update: Update = _UPDATE.read(_unpack(data))
    return update
