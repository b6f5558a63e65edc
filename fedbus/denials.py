"""Denied by an aggregator, denied by the broker: `fedbus broker up` follows ``mon/denied``.

What an aggregator drops unread still fills the broker's queues and everybody's link. So it says
whom it wants to hear no more, and whoever runs the broker's folder has mosquitto deny them. Only
the aggregator may publish there: the broker's own rules prove it, and it is the broker that obeys.
"""

import json
import random
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final

from broker_config import mosquitto
from broker_config.accounts import MONITOR, SERVICES
from broker_config.files import BrokerFiles, write_accounts
from broker_config.private_files import replace
from broker_config.revoke import allow_device, denied_devices, deny_device
from broker_config.running import Broker
from fedbus.listener import reader_settings
from protocol.errors import ConfigError, RemoteProtocolError
from protocol.json_objects import read_object
from protocol.topics import DEFAULT_PREFIX, check_id, denied_filter
from transport import BrokerSettings, Message
from transport.loop import Loop
from transport.paho import PahoTransport
from transport.settings import AUTO, Tls

#: How many devices of one task are denied at most: more is no flood but a mistake.
MAX_DENIED: Final = 10_000
_SLICE_S: Final = 0.5


class Denials:
    """What is denied at the broker of a folder because an aggregator said so.

    Whom an operator has denied otherwise (`broker_config.revoke`) is left alone, also where an
    aggregator names the device, too: a revocation must not end with the aggregator's word.
    """

    def __init__(self, broker: Path) -> None:
        self._broker = broker
        self._file = broker / "denied"
        self._of_task = self._read()

    def said(self, topic: str, payload: bytes) -> list[str]:
        """A task's aggregator names whom it wants denied; return what changed, for a person.

        Raises ConfigError for what cannot be a report, OSError where files cannot be written.
        """
        before, denied = self._all(), denied_devices(self._broker)
        wanted = named(payload) - (denied - before)
        self._of_task[topic] = wanted | self._of_task.get(topic, set())
        self._write()  # else, after a crash on the way, those would seem to be an operator's
        self._of_task[topic] = wanted
        after = self._all()
        changed = []
        for device in sorted(after - denied):
            deny_device(self._broker, device)
            changed.append(f"{device} is denied")
        for device in sorted(before - after):
            self._allow(device)
            changed.append(f"{device} is let in again")
        self._write()
        return changed

    def _allow(self, device: str) -> None:
        """Its password went with the denial; where the folder has it still, it comes back."""
        if BrokerFiles(self._broker).secret(device).exists():
            write_accounts(self._broker, [device])
        allow_device(self._broker, device)

    def _all(self) -> set[str]:
        return set().union(*self._of_task.values())

    def _read(self) -> dict[str, set[str]]:
        try:
            told = json.loads(self._file.read_text(encoding="utf-8"))
        except (OSError, ValueError):  # never written, or cut short: told anew when connected
            return {}
        return {topic: set(names) for topic, names in told.items()}

    def _write(self) -> None:
        told = {topic: sorted(names) for topic, names in self._of_task.items() if names}
        replace(self._file, json.dumps(told).encode())


def follow(
    denials: Denials,
    settings: BrokerSettings,
    prefix: str,
    *,
    stopping: Callable[[], bool],
    say: Callable[[str], None],
) -> None:
    """Do what aggregators below ``prefix`` say on ``mon/denied`` until ``stopping()``."""
    transport, loop = PahoTransport(settings, random=random.SystemRandom().random), Loop()
    loop.add(transport)
    transport.subscribe((denied_filter(prefix),))
    transport.connect()
    try:
        while not stopping():
            for _, events in loop.wait(_SLICE_S):
                for event in events:
                    if isinstance(event, Message):
                        _obey(denials, event, say)
                        transport.acknowledge(event)
    finally:
        loop.remove(transport)
        transport.close(timeout_s=_SLICE_S)
        loop.close()


def start_following(
    broker: Broker, say: Callable[[str], None], prefix: str = DEFAULT_PREFIX
) -> Callable[[], None]:
    """Follow in a thread of its own while a mosquitto runs here; return what ends it.

    Without a listener that takes the monitor's password it says that it cannot.
    """
    place = None if broker.embedded else password_listener(broker.files)
    if place is None:
        say("no listener takes passwords: floods are not cut off here")
        return lambda: None
    port, has_tls = place
    tls = Tls(ca=broker.files.authority) if has_tls else None
    host, password = broker.host or "127.0.0.1", broker.files.secret(MONITOR)
    settings = reader_settings(host, port, MONITOR, password, AUTO, tls=tls)
    ended = threading.Event()
    thread = threading.Thread(
        target=follow,
        args=(Denials(broker.files.directory), settings, prefix),
        kwargs={"stopping": ended.is_set, "say": say},
        name="denials",
        daemon=True,  # it holds nothing that an end could harm: files are replaced in one step
    )
    thread.start()

    def end() -> None:
        ended.set()
        thread.join()

    return end


def _obey(denials: Denials, message: Message, say: Callable[[str], None]) -> None:
    try:
        for change in denials.said(message.topic, message.payload):
            say(change)
    except (ConfigError, OSError) as error:
        say(f"{message.topic}: {error}")


def named(payload: bytes) -> set[str]:
    """Return the devices of a report, services left out. Raises ConfigError for anything else."""
    try:
        told = read_object(payload, "mon/denied") if payload else {"devices": []}
        names: Iterable[object] = told["devices"]
        found = {check_id(name, "device") for name in names if isinstance(name, str)}
    except (RemoteProtocolError, ValueError, TypeError, KeyError) as error:
        raise ConfigError(f"no report of denied devices: {error}") from None
    if len(found) > MAX_DENIED:
        raise ConfigError(f"{len(found)} devices denied: too many to be meant")
    return found - SERVICES.keys()


def password_listener(files: BrokerFiles) -> tuple[int, bool] | None:
    """Return the port of a listener for passwords, and whether it speaks TLS; None: none does."""
    return mosquitto.password_listener(files.config.read_text(encoding="utf-8"))
