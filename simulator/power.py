"""Power that can be cut between any two things a shell does."""

import math


class PowerLost(Exception):  # noqa: N818 - an event of the simulation, no error of the program
    """The power is gone: nothing more happens on this side."""


class Power:
    """Counts what is done until a cut that was asked for."""

    def __init__(self) -> None:
        self._left = math.inf

    def cut_after(self, num_steps: int) -> None:
        """Let `use` raise after so many more steps."""
        self._left = num_steps

    def restore(self) -> None:
        """Power for as long as one likes."""
        self._left = math.inf

    def use(self) -> None:
        """Do one step. Raises PowerLost if there is no power left for it."""
        if self._left <= 0:
            raise PowerLost
        self._left -= 1
