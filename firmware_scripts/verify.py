"""Wait on the broker until a device is there: its birth, and the state online."""

import dataclasses
import json
import random
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from protocol.topics import Topics
from transport import BrokerSettings, Connected, Disconnected, Event, Message, Refused, Will
from transport.config import BrokerConfig
from transport.loop import Loop
from transport.paho import PahoTransport

_ONLINE: Final = "online"


@dataclass(frozen=True, slots=True, kw_only=True)
class Expected:
    """Which birth counts: empty ``sdk`` takes any, a birth with boot id ``after_boot`` is old."""

    sdk: str = ""
    after_boot: str = ""


@dataclass(slots=True)
class Seen:
    """What the broker has said about one device so far."""

    state: str = ""
    birth: Mapping[str, Any] = field(default_factory=dict)
    connected: bool = False
    trouble: str = ""

    @property
    def boot(self) -> str:
        """The boot id of the last birth seen; empty for none."""
        return str(self.birth.get("boot", ""))

    @property
    def sdk(self) -> str:
        """The SDK version of the last birth seen."""
        return str(self.birth.get("sdk", ""))

    def fulfils(self, expected: Expected) -> bool:
        """Whether the device has come as expected."""
        return (
            self.state == _ONLINE
            and self.boot not in {"", expected.after_boot}
            and expected.sdk in {"", self.sdk}
        )

    def sentence(self, device: str, expected: Expected) -> str:
        """Say what was seen, and what is lacking."""
        if not self.connected:
            return f"the broker was not reached: {self.trouble or 'no answer'}"
        if not self.boot:
            return f"no birth of {device} on the broker: did it start, is it in this task?"
        if self.boot == expected.after_boot:
            return f"only the birth from before (boot {self.boot}): {device} has not come back"
        what = f"{device}: SDK {self.sdk}, boot {self.boot}, state {self.state or 'unknown'}"
        return what if expected.sdk in {"", self.sdk} else f"{what}; SDK {expected.sdk} expected"


def verify(
    settings: BrokerSettings, topics: Topics, device: str, expected: Expected, *, timeout_s: float
) -> Seen:
    """Watch the broker until the device has come as expected (`Seen.fulfils`), or time is up."""
    return _watch(
        settings, topics, device, lambda seen: seen.fulfils(expected), timeout_s=timeout_s
    )


def last_boot(settings: BrokerSettings, topics: Topics, device: str, *, timeout_s: float) -> Seen:
    """Look which birth the broker keeps: the one that does not count after a flash.

    Gives up at the first failure to connect, as a device's broker need not be in reach from here.
    """
    return _watch(
        settings,
        topics,
        device,
        lambda seen: bool(seen.boot or (seen.trouble and not seen.connected)),
        timeout_s=timeout_s,
    )


def watcher(config: BrokerConfig, username: str = "") -> BrokerSettings:
    """Return the settings of a client that only watches. Raises ConfigError for the password."""
    client_id = f"fedbus-verify-{uuid.uuid4().hex[:8]}"
    settings = config.settings(
        client_id, username=username, will=Will(client_id, b""), window=20, queue=20
    )
    return dataclasses.replace(settings, will=None, clean_start=True, backoff_cap_s=5.0)


def _watch(
    settings: BrokerSettings,
    topics: Topics,
    device: str,
    is_enough: Callable[[Seen], bool],
    *,
    timeout_s: float,
) -> Seen:
    seen = Seen()
    until = time.monotonic() + timeout_s
    loop = Loop()
    transport = PahoTransport(settings, random=random.SystemRandom().random)
    loop.add(transport)
    transport.connect()
    transport.subscribe([topics.state(device), topics.info(device)])
    try:
        while not is_enough(seen) and (left_s := until - time.monotonic()) > 0:
            for _, events in loop.wait(left_s):
                for event in events:
                    _note(seen, event, topics, device)
                    if isinstance(event, Message):
                        transport.acknowledge(event)
    finally:
        loop.remove(transport)
        transport.close(timeout_s=0.5)
        loop.close()
    return seen


def _note(seen: Seen, event: Event, topics: Topics, device: str) -> None:
    match event:
        case Connected():
            seen.connected = True
        case Refused(reason) | Disconnected(reason):
            seen.trouble = reason
        case Message(topic, payload) if topic == topics.state(device):
            seen.state = payload.decode(errors="replace")[:20]
        case Message(topic, payload) if topic == topics.info(device):
            seen.birth = _parse(payload)


def _parse(payload: bytes) -> Mapping[str, Any]:
    try:
        birth = json.loads(payload)
    except (ValueError, RecursionError):
        return {}
    return birth if isinstance(birth, dict) else {}
