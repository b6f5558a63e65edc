"""Differential privacy in whole numbers: noise, what it is added to, and what that costs.

Discrete Gaussian noise comes from a seeded stream by integers only: exact, everywhere the same.

Floating-point Gaussians leak through the gaps between the numbers that a computer can hold (I.
Mironov, "On significance of the least significant bits for differential privacy", CCS 2012). Here
every draw compares whole numbers: C. Canonne, G. Kamath, T. Steinke, "The discrete Gaussian for
differential privacy", NeurIPS 2020, Algorithms 1 to 3, for standard deviations that are powers of
two, at which all of their fractions are whole numbers over a power of two.
"""

import math
from typing import Final

import numpy as np
import numpy.typing as npt

from protocol.errors import LocalProtocolError
from protocol.stream import Stream

Integers = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]
Float64 = npt.NDArray[np.float64]

#: The largest standard deviation is 2 to this: squares of what is drawn stay far below 2**63.
MAX_LOG_SIGMA: Final = 20
#: Of so many tried, one is taken at least: a little more than the mean, to try again seldom.
_TRIES: Final = 2.3
_SOME: Final = 32
#: A norm that is computed in float64 is off by less.
_SLACK: Final = 1e-9
#: Rho 1/2 in billionths, where the noise multiplier is counted in thousandths.
_HALF: Final = 5 * 10**14


def cost_nano(multiplier_milli: int) -> int:
    """What an update costs its device under noise of so many thousandths of its bound.

    Rho of zCDP in billionths, rounded up: 1 / (2 z**2) for noise of z times the bound (Canonne,
    Kamath, Steinke, Theorem 4). Costs of updates add up.
    """
    return -(-_HALF // multiplier_milli**2)


def on_grid(values: Float64, bound: float) -> Integers:
    """Whole numbers close to ``values``, no longer than ``bound`` in L2 norm, as the values are.

    The nearest, where they are not longer; else the nearest to values so short that none can be.
    """
    whole = np.rint(values)
    if np.linalg.norm(whole) > bound * (1 - _SLACK):
        # Rounding adds half a unit a value at most, and those half units have this norm.
        room = max(0.0, bound * (1 - _SLACK) - math.sqrt(values.size) / 2)
        whole = np.rint(values * (room / max(float(np.linalg.norm(values)), room, 1.0)))
    return whole.astype(np.int64)


def discrete_gaussian(seed: bytes, log_sigma: int, size: int) -> Integers:
    """``size`` integers, x with a probability proportional to exp(-x**2 / (2 sigma**2)).

    sigma = 2**``log_sigma``, 0 to `MAX_LOG_SIGMA`; ``seed`` (32 secret bytes) is for nothing else.
    """
    if not 0 <= log_sigma <= MAX_LOG_SIGMA:
        raise LocalProtocolError(f"log_sigma must be 0 to {MAX_LOG_SIGMA}, not {log_sigma}")
    stream = Stream(seed)
    found = np.empty(0, np.int64)
    while found.size < size:
        tries = int(_TRIES * (size - found.size)) + _SOME
        found = np.concatenate((found, _some(stream, log_sigma, tries)))
    return found[:size]


def _some(stream: Stream, log_sigma: int, tries: int) -> Integers:
    """Algorithm 3 of the paper: discrete Laplace numbers of scale sigma, some of which are kept."""
    laplace = _laplace(stream, log_sigma, tries)
    off = np.abs(np.abs(laplace) - (1 << log_sigma))
    kept: Integers = laplace[_exp(stream, off * off, 2 * log_sigma + 1)]
    return kept


def _laplace(stream: Stream, log_scale: int, tries: int) -> Integers:
    """Algorithm 2: x with a probability proportional to exp(-|x| / 2**log_scale)."""
    low = stream.integers(1 << log_scale, tries)
    low = low[_exp(stream, low, log_scale)]
    sizes = low + (_geometric(stream, low.size) << log_scale)
    is_negative = stream.integers(2, sizes.size).astype(np.bool_)
    kept = ~(is_negative & (sizes == 0))  # else 0 would be drawn twice as often
    signed: Integers = np.where(is_negative, -sizes, sizes)[kept]
    return signed


def _geometric(stream: Stream, size: int) -> Integers:
    """How often in a row an event of probability 1/e happens."""
    counts = np.zeros(size, np.int64)
    going = np.arange(size)
    while going.size:
        going = going[_exp_fraction(stream, np.ones(going.size, np.int64), 0)]
        counts[going] += 1
    return counts


def _exp(stream: Stream, exponents: Integers, bits: int) -> Flags:
    """Events of probability exp(-exponent / 2**bits), for whole numbers from 0."""
    happened = np.zeros(exponents.size, np.bool_)
    whole = exponents >> bits
    going = np.arange(exponents.size)
    for passed in range(int(whole.max(initial=0))):
        is_due = whole[going] > passed
        due = going[is_due]
        lasting = due[_exp_fraction(stream, np.ones(due.size, np.int64), 0)]
        going = np.concatenate((going[~is_due], lasting))
        if not lasting.size:
            break
    rest = exponents[going] & ((1 << bits) - 1)
    happened[going[_exp_fraction(stream, rest, bits)]] = True
    return happened


def _exp_fraction(stream: Stream, exponents: Integers, bits: int) -> Flags:
    """Algorithm 1: events of probability exp(-exponent / 2**bits), exponents at most 2**bits."""
    happened = np.zeros(exponents.size, np.bool_)
    going = np.arange(exponents.size)
    turn = 1
    while going.size:
        below = stream.integers(turn << bits, going.size) < exponents[going]
        happened[going[~below]] = turn % 2 == 1
        going = going[below]
        turn += 1
    return happened
