"""What a load finds, as figures."""

import os
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from fedbus.load_fleet import Fleet

#: The rate that is shown is that of the last seconds.
RATE_WINDOW_S: Final = 5.0
#: A rate is between two looks.
_ENDS: Final = 2
#: Of fewer devices, what Python loads meanwhile is more than what they take.
MANY: Final = 100
#: So many different problems are named.
MAX_PROBLEMS: Final = 10

Figures = Mapping[str, object]


@dataclass(frozen=True, slots=True)
class Watched:
    """A process whose memory is of interest."""

    name: str
    pid: int


def memory_kib(pid: int, what: str = "VmRSS") -> int | None:
    """Return resident memory (``VmHWM``: the most there was); None if there is no telling."""
    try:
        status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    except OSError:
        return None
    value = status.partition(f"{what}:")[2].split()
    return int(value[0]) if value else None


def name_of(pid: int) -> str:
    """Return what a process is called; empty if there is none."""
    try:
        return Path(f"/proc/{pid}/comm").read_text(encoding="utf-8").strip()
    except OSError:
        return ""


class Meter:
    """Looks at a fleet from before it connects; ``watched`` are processes that serve it."""

    def __init__(self, fleet: Fleet, watched: Sequence[Watched], now: float) -> None:
        self.watched = tuple(watched)
        self._fleet = fleet
        self._began = now
        self._before_kib = memory_kib(os.getpid()) or 0
        self._all_at: float | None = None
        self._most_connected = 0
        self._settled: deque[tuple[float, int]] = deque([(now, 0)])

    def look(self, now: float) -> None:
        """Note what is to be seen now; to be called a few times a second."""
        connected = self._fleet.num_connected
        self._most_connected = max(self._most_connected, connected)
        if self._all_at is None and connected == len(self._fleet.clients):
            self._all_at = now
        self._settled.append((now, self._fleet.ledger.num_settled))
        while len(self._settled) > _ENDS and self._settled[1][0] < now - RATE_WINDOW_S:
            self._settled.popleft()

    def rate(self) -> float:
        """Return the updates settled in a second, of late."""
        (first, before), (last, after) = self._settled[0], self._settled[-1]
        return (after - before) / (last - first) if last > first else 0.0

    def figures(self, now: float) -> Figures:
        """Return everything, as ``--json`` writes it. Seconds, bytes, MiB.

        Unanswered updates are those without a verdict, the lost ones, which nobody holds, included.
        """
        fleet, ledger = self._fleet, self._fleet.ledger
        busy_s = ledger.last_answer_at - (ledger.first_sent_at or ledger.last_answer_at)
        all_s = None if self._all_at is None else round(self._all_at - self._began, 2)
        return {
            "devices": len(fleet.clients),
            "connected": fleet.num_connected,
            "connected_at_once": self._most_connected,
            "all_connected_after_s": all_s,
            "reconnects": fleet.num_reconnects,
            "devices_done": fleet.num_done,
            "updates_counted": len(ledger.receipts),
            "updates_refused": dict(ledger.refused),
            "updates_unanswered": len(ledger.unanswered),
            "updates_lost": fleet.num_lost,
            "counted_twice": ledger.counted_twice + ledger.answered_twice,
            "seconds": round(now - self._began, 2),
            "updates_per_s": round(ledger.num_settled / busy_s, 1) if busy_s > 0 else None,
            "lease_to_receipt_s": ledger.seconds_from_lease(),
            "publish_to_receipt_s": ledger.seconds_from_publish(),
            "bytes_up": fleet.bytes_up,
            "bytes_down": fleet.bytes_down,
            "memory": self.memory(),
            "problems": dict(fleet.problems.most_common(MAX_PROBLEMS)),
        }

    def memory(self) -> Figures:
        """Return the memory of everything that can be looked at, in MiB."""
        own = os.getpid()
        num_devices = len(self._fleet.clients)
        load = dict(_memory_of(own))
        if num_devices >= MANY:
            grown_kib = max(0, (memory_kib(own) or 0) - self._before_kib)
            load["kib_per_device"] = round(grown_kib / num_devices, 1)
        others = {process.name: _memory_of(process.pid) for process in self.watched}
        return {"load": load, **others}


def _memory_of(pid: int) -> Mapping[str, float | None]:
    return {"rss_mib": _mib(memory_kib(pid)), "peak_mib": _mib(memory_kib(pid, "VmHWM"))}


def _mib(kib: int | None) -> float | None:
    return None if kib is None else round(kib / 1024, 1)
