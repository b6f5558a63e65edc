"""Utility-based selection (Oort).

F. Lai, X. Zhu, H. V. Madhyastha, M. Chowdhury, "Oort: Efficient Federated Learning via Guided
Participant Selection", OSDI 2021, sections 4.2 and 4.3.

A device's utility is what it taught last time, in the paper ``|B| sqrt(mean squared loss)``. No
loss leaves a device here, so the norm of its update stands for the root (both measure how far its
samples are from fitted): samples times norm. Under masking nobody sees a norm: samples alone.
Added is ``sqrt(0.1 log v / v_i)`` (v_i: the version it was seen for last), so that old knowledge
is renewed; a device that takes t_i > T is multiplied by ``(T / t_i) ** slow_penalty``. T, the
preferred time, begins as the median of the known times; when the utility of what came in the last
`WINDOW` versions has fallen, T grows (the pacer): slower devices get their turn.

A part of the seats, falling from ``exploration``, goes to devices that nothing is known of yet. The
others are drawn with probability in proportion to utility, among those at ``cutoff`` times the
utility of the last one that would just be chosen, or above. Utilities are cut at their 95th
percentile, against outliers. Pure.
"""

import math
from collections.abc import Sequence
from typing import Final

import numpy as np

from aggregator.scheduling.candidates import MAX_SEATS, candidates
from aggregator.scheduling.links import Floats, Link
from aggregator.scheduling.rules import Knowledge, Moment, Pick, Seat
from aggregator.scheduling.selection import OortConfig
from protocol.stream import Stream

#: The pacer compares so many versions with as many before.
WINDOW: Final = 20
#: The least part of T by which the pacer raises it.
_STEP: Final = 0.25
_PERCENTILE: Final = 95


class Oort:
    """Compares at most `MAX_CANDIDATES` devices at once."""

    def __init__(self, known: Knowledge, config: OortConfig, *, sees_norms: bool) -> None:
        self._known = known
        self._config = config
        self._sees_norms = sees_norms
        self._exploration = config.exploration
        self._version = -1
        self._pacer = Pacer()

    def pick(self, seats: Sequence[Seat], sites: Sequence[str], moment: Moment) -> list[Pick]:
        """Return who must be chosen, then whom utility draws, then strangers."""
        self._notice(moment.version)
        num_seats = min(len(seats), MAX_SEATS)
        devices, num_forced = candidates(self._known, sites, num_seats, moment)
        chosen, rest = devices[:num_forced], devices[num_forced:]
        links = self._known.links
        strangers = [device for device in rest if links.get(device) is None]
        familiar = [device for device in rest if links.get(device) is not None]
        num_left = num_seats - len(chosen)
        num_strange = min(
            len(strangers), max(self._num_strange(num_left), num_left - len(familiar))
        )
        chosen += self._exploit(familiar, num_left - num_strange, moment)
        chosen += _draw(strangers, np.ones(len(strangers)), num_strange, self._known.stream)
        return [Pick(device, seat) for seat, device in enumerate(chosen)]

    def came(self, version: int, utility: float) -> None:
        """An update came that was worth so much."""
        self._pacer.came(version, utility)

    def worth(self, device: str) -> float:
        """Return the statistical utility of a device: what its last update taught."""
        link = self._known.links.known(device)
        norm = link.norm if self._sees_norms and link.norm else 1.0
        return self._known.num_samples(device) * norm

    def _notice(self, version: int) -> None:
        """Explore less with every version."""
        if version != self._version:
            self._version = version
            decayed = self._exploration * self._config.exploration_decay
            self._exploration = max(self._config.exploration_min, decayed)

    def _num_strange(self, num_seats: int) -> int:
        """How many seats are for strangers; a part of one is one, sometimes."""
        wanted = self._exploration * num_seats
        return int(wanted + float(self._known.stream.uniform(1)[0]))

    def _exploit(self, devices: Sequence[str], count: int, moment: Moment) -> list[str]:
        if count <= 0 or not devices:
            return []
        found = [self._known.links.known(device) for device in devices]
        worth = np.array([self.worth(device) for device in devices])
        preferred_s = self._pacer.preferred_s(moment.version, [link.own_s for link in found])
        values = utilities(
            worth, found, version=moment.version, preferred_s=preferred_s, config=self._config
        )
        expected_s = self._known.links.expected(devices, [0.0], moment.budget_bytes)[:, 0]
        values[expected_s > moment.left_s] *= 1e-6  # chosen only where there is nobody else
        least = self._config.cutoff * float(np.sort(values)[-min(count, values.size)])
        return _draw(devices, np.where(values >= least, values, 0.0), count, self._known.stream)


class Pacer:
    """The preferred time T: raised while updates bring less than they did."""

    def __init__(self) -> None:
        self._raises = 0
        self._began = -1
        self._sums = [0.0, 0.0]  # of the window before, and of this one

    def came(self, version: int, utility: float) -> None:
        """An update of this utility came."""
        if self._began < 0:
            self._began = version
        if version >= self._began + WINDOW:
            before, now = self._sums
            self._raises += before > now
            self._sums = [now, 0.0]
            self._began = version
        self._sums[1] += utility

    def preferred_s(self, version: int, times: Sequence[float]) -> float:  # noqa: ARG002 - the paper's T is of a round
        """Return T for devices that take so long; infinity while no time is known."""
        known = [seconds for seconds in times if seconds > 0]
        if not known:
            return math.inf
        return float(np.median(known)) * (1 + _STEP * self._raises)


def utilities(
    worth: Floats,
    links: Sequence[Link],
    *,
    version: int,
    preferred_s: float,
    config: OortConfig,
) -> Floats:
    """Return the utility of each device (section 4.2 with the paper's formula 1).

    ``worth`` is cut at its 95th percentile and scaled to at most 1 first.
    """
    clipped = np.minimum(worth, np.percentile(worth, _PERCENTILE))
    scaled = clipped / max(float(clipped.max()), 1e-12)
    now = max(2, version + 2)
    seen = np.array([max(1, link.arrived_at + 1) for link in links])
    uncertain = np.sqrt(0.1 * math.log(now) / seen)
    own_s = np.array([max(link.own_s, 1e-9) for link in links])
    slow: Floats = np.where(own_s > preferred_s, (preferred_s / own_s) ** config.slow_penalty, 1.0)
    values: Floats = (scaled + uncertain) * slow
    return values


def _draw(devices: Sequence[str], weights: Floats, count: int, stream: Stream) -> list[str]:
    """Draw different devices with probability in proportion to their weights.

    The largest of ``u ** (1 / weight)`` (P. S. Efraimidis, P. G. Spirakis, 2006).
    """
    if count <= 0 or not devices:
        return []
    drawn = stream.uniform(len(devices)).astype(np.float64) + 2.0**-25
    keys = np.where(weights > 0, np.log(drawn) / np.maximum(weights, 1e-300), -np.inf)
    best = np.argsort(-keys, kind="stable")[:count]
    return [devices[place] for place in best if keys[place] > -np.inf]
