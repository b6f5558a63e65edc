"""A non-blocking socket with a buffer each way: one big recv, one big send.

paho asks its socket for one byte, one byte, then the rest, and sends packet by packet; each of
these would be a system call. `Stream` stands where paho expects a socket (its ``SocketLike``, the
seam that paho's own websocket wrapper uses) and asks the kernel once for many packets. A packet
is taken whole or not at all, so that packets of different origin never interleave.
"""

import contextlib
import errno
import os
import socket
import ssl
from collections.abc import Callable
from typing import Final, NamedTuple

from transport.tls import explain

_RECEIVE_BYTES: Final = 1 << 16
#: No packet of this protocol is larger. A peer that announces more gets no memory for it.
MAX_PACKET_BYTES: Final = 4 << 20
_UNSENT_BYTES: Final = 1 << 16
_PUBLISH: Final = 3  # packet type; and a length goes on where a byte is not below _MORE
_MORE: Final = 0x80


class Secured(NamedTuple):
    """How to shake hands, and with which host."""

    context: ssl.SSLContext
    host: str


class Stream:
    """The socket that an MQTT client sees. ``on_close`` runs before the descriptor is closed.

    It is ``established`` when bytes may flow, with TLS after the handshake; while the handshake
    ``awaits_answer``, there is nothing to send. ``problem`` is what TLS had to say at the end.
    """

    def __init__(
        self, sock: socket.socket, on_close: Callable[[], None], secured: Secured | None = None
    ) -> None:
        self._sock = sock
        self._secured = secured
        self._on_close = on_close
        self._received = b""
        self._position = 0
        self._dry = False
        self._unsent = bytearray()
        self._closed = False
        self.established = False
        self.awaits_answer = False
        self.problem = ""
        self.num_received = 0

    def recv(self, size: int) -> bytes:
        """Return at most ``size`` bytes, b"" at the end; raise BlockingIOError when dry.

        paho asks for all of a packet at once, and allocates that much: more than
        `MAX_PACKET_BYTES` raises ConnectionAbortedError.
        """
        if size > MAX_PACKET_BYTES:
            raise ConnectionAbortedError(errno.EMSGSIZE, f"the peer announced {size} bytes")
        start = self._position
        if start == len(self._received):
            self._refill(size)
            start = 0
        taken = self._received[start : start + size]
        self._position = start + len(taken)
        return taken

    def next_publish(self) -> tuple[int, bytes, int] | None:
        """Take the next packet if it is a PUBLISH and here as a whole: flags, body, size."""
        publish = self._whole_publish()
        if publish is not None or self._dry or self._begins_otherwise():
            return publish
        self._top_up()
        return self._whole_publish()

    def _begins_otherwise(self) -> bool:
        rest = self._received[self._position : self._position + 1]
        return bool(rest) and rest[0] >> 4 != _PUBLISH

    def _top_up(self) -> None:
        """Receive more behind what is left; the end and errors are for `recv` to find again."""
        rest = self._received[self._position :]
        try:
            self._refill(_RECEIVE_BYTES)
        except OSError:
            self._dry = True
        self._received = rest + self._received

    def _whole_publish(self) -> tuple[int, bytes, int] | None:
        data, start = self._received, self._position
        if start >= len(data) or data[start] >> 4 != _PUBLISH:
            return None
        length, position = 0, start + 1
        for shift, digit in enumerate(data[position : position + 4]):
            length |= (digit & 0x7F) << 7 * shift
            if digit < _MORE:
                position += shift + 1
                break
        else:
            return None
        end = position + length
        if end > len(data):
            return None
        self._position = end
        return data[start] & 0x0F, data[position:end], end - start

    def _refill(self, size: int) -> None:
        """One recv. Less than asked for means that the kernel has no more (TLS: ask again)."""
        wanted = max(size, _RECEIVE_BYTES)
        self._received = b""
        self._position = 0
        self._dry = True
        try:
            self._received = self._sock.recv(wanted)
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            raise
        except ssl.SSLError as error:
            self.problem = explain(error)
            raise
        self._dry = len(self._received) < wanted and not isinstance(self._sock, ssl.SSLSocket)
        self.num_received += len(self._received)

    @property
    def pending(self) -> bool:
        """Whether `recv` may have bytes that no selector will announce."""
        return self._position < len(self._received) or not self._dry

    def moisten(self) -> None:
        """The selector says that there is something to read."""
        self._dry = False

    def send(self, data: bytes | bytearray) -> int:
        """Take all of ``data``, or raise BlockingIOError; `flush` sends it."""
        if not self.established or len(self._unsent) >= _UNSENT_BYTES:
            raise BlockingIOError
        self._unsent += data
        return len(data)

    @property
    def unsent(self) -> bool:
        """Whether bytes wait for `flush`."""
        return bool(self._unsent)

    def flush(self) -> None:
        """Send what the kernel takes. Raise OSError if the connection is gone."""
        while self._unsent:
            try:
                sent = self._sock.send(self._unsent)
            except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
                return
            except OSError:
                self._hear_why()
                raise
            del self._unsent[:sent]

    def _hear_why(self) -> None:
        """A broker that does not take our certificate says so after our half of the handshake."""
        if not isinstance(self._sock, ssl.SSLSocket):
            return
        try:
            self._sock.recv(1)
        except ssl.SSLError as error:
            self.problem = explain(error)
        except OSError:
            return

    def finish_connecting(self) -> None:
        """Go on connecting: TCP, then TLS. Raise OSError if it failed."""
        if not isinstance(self._sock, ssl.SSLSocket) and not self._reached():
            return
        if self._secured is not None:
            self._shake_hands(self._secured)
            return
        self.established = True

    def _reached(self) -> bool:
        """Whether the TCP connection is there."""
        failure = self._sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if failure:
            raise OSError(failure, os.strerror(failure))
        try:
            self._sock.getpeername()
        except OSError as error:
            if error.errno != errno.ENOTCONN:
                raise
            return False
        return True

    def _shake_hands(self, secured: Secured) -> None:
        if not isinstance(self._sock, ssl.SSLSocket):
            self._sock = secured.context.wrap_socket(
                self._sock, server_hostname=secured.host, do_handshake_on_connect=False
            )
        self.awaits_answer = False
        try:
            self._sock.do_handshake()
        except ssl.SSLWantReadError:
            self.awaits_answer = True
        except ssl.SSLWantWriteError:
            return
        except ssl.SSLError as error:
            self.problem = explain(error)
            raise
        else:
            self.established = True

    def say_goodbye(self) -> None:
        """End our half; the peer reads what was sent, and then the end of the stream."""
        self._sock.shutdown(socket.SHUT_WR)

    def discard(self) -> bool:
        """Throw away what has arrived; return whether the peer has ended its half as well."""
        while True:
            try:
                if not self._sock.recv(_RECEIVE_BYTES):
                    return True
            except (BlockingIOError, ssl.SSLWantReadError):
                return False
            except OSError:
                return True

    def fileno(self) -> int:
        """Return the descriptor, -1 once closed (already while ``on_close`` runs)."""
        return -1 if self._closed else self._sock.fileno()

    def setblocking(self, flag: bool) -> None:  # noqa: FBT001 -- the signature paho calls
        """Set the socket's mode."""
        self._sock.setblocking(flag)

    def close(self) -> None:
        """Close the descriptor, once."""
        if self._closed:
            return
        self._closed = True
        self._on_close()
        self._sock.close()


Address = tuple[
    socket.AddressFamily, tuple[str, int] | tuple[str, int, int, int] | tuple[int, bytes]
]


def resolve(host: str, port: int) -> list[Address]:
    """Look a host up. Blocks as long as the resolver does; give an address where that matters."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [(family, address) for family, _kind, _proto, _name, address in found]


def dial(address: Address, on_close: Callable[[], None], secured: Secured | None = None) -> Stream:
    """Begin to connect, without waiting. Raise OSError if it fails at once."""
    family, where = address
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.settimeout(0)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # small packets, answered
        with contextlib.suppress(BlockingIOError):
            sock.connect(where)
    except OSError:
        sock.close()
        raise
    return Stream(sock, on_close, secured)
