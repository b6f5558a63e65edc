"""Hypothesis strategies for every message, made from the limits in its own annotations."""

from dataclasses import fields
from typing import Any, get_args, get_origin, get_type_hints

from hypothesis import strategies as st

from protocol import messages as plain
from protocol.messages import Limit, Update
from protocol.secagg import messages as masked
from protocol.secagg.messages import AnyMessage as Message
from protocol.secagg.messages import MaskedUpdate

#: Every message there is, and its kind on the wire.
KINDS: dict[type[Message], int] = dict([*plain.KINDS.items(), *masked.KINDS.items()])
#: Long fields are drawn short: their limits have tests of their own.
LONGEST = 40


def _values(annotation: Any) -> st.SearchStrategy[Any]:
    kind, limit = get_args(annotation)
    if get_origin(kind) is tuple:
        items = st.lists(_values(get_args(kind)[0]), min_size=limit.low, max_size=limit.low + 5)
        return items.map(tuple)
    if kind is int:
        return st.integers(limit.low, limit.high)
    return _strings(kind, limit)


def _strings(kind: type, limit: Limit) -> st.SearchStrategy[Any]:
    longest = max(limit.low, min(limit.high, LONGEST))
    if kind is bytes:
        return st.binary(min_size=limit.low, max_size=longest)
    return st.text(min_size=limit.low, max_size=longest)


def of_class(cls: type) -> st.SearchStrategy[Any]:
    """Messages of one class, every field inside its limit."""
    hints = get_type_hints(cls, include_extras=True)
    return st.builds(cls, **{field.name: _values(hints[field.name]) for field in fields(cls)})


messages: st.SearchStrategy[Message] = st.one_of([of_class(cls) for cls in KINDS])
updates: st.SearchStrategy[Update] = of_class(Update)
masked_updates: st.SearchStrategy[MaskedUpdate] = of_class(MaskedUpdate)
