"""One closed buffer of masked updates, from the request for its masks to its sum.

Holders that are online are asked first. One that sleeps is asked once, for the broker to keep, and
again when it comes back; members that are not known to hold the shares, when those were not enough.
Answers beyond the U that decode are spares: they prove the sum, and who
answered wrong. Sans-IO: the time is an argument.
"""

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Final

from aggregator.backoff import RETRY_S, Backoff
from aggregator.cohorts import Cohort
from protocol import refusals
from protocol.secagg.field import Elements, from_bytes
from protocol.secagg.messages import RecoveryRequest
from protocol.secagg.requests import request_hash
from protocol.secagg.roster import Roster
from protocol.secagg.shares import columns, recover

#: A holder that refuses for one of these will never answer.
FINAL: Final = frozenset(
    {
        refusals.MASK_USED,
        refusals.SHARES_MISSING,
        refusals.WRONG_MEMBERS,
        refusals.EXCLUDED,
    }
)


@dataclass(slots=True, eq=False)
class Recovery:
    """A closed buffer. ``masks``: dealer's index -> counter; ``closed_at`` on the shell's clock.

    ``holders`` are known to hold shares of all the masks. ``tested`` are those of them whose shares
    passed the test of every dealer; nobody, if a dealer could not be tested.
    """

    cohort: Cohort
    request: RecoveryRequest
    ids: tuple[bytes, ...]
    masks: Mapping[int, int]
    support: int
    total: Elements
    holders: frozenset[int]
    tested: frozenset[int]
    closed_at: float
    spare_wait_s: float
    answers: dict[int, Elements] = field(default_factory=dict)
    refused: dict[int, str] = field(default_factory=dict)
    liars: tuple[int, ...] = ()
    checked: bool = False
    request_hash: bytes = field(init=False)
    _backoff: Backoff = field(default_factory=Backoff)
    _num_wanted: int = field(init=False)
    _contradicted: bool = False
    _enough_since: float | None = None

    def __post_init__(self) -> None:
        self.request_hash = request_hash(self.request)
        # U decode; t + 1 spares prove who answered wrong, if it is one.
        self._num_wanted = self.num_needed + self.roster.parameters.num_malicious + 1

    @property
    def roster(self) -> Roster:
        """Who is asked, and by which rules."""
        return self.cohort.roster

    @property
    def num_needed(self) -> int:
        """U: how many answers decode."""
        return self.roster.parameters.num_answers

    @property
    def proven_liars(self) -> tuple[int, ...]:
        """Who answered wrong, beyond what t malicious holders and a bad dealer could stage.

        If U + t holders of tested shares agree, U honest ones do: these fix the sum that tested
        shares have, and a holder of one is off it by its own doing only. What a holder of untested
        shares answers proves nothing: its dealer may have given it anything.
        """
        liars = self.tested.intersection(self.liars)
        agreeing = self.tested.intersection(self.answers) - liars
        proven = len(agreeing) >= self.num_needed + self.roster.parameters.num_malicious
        return tuple(sorted(liars)) if proven else ()

    @property
    def hopeless(self) -> bool:
        """Too many members have refused for U of them to answer."""
        return len(self.answers) + self.num_possible < self.num_needed

    @property
    def num_possible(self) -> int:
        """How many members may still answer, whether they are known to hold the shares or not."""
        return len(self._open(self._everybody))

    def missing_from(self) -> list[int]:
        """Return the holders that may still answer."""
        return self._open(self.holders)

    @property
    def _everybody(self) -> frozenset[int]:
        return frozenset(range(len(self.roster.members))) - self.cohort.excluded

    def _open(self, holders: frozenset[int]) -> list[int]:
        gone = {holder for holder, reason in self.refused.items() if reason in FINAL}
        return sorted(holders - self.answers.keys() - gone)

    # --- asking --------------------------------------------------------------------------------

    def to_ask(self, online: Collection[int], now: float) -> list[int]:
        """Return the holders to be asked now."""
        if self._has_spares:
            return []
        due = [each for each in self._askable if now >= self._due_at(each, online)]
        for holder in due:
            self._backoff.asked(holder, now)
        return due

    @property
    def _askable(self) -> list[int]:
        """The holders; while answers are too few, also who may hold the shares unheard."""
        enough = len(self.answers) >= self.num_needed and not self._contradicted
        return self.missing_from() if enough else self._open(self._everybody)

    def holds(self, holder: int) -> None:
        """Note that a member holds shares of all the masks by now."""
        if holder not in self.holders:
            self.holders |= {holder}
            self.refused.pop(holder, None)
            self.ask_again(holder)

    def ask_again(self, holder: int) -> None:
        """A holder has come back: it is asked without waiting."""
        self._backoff.forget(holder)

    def next_deadline(self, online: Collection[int]) -> float:
        """Return when `to_ask` or `is_ready` may change without a message."""
        times = [math.inf]
        if not self._has_spares:
            times += [self._due_at(holder, online) for holder in self._askable]
        if self._enough_since is not None:
            times.append(self._enough_since + self.spare_wait_s)
        return min(times)

    def _due_at(self, holder: int, online: Collection[int]) -> float:
        if holder in online:
            first = self.closed_at + (0.0 if holder in self.holders else RETRY_S)
            return self._backoff.due_at(holder, first)
        return math.inf if self._backoff.was_asked(holder) else self.closed_at + RETRY_S

    # --- answers -------------------------------------------------------------------------------

    def answer(self, holder: int, elements: bytes, now: float) -> None:
        """Take a holder's answer; its first one stands.

        Raises RemoteProtocolError (``malformed``) unless it has a share's length.
        """
        if holder in self.answers:
            return
        sharing = self.cohort.scheme.sharing(self.roster.parameters)
        num_columns = columns(self.cohort.scheme.secret_size(self.roster.parameters), sharing)
        self.answers[holder] = from_bytes(elements, sharing.modulus, num_columns)
        self.refused.pop(holder, None)
        if len(self.answers) >= self.num_needed and self._enough_since is None:
            self._enough_since = now

    def refuse(self, holder: int, reason: str) -> bool:
        """Note that a holder does not answer; return whether that is news."""
        if holder in self.answers:
            return False
        before = self.refused.get(holder)
        if before not in FINAL:
            self.refused[holder] = reason
        return before is None

    def exclude(self, holder: int) -> None:
        """Do without a holder that lied elsewhere."""
        self.answers.pop(holder, None)
        self.refused[holder] = refusals.EXCLUDED
        if len(self.answers) < self.num_needed:
            self._enough_since = None

    # --- the sum -------------------------------------------------------------------------------

    def is_ready(self, online: Collection[int], now: float) -> bool:
        """Whether it is time to decode: with spares, or when they do not come."""
        if self._enough_since is None:
            return False
        waited = now >= self._enough_since + self.spare_wait_s
        return self._has_spares or waited or not set(self.missing_from()) & set(online)

    def unmask(self, named: bytes) -> Elements:
        """Return the sums of the masked values (size,), centred integers.

        ``named`` are the coordinates that their support named. Notes in ``liars`` who answered
        wrong, if that can be said. Raises RecoveryError when the answers do not decode: more of
        them may.
        """
        parameters, scheme = self.roster.parameters, self.cohort.scheme
        found = recover(self.answers, scheme.sharing(parameters), scheme.secret_size(parameters))
        self.liars, self.checked = found.liars, found.checked
        seed = self.roster.support_seed(self.support, named)
        return scheme.unmask(parameters, seed, self.total, len(self.ids), found.secret)

    def wait_for_more(self) -> None:
        """The answers contradict each other: only another one can tell."""
        self._enough_since = None
        self._contradicted = True
        self._num_wanted = len(self.answers) + 1

    @property
    def _has_spares(self) -> bool:
        return len(self.answers) >= self._num_wanted
