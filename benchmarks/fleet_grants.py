"""``fleets``, part grants: what it costs to give a lease, however many devices wait for one.

1,000 and 100,000 devices wait at one aggregator, in memory. Leases are given by each rule of
selection, one at a time and ten at a time; who gets one waits again at once. Seconds of CPU time a
lease, medians of `ROUNDS` blocks; ``ratio`` is that of the many to that of the few.
"""

import time
from typing import Final

from aggregator.fleet import Fleet
from aggregator.granting import Grant, Granting
from aggregator.leases import LeaseBook
from aggregator.records import LeaseRecord
from aggregator.scheduling.buffered import Buffered
from aggregator.scheduling.selection import HUNGARIAN, LONGEST_WAITING, OORT, UNIFORM
from aggregator.scheduling.selection import SelectionConfig as Selection
from aggregator.task_config import TaskConfig
from benchmarks.report import Report, figure, median
from protocol.messages import INSTALL_ID_BYTES, LEASE_ID_BYTES, CheckIn

FEW: Final = 1_000
MANY: Final = 100_000
QUICK_MANY: Final = 5_000
ROUNDS: Final = 15
#: Leases of a block.
BLOCK: Final = 100
RULES: Final = (LONGEST_WAITING, UNIFORM, HUNGARIAN, OORT)
AT_A_TIME: Final = (1, 10)
MODEL: Final = {
    "input": [8],
    "layers": [{"type": "dense", "units": 4}],
    "loss": "softmax_cross_entropy",
}


def measure(*, quick: bool) -> Report:
    """Time every rule. Quick: fewer devices and blocks."""
    many, rounds = (QUICK_MANY, 3) if quick else (MANY, ROUNDS)
    return {
        f"{rule}, {at_a_time} at a time": _compared(rule, at_a_time, many, rounds)
        for rule in RULES
        for at_a_time in AT_A_TIME
    }


def _compared(rule: str, at_a_time: int, many: int, rounds: int) -> Report:
    few_s, many_s = (_seconds(rule, at_a_time, size, rounds) for size in (FEW, many))
    return {
        "us_few": figure(1e6 * few_s),
        "us_many": figure(1e6 * many_s),
        "ratio": figure(many_s / few_s),
    }


def _seconds(rule: str, at_a_time: int, num_devices: int, rounds: int) -> float:
    config = TaskConfig(
        task="grants",
        model=MODEL,
        selection=Selection(rule=rule),
        buffered=Buffered(goal=10, concurrency=num_devices),
        max_devices=num_devices,
    )
    fleet, leases = Fleet(num_devices, ()), LeaseBook()
    granting = Granting(
        config, fleet, leases, config.uplink, config.trained().layout, seed=bytes(32), version=0
    )
    codecs = tuple(sorted(config.uplink.words))
    for number in range(num_devices):
        install_id = number.to_bytes(INSTALL_ID_BYTES, "big")
        fleet.register(f"device-{number}", install_id)
        fleet.wait(f"device-{number}", CheckIn(install_id, -1, 10, codecs), 0.0)
    giver = _Giver(fleet, leases, granting)
    giver.give(BLOCK, at_a_time)
    return median([giver.give(BLOCK, at_a_time) / BLOCK for _ in range(rounds)])


class _Giver:
    """Gives leases, ends them, and lets the devices wait again."""

    def __init__(self, fleet: Fleet, leases: LeaseBook, granting: Granting) -> None:
        self._fleet = fleet
        self._leases = leases
        self._granting = granting
        self._now = 0.0
        self._num_given = 0

    def give(self, count: int, at_a_time: int) -> float:
        """Give so many; return the seconds of CPU that giving took."""
        taken_s, given = 0.0, 0
        while given < count:
            self._now += 1.0
            begun = time.process_time()
            granted = [
                (grant, self._granting.open(self._record(grant), grant, self._now))
                for grant in self._granting.grants(at_a_time, self._now)
            ]
            taken_s += time.process_time() - begun
            if not granted:
                raise RuntimeError(f"nobody gets a lease, and {self._fleet.num_waiting} wait")
            given += len(granted)
            for grant, lease in granted:
                self._leases.close([lease.lease_id])
                self._fleet.wait(grant.waiting.device, grant.waiting.check_in, self._now)
        return taken_s

    def _record(self, grant: Grant) -> LeaseRecord:
        self._num_given += 1
        lease_id = self._num_given.to_bytes(LEASE_ID_BYTES, "big")
        return LeaseRecord(lease_id, grant.waiting.device, 0, str(grant.codec))
