"""One closed buffer of masked updates, from the request for its masks to its sum.

Holders that are online are asked first. One that sleeps is asked when it comes back, and all of
them when the others were not enough. Answers beyond the U that decode are spares: they prove the
sum, and who answered wrong. Sans-IO: the time is an argument.
"""

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from protocol.messages import RecoveryRequest
from protocol.secagg import Scheme
from protocol.secagg.field import Elements, from_bytes
from protocol.secagg.roster import Roster
from protocol.secagg.shares import columns, recover

#: A holder that has not answered is asked again after this long, then twice as long, ...
RETRY_S: Final = 5.0
RETRY_CAP_S: Final = 300.0


class _Asked(NamedTuple):
    """How often a holder was asked, and when last."""

    times: int
    at: float


@dataclass(slots=True, eq=False)
class Recovery:
    """A closed buffer. ``masks``: dealer's index -> counter; ``closed_at`` on the shell's clock.

    ``blamable``: every mask in it passed its dealer's test.
    """

    roster: Roster
    scheme: Scheme
    request: RecoveryRequest
    request_hash: bytes
    ids: tuple[bytes, ...]
    masks: Mapping[int, int]
    support: int
    total: Elements
    holders: frozenset[int]
    blamable: bool
    closed_at: float
    spare_wait_s: float
    answers: dict[int, Elements] = field(default_factory=dict)
    refused: dict[int, str] = field(default_factory=dict)
    liars: tuple[int, ...] = ()
    checked: bool = False
    _asked: dict[int, _Asked] = field(default_factory=dict)
    _enough_since: float | None = None

    @property
    def num_needed(self) -> int:
        """U: how many answers decode."""
        return self.roster.parameters.num_answers

    @property
    def num_spares(self) -> int:
        """T + 1: spare answers that are waited for; so many prove who answered wrong."""
        return self.roster.parameters.num_malicious + 1

    @property
    def proven_liars(self) -> tuple[int, ...]:
        """Who answered wrong, beyond what t malicious holders and a bad dealer could stage."""
        num_spares = len(self.answers) - self.num_needed
        proven = num_spares >= self.roster.parameters.num_malicious + len(self.liars)
        if not (self.blamable and proven):
            return ()
        return tuple(liar for liar in self.liars if liar in self.holders)

    @property
    def hopeless(self) -> bool:
        """Too many holders have refused for U of them to answer."""
        able = (self.holders | self.answers.keys()) - self.refused.keys()
        return len(able) < self.num_needed

    def missing_from(self) -> list[int]:
        """Return the holders that have said nothing yet."""
        return sorted(self.holders - self.answers.keys() - self.refused.keys())

    def to_ask(self, online: Collection[int], now: float) -> list[int]:
        """Return the holders to be asked now."""
        if self._has_spares:
            return []
        due = [each for each in self.missing_from() if now >= self._due_at(each, online)]
        for holder in due:
            before = self._asked.get(holder)
            self._asked[holder] = _Asked(1 if before is None else before.times + 1, now)
        return due

    def ask_again(self, holder: int) -> None:
        """A holder has come back: it is asked without waiting."""
        self._asked.pop(holder, None)

    def answer(self, holder: int, elements: bytes, now: float) -> None:
        """Take a holder's answer; the same again changes nothing.

        Raises RemoteProtocolError (``malformed``) unless it has a share's length.
        """
        if holder in self.answers or holder not in range(len(self.roster.members)):
            return
        sharing = self.scheme.sharing(self.roster.parameters)
        num_columns = columns(self.scheme.secret_size(self.roster.parameters), sharing)
        self.answers[holder] = from_bytes(elements, sharing.modulus, num_columns)
        self.refused.pop(holder, None)
        if len(self.answers) >= self.num_needed and self._enough_since is None:
            self._enough_since = now

    def refuse(self, holder: int, reason: str) -> None:
        """Note that a holder will not answer."""
        if holder not in self.answers:
            self.refused[holder] = reason

    def is_ready(self, online: Collection[int], now: float) -> bool:
        """Whether it is time to decode: with spares, or when they do not come."""
        if self._enough_since is None:
            return False
        waited = now >= self._enough_since + self.spare_wait_s
        return self._has_spares or waited or not set(self.missing_from()) & set(online)

    def next_deadline(self, online: Collection[int]) -> float:
        """Return when `to_ask` or `is_ready` may change without a message."""
        times = (
            []
            if self._has_spares
            else [self._due_at(holder, online) for holder in self.missing_from()]
        )
        if self._enough_since is not None:
            times.append(self._enough_since + self.spare_wait_s)
        return min(times, default=math.inf)

    def unmask(self) -> Elements:
        """Return the sums of the masked values (size,), centred integers.

        Notes in ``liars`` who answered wrong, if that can be said. Raises RecoveryError when the
        answers do not decode: more of them may.
        """
        parameters = self.roster.parameters
        sharing = self.scheme.sharing(parameters)
        found = recover(self.answers, sharing, self.scheme.secret_size(parameters))
        self.liars, self.checked = found.liars, found.checked
        seed = self.roster.public_seed
        return self.scheme.unmask(parameters, seed, self.total, len(self.ids), found.secret)

    def wait_for_more(self) -> None:
        """The answers contradict each other: only another one can tell."""
        self._enough_since = None

    @property
    def _has_spares(self) -> bool:
        return len(self.answers) >= self.num_needed + self.num_spares

    def _due_at(self, holder: int, online: Collection[int]) -> float:
        asked = self._asked.get(holder)
        if asked is None:
            return self.closed_at + (0.0 if holder in online else RETRY_S)
        return asked.at + min(RETRY_S * 2.0 ** (asked.times - 1), RETRY_CAP_S)
