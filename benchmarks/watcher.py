"""Somebody who only looks: what a task says on the bus, read with an account of the broker."""

import random
import time
from collections.abc import Iterator, Sequence
from typing import Final, Self

from broker_config.accounts import MONITOR
from broker_config.running import Broker
from protocol.codec import decode
from protocol.messages import AGGREGATOR, Manifest
from protocol.topics import DEFAULT_PREFIX, Kind, Topics
from transport import BrokerSettings, Message
from transport.loop import Loop
from transport.paho import PahoTransport

PATIENCE_S: Final = 60.0
#: Enough for a backlog of a whole window: what is not read makes the broker's queue grow.
_MAX_RECEIVED: Final = 100_000


class Watcher:
    """A subscription to a task's manifest, and ``filters`` besides, while the context lasts."""

    def __init__(
        self, task: str, broker: Broker, *, account: str = MONITOR, filters: Sequence[str] = ()
    ) -> None:
        self.topics = Topics(DEFAULT_PREFIX, task)
        self._loop = Loop()
        settings = BrokerSettings(
            port=broker.port,
            client_id="watcher",
            username=account,
            password=broker.files.secret(account).read_text(encoding="utf-8").strip(),
            clean_start=True,
            max_received=_MAX_RECEIVED,
        )
        self._transport = PahoTransport(settings, random=random.SystemRandom().random)
        self._transport.subscribe([self.topics.manifest(), *filters])

    def __enter__(self) -> Self:
        self._loop.add(self._transport)
        self._transport.connect()
        return self

    def __exit__(self, *_: object) -> None:
        self._transport.close(0.1)
        self._loop.close()

    def messages(self) -> Iterator[Message]:
        """Yield all that comes. Raises TimeoutError when there is nothing for `PATIENCE_S`."""
        until = time.monotonic() + PATIENCE_S
        while time.monotonic() < until:
            for _, events in self._loop.wait(1.0):
                for event in events:
                    if isinstance(event, Message):
                        self._transport.acknowledge(event)
                        until = time.monotonic() + PATIENCE_S
                        yield event
        raise TimeoutError(f"nothing for {PATIENCE_S:.0f} s")

    def manifests(self) -> Iterator[Manifest]:
        """Yield each version once."""
        newest = -1
        for message in self.messages():
            manifest = self.manifest(message)
            if manifest is not None and manifest.version > newest:
                newest = manifest.version
                yield manifest

    def manifest(self, message: Message) -> Manifest | None:
        """Return the manifest in a message, None if it is something else."""
        if self.topics.parse(message.topic).kind is not Kind.MANIFEST:
            return None
        task = self.topics.task
        return decode(message.payload, (Manifest,), task=task, sender=AGGREGATOR)
