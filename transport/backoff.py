"""When to connect again. Pure: the time is an argument, and so is chance."""

from collections.abc import Callable
from typing import Final

_RAPID_S: Final = 5.0
_RAPID_CLOSES: Final = 3
_MAX_DOUBLINGS: Final = 32


class Backoff:
    """Exponential back-off with full jitter, and an eye on takeovers.

    After the n-th failure in a row the delay is uniform in [0, min(cap, first * 2**n)], so that a
    fleet does not come back all at once. A connection that lasted ``stable_s`` starts anew. Two
    clients with one id take the session from each other: from the second time on (from the first,
    where it is a guess), and when the broker refuses us for good, the delay is uniform in
    [cap / 2, cap].
    """

    def __init__(
        self, *, first_s: float, cap_s: float, stable_s: float, random: Callable[[], float]
    ) -> None:
        self._first_s = first_s
        self._cap_s = cap_s
        self._stable_s = stable_s
        self._random = random
        self._failures = 0
        self._takeovers = 0
        self._rapid_closes = 0
        self._accepted_at = 0.0

    def accepted(self, now: float) -> None:
        """The broker took us."""
        self._accepted_at = now

    def failed(self) -> float:
        """An attempt failed: return the delay in seconds before the next."""
        longest_s = min(self._cap_s, self._first_s * 2.0 ** min(self._failures, _MAX_DOUBLINGS))
        self._failures += 1
        return self._random() * longest_s

    def refused(self) -> float:
        """Trying soon is of no use: return a delay near the cap."""
        return self._cap_s * (1.0 + self._random()) / 2.0

    def looks_taken_over(self, now: float) -> bool:
        """Whether the broker has now closed several accepted connections in a row quickly.

        A guess, for brokers that take a session from us without a word: all of them with MQTT
        3.1.1, and mosquitto 2.0.11 with MQTT 5 as well.
        """
        rapid = now - self._accepted_at < _RAPID_S
        self._rapid_closes = self._rapid_closes + 1 if rapid else 0
        return self._rapid_closes >= _RAPID_CLOSES

    def ended(self, now: float, *, taken_over: bool) -> float:
        """An accepted connection ended: return the delay before the next attempt."""
        lasted_s = now - self._accepted_at
        if lasted_s >= self._stable_s:
            self._failures = 0
        if lasted_s >= max(self._stable_s, 2 * self._cap_s):
            self._takeovers = 0
        if not taken_over:
            return self.failed()
        self._takeovers += 1
        if self._takeovers > 1 or self._rapid_closes >= _RAPID_CLOSES:
            return self.refused()
        return self.failed()
