"""One paho client for one connection. This file and `transport.paho` are where paho is imported.

A client is thrown away with its connection, so no state of an old one (packet ids, a half-read
packet, an unanswered ping) outlives it. Three things reach into paho's protected parts, and
nothing else does:

- `_create_socket`, so that paho works on our buffered, already dialled `Stream`;
- `_handle_publish`, as paho builds five objects for a PUBLISH, one of them from 27 properties that
  we do not use; decoding it here takes half of the time of all receiving off;
- `_ping_t`, so that a ping is forgiven when other bytes came, or when nobody reads on purpose.

tests/transport/test_client.py fails when a release of paho moves one of them.
"""

import struct
import time
from collections.abc import Callable
from typing import Final, NamedTuple

from paho.mqtt.client import Client
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from transport.settings import MQTT_5, BrokerSettings
from transport.stream import Stream

_VERSIONS: Final = {
    "5": MQTTProtocolVersion.MQTTv5,
    "3.1.1": MQTTProtocolVersion.MQTTv311,
}


_PACKET_ID: Final = struct.Struct(">H")
_PUBACK: Final = struct.Struct(">BBH")


class Received(NamedTuple):
    """A PUBLISH as decoded; ``packet_id`` is 0 for QoS 0, ``size_bytes`` the whole packet's."""

    topic: bytes
    payload: bytes
    retain: bool
    packet_id: int
    size_bytes: int


class StreamClient(Client):
    """A paho client on a stream of ours, driven by ``loop_read``, ``loop_write``, ``loop_misc``.

    ``on_publish_packet`` gets each PUBLISH, instead of paho's ``on_message``.
    """

    def __init__(
        self,
        settings: BrokerSettings,
        protocol: str,
        stream: Stream,
        on_publish_packet: Callable[[Received], None],
    ) -> None:
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
        self._on_publish_packet = on_publish_packet
        self._mqtt_5 = mqtt_5
        self.max_inflight_messages_set(0)  # the window is ours
        self.on_socket_register_write = _write_later
        if settings.username is not None:
            self.username_pw_set(settings.username, settings.password)
        if settings.will is not None:
            will = settings.will
            self.will_set(will.topic, will.payload, will.qos, will.retain)

    def open(self, settings: BrokerSettings) -> None:
        """Queue the CONNECT packet."""
        if not self._mqtt_5:
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

    def acknowledge(self, packet_id: int) -> None:
        """Send a PUBACK: straight into the stream's buffer, so that many leave in one send."""
        try:
            self._stream.send(_PUBACK.pack(0x40, 2, packet_id))
        except BlockingIOError:
            self.ack(packet_id, 1)  # into paho's queue, then

    def read(self) -> None:
        """Read the next packet: a PUBLISH that is here as a whole without paho's detours."""
        if not self._in_packet["command"]:
            publish = self._stream.next_publish()
            if publish is not None:
                self._last_msg_in = time.monotonic()  # for paho's keepalive
                self._take_publish(*publish)
                return
        result = self._packet_read()  # one, where paho's loop_read takes many
        if result > 0:
            self._loop_rc_handle(result)

    def _handle_publish(self) -> MQTTErrorCode:
        packet = self._in_packet
        body = bytes(packet["packet"])
        self._take_publish(
            packet["command"] & 0x0F, body, 1 + len(packet["remaining_count"]) + len(body)
        )
        return MQTTErrorCode.MQTT_ERR_SUCCESS

    def _take_publish(self, flags: int, body: bytes, size_bytes: int) -> None:
        """Decode a PUBLISH. What is malformed raises ValueError or struct.error."""
        position = 2 + _PACKET_ID.unpack_from(body)[0]
        topic = body[2:position]
        packet_id = 0
        qos = flags >> 1 & 3
        if qos > 1:
            raise ValueError(f"QoS {qos}, and we never ask for more than 1")
        if qos:
            packet_id = _PACKET_ID.unpack_from(body, position)[0]
            position += 2
        if self._mqtt_5:
            position = _behind_properties(body, position)
        if position > len(body) or not topic or (qos and not packet_id):
            raise ValueError("a PUBLISH that is cut short, or lacks its topic or packet id")
        self._on_publish_packet(
            Received(topic, body[position:], bool(flags & 1), packet_id, size_bytes)
        )


def _behind_properties(body: bytes, position: int) -> int:
    """Skip the properties, whose length comes first, seven bits a byte. May end beyond ``body``."""
    length = shift = 0
    for digit in body[position : position + 4]:
        position += 1
        length |= (digit & 0x7F) << shift
        if digit < 0x80:  # noqa: PLR2004 -- the continuation bit
            return position + length
        shift += 7
    raise ValueError("a property length that does not end")


def _write_later(*_: object) -> None:
    """Having this callback keeps paho from writing to the socket whenever it queues a packet."""


def expiry(seconds: int) -> Properties:
    """Return the PUBLISH property that lets a broker forget a message."""
    properties = _properties(PacketTypes.PUBLISH)
    properties.MessageExpiryInterval = seconds
    return properties


def _properties(packet_type: int) -> Properties:
    return Properties(packet_type)  # type: ignore[no-untyped-call] # paho types all but this
