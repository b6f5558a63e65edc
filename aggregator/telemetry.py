"""What the aggregator takes from telemetry: how fast a link takes bytes, how much masking cut.

Telemetry is for people, unsigned, and may be lost. A device that invents a speed is given updates
that suit that speed, nothing else; what masking cut is shown. Pure.
"""

from typing import Final

from protocol import refusals
from protocol.errors import RemoteProtocolError
from protocol.json_objects import read_object

UPLINK: Final = "uplink_bytes_per_s"
SATURATED: Final = "saturated_values"
#: Longer telemetry is nobody's who measures.
MAX_BYTES: Final = 8_192
#: A larger number is nobody's either, and with a few hundred digits no float.
MOST: Final = 1 << 62


def uplink_speed(payload: bytes) -> float:
    """Return bytes a second, 0 if the device does not know.

    Raises RemoteProtocolError (``malformed``) for what is no JSON object, or no speed.
    """
    speed = _told(payload).get(UPLINK, 0)
    if not isinstance(speed, int | float) or isinstance(speed, bool) or not 0 <= speed <= MOST:
        raise RemoteProtocolError(refusals.MALFORMED, f"telemetry.{UPLINK} is no speed")
    return float(speed)


def saturated_values(payload: bytes) -> int:
    """Return how many values a device had to cut so far, roughly; 0 if it does not say.

    Raises RemoteProtocolError (``malformed``) for what is no JSON object, or no count.
    """
    count = _told(payload).get(SATURATED, 0)
    if not isinstance(count, int) or isinstance(count, bool) or not 0 <= count <= MOST:
        raise RemoteProtocolError(refusals.MALFORMED, f"telemetry.{SATURATED} is no count")
    return count


def _told(payload: bytes) -> dict[str, object]:
    if len(payload) > MAX_BYTES:
        raise RemoteProtocolError(refusals.MALFORMED, f"telemetry of {len(payload)} bytes")
    return read_object(payload, "telemetry")
