"""What a mosquitto has in use of its memory, by its own count, life after life.

Resident memory tells both what is in use and the holes between; only the former can leak.
"""

from typing import Final, Self

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion

from broker_config.accounts import MONITOR
from broker_config.mosquitto import HEAP_TOPIC
from broker_config.running import Broker

_RETRY_S: Final = 1
_MAX_RETRY_S: Final = 5
_KEEPALIVE_S: Final = 10


class HeapWatch:
    """Follows the figure while the context lasts, also over the broker's deaths."""

    def __init__(self, broker: Broker) -> None:
        self.kib: int | None = None
        self._port = broker.port
        self._client = mqtt.Client(CallbackAPIVersion.VERSION2, client_id="heap-watch")
        password = broker.files.secret(MONITOR).read_text(encoding="utf-8").strip()
        self._client.username_pw_set(MONITOR, password)
        self._client.reconnect_delay_set(_RETRY_S, _MAX_RETRY_S)
        self._client.on_connect = lambda client, *_: client.subscribe(HEAP_TOPIC)
        self._client.on_disconnect = lambda *_: self._forget()
        self._client.on_message = lambda _client, _data, message: self._note(message)

    def __enter__(self) -> Self:
        self._client.connect_async("127.0.0.1", self._port, keepalive=_KEEPALIVE_S)
        self._client.loop_start()
        return self

    def __exit__(self, *_: object) -> None:
        self._client.disconnect()
        self._client.loop_stop()

    def _note(self, message: mqtt.MQTTMessage) -> None:
        self.kib = int(message.payload) // 1024

    def _forget(self) -> None:
        self.kib = None
