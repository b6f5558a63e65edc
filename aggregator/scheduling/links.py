"""What leases show of the devices' links: what is lost, how long it takes, how fast bytes come.

Every lease ends in one observation: its update came by the deadline, or it did not. Behind a broker
nothing is ever seen to be corrupt, so loss is the probability that an update is not there in time
(the packet error rate q of Chen et al., IEEE TWC 2021, in the terms of MQTT). How fast a link is,
devices also measure themselves, and tell in their telemetry.

A (device, slot) is observed rarely, so its loss is shrunk towards the device's mean over all slots,
and that towards `PRIOR_LOSS`: ``(lost + S * mean) / (seen + S)``. Counts fade by `FADE` with every
observation, which makes them moving averages that forget a link as it was.

Bounded: the ``max_devices`` heard of last. Soft: a restart begins anew, with the prior. Pure.
"""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

#: What is assumed of a link that nobody has used: better than most are, so that it is tried.
PRIOR_LOSS: Final = 0.1
#: How many observations the mean (of the device, or the prior) is worth.
SLOT_SHRINKAGE: Final = 1.0
DEVICE_SHRINKAGE: Final = 2.0
#: What an observation is worth after the next one: about the last 50 count.
FADE: Final = 0.98
#: How much of a time or a rate the newest observation is.
NEWEST: Final = 0.25
#: As many observations as what is taught counts for.
_CERTAIN: Final = 1e9
#: No link is taken to be faster, in bytes a second.
FASTEST: Final = 1e9
#: Links that are remembered.
MAX_LINKS: Final = 100_000


@dataclass(slots=True)
class Link:
    """One device. Counts by slot, faded; ``own_s`` is the time from lease to update."""

    seen: Floats
    lost: Floats
    own_s: float = 0.0
    bytes_per_s: float = 0.0
    norm: float = 0.0
    arrived_at: int = -1  # the version at which its last update came
    _shrunk: Floats | None = None

    @property
    def mean_loss(self) -> float:
        """The device's loss over all slots, shrunk towards the prior."""
        lost = float(self.lost.sum()) + DEVICE_SHRINKAGE * PRIOR_LOSS
        return lost / (float(self.seen.sum()) + DEVICE_SHRINKAGE)

    def losses(self) -> Floats:
        """Return the loss in each slot, shrunk towards the mean; kept until the next one is seen.

        Most links are compared far more often than they are seen.
        """
        if self._shrunk is None:
            mean = SLOT_SHRINKAGE * self.mean_loss
            self._shrunk = (self.lost + mean) / (self.seen + SLOT_SHRINKAGE)
        return self._shrunk

    def observe(self, slot: int, *, is_lost: bool) -> None:
        """Count an observation."""
        self.seen *= FADE
        self.lost *= FADE
        self.seen[slot] += 1
        self.lost[slot] += is_lost
        self._shrunk = None


class Links:
    """All links of a task, over ``num_slots`` slots of ``slot_s`` seconds each."""

    def __init__(self, num_slots: int, slot_s: float, max_devices: int = MAX_LINKS) -> None:
        self._num_slots = num_slots
        self._slot_s = slot_s
        self._max_devices = max_devices
        self._links: OrderedDict[str, Link] = OrderedDict()
        self._prior = Link(np.zeros(num_slots), np.zeros(num_slots))
        self._num_seen = 0.0
        self._num_lost = 0.0

    def __len__(self) -> int:
        return len(self._links)

    @property
    def completion(self) -> float:
        """The part of all leases whose update came in time, lately; 1 before the first."""
        return 1.0 if not self._num_seen else 1.0 - self._num_lost / self._num_seen

    def get(self, device: str) -> Link | None:
        """Return what is known of a device."""
        return self._links.get(device)

    def known(self, device: str) -> Link:
        """Return what is known of a device, or what is assumed of a strange one."""
        return self._links.get(device, self._prior)

    def arrived(
        self,
        device: str,
        slot: int,
        *,
        elapsed_s: float,
        upload_after_s: float,
        in_time: bool | None,
    ) -> Link:
        """An update came ``elapsed_s`` after its lease; held back for ``upload_after_s`` of them.

        ``in_time`` None: whether it would be was observed before. How long the device itself took
        shows unless it waited for its slot.
        """
        link = self._remember(device)
        if in_time is not None:
            self._observe(link, slot, is_lost=not in_time)
        waited = upload_after_s > 0 and elapsed_s <= upload_after_s + self._slot_s
        if not waited or elapsed_s < link.own_s:
            link.own_s = _newer(link.own_s, elapsed_s)
        return link

    def lost(self, device: str, slot: int) -> None:
        """No update came by the deadline."""
        self._observe(self._remember(device), slot, is_lost=True)

    def told(self, device: str, bytes_per_s: float) -> None:
        """A device has measured how fast its link is: an update in one packet shows nobody else."""
        link = self._remember(device)
        link.bytes_per_s = _newer(link.bytes_per_s, min(bytes_per_s, FASTEST))

    def teach(self, device: str, losses: Floats) -> None:
        """Take a device's loss in each slot as known: observations will hardly change it."""
        self._remember(device)
        self._links[device] = Link(np.full(self._num_slots, _CERTAIN), _CERTAIN * losses)

    def expected_s(self, device: str, upload_after_s: float, num_bytes: int) -> float:
        """Return when an update would come if a lease were given now; 0 for a strange device."""
        return float(self.expected([device], [upload_after_s], num_bytes)[0, 0])

    def expected(
        self, devices: Sequence[str], uploads_after_s: Sequence[float], num_bytes: int
    ) -> Floats:
        """Return `expected_s`, (devices, times of upload)."""
        links = [self.known(device) for device in devices]
        own_s = np.array([link.own_s for link in links])
        upload_s = np.array(
            [num_bytes / link.bytes_per_s if link.bytes_per_s else 0.0 for link in links]
        )
        slotted = np.asarray(uploads_after_s, np.float64)[None, :] + upload_s[:, None]
        expected: Floats = np.where(own_s[:, None] > 0, np.maximum(own_s[:, None], slotted), 0.0)
        return expected

    def losses(self, devices: Sequence[str]) -> Floats:
        """Return (devices, slots): each device's loss in each slot."""
        return np.stack([self.known(device).losses() for device in devices])

    def _remember(self, device: str) -> Link:
        link = self._links.get(device)
        if link is None:
            link = Link(np.zeros(self._num_slots), np.zeros(self._num_slots))
            self._links[device] = link
        self._links.move_to_end(device)
        if len(self._links) > self._max_devices:
            self._links.popitem(last=False)
        return link

    def _observe(self, link: Link, slot: int, *, is_lost: bool) -> None:
        link.observe(slot, is_lost=is_lost)
        self._num_seen = FADE * self._num_seen + 1
        self._num_lost = FADE * self._num_lost + is_lost


def rate(link: Link, num_bytes: int, seconds: float) -> None:
    """Note that so many bytes came in so many seconds.

    Where an update shows no speed (it came in one packet) a known one is taken for twice as high:
    next time more is tried, and a speed from a bad moment does not stay for good.
    """
    if seconds > 0 and num_bytes > 0:
        link.bytes_per_s = _newer(link.bytes_per_s, num_bytes / seconds)
    else:
        link.bytes_per_s = min(2 * link.bytes_per_s, FASTEST)


def _newer(known: float, observed: float) -> float:
    """Return a moving average; the first observation as it is."""
    return observed if not known else known + NEWEST * (observed - known)
