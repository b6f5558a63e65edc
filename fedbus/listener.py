"""Follow one task over its monitoring topics: the shell around `fedbus.view`."""

import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final, Self

import nacl.utils

from fedbus.view import TaskView
from protocol.errors import ConfigError
from protocol.topics import Topics
from transport import BrokerSettings, Connected, Disconnected, Event, Message, Refused
from transport.loop import Loop
from transport.paho import PahoTransport
from transport.secret_files import read_secret_file
from transport.settings import AUTO, Tls

ACCOUNT: Final = "monitor"
_CONNECT_TIMEOUT_S: Final = 2.0
_SLICE_S: Final = 0.25


class Unreachable(Exception):  # noqa: N818 - a state of the world, not a mistake of ours
    """Nobody answered within the deadline; the message says who, and what to try."""


class Listener:
    """Reads what a task says to everybody; publishes nothing and keeps no session.

    A context manager. ``password_file`` holds the password alone; with one, the account is
    ``username`` or `ACCOUNT`. Raises ConfigError for settings that cannot be.
    """

    def __init__(
        self,
        *,
        host: str,
        port: int,
        prefix: str,
        task: str,
        username: str = "",
        password_file: Path | None = None,
        protocol: str = AUTO,
        tls: Tls | None = None,
    ) -> None:
        self._topics = Topics(prefix, task)
        self.view = TaskView(self._topics)
        self.address = f"{host}:{port}"
        self.connected = False
        self.problem = ""
        settings = reader_settings(host, port, username, password_file, protocol, tls=tls)
        try:
            self._transport = PahoTransport(settings, random=random.SystemRandom().random)
        except ValueError as error:
            raise ConfigError(str(error)) from None
        self._loop = Loop()

    def __enter__(self) -> Self:
        self._loop.add(self._transport)
        self._transport.subscribe(self._topics.monitor_filters())
        self._transport.connect()
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.remove(self._transport)
        self._transport.close(timeout_s=0.5)
        self._loop.close()

    def listen(self, seconds: float) -> None:
        """Take in what comes, for this long."""
        until = time.monotonic() + seconds
        while (left_s := until - time.monotonic()) > 0:
            self._take(left_s)

    def listen_until(self, done: Callable[[], bool], deadline_s: float) -> bool:
        """Take in what comes until ``done()``; return whether that was before the deadline."""
        until = time.monotonic() + deadline_s
        while not done():
            left_s = until - time.monotonic()
            if left_s <= 0:
                return False
            self._take(min(left_s, _SLICE_S))
        return True

    def await_task(self, deadline_s: float) -> None:
        """Return when the task's aggregator has been heard, if only its last word.

        Raises Unreachable if the broker or the task does not answer within ``deadline_s``.
        """
        if self.listen_until(lambda: self.view.known, deadline_s):
            return
        if not self.connected:
            why = self.problem or "no answer"
            raise Unreachable(
                f"no way in at the broker {self.address}: {why}; "
                "check --host, --port, --username, --password-file and --protocol"
            )
        raise Unreachable(
            f"the broker at {self.address} knows nothing of a task {self._topics.task!r} below "
            f"{self._topics.prefix!r}; check --task and --prefix, and that its aggregator ran"
        )

    def _take(self, timeout_s: float) -> None:
        for _, events in self._loop.wait(timeout_s):
            for event in events:
                self._handle(event)

    def _handle(self, event: Event) -> None:
        match event:
            case Message():
                self.view.see(event.topic, event.payload)
                self._transport.acknowledge(event)
            case Connected():
                self.connected, self.problem = True, ""
            case Disconnected():
                self.connected, self.problem = False, f"disconnected: {event.reason}"
            case Refused():
                self.connected, self.problem = False, event.reason


def reader_settings(
    host: str,
    port: int,
    username: str,
    password_file: Path | None,
    protocol: str,
    *,
    tls: Tls | None = None,
) -> BrokerSettings:
    """Return the settings of somebody who only reads. Raises ConfigError for what cannot be."""
    password = None if password_file is None else _password(password_file)
    name = username or (None if password is None else ACCOUNT)
    try:
        return BrokerSettings(
            host=host,
            port=port,
            client_id=f"fedbus-{ACCOUNT}-{nacl.utils.random(6).hex()}",
            username=name,
            password=password,
            protocol=protocol,
            clean_start=True,
            session_expiry_s=0,
            connect_timeout_s=_CONNECT_TIMEOUT_S,
            backoff_first_s=0.2,
            backoff_cap_s=5.0,
            tls=tls,
        )
    except ValueError as error:
        raise ConfigError(str(error)) from None


def _password(path: Path) -> str:
    try:
        return read_secret_file(path).strip()
    except ConfigError as error:
        raise ConfigError(f"--password-file {error}") from None
