"""`Bus` over real sockets: paho transports in one loop."""

import contextlib
import dataclasses
import os
import random
import socket
from typing import Final

from tests.support.check_transport import Bus, Client
from transport import BrokerSettings, Pollable
from transport.loop import Loop
from transport.paho import PahoTransport

_STEP_S: Final = 0.05


class PahoBus(Bus):
    """Clients of the broker on this port, all speaking one protocol version."""

    def __init__(self, port: int, protocol: str = "auto") -> None:
        self.loop = Loop()
        self._port = port
        self._protocol = protocol
        self._clients: dict[Pollable, Client] = {}
        self._random = random.Random(7)  # noqa: S311 -- jitter

    def client(self, settings: BrokerSettings) -> Client:
        settings = dataclasses.replace(settings, port=self._port, protocol=self._protocol)
        transport = PahoTransport(settings, random=self._random.random)
        client = Client(settings.client_id, transport)
        self._clients[transport] = client
        self.loop.add(transport)
        return client

    def step(self) -> None:
        for transport, events in self.loop.wait(_STEP_S):
            self._clients[transport].events += events

    def cut(self, client: Client) -> None:
        transport = next(each for each, known in self._clients.items() if known is client)
        with socket.socket(fileno=os.dup(transport.fileno())) as same:
            same.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        for transport in self._clients:
            transport.close(timeout_s=0.0)
        with contextlib.suppress(OSError):
            self.loop.close()
