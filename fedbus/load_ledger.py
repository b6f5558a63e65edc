"""What became of every update of a load: leased, sent, then a receipt or a refusal. Pure."""

from array import array
from collections import Counter
from dataclasses import dataclass, field
from typing import Final, NamedTuple

import numpy as np

from protocol.messages import Manifest

#: Of a long run, latencies of so many updates are kept: the newest in place of the oldest.
MAX_LATENCIES: Final = 1 << 18

Percentiles = dict[str, float]


class _Way(NamedTuple):
    """When an update's lease came, and when its first packet left."""

    leased_at: float
    sent_at: float


class _Latencies:
    """The newest `MAX_LATENCIES` seconds, in four bytes each."""

    def __init__(self) -> None:
        self._seconds = array("f")
        self._num_added = 0

    def add(self, seconds: float) -> None:
        if len(self._seconds) < MAX_LATENCIES:
            self._seconds.append(seconds)
        else:
            self._seconds[self._num_added % MAX_LATENCIES] = seconds
        self._num_added += 1

    def percentiles(self) -> Percentiles:
        if not self._seconds:
            return {}
        seconds = np.frombuffer(self._seconds, np.float32)
        p50, p95, p99 = np.percentile(seconds, (50, 95, 99))
        named = {"p50": p50, "p95": p95, "p99": p99, "max": seconds.max()}
        return {name: round(float(value), 4) for name, value in named.items()}


@dataclass(slots=True)
class Ledger:
    """Times are monotonic seconds. An update is its lease id.

    ``receipts`` and ``refusals`` (id -> reason) are what clients were told; ``counted_twice`` is
    how many ids stood in more than one version's manifest, ``answered_twice`` how many updates got
    a second, different verdict. Both are 0 unless something is broken.
    """

    receipts: set[bytes] = field(default_factory=set)
    refusals: dict[bytes, str] = field(default_factory=dict)
    counted_twice: int = 0
    answered_twice: int = 0
    last_answer_at: float = 0.0
    first_sent_at: float | None = None
    _ways: dict[bytes, _Way] = field(default_factory=dict)
    _counted: set[bytes] = field(default_factory=set)
    _version: int = -1
    _from_lease: _Latencies = field(default_factory=_Latencies)
    _from_publish: _Latencies = field(default_factory=_Latencies)

    @property
    def num_settled(self) -> int:
        """Updates that got their receipt or refusal."""
        return len(self.receipts) + len(self.refusals)

    @property
    def unanswered(self) -> list[bytes]:
        """Updates that were sent and have neither."""
        return list(self._ways)

    @property
    def refused(self) -> Counter[str]:
        """How many updates were refused, by reason."""
        return Counter(self.refusals.values())

    def sent(self, lease_id: bytes, leased_at: float, now: float) -> None:
        """An update is stored by its device, and on its way as far as there is one."""
        self.first_sent_at = now if self.first_sent_at is None else self.first_sent_at
        self._ways[lease_id] = _Way(leased_at, now)

    def receipt(self, lease_id: bytes, now: float) -> None:
        """A device was told that its update is counted."""
        self.answered_twice += lease_id in self.receipts or lease_id in self.refusals
        self.receipts.add(lease_id)
        way = self._close(lease_id, now)
        if way is not None:
            self._from_lease.add(now - way.leased_at)
            self._from_publish.add(now - way.sent_at)

    def refusal(self, lease_id: bytes, reason: str, now: float) -> None:
        """A device was told that its update will not be used."""
        self.answered_twice += lease_id in self.receipts or lease_id in self.refusals
        self.refusals[lease_id] = reason
        self._close(lease_id, now)

    def counted(self, manifest: Manifest) -> None:
        """A version appeared, with the ids it counts; what is older or known changes nothing."""
        if manifest.version <= self._version:
            return
        self._version = manifest.version
        self.counted_twice += len(self._counted.intersection(manifest.counted))
        self._counted.update(manifest.counted)

    def seconds_from_lease(self) -> Percentiles:
        """Return percentiles of the time from lease to receipt."""
        return self._from_lease.percentiles()

    def seconds_from_publish(self) -> Percentiles:
        """Return percentiles of the time from an update's first packet to its receipt."""
        return self._from_publish.percentiles()

    def _close(self, lease_id: bytes, now: float) -> _Way | None:
        self.last_answer_at = now
        return self._ways.pop(lease_id, None)
