"""Somebody who only looks: reads a task's manifests with the monitor's account."""

import random
import time
from collections.abc import Iterator
from typing import Final, Self

from broker_config.accounts import MONITOR
from broker_config.running import Broker
from protocol.codec import decode
from protocol.messages import AGGREGATOR, Manifest
from protocol.topics import DEFAULT_PREFIX, Topics
from transport import BrokerSettings, Message
from transport.loop import Loop
from transport.paho import PahoTransport

PATIENCE_S: Final = 60.0


class Watcher:
    """A subscription to one task's manifest, while the context lasts."""

    def __init__(self, task: str, broker: Broker) -> None:
        self._topics = Topics(DEFAULT_PREFIX, task)
        self._loop = Loop()
        password = broker.files.secret(MONITOR).read_text(encoding="utf-8").strip()
        settings = BrokerSettings(
            port=broker.port,
            client_id="watcher",
            username=MONITOR,
            password=password,
            clean_start=True,
        )
        self._transport = PahoTransport(settings, random=random.SystemRandom().random)
        self._transport.subscribe([self._topics.manifest()])

    def __enter__(self) -> Self:
        self._loop.add(self._transport)
        self._transport.connect()
        return self

    def __exit__(self, *_: object) -> None:
        self._transport.close(0.1)
        self._loop.close()

    def manifests(self) -> Iterator[Manifest]:
        """Yield each version once. Raises TimeoutError when there is none for `PATIENCE_S`."""
        newest = -1
        while True:
            until = time.monotonic() + PATIENCE_S
            for message in self._messages(until):
                manifest = decode(
                    message.payload, (Manifest,), task=self._topics.task, sender=AGGREGATOR
                )
                if manifest.version > newest:
                    newest = manifest.version
                    yield manifest

    def _messages(self, until: float) -> list[Message]:
        while time.monotonic() < until:
            for _, events in self._loop.wait(1.0):
                messages = [event for event in events if isinstance(event, Message)]
                for message in messages:
                    self._transport.acknowledge(message)
                if messages:
                    return messages
        raise TimeoutError(f"no new version for {PATIENCE_S:.0f} s")
