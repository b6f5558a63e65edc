"""How large packets of MQTT 5 are, without properties: what travels, and takes its time."""

from typing import Final

CONNECT_BYTES: Final = 64
CONNACK_BYTES: Final = 16
ACK_BYTES: Final = 4
DISCONNECT_BYTES: Final = 2


def packet_bytes(topic: str, payload: bytes, qos: int) -> int:
    """Return the size of a PUBLISH packet."""
    rest = 2 + len(topic.encode()) + (2 if qos else 0) + 1 + len(payload)
    return 1 + max(1, -(-rest.bit_length() // 7)) + rest


def subscribe_bytes(topic_filter: str) -> int:
    """Return the size of a SUBSCRIBE or UNSUBSCRIBE packet for one filter, at most."""
    return 8 + len(topic_filter.encode())
