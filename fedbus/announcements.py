"""The epoch keys that devices announce for the next epoch: in their births, and as a JSON file."""

import json
import random
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Final

import nacl.utils

from broker_config.accounts import AGGREGATOR
from protocol.errors import ConfigError, RemoteProtocolError
from protocol.json_objects import read_object
from protocol.messages import KEY_BYTES, SIGNATURE_BYTES
from protocol.topics import Kind, Topics
from transport import Connected, Disconnected, Event, Message, Refused, Will
from transport.config import BrokerConfig
from transport.loop import Loop
from transport.paho import PahoTransport

_WINDOW: Final = 100
_QUEUE: Final = 1_000


@dataclass(frozen=True, slots=True)
class Announcement:
    """A device's epoch key (X25519) for an epoch, and its identity's signature on it."""

    epoch: int
    key: bytes
    endorsement: bytes


def read_announcement(value: object) -> Announcement | None:
    """Return what ``next_epoch`` of a birth says; None for anything that is none."""
    match value:
        case {"epoch": int(epoch), "key": str(key), "endorsement": str(endorsement)}:
            try:
                found = Announcement(epoch, bytes.fromhex(key), bytes.fromhex(endorsement))
            except ValueError:
                return None
            lengths = (len(found.key), len(found.endorsement))
            return found if lengths == (KEY_BYTES, SIGNATURE_BYTES) else None
    return None


def announced_text(announced: Mapping[str, Announcement]) -> str:
    """Return announcements by device as the JSON text that ``fedbus enrol next`` reads."""
    table = {
        device: {
            "epoch": given.epoch,
            "key": given.key.hex(),
            "endorsement": given.endorsement.hex(),
        }
        for device, given in sorted(announced.items())
    }
    return json.dumps(table, indent=1) + "\n"


def parse_announced(text: str) -> dict[str, Announcement]:
    """Return what `announced_text` wrote. Raises ConfigError that names the device."""
    try:
        table = read_object(text, "the file")
    except RemoteProtocolError as error:
        raise ConfigError(f"{error.detail}; `fedbus enrol collect` writes one") from None
    announced = {}
    for device, value in table.items():
        found = read_announcement(value)
        if found is None:
            raise ConfigError(f"{device}: expected epoch, key and endorsement, both in hex")
        announced[device] = found
    return announced


class Collector:
    """Reads the births that a broker keeps, until all that are wanted were heard.

    ``announced`` has the newest announcement of each device that made one, checked by nobody yet;
    ``problem`` says why there is no connection.
    """

    def __init__(self, broker: BrokerConfig, topics: Topics) -> None:
        client_id = f"fedbus-enrol-{nacl.utils.random(6).hex()}"
        settings = broker.settings(
            client_id, username=AGGREGATOR, will=Will(client_id, b""), window=_WINDOW, queue=_QUEUE
        )
        self._settings = replace(settings, will=None, clean_start=True, session_expiry_s=0)
        self._topics = topics
        self.announced: dict[str, Announcement] = {}
        self.problem = "no answer"

    def collect(self, wanted: Collection[str], epoch: int, deadline_s: float) -> None:
        """Listen until each of ``wanted`` has announced a key of ``epoch``, or time is up."""
        until = time.monotonic() + deadline_s
        loop = Loop()
        transport = PahoTransport(self._settings, random=random.SystemRandom().random)
        loop.add(transport)
        transport.subscribe([self._topics.info("+")])
        transport.connect()
        try:
            while self.missing(wanted, epoch) and (left_s := until - time.monotonic()) > 0:
                for _, events in loop.wait(left_s):
                    for event in events:
                        self.handle(event)
                        if isinstance(event, Message):
                            transport.acknowledge(event)
        finally:
            loop.remove(transport)
            transport.close(timeout_s=0.5)
            loop.close()

    def missing(self, wanted: Collection[str], epoch: int) -> list[str]:
        """Return those of ``wanted`` that have announced no key of ``epoch``."""
        epochs = {device: given.epoch for device, given in self.announced.items()}
        return [device for device in sorted(wanted) if epochs.get(device) != epoch]

    def handle(self, event: Event) -> None:
        """Take in one event of the transport."""
        match event:
            case Connected():
                self.problem = ""
            case Refused(reason) | Disconnected(reason):
                self.problem = reason
            case Message(topic, payload):
                self._hear(topic, payload)

    def _hear(self, topic: str, payload: bytes) -> None:
        try:
            address = self._topics.parse(topic)
            birth = read_object(payload, "a birth")
        except RemoteProtocolError:
            return
        found = read_announcement(birth.get("next_epoch"))
        if address.kind is Kind.INFO and found is not None:
            self.announced[address.device] = found
