"""A link to the broker that takes its time: a TCP proxy with a byte rate towards the client."""

import selectors
import socket
import threading
import time
from contextlib import suppress
from types import TracebackType
from typing import Final, Self

_SLICE_S: Final = 0.05


class SlowLink:
    """Forwards one connection after the other to ``broker_port``; as a context manager.

    What the broker says comes through at ``bytes_per_s``, what the client says at once.
    """

    def __init__(self, broker_port: int, *, bytes_per_s: int) -> None:
        self._broker_port = broker_port
        self._slice = max(1, int(bytes_per_s * _SLICE_S))
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.settimeout(_SLICE_S)
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._began_at = time.monotonic()
        self.num_bytes = 0

    @property
    def port(self) -> int:
        """Where clients connect."""
        return int(self._listener.getsockname()[1])

    @property
    def seconds(self) -> float:
        """How long the link has taken so far for what came through."""
        return self.num_bytes / self._slice * _SLICE_S

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        self._stopping.set()
        self._thread.join()
        self._listener.close()

    def _run(self) -> None:
        while not self._stopping.is_set():
            with suppress(TimeoutError):
                client, _ = self._listener.accept()
                broker = socket.create_connection(("127.0.0.1", self._broker_port))
                with client, broker, suppress(OSError):
                    self._forward(client, broker)

    def _forward(self, client: socket.socket, broker: socket.socket) -> None:
        """Return when either side has closed."""
        with selectors.DefaultSelector() as selector:
            selector.register(client, selectors.EVENT_READ)
            while not self._stopping.is_set():
                next_at = time.monotonic() + _SLICE_S
                for _ in selector.select(_SLICE_S):
                    if not (data := client.recv(65_536)):
                        return
                    broker.sendall(data)
                broker.settimeout(0.001)
                with suppress(TimeoutError):
                    if not (data := broker.recv(self._slice)):
                        return
                    client.sendall(data)
                    self.num_bytes += len(data)
                broker.settimeout(None)
                time.sleep(max(0.0, next_at - time.monotonic()))
