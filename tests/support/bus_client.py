"""A client of a test's own: says anything to anybody, and keeps what it hears."""

import itertools
import random
import time
from collections.abc import Callable
from types import TracebackType
from typing import Final, Self

from transport import BrokerSettings, Message, QueueFullError
from transport.loop import Loop
from transport.paho import PahoTransport

_PATIENCE_S: Final = 20.0


class BusClient:
    """One connection, as a context manager. ``messages`` are (topic, payload), as they came."""

    def __init__(self, port: int, client_id: str, *filters: str) -> None:
        settings = BrokerSettings(
            port=port,
            client_id=client_id,
            clean_start=True,
            send_window=2_000,
            max_queued=200_000,
            max_received=200_000,
            max_packet_bytes=400_000,
            backoff_first_s=0.05,
            backoff_cap_s=0.3,
        )
        self.messages: list[tuple[str, bytes]] = []
        self._probe = f"probe/{client_id}"
        self._probes = itertools.count()
        self._heard = b""
        self._loop = Loop()
        self._transport = PahoTransport(settings, random=random.Random(1).random)  # noqa: S311 -- jitter
        self._transport.subscribe([*filters, self._probe])
        self._loop.add(self._transport)

    def __enter__(self) -> Self:
        self._transport.connect()
        self.until(lambda: self._transport.connected, "connected")
        self.settle()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        self._loop.remove(self._transport)
        self._transport.close(timeout_s=0.5)
        self._loop.close()

    def publish(self, topic: str, payload: bytes, *, qos: int = 1, retain: bool = False) -> None:
        """Send anything; waits while too much is under way. Raises PacketTooLargeError."""
        while True:
            try:
                self._transport.publish(topic, payload, qos=qos, retain=retain)
            except QueueFullError:
                self.step(0.1)
            else:
                return

    def step(self, wait_s: float = 0.0) -> None:
        """Take what came, waiting a while if nothing did."""
        for _, events in self._loop.wait(wait_s):
            for event in events:
                if not isinstance(event, Message):
                    continue
                self._transport.acknowledge(event)
                if event.topic == self._probe:
                    self._heard = event.payload
                else:
                    self.messages.append((event.topic, event.payload))

    def settle(self) -> None:
        """Wait until the broker has all that was published before."""
        probe = b"%d" % next(self._probes)
        self.publish(self._probe, probe)
        self.until(lambda: self._heard == probe, "the broker answers")

    def until(self, condition: Callable[[], object], what: str) -> None:
        """Take what comes until it holds; fail, saying what did not happen."""
        deadline = time.monotonic() + _PATIENCE_S
        while not condition():
            assert time.monotonic() < deadline, f"never: {what}"
            self.step(0.05)
