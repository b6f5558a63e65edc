"""When a client that lost its broker tries again."""

from typing import Protocol

from simulator.draws import Draws
from transport import BrokerSettings
from transport.backoff import Backoff


class Retries(Protocol):
    """Waits between attempts to connect."""

    def accepted(self, now: float) -> None:
        """The broker took us."""

    def failed(self) -> float:
        """An attempt failed: return the delay in seconds before the next."""

    def ended(self, now: float, *, taken_over: bool) -> float:
        """An accepted connection ended: return the delay before the next attempt."""


class Doubling:
    """Twice as long each time, without jitter."""

    __slots__ = ("_cap_s", "_first_s", "_next_s")

    def __init__(self, settings: BrokerSettings) -> None:
        self._first_s = self._next_s = settings.backoff_first_s
        self._cap_s = settings.backoff_cap_s

    def accepted(self, now: float) -> None:  # noqa: ARG002 - the product's rule looks at it
        """Begin anew."""
        self._next_s = self._first_s

    def failed(self) -> float:
        """Return the delay."""
        delay_s, self._next_s = self._next_s, min(2 * self._next_s, self._cap_s)
        return delay_s

    def ended(self, now: float, *, taken_over: bool) -> float:  # noqa: ARG002
        """Return the delay."""
        return self.failed()


def jittered(settings: BrokerSettings, seed: bytes) -> Retries:
    """Return the product's own rule, `transport.backoff.Backoff`, with its chance from a seed."""
    return Backoff(
        first_s=settings.backoff_first_s,
        cap_s=settings.backoff_cap_s,
        stable_s=settings.stable_s,
        random=Draws(seed).next,
    )
