"""The devices of a task: which installation an id belongs to, who is present, who waits.

An id belongs to the installation that used it first. A second one (a cloned card) is told so.
"""

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from aggregator.records import DeviceRecord
from aggregator.scheduling.queues import Queues
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


def _nowhere(_device: str) -> str:
    return ""


class Fleet:
    """At most ``max_devices`` ids. ``queues`` has who waits, in order; `take` serves one of them.

    ``site_of`` says which site a device belongs to.
    """

    def __init__(
        self,
        max_devices: int,
        known: Iterable[DeviceRecord],
        site_of: Callable[[str], str] = _nowhere,
    ) -> None:
        self._max_devices = max_devices
        self.site_of = site_of
        self.queues = Queues()
        known = [record for record in known if record.install_id]
        self._install_ids = {record.device: record.install_id for record in known}
        self._waiting: dict[str, Waiting] = {}
        self._unready: dict[str, Waiting] = {}
        self._counters = {record.device: record.counter for record in known if record.counter}
        self.presence: dict[str, str] = {}
        self._num_in_state: Counter[str] = Counter()

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
        device = self.queues.oldest(self.queues.sites)
        return None if device is None else self._waiting[device].since

    @property
    def num_online(self) -> int:
        """How many devices were there when they were last heard of."""
        return self._num_in_state["online"]

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

    def is_old(self, device: str, install_id: bytes, counter: int, *, signed: bool = False) -> bool:
        """Whether a check-in was delivered again, by the counter in its envelope.

        If nobody ``signed`` it, only within one start of the device: one that lost its memory may
        count from the beginning. Another installation counts for itself, and is turned away
        elsewhere.
        """
        if self._install_ids.get(device, install_id) != install_id:
            return False
        last = self._counters.get(device, 0)
        same_start = counter >> COUNTER_START_BITS == last >> COUNTER_START_BITS
        if counter <= last and (signed or same_start):
            return True
        if device in self._install_ids or len(self._counters) < self._max_devices:
            self._counters[device] = counter
        return False

    def record(self, device: str) -> DeviceRecord:
        """Return what is to be stored of a device that gets a lease, its newest counter with it.

        So that a broker that says its check-ins again after a restart gets no lease for them.
        """
        return DeviceRecord(device, self._install_ids[device], self._counters.get(device, 0))

    def newest_start(self, device: str) -> int:
        """Return how often a device had started when it was heard of last."""
        return self._counters.get(device, 0) >> COUNTER_START_BITS

    def wait(self, device: str, check_in: CheckIn, now: float, *, ready: bool = True) -> None:
        """Queue a device for a lease; one that waits already keeps its place.

        One that is not ``ready`` (its masks are not) is remembered until it is: `regroup`.
        """
        place = self._waiting.get(device)
        if place is not None and place.check_in.unreachable:  # it says so with every other one
            check_in = replace(check_in, unreachable=1)
        waiting = Waiting(device, check_in, now if place is None else place.since)
        if ready:
            self._unready.pop(device, None)
            self._enter(waiting)
        else:
            self._leave(device)
            self._unready[device] = waiting

    def regroup(self, is_ready: Callable[[str], bool]) -> None:
        """Let those wait for a lease that are ready now, and no others."""
        for device in [device for device in self._waiting if not is_ready(device)]:
            self._unready[device] = self.take(device)
        for device in [device for device in self._unready if is_ready(device)]:
            self._enter(self._unready.pop(device))

    def is_online(self, device: str) -> bool:
        """Whether a device was there when it was last heard of."""
        return self.presence.get(device) == "online"

    def waiting(self, device: str) -> Waiting:
        """Return a device that waits. Raises KeyError if it does not."""
        return self._waiting[device]

    def take(self, device: str) -> Waiting:
        """Take a device that waits: it does no more. Raises KeyError if it does not."""
        waiting = self._waiting[device]
        self._leave(device)
        return waiting

    def dismiss(self, device: str) -> None:
        """Let a device wait no longer, if it does."""
        self._leave(device)
        self._unready.pop(device, None)

    def _enter(self, waiting: Waiting) -> None:
        if waiting.device not in self._waiting:
            self.queues.add(waiting.device, self.site_of(waiting.device))
        self._waiting[waiting.device] = waiting

    def _leave(self, device: str) -> None:
        if self._waiting.pop(device, None) is not None:
            self.queues.remove(device)

    def see(self, device: str, payload: bytes) -> None:
        """Note a device's retained state; an empty payload clears it.

        Raises RemoteProtocolError (``malformed``) for anything but the three words.
        """
        state = payload[:16].decode("ascii", "replace")
        if not state:
            self._note_state(device, "")
            return
        if state not in STATES:
            raise RemoteProtocolError(refusals.MALFORMED, f"state {state!r}")
        if device in self.presence or len(self.presence) < self._max_devices:
            self._note_state(device, state)
        if state != "online":
            self._leave(device)
            self._unready.pop(device, None)

    def _note_state(self, device: str, state: str) -> None:
        before = self.presence.pop(device, "")
        if before:
            self._num_in_state[before] -= 1
        if state:
            self.presence[device] = state
            self._num_in_state[state] += 1

    def in_state(self, state: str) -> list[str]:
        """Return the devices in a state, by name."""
        return sorted(device for device, seen in self.presence.items() if seen == state)
