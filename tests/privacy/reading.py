"""What an attacker computes from a byte log and the keys it has. Written from docs, not from src.

Everything here is public arithmetic (docs/secure-aggregation.md); it checks nothing, so that a
wrong sum of secrets gives a guess that is noise, and not an exception.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import msgpack
import numpy as np
import numpy.typing as npt

from device_sdk.identity import Keys
from protocol.errors import RemoteProtocolError
from protocol.secagg import seedmask
from protocol.secagg.field import Q31, Elements, from_bytes, lagrange, matmul, uniform
from protocol.secagg.fixedpoint import unpack
from protocol.secagg.messages import MaskedUpdate
from protocol.secagg.ring import DEGREE, intt, multiply, ntt
from protocol.secagg.roster import Roster, open_roster
from protocol.secagg.sealing import open_shares
from protocol.secagg.shares import TEST_COLUMNS, columns
from protocol.stream import derive
from protocol.topics import Topics
from tests.privacy.byte_log import ByteLog, Sealed

#: A mask: its dealer, and its counter.
Mask = tuple[str, int]
#: A holder's place in the roster -> its row of numbers (columns,).
Rows = Mapping[int, Elements]


@dataclass(frozen=True, slots=True)
class Guess:
    """What somebody trained, as the attacker thinks: a sum of updates, each times a number."""

    of: Mapping[Mask, int]
    values: npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Spoils:
    """An attacker's keys: none, or the aggregator's, and those of up to t members."""

    enrolment: bytes  # public
    aggregator: bytes = field(default=b"", repr=False)
    insiders: Mapping[str, Keys] = field(default_factory=dict)


class Reader:
    """A byte log as its holder of ``spoils`` reads it."""

    def __init__(self, log: ByteLog, topics: Topics, spoils: Spoils) -> None:
        self.log = log
        self.topics = topics
        self.spoils = spoils
        self.roster = self._find_roster()

    @property
    def names(self) -> tuple[str, ...]:
        """The members, in the order of the roster."""
        return tuple(member.device for member in self.roster.members)

    @property
    def num_columns(self) -> int:
        """How many numbers an answer has."""
        return columns(DEGREE, seedmask.sharing(self.roster.parameters))

    def masks_of(self, request_hash: bytes) -> tuple[Mask, ...]:
        """Return whose masks a request asks for."""
        body = self.log.requests[request_hash].body
        _, _, _, members, counters, _ = msgpack.unpackb(body)
        return tuple(
            (self.names[at], counter) for at, counter in zip(members, counters, strict=True)
        )

    def updates(self) -> dict[Mask, MaskedUpdate]:
        """Return what came in under this roster, by mask."""
        return {
            (device, update.counter): update
            for device, update in self.log.updates.values()
            if update.roster_hash == self.roster.hash
        }

    def summed(self) -> set[Mask]:
        """Return the masks that some request has asked for."""
        return {mask for hash_ in self.log.requests for mask in self.masks_of(hash_)}

    # --- shares and answers ------------------------------------------------------------------

    def relayed_rows(self) -> dict[Mask, dict[int, Elements]]:
        """Return the shares that the attacker can read, by mask."""
        found: dict[Mask, dict[int, Elements]] = {}
        for sealed in self.log.sealed:
            if sealed.shares.roster_hash != self.roster.hash or sealed.holder not in self.names:
                continue
            for counter, row in self.opened(sealed, self.roster, self.spoils.insiders):
                holder = self.names.index(sealed.holder)
                found.setdefault((sealed.dealer, counter), {})[holder] = row
        return found

    def opened(
        self, sealed: Sealed, roster: Roster, known: Mapping[str, Keys]
    ) -> Iterator[tuple[int, Elements]]:
        """Read shares, as if nobody had sealed them or with the holder's keys; by counter."""
        dealer, holder = roster.index(sealed.dealer), roster.index(sealed.holder)
        assert dealer is not None
        assert holder is not None
        try:
            body, _ = msgpack.unpackb(sealed.shares.sealed)
            *_, counters, _, rows = msgpack.unpackb(body)
        except (ValueError, TypeError, msgpack.UnpackException):
            if sealed.holder not in known:
                return
            secret = known[sealed.holder].epochs[roster.epoch]
            batch = open_shares(
                roster, sealed.shares, dealer=dealer, holder=holder, epoch_secret=secret
            )
            counters, rows = batch.counters, batch.rows
        width = self.num_columns + TEST_COLUMNS
        elements = from_bytes(rows, Q31, len(counters) * width).reshape(len(counters), width)
        yield from zip(counters, elements[:, :-TEST_COLUMNS], strict=True)

    def insiders_sum(self, masks: tuple[Mask, ...]) -> dict[int, Elements]:
        """Return what members whose keys the attacker has would answer."""
        relayed = self.relayed_rows()
        rows = [relayed.get(mask, {}) for mask in masks]
        known = set.intersection(*(set(row) for row in rows))
        return {at: np.sum([row[at] for row in rows], axis=0) % Q31 for at in known}

    def answered(self, request_hash: bytes) -> dict[int, Elements]:
        """Return the rows that holders have answered a request with."""
        said = self.log.answers.get(request_hash, {})
        return {
            self.names.index(device): from_bytes(answers[0], Q31, self.num_columns)
            for device, answers in said.items()
        }

    # --- from rows to updates ----------------------------------------------------------------

    def secret(self, rows: Rows, roster: Roster | None = None) -> Elements:
        """Interpolate a secret; where rows are missing, zeros must do."""
        sharing = seedmask.sharing((roster or self.roster).parameters)
        missing = [at for at in range(sharing.num_holders) if at not in rows]
        zeros = np.zeros(self.num_columns, np.int64)
        known = [*rows.items(), *((at, zeros) for at in missing)][: sharing.num_answers]
        points = sharing.points_of(at for at, _ in known)
        decoding = lagrange(points, sharing.data_points, Q31)
        blocks = matmul(decoding, np.vstack([row for _, row in known]), Q31)
        return np.asarray(blocks.reshape(-1)[:DEGREE])

    def guess(
        self,
        of: Mapping[Mask, int],
        secret: Elements,
        updates: Mapping[Mask, MaskedUpdate] | None = None,
        public_seed: bytes = b"",
    ) -> Guess:
        """Take the mask that a sum of secrets gives off a sum of updates."""
        given = self.roster.parameters
        known = self.updates() if updates is None else updates
        total = np.zeros(given.size, np.int64)
        for mask, times in of.items():
            total += times * unpack(known[mask].body, given.width, given.size)
        num_blocks = -(-given.size // DEGREE)
        seed = derive(public_seed or self.roster.public_seed, "seedmask a", DEGREE, Q31)
        product = intt(multiply(uniform(seed, (num_blocks, DEGREE), Q31), ntt(secret)))
        values = (total << given.shift) - product.reshape(-1)[: given.size]
        centred = (values + Q31 // 2) % Q31 - Q31 // 2
        return Guess(of, centred[:-1])

    def _find_roster(self) -> Roster:
        for signed in self.log.rosters:
            try:
                return open_roster(signed, self.spoils.enrolment)
            except RemoteProtocolError:
                continue
        raise AssertionError("no roster in the log")
