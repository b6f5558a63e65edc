"""A device's link to the broker: bandwidth, latency, jitter, loss and outages, as TCP shows them.

Each direction serialises: it is busy until the last byte is out, and what was sent first arrives
first. Nothing is ever lost in silence. A lost segment costs time: a round trip if others follow it
(fast retransmit), else a retransmission time-out that doubles (RFC 6298). It also costs rate: each
loss halves TCP's window, so that a link that loses is never faster than `tcp_bps`. During an outage
nothing passes; afterwards bytes move with the first retransmission that gets through, and a
connection that was silent for longer than its keepalive is broken.

M. Mathis, J. Semke, J. Mahdavi, T. Ott: The Macroscopic Behavior of the TCP Congestion Avoidance
Algorithm. ACM SIGCOMM Computer Communication Review 27(3), 1997.

Pure: the time is an argument and chance comes from the seed.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from protocol.errors import ConfigError
from simulator.draws import Draws

SEGMENT_BYTES: Final = 1_400
#: Bounds of the retransmission time-out: Linux's least, and RFC 6298's least upper bound.
MIN_TIMEOUT_S: Final = 0.2
MAX_TIMEOUT_S: Final = 60.0
#: As many retransmissions of one segment as Linux tries (tcp_retries2).
MAX_TRIES: Final = 15
MAX_LOSS: Final = 0.9
#: Less is open to nothing: every moment between two outages is walked through.
MIN_OPEN_S: Final = 0.01
MIN_BPS: Final = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Outage:
    """From ``first_s`` on nothing passes for ``for_s`` seconds; again every ``every_s`` (0: once).

    A link that flaps is ``Outage(first_s=0, every_s=10, for_s=3)``; in between it is open for
    `MIN_OPEN_S` at least. Raises ConfigError.
    """

    first_s: float = 0.0
    every_s: float = 0.0
    for_s: float

    def __post_init__(self) -> None:
        if not 0 <= self.first_s < math.inf:
            raise ConfigError(f"first_s must be 0 or more, not {self.first_s}")
        if not 0 < self.for_s < math.inf:
            raise ConfigError(f"for_s must be above 0, not {self.for_s}")
        if self.every_s and not self.for_s + MIN_OPEN_S <= self.every_s < math.inf:
            raise ConfigError(
                f"every_s must be above for_s ({self.for_s}) by at least {MIN_OPEN_S}, or 0 for"
                f" once, not {self.every_s}"
            )

    def start_before(self, now: float) -> float:
        """Return when the last one began that began at ``now`` or before; -infinity: none yet."""
        return -math.inf if now < self.first_s else self._start(self._number(now))

    def start_after(self, now: float) -> float:
        """Return when the next one begins, later than ``now``; infinity: never."""
        return self.first_s if now < self.first_s else self._start(self._number(now) + 1)

    def _start(self, number: int) -> float:
        if not self.every_s:
            return math.inf if number else self.first_s
        return self.first_s + number * self.every_s

    def _number(self, now: float) -> int:
        """Return which is the last that began at ``now`` or before, from 0.

        A quotient may round to the one beside it: what `_start` says decides.
        """
        number = int((now - self.first_s) // self.every_s) if self.every_s else 0
        while self._start(number) > now:
            number -= 1
        while self._start(number + 1) <= now:
            number += 1
        return number


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkProfile:
    """What a link can do: bits per second each way, seconds one way, the share of segments lost.

    The rates (`MIN_BPS` or more) are the line's: see `tcp_bps`. ``jitter_s`` is the most that is
    added to ``latency_s``, evenly. At most one of the ``outages`` may repeat. Raises ConfigError.
    """

    up_bps: float = math.inf
    down_bps: float = math.inf
    latency_s: float = 0.05
    jitter_s: float = 0.0
    loss: float = 0.0
    outages: tuple[Outage, ...] = ()

    def __post_init__(self) -> None:
        for name in ("up_bps", "down_bps"):
            if not getattr(self, name) >= MIN_BPS:
                raise ConfigError(f"{name} must be {MIN_BPS:g} or more, not {getattr(self, name)}")
        for name in ("latency_s", "jitter_s"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ConfigError(f"{name} must be 0 or more, not {getattr(self, name)}")
        if not 0 <= self.loss <= MAX_LOSS:
            raise ConfigError(f"loss must be from 0 to {MAX_LOSS}, not {self.loss}")
        if sum(outage.every_s > 0 for outage in self.outages) > 1:
            raise ConfigError("outages: at most one may repeat; give the others every_s = 0")

    @property
    def timeout_s(self) -> float:
        """The first retransmission time-out: two round trips, within TCP's bounds."""
        round_trip_s = 2 * (self.latency_s + self.jitter_s)
        return min(max(MIN_TIMEOUT_S, 2 * round_trip_s), MAX_TIMEOUT_S)

    @property
    def round_trip_s(self) -> float:
        """The mean round trip of a segment that finds the link idle."""
        return 2 * self.latency_s + self.jitter_s

    @property
    def tcp_bps(self) -> float:
        """The most that TCP gets over an endless line with these losses (Mathis et al. 1997, 2).

        Segment / round trip * sqrt(3 / 2) / sqrt(loss): each loss halves the window, which grows by
        a segment a round trip. Meant for losses of a few percent; with more, time-outs rule.
        """
        slowness = self.round_trip_s * math.sqrt(self.loss)
        return 8 * SEGMENT_BYTES * math.sqrt(1.5) / slowness if slowness else math.inf

    def outage_end(self, at: float) -> float | None:
        """Return when the outage at this time ends; None: there is none."""
        ends = [outage.start_before(at) + outage.for_s for outage in self.outages]
        return max((end for end in ends if end > at), default=None)

    def next_outage(self, at: float) -> float:
        """Return when the next outage begins; infinity: never."""
        return min((outage.start_after(at) for outage in self.outages), default=math.inf)

    def breaks_at(self, now: float, keepalive_s: float) -> float:
        """Return when a connection that is made now breaks, having been silent for too long."""
        longer = [outage for outage in self.outages if outage.for_s > keepalive_s]
        return min((each.start_after(now) for each in longer), default=math.inf) + keepalive_s


