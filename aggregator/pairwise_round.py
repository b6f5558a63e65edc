"""One round of `pairwise` at the aggregator: what each stage takes, and whom it waits for.

::

    keys ──► shares ──► updates ──► signatures ──► answers

It knows no time: when a stage is over is decided in `aggregator.pairwise`. Devices are named by
their index in the roster.
"""

from collections.abc import Collection, Iterable, Mapping
from enum import Enum

import msgpack
import numpy as np

from aggregator.cohorts import Cohort
from protocol import refusals
from protocol.errors import RemoteProtocolError
from protocol.messages import SIGNATURE_BYTES
from protocol.secagg import pairwise
from protocol.secagg.field import Elements
from protocol.secagg.keys import check_epoch_key, check_signature
from protocol.secagg.messages import (
    MaskedUpdate,
    RoundAdvertised,
    RoundAnswer,
    RoundCertificate,
    RoundDealers,
    RoundKeys,
    RoundOpened,
    RoundOutcome,
    RoundSaid,
    RoundShares,
    RoundSignature,
    RoundTold,
)
from protocol.secagg.pairwise import OUTCOME, VIEW, Outcome, View
from protocol.secagg.pairwise_keys import (
    ADVERTISEMENT,
    PUBLICS_BYTES,
    SEALED_BYTES,
    Publics,
    Round,
    keys_message,
    split,
)


class Stage(Enum):
    """What is waited for."""

    KEYS = "keys"
    SHARES = "shares"
    UPDATES = "updates"
    SIGNATURES = "signatures"
    ANSWERS = "answers"


