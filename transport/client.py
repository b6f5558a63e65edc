"""One paho client for one connection. This file and `transport.paho` are where paho is imported.

A client is thrown away with its connection, so no state of an old one (packet ids, a half-read
packet, an unanswered ping) outlives it. Two things are hooks into paho's protected parts, and
nothing else is: `_create_socket`, so that it works on our buffered, already dialled `Stream`; and
`_ping_t`, so that a ping is forgiven when other bytes arrived, or when nobody reads on purpose.
"""

from typing import Final

from paho.mqtt.client import Client
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from transport.settings import MQTT_5, BrokerSettings
from transport.stream import Stream

_VERSIONS: Final = {
    "5": MQTTProtocolVersion.MQTTv5,
    "3.1.1": MQTTProtocolVersion.MQTTv311,
}


class StreamClient(Client):
    """A paho client on a stream of ours, driven by ``loop_read``, ``loop_write``, ``loop_misc``."""

    def __init__(self, settings: BrokerSettings, protocol: str, stream: Stream) -> None:
        mqtt_5 = protocol == MQTT_5
        super().__init__(
            CallbackAPIVersion.VERSION2,
            client_id=settings.client_id,
            clean_session=None if mqtt_5 else settings.clean_start,
            protocol=_VERSIONS[protocol],
            manual_ack=True,
            reconnect_on_failure=False,  # we decide when, and with which protocol
        )
        self._stream = stream
        self.max_inflight_messages_set(0)  # the window is ours
        self.on_socket_register_write = _write_later
        if settings.username is not None:
            self.username_pw_set(settings.username, settings.password)
        if settings.will is not None:
            will = settings.will
            self.will_set(will.topic, will.payload, will.qos, will.retain)

    def open(self, settings: BrokerSettings) -> None:
        """Queue the CONNECT packet."""
        if self.protocol != MQTTProtocolVersion.MQTTv5:
            self.connect(settings.host, settings.port, settings.keepalive_s)
            return
        properties = _properties(PacketTypes.CONNECT)
        properties.ReceiveMaximum = settings.receive_maximum
        properties.SessionExpiryInterval = 0 if settings.clean_start else settings.session_expiry_s
        self.connect(
            settings.host,
            settings.port,
            settings.keepalive_s,
            clean_start=settings.clean_start,
            properties=properties,
        )

    def _create_socket(self) -> Stream:
        return self._stream

    def forgive_ping(self) -> None:
        """Do not hold an unanswered ping against the broker."""
        self._ping_t = 0.0

    @property
    def packet_bytes(self) -> int:
        """Size of the packet being handled, all of it."""
        packet = self._in_packet
        return 1 + len(packet["remaining_count"]) + packet["remaining_length"]


def _write_later(*_: object) -> None:
    """Having this callback keeps paho from writing to the socket whenever it queues a packet."""


def expiry(seconds: int) -> Properties:
    """Return the PUBLISH property that lets a broker forget a message."""
    properties = _properties(PacketTypes.PUBLISH)
    properties.MessageExpiryInterval = seconds
    return properties


def _properties(packet_type: int) -> Properties:
    return Properties(packet_type)  # type: ignore[no-untyped-call] # paho types all but this
