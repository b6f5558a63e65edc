"""A scripted MQTT peer on a real loopback socket, for brokers that behave oddly.

A script is a function of one accepted connection; it runs in a thread, once per connection, in
turn; the last script serves all further connections::

    with FakeBroker([refuse_v5, accept]) as broker: ...
"""

import contextlib
import socket
import struct
import threading
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple, Self

CONNECT: Final = 1
CONNACK: Final = 2
PUBLISH: Final = 3
PUBACK: Final = 4
SUBSCRIBE: Final = 8
SUBACK: Final = 9
UNSUBSCRIBE: Final = 10
UNSUBACK: Final = 11
PINGREQ: Final = 12
PINGRESP: Final = 13
DISCONNECT: Final = 14

_PATIENCE_S: Final = 10.0


class Packet(NamedTuple):
    """One control packet: its type, the low bits of the first byte, all behind the length."""

    kind: int
    flags: int
    body: bytes


def packet(kind: int, body: bytes = b"", flags: int = 0) -> bytes:
    """Return the bytes of a control packet."""
    length, size = bytearray(), len(body)
    while True:
        size, low = divmod(size, 128)
        length.append(low | (0x80 if size else 0))
        if not size:
            return bytes([kind << 4 | flags, *length]) + body


def publish(topic: bytes, payload: bytes, packet_id: int = 0, *, mqtt_5: bool = False) -> bytes:
    """Return a PUBLISH packet; QoS 1 if it has an id."""
    name = struct.pack(">H", len(topic)) + topic
    identity = struct.pack(">H", packet_id) if packet_id else b""
    properties = b"\0" if mqtt_5 else b""
    return packet(PUBLISH, name + identity + properties + payload, 2 if packet_id else 0)


class Peer:
    """The broker's end of one connection. What does not come in time raises TimeoutError."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._reader = sock.makefile("rb")

    def expect(self, kind: int) -> Packet:
        """Read packets up to the first of this kind, and return it. EOFError at the end."""
        while (found := self.read()).kind != kind:
            pass
        return found

    def read(self) -> Packet:
        """Return the next packet. Raise EOFError at the end of the stream."""
        first = self._exactly(1)[0]
        size = shift = 0
        while True:
            digit = self._exactly(1)[0]
            size |= (digit & 0x7F) << shift
            shift += 7
            if digit < 0x80:
                return Packet(first >> 4, first & 15, self._exactly(size))

    def send(self, data: bytes) -> None:
        """Send bytes as they are."""
        self._sock.sendall(data)

    def accept(self, properties: bytes = b"", *, session_present: bool = False) -> int:
        """Read CONNECT, answer that it is welcome, and return its protocol level (4 or 5)."""
        level = self.expect(CONNECT).body[6]
        extra = bytes([len(properties)]) + properties if level == 5 else b""
        self.send(packet(CONNACK, bytes([session_present, 0]) + extra))
        return level

    def grant(self) -> Packet:
        """Read SUBSCRIBE, grant QoS 1 to one filter, and return it."""
        asked = self.expect(SUBSCRIBE)
        self.send(packet(SUBACK, asked.body[:2] + b"\1"))
        return asked

    def wait_for_end(self) -> None:
        """Read until the client is gone."""
        with contextlib.suppress(EOFError, OSError):
            while True:
                self.read()

    def end(self) -> None:
        """End our half, so that all that was sent is read, and wait until the client is gone."""
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_WR)
        self.wait_for_end()

    def _exactly(self, size: int) -> bytes:
        data = self._reader.read(size)
        if len(data) < size:
            raise EOFError
        return data

    def close(self) -> None:
        """Close our end."""
        self._reader.close()
        self._sock.close()


Script = Callable[[Peer], None]


class FakeBroker:
    """Listens on ``port`` of 127.0.0.1 and runs one script per connection, in a thread.

    What a script raises (but for the client going away) is raised again at the end of the ``with``
    block.
    """

    def __init__(self, scripts: Sequence[Script]) -> None:
        self._scripts = list(scripts)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self.num_connections = 0
        self._failure: Exception | None = None
        self._peer: socket.socket | None = None
        self._closing = False
        self._thread = threading.Thread(target=self._serve, name="fake broker")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closing = True
        for each in (self._listener, self._peer):
            if each is not None:
                with contextlib.suppress(OSError):
                    each.shutdown(socket.SHUT_RDWR)
        self._thread.join(_PATIENCE_S)
        self._listener.close()
        if self._failure is not None:
            raise self._failure

    def _serve(self) -> None:
        while not self._closing:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            sock.settimeout(_PATIENCE_S)
            self._peer = sock
            script = self._scripts[min(self.num_connections, len(self._scripts) - 1)]
            self.num_connections += 1
            peer = Peer(sock)
            try:
                script(peer)
            except (EOFError, ConnectionError):
                pass
            except Exception as error:  # noqa: BLE001 -- told to the test at the end
                if not self._closing:
                    self._failure = error
            finally:
                peer.close()