class PairwiseRound:
    """Round ``number`` of a cohort; updates are those of one ``support``.

    Begins in stage `KEYS`; `deal`, `mask`, `close` and `certify` lead to the next ones.
    """

    def __init__(self, cohort: Cohort, number: int, support: int) -> None:
        self.cohort = cohort
        self.round = Round(cohort.roster, number)
        self.support = support
        self.stage = Stage.KEYS
        self.keys: dict[int, RoundKeys] = {}
        self.sealed: dict[int, Mapping[int, bytes]] = {}
        self.ids: dict[int, bytes] = {}
        self.views: dict[int, bytes] = {}
        self.signatures: dict[int, bytes] = {}
        self.answers: dict[int, Elements] = {}
        self.total = np.zeros(cohort.roster.parameters.size, np.uint32)
        self._publics: dict[int, Publics] = {}
        self._view: View | None = None
        self._outcome: Outcome | None = None
        self._signers: tuple[int, ...] = ()

    @property
    def number(self) -> int:
        """What names the round."""
        return self.round.number

    @property
    def dealers(self) -> tuple[int, ...]:
        """Those that masks are with; empty before they are known."""
        return () if self._view is None else self._view.dealers

    @property
    def survivors(self) -> tuple[int, ...]:
        """Whose updates are in the sum; empty before it is closed."""
        return () if self._outcome is None else self._outcome.survivors

    def names(self, indices: Iterable[int]) -> list[str]:
        """Return which devices these are."""
        return [self.cohort.roster.members[index].device for index in sorted(indices)]

    def missing(self, members: Collection[int]) -> set[int]:
        """Return who is waited for now; at first, of the ``members`` that have a lease."""
        match self.stage:
            case Stage.KEYS:
                return set(members) - self.keys.keys()
            case Stage.SHARES:
                return self.keys.keys() - self.sealed.keys()
            case Stage.UPDATES:
                return set(self.dealers) - self.ids.keys()
            case Stage.SIGNATURES:
                return set(self.survivors) - self.signatures.keys()
            case Stage.ANSWERS:
                return set(self.survivors) - self.answers.keys()

    def to_say(self, index: int) -> list[RoundTold]:
        """Return what a device that is waited for must hear (again) to go on."""
        match self.stage:
            case Stage.KEYS:
                return [RoundOpened(self.cohort.roster.hash, self.number)]
            case Stage.SHARES:
                return [self._advertised()]
            case Stage.UPDATES:
                return self._dealt_to(index)
            case Stage.SIGNATURES:
                return [self._announced()]
            case Stage.ANSWERS if index in self.signatures:
                return [self._certificate()]
            case Stage.ANSWERS:
                return [self._announced(), self._certificate()]

    def hear(self, index: int, message: RoundSaid) -> None:
        """Take a device's word. One that is late, or repeats itself, changes nothing.

        Raises RemoteProtocolError: ``malformed``, ``bad_signature``, ``wrong_members``.
        """
        if message.number != self.number:
            return
        match message:
            case RoundKeys() if self.stage is Stage.KEYS:
                self._check_keys(index, message)
                self.keys[index] = message  # a device that lost its memory has others now
            case RoundShares() if self.stage is Stage.SHARES and index in self.keys:
                holders = self._neighbours(index, self.keys)
                pieces = split(message.sealed, SEALED_BYTES, len(holders))
                self.sealed.setdefault(index, dict(zip(holders, pieces, strict=True)))
            case RoundSignature() if self._outcome is not None and index in self.survivors:
                self._check(index, OUTCOME, self._outcome.message, message.signature)
                self.signatures[index] = message.signature
            case RoundAnswer() if self._outcome is not None and self.stage is Stage.ANSWERS:
                read = pairwise.read_answer(self.round, index, self._outcome, message.shares)
                self.answers.setdefault(index, read)

    def take(self, index: int, lease_id: bytes, update: MaskedUpdate) -> None:
        """Take an update into the sum, or raise RemoteProtocolError and change nothing.

        ``recovery_failed`` if it comes too late, or from no dealer; ``stale_support``,
        ``mask_used``, ``bad_signature``, ``wrong_shape``.
        """
        view = self._view
        full = len(self.ids) >= self.cohort.roster.parameters.max_contributors
        fits = update.counter == self.number and self.stage is Stage.UPDATES and not full
        if view is None or not fits or index not in view.dealers:
            raise RemoteProtocolError(refusals.RECOVERY_FAILED, "its round went on without it")
        if update.support != self.support:
            raise RemoteProtocolError(refusals.STALE_SUPPORT, f"support {update.support}")
        if index in self.ids:
            raise RemoteProtocolError(refusals.MASK_USED, "another update of this round")
        signature, body = update.body[:SIGNATURE_BYTES], update.body[SIGNATURE_BYTES:]
        self._check(index, VIEW, view.message, signature)
        pairwise.add(self.total, body)
        self.ids[index], self.views[index] = lease_id, signature

    # --- from stage to stage -------------------------------------------------------------------

    def deal(self) -> None:
        """Those who advertised may deal to each other."""
        self.stage = Stage.SHARES
        self._publics = {
            index: Publics.from_bytes(said.keys) for index, said in sorted(self.keys.items())
        }

    def mask(self) -> None:
        """Those whose shares arrived are the dealers. Raises RemoteProtocolError: too few."""
        self._view = pairwise.view(self.round, self._publics, tuple(sorted(self.sealed)))
        self._publics = {dealer: self._publics[dealer] for dealer in self._view.dealers}
        self.stage = Stage.UPDATES

    @property
    def can_close(self) -> bool:
        """Whether survivors would sign this outcome, and be enough to remove the masks."""
        parameters = self.cohort.roster.parameters
        if len(self.ids) < max(self.round.quorum, parameters.min_contributors):
            return False
        return not self.round.graph.is_cuttable(self.ids, parameters.num_malicious)

    def close(self) -> None:
        """Those whose updates arrived are the survivors, and nobody else ever will be."""
        if self._view is not None:
            self._outcome = Outcome(self._view, tuple(sorted(self.ids)))
            self.stage = Stage.SIGNATURES

    @property
    def has_quorum(self) -> bool:
        """Whether so many have signed the outcome that no other one can be."""
        return len(self.signatures) >= self.round.quorum

    def certify(self) -> None:
        """Those who signed prove it to the survivors, who may answer now."""
        self._signers = tuple(sorted(self.signatures))
        self.stage = Stage.ANSWERS

    @property
    def has_enough_answers(self) -> bool:
        """Whether each dealer's secret has as many shares as rebuild it."""
        near = (self.round.graph.holders(dealer) for dealer in self.dealers)
        threshold = self.round.graph.threshold
        return all(len(self.answers.keys() & set(holders)) >= threshold for holders in near)

    def unmask(self) -> Elements:
        """Return the exact sums of the masked values (size,).

        Raises RecoveryError if the answers do not give what was advertised (more may), or no sum
        of right updates.
        """
        if self._outcome is None:
            raise RemoteProtocolError(refusals.RECOVERY_FAILED, "not closed")
        sums = pairwise.unmask(self.round, self._publics, self._outcome, self.total, self.answers)
        self.cohort.roster.parameters.check_sums(sums, len(self.ids))
        return sums

    # --- storage -------------------------------------------------------------------------------

    def pack(self) -> bytes:
        """Return what a restart needs of a round whose dealers are known, beside the journal."""
        packed: bytes = msgpack.packb(
            [
                self.cohort.roster.hash,
                self.number,
                self.support,
                bytes(self.dealers),
                b"".join(publics.to_bytes() for publics in self._publics.values()),
                bytes(self.survivors),
            ]
        )
        return packed

    @classmethod
    def unpack(cls, data: bytes, cohorts: Collection[Cohort]) -> "PairwiseRound | None":
        """Return the round that `pack` wrote, before its updates; None: its roster is closed.

        Take its updates from the journal, then `resume` it.
        """
        hashed, number, support, dealers, publics, _ = msgpack.unpackb(data)
        for cohort in cohorts:
            if cohort.roster.hash == hashed:
                stored = cls(cohort, number, support)
                pieces = split(publics, PUBLICS_BYTES, len(dealers))
                stored._publics = dict(zip(dealers, map(Publics.from_bytes, pieces), strict=True))
                stored._view = pairwise.view(stored.round, stored._publics, tuple(dealers))
                stored.stage = Stage.UPDATES
                return stored
        return None

    def resume(self, data: bytes) -> bool:
        """Close it again if it was closed; return False if that cannot be: give it up then."""
        survivors = tuple(msgpack.unpackb(data)[-1])
        if not survivors:
            return bool(self.ids)
        self.close()
        return self.survivors == survivors

    # --- small things --------------------------------------------------------------------------

    def _neighbours(self, index: int, others: Collection[int]) -> list[int]:
        near = self.round.graph.holders(index)
        return [other for other in near if other in others and other != index]

    def _check_keys(self, index: int, said: RoundKeys) -> None:
        publics = Publics.from_bytes(said.keys)
        message = keys_message(self.round, index, publics)
        self._check(index, ADVERTISEMENT, message, said.signature)
        check_epoch_key(publics.box_key)
        check_epoch_key(publics.mask_key)

    def _check(self, index: int, purpose: bytes, message: bytes, signature: bytes) -> None:
        check_signature(self.cohort.roster.members[index].identity, purpose, message, signature)

    def _advertised(self) -> RoundAdvertised:
        members = tuple(self._publics)
        joined = b"".join(self.keys[each].keys + self.keys[each].signature for each in members)
        return RoundAdvertised(self.number, members, joined)

    def _dealt_to(self, index: int) -> list[RoundTold]:
        """The shares are not stored: after a restart, who has not got them goes without."""
        if not self.sealed:
            return []
        near = self._neighbours(index, self.dealers)
        sealed = b"".join(self.sealed[dealer][index] for dealer in near)
        return [RoundDealers(self.number, self.dealers, sealed)]

    def _announced(self) -> RoundOutcome:
        views = b"".join(self.views[each] for each in self.survivors)
        return RoundOutcome(self.number, self.survivors, views)

    def _certificate(self) -> RoundCertificate:
        signatures = b"".join(self.signatures[each] for each in self._signers)
        return RoundCertificate(self.number, self._signers, signatures)
