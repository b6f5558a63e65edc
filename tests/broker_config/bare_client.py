"""A client that knows nothing of fedbus: what an intruder or a slow reader would be."""

import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final, Literal, Self

from paho.mqtt.client import Client, ConnectFlags, DisconnectFlags, MQTTMessage
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

V5: Final = MQTTProtocolVersion.MQTTv5
V3: Final = MQTTProtocolVersion.MQTTv311
#: So long a client hears nothing before it gives up.
DEADLINE_S: Final = 30.0
NOT_AUTHORIZED: Final = 0x87
Login = tuple[str, str]
Identity = tuple[Path, Path | None, Path | None]
NOBODY: Final = ("", "")
_MANY: Final = 10_000


def str_or_none(path: Path | None) -> str | None:
    """As paho wants it."""
    return None if path is None else str(path)


class BareClient:
    """One connection; every call waits for the broker's answer, while something comes.

    It gives up after `DEADLINE_S` in which nothing did.

    ``gate`` holds up every message until it is set; with ``acknowledges=False`` nothing is
    acknowledged. ``received`` has (topic, payload), ``told`` what came with CONNACK. ``identity``
    has whom to trust, and perhaps a certificate with its key; a broker that does not take it at all
    is ``refused``, too.
    """

    def __init__(
        self,
        port: int,
        *,
        protocol: MQTTProtocolVersion = V5,
        login: Login = NOBODY,
        client_id: str = "",
        keeps_session: bool = False,
        acknowledges: bool = True,
        receive_maximum: int = 0,
        gate: threading.Event | None = None,
        identity: Identity | None = None,
        transport: Literal["tcp", "websockets"] = "tcp",
    ) -> None:
        self.received: list[tuple[str, bytes]] = []
        self.told: dict[str, int] = {}
        self.gone = threading.Event()
        self._changed = threading.Condition()
        self._answers: dict[int, int] = {}
        self._connected: int | None = None
        self._gate = gate
        clean = None if protocol == V5 else not keeps_session
        self._client = Client(
            CallbackAPIVersion.VERSION2,
            client_id,
            clean_session=clean,
            protocol=protocol,
            manual_ack=not acknowledges,
            reconnect_on_failure=False,
            transport=transport,
        )
        self._client.max_inflight_messages_set(_MANY)
        if identity is not None:
            authority, certificate, key = map(str_or_none, identity)
            self._client.tls_set(authority, certificate, key)
        if login != NOBODY:
            self._client.username_pw_set(*login)
        self._client.on_connect = self._on_connect
        self._client.on_disconnect = self._on_disconnect
        self._client.on_publish = self._on_publish
        self._client.on_subscribe = self._on_subscribe
        self._client.on_message = self._on_message
        if protocol == V5:
            wishes = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]  # paho's gap
            if keeps_session:
                wishes.SessionExpiryInterval = 3600
            if receive_maximum:
                wishes.ReceiveMaximum = receive_maximum
            self._client.connect(
                "127.0.0.1", port, clean_start=not keeps_session, properties=wishes
            )
        else:
            self._client.connect("127.0.0.1", port)
        self._client.loop_start()
        self.wait(
            lambda: self._connected is not None or (identity is not None and self.gone.is_set()),
            "a CONNACK",
        )

    @property
    def refused(self) -> bool:
        """Whether the broker did not let us in."""
        return self._connected != 0

    def publish(self, topic: str, payload: bytes = b"", *, retain: bool = False) -> int:
        """Publish with QoS 1; return the reason code of the PUBACK (0 in MQTT 3.1.1)."""
        mid = self._client.publish(topic, payload, 1, retain).mid
        self.wait(lambda: mid in self._answers, f"the PUBACK for {topic}")
        return self._answers[mid]

    def publish_all(self, messages: Iterable[tuple[str, bytes]]) -> None:
        """Publish with QoS 1 as fast as it goes; return when everything is acknowledged."""
        sent = {self._client.publish(topic, payload, 1).mid for topic, payload in messages}
        self.wait(lambda: self._has_answers(sent) or self.gone.is_set(), "the PUBACKs")
        assert not self.gone.is_set(), "disconnected"

    def subscribe(self, topic: str) -> int:
        """Subscribe with QoS 1; return the reason code of the SUBACK."""
        _, mid = self._client.subscribe(topic, 1)
        assert mid is not None, "not connected"
        self.wait(lambda: mid in self._answers, f"the SUBACK for {topic}")
        return self._answers[mid]

    def wait(self, done: Callable[[], bool], what: str) -> None:
        """Wait until ``done``, which is asked again whenever something arrives."""
        with self._changed:
            while not done():
                assert self._changed.wait(DEADLINE_S), f"no sign of {what}"

    def wait_for_message(self, topic: str, payload: bytes) -> None:
        """Wait until exactly this has arrived."""
        self.wait(lambda: (topic, payload) in self.received, f"{payload!r} on {topic}")

    def wait_until_quiet(self, *, enough: int, least: int = 0, quiet_s: float = 1.0) -> None:
        """Wait until ``enough`` has arrived, or ``least`` and then nothing more for a while."""
        self.wait(lambda: len(self.received) >= least, f"{least} messages")
        with self._changed:
            while len(self.received) < enough and self._changed.wait(quiet_s):
                pass

    def close(self) -> None:
        """Disconnect."""
        self._client.disconnect()
        self._client.loop_stop()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _has_answers(self, sent: set[int]) -> bool:
        return len(self._answers) >= len(sent) and sent <= self._answers.keys()

    def _answer(self, mid: int, code: int) -> None:
        with self._changed:
            self._answers[mid] = code
            self._changed.notify_all()

    def _on_connect(
        self, _c: Client, _u: object, _f: ConnectFlags, code: ReasonCode, told: Properties | None
    ) -> None:
        with self._changed:
            self._connected = code.value
            self.told = {} if told is None else told.json()  # type: ignore[no-untyped-call]
            self._changed.notify_all()

    def _on_disconnect(
        self, _c: Client, _u: object, _f: DisconnectFlags, _r: ReasonCode, _p: Properties | None
    ) -> None:
        self.gone.set()
        with self._changed:
            self._changed.notify_all()

    def _on_publish(
        self, _c: Client, _u: object, mid: int, code: ReasonCode, _p: Properties
    ) -> None:
        self._answer(mid, code.value)

    def _on_subscribe(
        self, _c: Client, _u: object, mid: int, codes: list[ReasonCode], _p: Properties | None
    ) -> None:
        self._answer(mid, codes[0].value)

    def _on_message(self, _c: Client, _u: object, message: MQTTMessage) -> None:
        if self._gate is not None:
            self._gate.wait(DEADLINE_S)
        with self._changed:
            self.received.append((message.topic, bytes(message.payload)))
            self._changed.notify_all()
