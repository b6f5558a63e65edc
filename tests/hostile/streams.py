"""Byte streams that no honest broker sends: in place of CONNACK, and after it."""

import struct
from collections.abc import Callable, Sequence
from typing import Final

from protocol.identity import Signer
from tests.simulation.garbage import Garbage, signed
from tests.support.fake_broker import CONNACK, PUBLISH, packet

#: A remaining length has at most four bytes; this is the largest.
_LONGEST: Final = b"\xff\xff\xff\x7f"
#: So much of a packet that never ends.
_MUCH: Final = 1 << 20
_BAD_TEXT: Final = (b"", b"\xff\xfe", b"a\0b", b"#", b"+/+", b"\xed\xa0\x80", b"x" * 70_000)


class Streams:
    """Draws streams from one seed. ``topics`` are those that the victim listens to.

    Half of the payloads are signed by ``signer``, if there is one, in the name of ``sender``.
    """

    def __init__(
        self,
        seed: int,
        topics: Sequence[str],
        honest: Sequence[bytes],
        *,
        sender: str,
        signer: Signer | None,
    ) -> None:
        self._garbage = Garbage(seed, honest)
        self._topics = topics
        self._sender = sender
        self._signer = signer
        self._num_signed = 0

    def connack(self, level: int) -> bytes:
        """Return what comes in place of CONNACK, for a client of MQTT 3.1.1 (4) or 5."""
        kinds: tuple[Callable[[int], bytes], ...] = (
            lambda _: self._garbage.noise(),
            lambda _: bytes([CONNACK << 4]) + _LONGEST + self._garbage.noise(),
            lambda _: bytes([CONNACK << 4]) + b"\xff" * 6,
            lambda _: packet(CONNACK, self._bytes(40)),
            lambda _: packet(CONNACK),
            lambda _: packet(CONNACK, b"\0"),
            lambda _: packet(CONNACK, bytes([255, self._byte(), self._byte()])),
            lambda _: packet(CONNACK, b"\0\0\xff\xff\xff\x7f"),
            lambda _: packet(CONNACK, b"\0\0" + self._properties()),
            lambda level: self._publish(self._topic().encode(), b"early", level),
            lambda _: packet(self._byte() >> 4, self._bytes(20), self._byte() & 15),
            self._cut,
        )
        return kinds[self._garbage.below(len(kinds))](level)

    def publishes(self, level: int) -> bytes:
        """Return what comes after a sound CONNACK: packets, one wrong in some way at the end."""
        sound = [self._sound(level) for _ in range(self._garbage.below(20))]
        kinds: tuple[Callable[[int], bytes], ...] = (
            lambda _: bytes([PUBLISH << 4]) + _LONGEST + bytes(_MUCH),
            lambda _: bytes([PUBLISH << 4]) + b"\xff" * 5,
            lambda _: packet(PUBLISH, struct.pack(">H", 60_000) + b"short"),
            lambda _: packet(PUBLISH),
            lambda _: packet(PUBLISH, b"\0"),
            lambda _: packet(PUBLISH, self._bytes(60), 6),
            lambda _: packet(PUBLISH, self._bytes(300), self._byte() & 15),
            lambda level: self._publish(self._bad_topic(), self._garbage.payload(), level),
            lambda _: packet(PUBLISH, b"\0\1a\0\0" + self._properties(), 2),
            lambda _: packet(PUBLISH, b"\0\1a" + b"\xff\xff\xff\x7f"),
            lambda _: packet(self._byte() >> 4, self._bytes(20), self._byte() & 15),
            self._sound,
        )
        return b"".join(sound) + kinds[self._garbage.below(len(kinds))](level)

    def _sound(self, level: int) -> bytes:
        """A good packet around a payload that is not."""
        topic, payload = self._topic(), self._garbage.payload()
        if self._signer is not None and self._garbage.below(2):
            self._num_signed += 1
            payload = signed(payload, self._signer, topic, self._sender, self._num_signed)
        return self._publish(topic.encode(), payload, level)

    def _cut(self, level: int) -> bytes:
        whole = packet(CONNACK, b"\0\0" + (b"\0" if level == 5 else b""))
        return whole[: self._garbage.below(len(whole))]

    def _publish(self, topic: bytes, payload: bytes, level: int) -> bytes:
        identity = self._garbage.below(3)  # 0: QoS 0; else the same ids again and again
        body = struct.pack(">H", len(topic) & 0xFFFF) + topic
        body += struct.pack(">H", identity) if identity else b""
        body += b"\0" if level == 5 else b""
        return packet(PUBLISH, body + payload, 2 if identity else 0)

    def _topic(self) -> str:
        return self._topics[self._garbage.below(len(self._topics))]

    def _bad_topic(self) -> bytes:
        return _BAD_TEXT[self._garbage.below(len(_BAD_TEXT))]

    def _properties(self) -> bytes:
        """Property ids with values of the wrong kind, number or length."""
        body = self._bytes(30)
        return bytes([self._garbage.below(40)]) + body

    def _bytes(self, most: int) -> bytes:
        return bytes(self._byte() for _ in range(self._garbage.below(most)))

    def _byte(self) -> int:
        return self._garbage.below(256)
