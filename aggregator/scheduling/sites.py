"""Budgets of sites: devices that share a link take part with bounded concurrency and bytes.

Bytes are a token bucket on the aggregator's monotonic clock: it fills with ``bytes_per_hour`` and
holds `BURST` of an hour's worth. A lease is given while there is anything in it and takes all that
it costs, so in any hour a site costs at most 1 + `BURST` of its budget and one lease. Soft state:
after a restart every bucket is full. Pure.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from aggregator.scheduling.selection import ELSEWHERE, SiteConfig

HOUR_S: Final = 3600.0
BURST: Final = 0.1


@dataclass(slots=True)
class _Bucket:
    """What is left at a moment; below 0 after a large lease."""

    num_bytes: float
    at: float


class Sites:
    """The sites of a task; ``running`` counts the leases that run, by site."""

    def __init__(self, sites: Mapping[str, SiteConfig], running: Mapping[str, int]) -> None:
        self._sites = sites
        self._running = running
        self._buckets: dict[str, _Bucket] = {}

    def open_sites(self, now: float) -> list[str]:
        """Return the sites whose devices may get a lease now."""
        return [ELSEWHERE, *[name for name in self._sites if self.room(name, now) > 0]]

    def room(self, site: str, now: float) -> int:
        """Return how many leases more a site may have; the last one may cost more than is left."""
        limits = self._sites.get(site)
        if limits is None:
            return 1 << 40
        if limits.bytes_per_hour and self.bytes_left(site, now) <= 0:
            return 0
        if not limits.concurrency:
            return 1 << 40
        return max(0, limits.concurrency - self._running.get(site, 0))

    def given(self, site: str, num_bytes: int, now: float) -> None:
        """A lease was given that may cost so many bytes."""
        limits = self._sites.get(site)
        if limits is not None and limits.bytes_per_hour:
            left = self.bytes_left(site, now)
            self._buckets[site] = _Bucket(left - num_bytes, now)

    def bytes_left(self, site: str, now: float) -> float:
        """Return what leases may cost now at a site that has a budget."""
        rate = self._sites[site].bytes_per_hour / HOUR_S
        most = rate * HOUR_S * BURST
        bucket = self._buckets.get(site)
        return most if bucket is None else min(most, bucket.num_bytes + rate * (now - bucket.at))

    def opens_at(self, waiting: Iterable[str], now: float) -> float | None:
        """Return when one of these sites has bytes again; None: none of them waits for that."""
        times = []
        for site in waiting:
            limits = self._sites.get(site)
            if limits is None or not limits.bytes_per_hour:
                continue
            missing = -self.bytes_left(site, now)
            if missing >= 0:  # a whole byte more, so that rounding cannot leave it at nothing
                times.append(now + (missing + 1) * HOUR_S / limits.bytes_per_hour)
        return min(times, default=None)

    def report(self, now: float) -> Mapping[str, Mapping[str, int]]:
        """Return each site's limits and what is used of them."""
        return {name: self._usage(name, limits, now) for name, limits in self._sites.items()}

    def _usage(self, name: str, limits: SiteConfig, now: float) -> Mapping[str, int]:
        usage = {"training": self._running.get(name, 0)}
        if limits.concurrency:
            usage["concurrency"] = limits.concurrency
        if limits.bytes_per_hour:
            usage["bytes_per_hour"] = limits.bytes_per_hour
            usage["bytes_left"] = int(self.bytes_left(name, now))
        return usage

    def why_closed(self, site: str, now: float) -> str:
        """Return, for a person, which limit a site has reached; empty: none."""
        limits = self._sites.get(site)
        if limits is None or self.room(site, now) > 0:
            return ""
        if limits.concurrency and self._running.get(site, 0) >= limits.concurrency:
            return f"site {site} has {limits.concurrency} of {limits.concurrency} devices at work"
        return f"site {site} has used its {limits.bytes_per_hour} bytes an hour"
