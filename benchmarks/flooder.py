"""A device that publishes as fast as a QoS 1 client can, over a plain socket, until it is cut off.

``python -m benchmarks.flooder PORT USER PASSWORD_FILE TOPIC SECONDS`` prints one line of JSON: how
many packets the broker acknowledged, how long it took until the broker hung up (null: it never
did), and whether it let us in again afterwards. MQTT 3.1.1: a PUBACK is four bytes.
"""

import json
import select
import socket
import sys
import time
from pathlib import Path
from typing import Final

from benchmarks.raw_publisher import connect_packet, publish_packet

#: Packets on their way, as many as a broker that has no limit lets through.
WINDOW: Final = 2_000
PAYLOAD: Final = bytes(200)
_BATCH: Final = 100
_ACCEPTED: Final = b"\x20\x02\x00\x00"
_PUBACK_BYTES: Final = 4


def flood(port: int, connect: bytes, topic: str, seconds: float) -> tuple[int, float | None]:
    """Publish for so long; return how many were acknowledged, and when the broker hung up."""
    batch = b"".join(publish_packet(topic, PAYLOAD, number + 1) for number in range(_BATCH))
    began = time.monotonic()
    num_sent = num_answers = 0
    rest = b""
    with socket.create_connection(("127.0.0.1", port)) as link:
        link.sendall(connect)
        if link.recv(len(_ACCEPTED)) != _ACCEPTED:
            return 0, 0.0
        link.setblocking(False)  # noqa: FBT003 - the standard library's own
        while (elapsed_s := time.monotonic() - began) < seconds:
            wants = [link] if rest or num_sent - num_answers // _PUBACK_BYTES < WINDOW else []
            readable, writable, _ = select.select([link], wants, [], 0.1)
            try:
                if readable:
                    answer = link.recv(1 << 16)
                    if not answer:
                        return num_answers // _PUBACK_BYTES, elapsed_s
                    num_answers += len(answer)
                if writable:
                    if not rest:
                        rest, num_sent = batch, num_sent + _BATCH
                    rest = rest[link.send(rest) :]
            except ConnectionError:
                return num_answers // _PUBACK_BYTES, elapsed_s
    return num_answers // _PUBACK_BYTES, None


def lets_in(port: int, connect: bytes) -> bool:
    """Whether the broker takes the connection."""
    with socket.create_connection(("127.0.0.1", port), timeout=5) as link:
        link.sendall(connect)
        return link.recv(len(_ACCEPTED)) == _ACCEPTED


def main(port: int, user: str, password_file: Path, topic: str, seconds: float) -> None:
    """Flood, and say how it ended."""
    connect = connect_packet(user, password_file.read_text(encoding="utf-8").strip())
    num_acknowledged, cut_off_s = flood(port, connect, topic, seconds)
    back = cut_off_s is not None and lets_in(port, connect)
    print(json.dumps({"acknowledged": num_acknowledged, "cut_off_s": cut_off_s, "back": back}))


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], Path(sys.argv[3]), sys.argv[4], float(sys.argv[5]))