class _Way:
    """One direction: busy until ``free_at``; the newest arrives at ``last_at``."""

    __slots__ = ("free_at", "last_at", "seconds_per_byte")

    def __init__(self, profile: LinkProfile, line_bps: float) -> None:
        self.seconds_per_byte = 8.0 / min(line_bps * (1 - profile.loss), profile.tcp_bps)
        self.free_at = 0.0
        self.last_at = 0.0


class Link:
    """One device's link. ``seed`` is 32 bytes. Times are virtual seconds."""

    __slots__ = ("_down", "_draws", "_up", "profile")

    def __init__(self, profile: LinkProfile, seed: bytes) -> None:
        self.profile = profile
        self._up = _Way(profile, profile.up_bps)
        self._down = _Way(profile, profile.down_bps)
        self._draws = Draws(seed)

    def up(self, num_bytes: int, now: float) -> float:
        """Send so many bytes to the broker; return when the last of them arrives."""
        return self._pass(self._up, num_bytes, now)

    def down(self, num_bytes: int, now: float) -> float:
        """Send so many bytes to the device; return when the last of them arrives."""
        return self._pass(self._down, num_bytes, now)

    def is_out(self, now: float) -> bool:
        """Whether nothing passes at this moment."""
        return self.profile.outage_end(now) is not None

    def renew(self) -> None:
        """Begin a new connection: what waited in front of the old one's bytes is gone."""
        for way in (self._up, self._down):
            way.free_at = way.last_at = 0.0

    def _pass(self, way: _Way, num_bytes: int, now: float) -> float:
        profile = self.profile
        duration_s = num_bytes * way.seconds_per_byte
        way.free_at = _sent(profile, max(now, way.free_at), duration_s)
        delay_s = profile.latency_s + self._recovery_s(num_bytes)
        if profile.jitter_s:
            delay_s += profile.jitter_s * self._draws.next()
        way.last_at = max(way.last_at, way.free_at + delay_s)
        return way.last_at

    def _recovery_s(self, num_bytes: int) -> float:
        """Return how much later it is there since segments were lost."""
        loss = self.profile.loss
        if not loss:
            return 0.0
        num_before = -(-num_bytes // SEGMENT_BYTES) - 1
        is_repaired = self._draws.next() < 1 - (1 - loss) ** max(0, num_before)
        num_lost = int(math.log(1 - self._draws.next()) / math.log(loss))
        repair_s = is_repaired * self.profile.round_trip_s
        return repair_s + _backoff_s(self.profile.timeout_s, num_lost)


def _backoff_s(timeout_s: float, num_lost: int) -> float:
    """Return how long it takes until the last segment gets through after so many losses."""
    waits = (
        min(timeout_s * 2.0**tries, MAX_TIMEOUT_S) for tries in range(min(num_lost, MAX_TRIES))
    )
    return sum(waits)


def _sent(profile: LinkProfile, start: float, duration_s: float) -> float:
    """Return when the last byte leaves: sending takes ``duration_s``, and outages interrupt it."""
    if not profile.outages:
        return start + duration_s
    at = _first_success(profile.outage_end, start, profile.timeout_s)
    while (stop := profile.next_outage(at)) < at + duration_s:
        duration_s -= stop - at
        at = _first_success(profile.outage_end, stop, profile.timeout_s)
    return at + duration_s


def _first_success(
    outage_end: Callable[[float], float | None], at: float, timeout_s: float
) -> float:
    """Return when the first try gets through, of those at ``at`` and after each time-out."""
    for _ in range(MAX_TRIES):
        if outage_end(at) is None:
            return at
        at += timeout_s
        timeout_s = min(2 * timeout_s, MAX_TIMEOUT_S)
    while (end := outage_end(at)) is not None:
        at = end
    return at
