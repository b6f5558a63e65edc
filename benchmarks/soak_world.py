"""The soak's processes: a broker and an aggregator that are killed and come back, and the clients.

Both keep their folder and their port, so that what comes back is what was killed.
"""

import os
import signal
from contextlib import ExitStack
from pathlib import Path

from broker_config.accounts import AGGREGATOR
from broker_config.running import Broker, free_port, running_broker
from fedbus.children import Child, stop
from fedbus.load_scratch import start_aggregator, write_aggregator


class KillableBroker:
    """A mosquitto in ``folder`` on one port for all its lives."""

    def __init__(self, folder: Path, devices: tuple[str, ...]) -> None:
        self._folder = folder
        self._devices = devices
        self._port = free_port()
        self._life = ExitStack()
        self.running: Broker | None = None

    @property
    def pid(self) -> int:
        """The process id; 0 while there is none."""
        return 0 if self.running is None else self.running.pid

    def start(self) -> Broker:
        """Start it, again on what an earlier life left."""
        self.running = self._life.enter_context(
            running_broker(self._folder, self._devices, engine="mosquitto", port=self._port)
        )
        return self.running

    def kill(self) -> None:
        """End it as a power cut would."""
        if self.running is not None:
            os.kill(self.running.pid, signal.SIGKILL)
        self.stop()

    def stop(self) -> None:
        """End it, or see to what is left of it."""
        self.running = None
        self._life.close()


class KillableAggregator:
    """An aggregator with one state folder for all its lives."""

    def __init__(self, folder: Path, broker: Broker, num_devices: int, **task: object) -> None:
        self.config = write_aggregator(folder / AGGREGATOR, broker, num_devices, None, **task)
        self._child: Child | None = None

    @property
    def pid(self) -> int:
        """The process id; 0 while there is none."""
        return 0 if self._child is None else self._child.process.pid

    @property
    def obituary(self) -> str:
        """Why it is gone although nobody killed it; empty while it runs, or was killed."""
        return "" if self._child is None or self._child.alive else self._child.obituary()

    def start(self) -> None:
        """Start it."""
        self._child = start_aggregator(self.config)

    def kill(self) -> None:
        """End it as a power cut would."""
        if self._child is not None:
            self._child.process.kill()
            self._child.process.wait()
        self._child = None

    def stop(self) -> None:
        """End it politely; it commits what it has."""
        if self._child is not None:
            stop([self._child])
        self._child = None
