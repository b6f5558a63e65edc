"""JSON that somebody else wrote: births, telemetry, reports, plans. All of it is an object."""

import json
from typing import Any

from protocol import refusals
from protocol.errors import RemoteProtocolError


def read_object(text: str | bytes, what: str) -> dict[str, Any]:
    """Return the object that a JSON text stands for; ``what`` names it in the error.

    Raises RemoteProtocolError (``malformed``) for anything else, however deep it is.
    """
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        raise RemoteProtocolError(refusals.MALFORMED, f"{what} is not JSON") from None
    if not isinstance(value, dict):
        raise RemoteProtocolError(refusals.MALFORMED, f"{what} is not a JSON object")
    return value
