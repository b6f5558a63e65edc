"""How to reach a broker. Plain values; whoever reads configuration files builds them."""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

AUTO: Final = "auto"
MQTT_5: Final = "5"
MQTT_3_1_1: Final = "3.1.1"
TLS_1_2: Final = "1.2"
TLS_1_3: Final = "1.3"


@dataclass(frozen=True, slots=True)
class Will:
    """What the broker publishes for us if we vanish without saying goodbye."""

    topic: str
    payload: bytes
    qos: int = 1
    retain: bool = True


@dataclass(frozen=True, slots=True)
class Tls:
    """PEM files: whom to trust (the system's authorities if None), and who we are.

    ``at_least`` is the oldest version of TLS that will do: 1.2 or 1.3.
    """

    ca: Path | None = None
    certificate: Path | None = None
    key: Path | None = None
    at_least: str = TLS_1_2


@dataclass(frozen=True, slots=True, kw_only=True)
class BrokerSettings:
    """One client's connection to one broker. Raises ValueError, naming the setting.

    ``max_packet_bytes`` is what we send at most to a broker that does not say what it takes.
    ``clean_start`` keeps no session: what is sent while we are away is lost. ``session_expiry_s``,
    ``receive_maximum`` (un-acknowledged messages the broker may have under way to us) and the
    reasons of refusals need MQTT 5; protocol ``auto`` tries it first.
    ``send_window`` publishes are under way at once, ``max_queued`` wait in all; ``max_received``
    events wait to be taken before the socket is left unread.
    """

    host: str = "127.0.0.1"
    port: int = 1883
    client_id: str
    username: str | None = None
    password: str | None = None
    keepalive_s: int = 60
    protocol: str = AUTO
    clean_start: bool = False
    session_expiry_s: int = 24 * 3600
    receive_maximum: int = 256
    max_packet_bytes: int = 65_536
    send_window: int = 20
    max_queued: int = 1_000
    max_received: int = 1_024
    connect_timeout_s: float = 5.0
    backoff_first_s: float = 1.0
    backoff_cap_s: float = 120.0
    stable_s: float = 30.0
    will: Will | None = None
    tls: Tls | None = None

    def __post_init__(self) -> None:
        if not self.client_id:
            raise ValueError("client_id: must not be empty, as sessions belong to an id")
        if self.protocol not in {AUTO, MQTT_5, MQTT_3_1_1}:
            raise ValueError(f"protocol: auto, 5 or 3.1.1, not {self.protocol!r}")
        _check_range("port", self.port, 1, 65_535)
        _check_range("keepalive_s", self.keepalive_s, 1, 65_535)
        _check_range("session_expiry_s", self.session_expiry_s, 0, 0xFFFF_FFFF)
        _check_range("receive_maximum", self.receive_maximum, 1, 65_535)
        _check_range("max_packet_bytes", self.max_packet_bytes, 128, 268_435_460)
        _check_range("send_window", self.send_window, 1, 65_535)
        _check_range("max_queued", self.max_queued, 1, 1_000_000)
        _check_range("max_received", self.max_received, 1, 1_000_000)
        _check_range("connect_timeout_s", self.connect_timeout_s, 0.05, 60)
        _check_range("backoff_first_s", self.backoff_first_s, 0.001, self.backoff_cap_s)


def _check_range(name: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:
        raise ValueError(f"{name}: {low} to {high}, not {value}")
