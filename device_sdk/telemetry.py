"""What a device tells of itself now and then, for people: one small JSON object."""

import json
from collections.abc import Mapping
from typing import Any

from device_sdk.session import Session
from transport import Counters


def telemetry(
    health: Mapping[str, Any],
    session: Session,
    traffic: Counters,
    *,
    declined: str,
    num_corrupt: int,
) -> bytes:
    """Return the JSON. ``declined``: why it would not train; ``num_corrupt`` items were unreadable.

    ``declined``, ``failed`` and ``turned_away`` are reasons, and there only when there is one.
    """
    report = {
        **health,
        "state": session.state.value,
        "bytes_up": traffic.bytes_up,
        "bytes_down": traffic.bytes_down,
        "queue": int(session.pending is not None),
        "storage_corrupt": num_corrupt,
        **session.counts,
    }
    if traffic.uplink_bytes_per_s:
        report["uplink_bytes_per_s"] = round(traffic.uplink_bytes_per_s)
    why = {"declined": declined, "failed": session.failure, "turned_away": session.turned_away}
    report |= {name: reason for name, reason in why.items() if reason}
    return json.dumps(report, sort_keys=True).encode()
