"""What the aggregator takes from a device's telemetry: how fast its link takes bytes.

Telemetry is for people, unsigned, and may be lost. A device that invents a speed is given updates
that suit that speed, nothing else. Pure.
"""

import json
import math
from typing import Final

from protocol import refusals
from protocol.errors import RemoteProtocolError

UPLINK: Final = "uplink_bytes_per_s"
#: Longer telemetry is nobody's who measures.
MAX_BYTES: Final = 8_192


def uplink_speed(payload: bytes) -> float:
    """Return bytes a second, 0 if the device does not know.

    Raises RemoteProtocolError (``malformed``) for what is no JSON object, or no speed.
    """
    if len(payload) > MAX_BYTES:
        raise RemoteProtocolError(refusals.MALFORMED, f"telemetry of {len(payload)} bytes")
    try:
        told = json.loads(payload)
    except (ValueError, RecursionError):
        raise RemoteProtocolError(refusals.MALFORMED, "telemetry is not JSON") from None
    if not isinstance(told, dict):
        raise RemoteProtocolError(refusals.MALFORMED, "telemetry is not an object")
    speed = told.get(UPLINK, 0)
    if type(speed) not in {int, float} or not (math.isfinite(speed) and speed >= 0):
        raise RemoteProtocolError(refusals.MALFORMED, f"telemetry.{UPLINK} is no speed")
    return float(speed)
