"""When a session wants to be called next: at chance times, lest devices ask in chorus."""

import math

from device_sdk.draws import Draws


class Alarm:
    """One at a time: ``at`` is when it rings; inf: only an event will tell."""

    def __init__(self, draws: Draws) -> None:
        self.at = math.inf
        self._draws = draws

    def after(self, wait_s: float, now: float) -> None:
        """Ring after about so long, a quarter more or less."""
        self.at = now + wait_s * self._draws.factor()

    def within(self, span_s: float, now: float) -> None:
        """Ring at some time in this span, if not before anyway."""
        self.at = min(self.at, now + span_s * self._draws.next())

    def anew(self, span_s: float, now: float) -> None:
        """Ring at some time in this span, whenever it would have rung."""
        self.at = now + span_s * self._draws.next()

    def off(self) -> None:
        """Do not ring."""
        self.at = math.inf
