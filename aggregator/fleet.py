"""The devices of a task: which installation an id belongs to, who is present, who waits.

An id belongs to the installation that used it first. A second one (a cloned card) is told so.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from aggregator.records import DeviceRecord
from protocol import refusals
from protocol.errors import RemoteProtocolError
from protocol.messages import COUNTER_START_BITS, CheckIn

STATES = frozenset({"online", "sleeping", "offline"})


@dataclass(frozen=True, slots=True)
class Waiting:
    """A device that wants a lease, and since when."""

    device: str
    check_in: CheckIn
    since: float


class Fleet:
    """At most ``max_devices`` ids; who waits longest is served first."""

    def __init__(self, max_devices: int, known: Iterable[DeviceRecord]) -> None:
        self._max_devices = max_devices
        self._install_ids = {
            record.device: record.install_id for record in known if record.install_id
        }
        self._waiting: OrderedDict[str, Waiting] = OrderedDict()
        self._unready: dict[str, Waiting] = {}
        self._counters: dict[str, int] = {}
        self.presence: dict[str, str] = {}

    @property
    def num_registered(self) -> int:
        """How many ids are bound to an installation."""
        return len(self._install_ids)

    @property
    def num_waiting(self) -> int:
        """How many devices want a lease."""
        return len(self._waiting)

    @property
    def waiting_since(self) -> float | None:
        """When the device that waits longest checked in; None: nobody waits."""
        return next(iter(self._waiting.values())).since if self._waiting else None

    def register(self, device: str, install_id: bytes) -> DeviceRecord | None:
        """Bind an id to an installation; return the record to be stored if that is new.

        Raises RemoteProtocolError: ``duplicate_device`` if the id is another installation's,
        ``busy`` when there are ``max_devices`` already.
        """
        known = self._install_ids.get(device)
        if known == install_id:
            return None
        if known is not None:
            raise RemoteProtocolError(
                refusals.DUPLICATE_DEVICE, f"{device} is another installation"
            )
        if len(self._install_ids) >= self._max_devices:
            raise RemoteProtocolError(refusals.BUSY, f"max_devices ({self._max_devices}) reached")
        self._install_ids[device] = install_id
        return DeviceRecord(device, install_id)

    def is_old(self, device: str, install_id: bytes, counter: int) -> bool:
        """Whether a check-in was delivered again, by the counter in its envelope.

        Only within one start of the device: one that lost its memory may count from the beginning.
        Another installation counts for itself, and is turned away elsewhere.
        """
        if self._install_ids.get(device, install_id) != install_id:
            return False
        last = self._counters.get(device, 0)
        if counter >> COUNTER_START_BITS == last >> COUNTER_START_BITS and counter <= last:
            return True
        if device in self._install_ids or len(self._counters) < self._max_devices:
            self._counters[device] = counter
        return False

    def wait(self, device: str, check_in: CheckIn, now: float, *, ready: bool = True) -> None:
        """Queue a device for a lease; one that waits already keeps its place.

        One that is not ``ready`` (its masks are not) is remembered until it is: `regroup`.
        """
        place = self._waiting.get(device)
        waiting = Waiting(device, check_in, now if place is None else place.since)
        (self._waiting if ready else self._unready)[device] = waiting
        (self._unready if ready else self._waiting).pop(device, None)

    def regroup(self, is_ready: Callable[[str], bool]) -> None:
        """Let those wait for a lease that are ready now, and no others."""
        for device in [device for device in self._waiting if not is_ready(device)]:
            self._unready[device] = self._waiting.pop(device)
        for device in [device for device in self._unready if is_ready(device)]:
            self._waiting[device] = self._unready.pop(device)

    def is_online(self, device: str) -> bool:
        """Whether a device was there when it was last heard of."""
        return self.presence.get(device) == "online"

    def next(self) -> Waiting:
        """Take the device that has waited longest."""
        return self._waiting.popitem(last=False)[1]

    def see(self, device: str, payload: bytes) -> None:
        """Note a device's retained state; an empty payload clears it.

        Raises RemoteProtocolError (``malformed``) for anything but the three words.
        """
        state = payload[:16].decode("ascii", "replace")
        if not state:
            self.presence.pop(device, None)
            return
        if state not in STATES:
            raise RemoteProtocolError(refusals.MALFORMED, f"state {state!r}")
        if device in self.presence or len(self.presence) < self._max_devices:
            self.presence[device] = state
        if state != "online":
            self._waiting.pop(device, None)
            self._unready.pop(device, None)

    def in_state(self, state: str) -> list[str]:
        """Return the devices in a state, by name."""
        return sorted(device for device, seen in self.presence.items() if seen == state)
