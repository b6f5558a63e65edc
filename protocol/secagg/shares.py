"""Packed secret sharing: N holders, any U of them decode, any T of them learn nothing.

A ramp scheme (Franklin and Yung 1992; LightSecAgg, So et al. 2022, section 4). A secret is cut into
U - T blocks, one below the other. Each column of this table, together with T uniform numbers,
fixes one polynomial of degree < U modulo a prime: its values at the points 1..U-T are the data,
its value at U+1+j is what holder j gets. The points of data and of shares are disjoint, or a
holder would be handed a block in clear. The T uniform numbers are the shares of the first T
holders themselves: the same distribution as noise blocks at further points, for half the work.

Sums of shares are shares of sums. Between T + 1 and U - 1 shares nothing is promised: a secret of
small numbers is then found by lattice reduction, so that T alone protects.

A dealt row ends in `TEST_COLUMNS` columns that are uniform at all U points. They serve the
dealers' test (`protocol.secagg.consistency`), which reveals a combination of them and the share;
they are **never summed into an answer**, which would lay these combinations open.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Final

import numpy as np
import numpy.typing as npt

from protocol.errors import ConfigError, LocalProtocolError
from protocol.secagg.field import (
    Elements,
    Words,
    fill,
    lagrange,
    matmul,
    product,
    solve,
    split,
    uniform,
    word_type,
)
from protocol.stream import SEED_BYTES, derive

TEST_COLUMNS: Final = 4
MAX_WEIGHT: Final = 8

_BAND: Final = 1024  # columns at a time: what lies between stays in the cache


class RecoveryError(Exception):
    """The answers do not decode: too few of them, or too many that contradict the others."""


@dataclass(frozen=True, slots=True)
class Sharing:
    """The numbers of a cohort: N holders, U answers decode, T shares say nothing; the field.

    Raises ConfigError unless 0 < T < U <= N and the prime has N + U nonzero points.
    """

    num_holders: int
    num_answers: int
    num_noise: int
    modulus: int

    def __post_init__(self) -> None:
        if not 0 < self.num_noise < self.num_answers <= self.num_holders:
            raise ConfigError(
                f"sharing needs 0 < T < U <= N, not T = {self.num_noise}, "
                f"U = {self.num_answers}, N = {self.num_holders}"
            )
        if self._points.stop > self.modulus:
            raise ConfigError(
                f"{self.num_holders} holders and {self.num_answers} answers need more points "
                f"than there are modulo {self.modulus}"
            )

    @property
    def num_blocks(self) -> int:
        """U - T: how many numbers one column carries, and one element of a share stands for."""
        return self.num_answers - self.num_noise

    @property
    def data_points(self) -> tuple[int, ...]:
        """Where the polynomials take the secret's values: 1..U-T."""
        return tuple(range(1, self.num_blocks + 1))

    @property
    def share_points(self) -> tuple[int, ...]:
        """Where holder 0, 1, ... evaluates: U+1..U+N."""
        return tuple(self._points)

    @property
    def _points(self) -> range:
        return range(self.num_answers + 1, self.num_answers + self.num_holders + 1)

    def points_of(self, holders: Iterable[int]) -> tuple[int, ...]:
        """The share points of some holders; LocalProtocolError for an index beyond 0..N-1."""
        points = tuple(self.num_answers + 1 + holder for holder in holders)
        if any(point not in self._points for point in points):
            raise LocalProtocolError(f"a holder's index must be below {self.num_holders}")
        return points


@dataclass(frozen=True, slots=True, eq=False)
class Recovered:
    """A decoded sum of secrets.

    ``checked``: there were spare answers, and the secret agrees with all but those of ``liars``
    (ascending). Both are certain only while no more holders lie than there were spares, less the
    liars named; and a liar is one only if all dealers passed their test.
    """

    secret: Elements
    liars: tuple[int, ...]
    checked: bool


