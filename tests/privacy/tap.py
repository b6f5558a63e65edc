"""A client that reads everything on a real broker into a file, and may say anything."""

import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from tests.privacy.byte_log import write_entry
from tests.support.bus_client import BusClient

#: Longer than any device takes that means to answer.
_PATIENCE_S: Final = 3.0


class Tap:
    """A context manager, and a `tests.privacy.attacks.Voice`."""

    def __init__(self, port: int, path: Path) -> None:
        self._bus = BusClient(port, "tap", "#")
        self._path = path
        self._num_written = 0
        path.touch()

    def __enter__(self) -> Self:
        self._bus.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self._bus.__exit__(kind, error, at)

    def say(self, topic: str, payload: bytes, *, retain: bool = False) -> None:
        """Publish anything."""
        self._bus.publish(topic, payload, retain=retain)

    def wait(self, until: Callable[[], bool]) -> bool:
        """Write down what comes, until it holds or patience is over."""
        deadline = time.monotonic() + _PATIENCE_S
        while not until():
            if time.monotonic() > deadline:
                return False
            self._bus.step(0.05)
            for topic, payload in self._bus.messages[self._num_written :]:
                write_entry(self._path, topic, payload)
            self._num_written = len(self._bus.messages)
        return True
