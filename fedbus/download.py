"""Fetch a task's newest model from the broker: the shell around `fedbus.published`."""

import random
import time

from fedbus.listener import Unreachable
from fedbus.published import NewestModel, Published
from protocol.topics import Topics
from transport import BrokerSettings, Connected, Disconnected, Event, Message, Refused
from transport.loop import Loop
from transport.paho import PahoTransport


def download(settings: BrokerSettings, topics: Topics, deadline_s: float) -> NewestModel:
    """Return the newest model that the broker has retained; publishes nothing.

    Raises Unreachable if it does not come within ``deadline_s``, RemoteProtocolError for what no
    aggregator of ours publishes.
    """
    download_ = _Download(settings, topics)
    try:
        return download_.run(deadline_s)
    finally:
        download_.close()


class _Download:
    def __init__(self, settings: BrokerSettings, topics: Topics) -> None:
        self._published = Published(topics)
        self._transport = PahoTransport(settings, random=random.SystemRandom().random)
        self._transport.subscribe([topics.plan(), topics.manifest()])
        self._loop = Loop()
        self._loop.add(self._transport)
        self._problem = "no answer; check --host, --port and --password-file"

    def run(self, deadline_s: float) -> NewestModel:
        until = time.monotonic() + deadline_s
        self._transport.connect()
        while not self._published.is_complete:
            left_s = until - time.monotonic()
            if left_s <= 0:
                raise Unreachable(f"{self._problem} ({deadline_s:g} s)")
            for _, events in self._loop.wait(left_s):
                for event in events:
                    self._handle(event)
        return self._published.newest()

    def close(self) -> None:
        self._loop.remove(self._transport)
        self._transport.close(timeout_s=0.5)
        self._loop.close()

    def _handle(self, event: Event) -> None:
        match event:
            case Message():
                further = self._published.see(event.topic, event.payload)
                self._transport.acknowledge(event)
                if further:
                    self._transport.subscribe(further)
                self._problem = f"missing: {self._published.missing()}"
            case Connected():
                self._problem = "it has no model; check --task and --prefix"
            case Disconnected() | Refused():
                self._problem = event.reason
