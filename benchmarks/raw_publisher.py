"""Devices as cheap as they can be: whole PUBLISH packets from a file, over plain sockets.

A publisher that encodes would be the bottleneck of what it feeds. `write_packets` prepares one file
a device; ``python -m benchmarks.raw_publisher PORT WINDOW PARTS FILE...`` connects each, prints
``ready``, and sends as many updates of PARTS packets as its standard input allows (one growing
total a line), never more than WINDOW packets of a device without their PUBACK. It ends when its
standard input does: who tells it more than there is must not find it gone. MQTT 3.1.1: a PUBACK
is four bytes, so that they can be counted by the thousand.
"""

import mmap
import os
import selectors
import socket
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

import numpy as np

_CONNACK: Final = b"\x20\x02\x00\x00"
_PUBACK_BYTES: Final = 4
_MAX_SEND: Final = 1 << 20


def write_packets(
    path: Path, username: str, password: str, messages: Iterable[tuple[str, bytes]]
) -> int:
    """Write a CONNECT and QoS 1 PUBLISH packets for (topic, payload); return how many of these."""
    ends = []
    with path.open("wb") as file:
        file.write(connect_packet(username, password))
        ends.append(file.tell())
        for number, (topic, payload) in enumerate(messages):
            file.write(publish_packet(topic, payload, number % 0xFFFF + 1))
            ends.append(file.tell())
    np.save(_ends_path(path), np.array(ends, np.int64))
    return len(ends) - 1


def _text(value: str) -> bytes:
    return len(value.encode()).to_bytes(2, "big") + value.encode()


def _packet(first: int, *parts: bytes) -> bytes:
    length, digits = sum(map(len, parts)), bytearray()
    while True:
        length, digit = length >> 7, length & 0x7F
        digits.append(digit | (0x80 if length else 0))
        if not length:
            return b"".join((bytes([first]), digits, *parts))


def connect_packet(username: str, password: str) -> bytes:
    """Return a CONNECT of an account: clean session, no keepalive."""
    head = _text("MQTT") + b"\x04\xc2\x00\x00"  # user, password, clean session; no keepalive
    return _packet(0x10, head, _text(f"raw-{username}"), _text(username), _text(password))


def publish_packet(topic: str, payload: bytes, packet_id: int) -> bytes:
    """Return a PUBLISH at QoS 1."""
    return _packet(0x32, _text(topic), packet_id.to_bytes(2, "big"), payload)


def _ends_path(path: Path) -> Path:
    return path.with_suffix(".npy")


class _Sender:
    """One connection and its file."""

    def __init__(self, port: int, window: int, path: Path) -> None:
        self._window = window
        with path.open("rb") as file:
            self._data = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
        self._ends: list[int] = np.load(_ends_path(path), allow_pickle=False).tolist()
        self.num_packets = len(self._ends) - 1
        self.allowed = 0
        self._position = self._ends[0]
        self._num_sent = 0  # begun, rather: the last of them may be under way
        self._answer_bytes = 0
        self.sock = socket.create_connection(("127.0.0.1", port))
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.sock.sendall(self._data[: self._ends[0]])
        if self.sock.recv(len(_CONNACK)) != _CONNACK:
            raise SystemExit("the broker refuses the publisher")
        self.sock.settimeout(0)

    def read(self) -> None:
        """Count what was acknowledged."""
        answer = self.sock.recv(1 << 16)
        if not answer:
            raise SystemExit("the broker hung up on the publisher")
        self._answer_bytes += len(answer)

    def send(self) -> bool:
        """Send what window and allowance let; return whether the socket is full."""
        acknowledged = self._answer_bytes // _PUBACK_BYTES
        until = min(acknowledged + self._window, self.allowed, self.num_packets)
        self._num_sent = max(self._num_sent, until)
        end = self._ends[self._num_sent]
        while self._position < end:
            part = self._data[self._position : min(end, self._position + _MAX_SEND)]
            try:
                self._position += self.sock.send(part)
            except BlockingIOError:
                return True
        return False


def main(port: int, window: int, num_parts: int, paths: Sequence[Path]) -> None:
    """Publish everything, as fast as allowed."""
    senders = [_Sender(port, window, path) for path in paths]
    selector = selectors.DefaultSelector()
    selector.register(sys.stdin.fileno(), selectors.EVENT_READ, None)
    for sender in senders:
        selector.register(sender.sock, selectors.EVENT_READ, sender)
    print("ready", flush=True)
    while True:
        for key, mask in selector.select():
            if key.data is None:
                _allow(senders, num_parts)
                touched = senders
            else:
                if mask & selectors.EVENT_READ:
                    key.data.read()
                touched = [key.data]
            for sender in touched:
                write = selectors.EVENT_WRITE if sender.send() else 0
                selector.modify(sender.sock, selectors.EVENT_READ | write, sender)


def _allow(senders: Sequence[_Sender], num_parts: int) -> None:
    """Share the newest total of updates out; the end of standard input ends the publisher."""
    lines = os.read(sys.stdin.fileno(), 1 << 16).split()
    if not lines:
        raise SystemExit(0)
    for sender in senders:
        sender.allowed = -(-int(lines[-1]) // len(senders)) * num_parts


if __name__ == "__main__":
    main(
        int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), [Path(each) for each in sys.argv[4:]]
    )
