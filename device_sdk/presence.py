"""Whether the bus is there, and what it retains of this device: its birth, and its state."""

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from device_sdk.actions import Action
from protocol.actions import Publish, Subscribe, Unsubscribe
from protocol.chunks import payload_bytes
from protocol.topics import Topics

if TYPE_CHECKING:
    from device_sdk.secagg import Member


class Presence:
    """``online``: there is a connection; an update's chunk has room for ``chunk_bytes`` of it.

    ``birth`` is what the device says of itself, with what its ``member`` adds.
    """

    def __init__(
        self, topics: Topics, device: str, birth: Mapping[str, Any], member: "Member | None"
    ) -> None:
        self.online = False
        self.chunk_bytes = payload_bytes(1 << 16)
        self._topics = topics
        self._device = device
        self._birth = birth
        self._member = member
        self._is_subscribed = False

    def connected(self, max_packet_bytes: int) -> list[Action]:
        """The bus is there (again): brokers forget, so birth and state are said again."""
        self.online = True
        self.chunk_bytes = payload_bytes(max_packet_bytes)
        return [*self._subscribe(), *self.announce()]

    def _subscribe(self) -> list[Action]:
        """Subscribe, once: the transport does it again where the broker may have forgotten it."""
        if self._is_subscribed:
            return []
        self._is_subscribed = True
        return [
            Subscribe((self._topics.into(self._device),)),
            Subscribe(self._topics.news_filters(self._device), retained=True),
        ]

    def announce(self) -> list[Action]:
        """Say birth and state."""
        born = {**self._birth, **({} if self._member is None else self._member.birth)}
        info = json.dumps(born, sort_keys=True).encode()
        return [
            Publish(self._topics.info(self._device), info, retain=True),
            Publish(self._topics.state(self._device), b"online", retain=True),
        ]

    def asleep(self) -> list[Action]:
        """The device is about to leave on purpose: it says so."""
        # What is retained will be there when it is back: no broker need queue each version for it.
        self._is_subscribed = False
        return [
            Unsubscribe((self._topics.plan(), self._topics.manifest())),
            Publish(self._topics.state(self._device), b"sleeping", retain=True),
        ]