def columns(size: int, sharing: Sharing) -> int:
    """How many elements an answer has for a secret of ``size`` elements."""
    return -(-size // sharing.num_blocks)


def deal(secret: Elements, sharing: Sharing, seed: bytes) -> Elements:
    """The shares of a secret (size,): one row of columns + TEST_COLUMNS elements per holder.

    The secret fills the blocks row by row, zeros behind it. ``seed`` (32 secret bytes, used once)
    gives the first T rows as `uniform` numbers of its child "noise", and the test columns at the
    data points as those of its child "tests"; interpolation gives the other rows.
    """
    return deal_words(secret, sharing, seed).astype(np.int64)


def deal_words(secret: Elements, sharing: Sharing, seed: bytes) -> Words:
    """What `deal` gives, as it travels: a quarter of the memory, or half of it."""
    modulus, num_blocks = sharing.modulus, sharing.num_blocks
    num_columns = columns(secret.size, sharing)
    word = word_type(modulus)
    data = np.zeros((num_blocks, num_columns + TEST_COLUMNS), word)
    for row, start in zip(data, range(0, secret.size, num_columns), strict=False):
        part = secret[start : start + num_columns]
        row[: part.size] = part
    tests = (num_blocks, TEST_COLUMNS)
    data[:, num_columns:] = uniform(derive(seed, "tests"), tests, modulus)
    shares = np.empty((sharing.num_holders, data.shape[1]), word)
    noise, others = shares[: sharing.num_noise], shares[sharing.num_noise :]
    fill(noise, derive(seed, "noise"), modulus)
    limbs = split(_dealing(sharing), modulus)
    for start in range(0, data.shape[1], _BAND):
        band = slice(start, start + _BAND)
        known = np.concatenate((data[:, band], noise[:, band]), dtype=np.float64)
        others[:, band] = product(limbs, known, modulus)
    return shares


def add(
    shares: Elements | Sequence[Elements | Words],
    modulus: int,
    weights: Sequence[int] | None = None,
) -> Elements:
    """A holder's answer: the sum (columns,) of its K shares (columns + TEST_COLUMNS,).

    ``weights``: K integers, 1..MAX_WEIGHT; all 1 if absent. The test columns are left out.
    """
    weights = weights or (1,) * len(shares)
    if len(weights) != len(shares) or not all(1 <= weight <= MAX_WEIGHT for weight in weights):
        raise LocalProtocolError(
            f"{len(shares)} shares need as many weights in 1..{MAX_WEIGHT}, not {weights}"
        )
    total = np.zeros(shares[0].size - TEST_COLUMNS, dtype=np.int64)
    for weight, share in zip(weights, shares, strict=True):
        used = share[:-TEST_COLUMNS]
        total += used if weight == 1 else np.multiply(used, weight, dtype=np.int64)
    return total % modulus


def recover(answers: Mapping[int, Elements], sharing: Sharing, size: int) -> Recovered:
    """Decode the sum of secrets (size,) from answers (columns,) by holder, 0..N-1.

    With exactly U answers nothing can be checked. With more, a wrong answer is noticed, and up to
    half as many as there are spares are named and left out. Raises RecoveryError for fewer than U
    answers, and for more wrong ones than that: then nobody is named.
    """
    holders = tuple(sorted(answers))
    num_spares = len(holders) - sharing.num_answers
    if num_spares < 0:
        raise RecoveryError(f"{len(holders)} answers, but {sharing.num_answers} are needed")
    rows = np.vstack([answers[holder] for holder in holders])
    if rows.shape[1] != columns(size, sharing):
        raise LocalProtocolError(f"{rows.shape[1]} columns do not hold {size} elements")
    points = sharing.points_of(holders)
    wrong = outliers(points, rows, sharing.num_answers, sharing.modulus)
    if wrong is None:
        raise RecoveryError(f"{len(holders)} answers contradict each other")
    if wrong:
        rows = np.delete(rows, wrong, axis=0)
        points = tuple(np.delete(points, wrong).tolist())
    known = points[: sharing.num_answers]
    decoding = lagrange(known, sharing.data_points, sharing.modulus)
    blocks = matmul(decoding, rows[: sharing.num_answers], sharing.modulus)
    liars = tuple(holders[place] for place in wrong)
    return Recovered(blocks.reshape(-1)[:size], liars, checked=num_spares > 0)


def outliers(
    points: tuple[int, ...], rows: Elements, degree_bound: int, modulus: int
) -> tuple[int, ...] | None:
    """Which rows, by index, leave the polynomials of a lower degree on which all others lie.

    ``rows``: the values at each of ``points`` (nonzero, distinct), ``degree_bound`` of them or
    more. Up to half as many outliers as there are rows to spare are found; None if there are more.
    Peterson's decoder for an interleaved Reed-Solomon code.
    """
    num_spares = len(points) - degree_bound
    if num_spares == 0:
        return ()
    nobody = np.zeros(len(points), dtype=np.bool_)
    wrong = _contradicting(points, rows, nobody, degree_bound, modulus)
    if wrong.any():
        suspects = _suspects(points, rows, num_spares, modulus)
        if suspects is None:
            return None
        wrong = _contradicting(points, rows, suspects, degree_bound, modulus)
        if np.count_nonzero(wrong) > num_spares // 2:
            return None
    return tuple(np.flatnonzero(wrong).tolist())


def _dealing(sharing: Sharing) -> Elements:
    """(N - T, U): data and the shares of the first T holders -> the shares of the others."""
    shares = sharing.share_points
    known = sharing.data_points + shares[: sharing.num_noise]
    return lagrange(known, shares[sharing.num_noise :], sharing.modulus)


def _contradicting(
    points: tuple[int, ...],
    rows: Elements,
    suspects: npt.NDArray[np.bool_],
    degree_bound: int,
    modulus: int,
) -> npt.NDArray[np.bool_]:
    """Which rows differ from what the first unsuspected ones foretell."""
    trusted, others = np.split(np.argsort(suspects, kind="stable"), [degree_bound])
    known = tuple(points[place] for place in trusted)
    asked = tuple(points[place] for place in others)
    foretold = matmul(lagrange(known, asked, modulus), rows[trusted], modulus)
    wrong = np.zeros(len(points), dtype=np.bool_)
    wrong[others] = (foretold != rows[others]).any(axis=1)
    return wrong


def _suspects(
    points: tuple[int, ...], rows: Elements, num_spares: int, modulus: int
) -> npt.NDArray[np.bool_] | None:
    """At most num_spares / 2 rows, among them every wrong one, if there are no more than that.

    Syndromes of a few random combinations of the columns; any polynomial of degree num_spares / 2
    that annihilates them all vanishes at every error, and at nothing that need be kept.
    """
    degree = num_spares // 2
    if degree == 0:
        return None
    words = _combinations(rows, modulus)
    point = np.array(points, dtype=np.int64)
    powers = np.ones((num_spares, len(points)), dtype=np.int64)
    for exponent in range(1, num_spares):
        powers[exponent] = powers[exponent - 1] * point % modulus
    # The dual code's weights 1 / prod(x_i - x_l) up to a common factor: x_i times the basis at 0.
    dual = lagrange(points, (0,), modulus)[0] * point % modulus
    syndromes = matmul(powers * dual % modulus, words, modulus)
    windows = np.lib.stride_tricks.sliding_window_view(syndromes, degree + 1, axis=0)
    equations = windows.reshape(-1, degree + 1)
    locator = solve(equations[:, :-1], -equations[:, -1] % modulus, modulus)
    if locator is None:
        return None
    values = matmul(locator[np.newaxis], powers[:degree], modulus)[0] + powers[degree]
    return np.asarray(values % modulus == 0)


def _combinations(rows: Elements, modulus: int) -> Elements:
    """TEST_COLUMNS combinations of the columns that nobody could choose: a hash of all decides."""
    if rows.shape[1] <= TEST_COLUMNS:
        return rows
    seed = blake2b(rows.astype("<i8").tobytes(), digest_size=SEED_BYTES, person=b"fedbus.answers")
    factors = uniform(seed.digest(), (rows.shape[1], TEST_COLUMNS), modulus)
    return matmul(rows, factors, modulus)
