"""When somebody who does not answer is asked again. Sans-IO: the time is an argument."""

from typing import Final

#: Who has not answered is asked again after this long, then twice as long, ...
RETRY_S: Final = 5.0
#: ... but never longer.
RETRY_CAP_S: Final = 300.0


class Backoff:
    """When each of several parties, by number, is due to be asked again."""

    def __init__(self, first_s: float = RETRY_S) -> None:
        self._first_s = first_s
        self._waits: dict[int, float] = {}
        self._due: dict[int, float] = {}

    def due_at(self, party: int, first: float) -> float:
        """Return when a party is due, ``first`` if it was never asked."""
        return self._due.get(party, first)

    def was_asked(self, party: int) -> bool:
        """Whether a party was asked since it was last forgotten."""
        return party in self._due

    def asked(self, party: int, now: float) -> None:
        """Note that a party was asked."""
        wait_s = self._waits.get(party, self._first_s)
        self._waits[party] = min(2.0 * wait_s, RETRY_CAP_S)
        self._due[party] = now + wait_s

    def forget(self, party: int) -> None:
        """Begin with a party as if it had never been asked."""
        self._waits.pop(party, None)
        self._due.pop(party, None)
