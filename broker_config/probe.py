"""Ask a broker whether it is up: one MQTT 3.1.1 CONNECT, one answer; with TLS, one handshake."""

import socket
import ssl
from pathlib import Path
from typing import Final

_TIMEOUT_S: Final = 1.0
_CLEAN_SESSION: Final = 0x02
_PASSWORD: Final = 0x40
_USERNAME: Final = 0x80
_KEEPALIVE_S: Final = 10
_ACCEPTED: Final = b"\x20\x02\x00\x00"
_DISCONNECT: Final = b"\xe0\x00"


def connect_packet(username: str, password: str, client_id: str) -> bytes:
    """Return a CONNECT with a clean session (MQTT 3.1.1 §3.1); together at most 100 characters."""
    flags = _CLEAN_SESSION | _PASSWORD | _USERNAME
    head = _text("MQTT") + bytes([4, flags]) + _KEEPALIVE_S.to_bytes(2, "big")
    body = head + _text(client_id) + _text(username) + _text(password)
    return bytes([0x10, len(body)]) + body


def accepts(host: str, port: int, username: str, password: str) -> bool:
    """Whether a broker at this address lets this account in, now."""
    try:
        with socket.create_connection((host, port), timeout=_TIMEOUT_S) as connection:
            connection.sendall(connect_packet(username, password, "fedbus-probe"))
            with connection.makefile("rb") as answer:
                accepted = answer.read(len(_ACCEPTED)) == _ACCEPTED
            connection.sendall(_DISCONNECT)
            return accepted
    except OSError:
        return False


def speaks_tls(host: str, port: int, authority: Path) -> bool:
    """Whether somebody with a certificate of ``authority`` (PEM) listens there, now.

    With TLS 1.3 the answer comes before the broker asks who we are, which we do not say.
    """
    context = ssl.create_default_context(cafile=authority)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False
    try:
        with (
            socket.create_connection((host, port), timeout=_TIMEOUT_S) as connection,
            context.wrap_socket(connection),
        ):
            return True
    except OSError:
        return False


def _text(value: str) -> bytes:
    return len(value.encode()).to_bytes(2, "big") + value.encode()
