"""The bus as an interface, and MQTT behind it. Knows nothing of what is said on it.

`transport.paho` is not imported here, so that a simulation loads no MQTT client.
"""

from transport.interface import (
    Connected,
    Counters,
    Disconnected,
    Event,
    Message,
    PacketTooLargeError,
    Pollable,
    PublishRefused,
    QueueFullError,
    Refused,
    SubscribeRefused,
    Transport,
    TransportError,
)
from transport.loop import Loop
from transport.settings import BrokerSettings, Tls, Will

__all__ = [
    "BrokerSettings",
    "Connected",
    "Counters",
    "Disconnected",
    "Event",
    "Loop",
    "Message",
    "PacketTooLargeError",
    "Pollable",
    "PublishRefused",
    "QueueFullError",
    "Refused",
    "SubscribeRefused",
    "Tls",
    "Transport",
    "TransportError",
    "Will",
]
