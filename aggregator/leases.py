"""The leases that matter now: open, or with an update in the buffer. Closed ones are in the store.

A lease that ran out stops holding a slot and nothing else: its update is still taken while its
base version is recent enough.
"""

import math
from collections import Counter, OrderedDict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from aggregator.records import LeaseRecord, LeaseState


@dataclass(slots=True)
class Lease:
    """One lease as the coordinator sees it; times are on the shell's monotonic clock.

    ``given_at`` None: before a restart, so that nothing can be said of how long it took. ``norm``
    is the L2 norm of its update, where somebody wants it and it can be seen. ``is_judged``: it is
    known whether its update came in time.
    """

    record: LeaseRecord
    expires_at: float
    state: LeaseState = LeaseState.OPEN
    upload_after_s: int = 0
    given_at: float | None = None
    budget_bytes: int = 0
    num_samples: int = 0
    site: str = ""
    slot: int = 0
    first_chunk: tuple[float, int] | None = None  # when it came, and its bytes
    norm: float | None = None
    is_judged: bool = False

    @property
    def lease_id(self) -> bytes:
        """Also the id of its update."""
        return self.record.lease_id

    def upload_left_s(self, now: float) -> int:
        """Return how much of ``upload_after_s`` is left, in whole seconds."""
        if self.given_at is None:
            return 0
        return max(0, math.ceil(self.given_at + self.upload_after_s - now))


class LeaseBook:
    """Leases by id and by device. Every lease runs for the same time, so they end in order.

    ``sites`` and ``slots`` count those that run, ``outstanding_bytes`` adds up their budgets.
    """

    def __init__(self) -> None:
        self._by_id: dict[bytes, Lease] = {}
        self._by_device: dict[str, Lease] = {}
        self._by_version: dict[int, dict[bytes, Lease]] = {}
        self._running: OrderedDict[bytes, Lease] = OrderedDict()
        self._running_at: Counter[int] = Counter()
        self.expired: dict[bytes, Lease] = {}
        self.sites: Counter[str] = Counter()
        self.slots: Counter[int] = Counter()
        self.outstanding_bytes = 0

    def __len__(self) -> int:
        return len(self._by_id)

    def __iter__(self) -> Iterator[Lease]:
        return iter(self._by_id.values())

    @property
    def num_active(self) -> int:
        """How many leases hold a slot."""
        return len(self._running)

    def get(self, lease_id: bytes) -> Lease | None:
        """Return a lease that is open or journalled."""
        return self._by_id.get(lease_id)

    def of_device(self, device: str) -> Lease | None:
        """Return the newest lease of a device that is open or journalled."""
        return self._by_device.get(device)

    def open(
        self,
        record: LeaseRecord,
        expires_at: float,
        *,
        budget_bytes: int = 0,
        site: str = "",
        slot: int = 0,
    ) -> Lease:
        """Start a lease; it holds a slot until it is used, closed or runs out."""
        lease = Lease(record, expires_at, budget_bytes=budget_bytes, site=site, slot=slot)
        self._count(lease, 1)
        self._by_id[record.lease_id] = lease
        self._by_device[record.device] = lease
        self._by_version.setdefault(record.version, {})[record.lease_id] = lease
        self._running[record.lease_id] = lease
        self._running_at[record.version] += 1
        return lease

    def journalled(self, lease: Lease) -> None:
        """Its update is in the buffer: the slot is free."""
        lease.state = LeaseState.JOURNALLED
        self._free(lease.lease_id)

    def close(self, lease_ids: Iterable[bytes]) -> None:
        """Forget leases whose update was counted or refused."""
        for lease_id in lease_ids:
            lease = self._by_id.pop(lease_id, None)
            if lease is None:
                continue
            self._free(lease_id)
            self._leave_version(lease)
            if self._by_device.get(lease.record.device) is lease:
                del self._by_device[lease.record.device]

    def expire(self, now: float) -> list[Lease]:
        """Return the leases that have run out since the last call; their slots are free."""
        over = []
        while self._running:
            lease = next(iter(self._running.values()))
            if lease.expires_at > now:
                break
            self._free(lease.lease_id)
            self.expired[lease.lease_id] = lease
            over.append(lease)
        return over

    def next_expiry(self) -> float | None:
        """Return when the next lease runs out."""
        return next(iter(self._running.values())).expires_at if self._running else None

    def below(self, version: int) -> list[Lease]:
        """Return the leases for versions older than this one."""
        older = [number for number in self._by_version if number < version]
        return [lease for number in older for lease in self._by_version[number].values()]

    def open_versions(self) -> set[int]:
        """Return the versions that a device may still want to fetch."""
        return set(self._running_at)

    def is_running(self, lease: Lease) -> bool:
        """The lease still holds a slot."""
        return lease.lease_id in self._running

    def running(self) -> Iterator[Lease]:
        """Iterate over the leases that hold a slot, oldest first."""
        return iter(self._running.values())

    def _leave_version(self, lease: Lease) -> None:
        leases = self._by_version[lease.record.version]
        del leases[lease.lease_id]
        if not leases:
            del self._by_version[lease.record.version]

    def _free(self, lease_id: bytes) -> None:
        lease = self._running.pop(lease_id, None)
        if lease is not None:
            self._count(lease, -1)
            self._running_at[lease.record.version] -= 1
            if not self._running_at[lease.record.version]:
                del self._running_at[lease.record.version]
        self.expired.pop(lease_id, None)

    def _count(self, lease: Lease, by: int) -> None:
        self.sites[lease.site] += by
        self.slots[lease.slot] += by
        self.outstanding_bytes += by * lease.budget_bytes
