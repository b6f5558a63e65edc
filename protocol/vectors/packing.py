"""Codecs: how a delta becomes the body of an update.

A codec is a support (which coordinates travel) and a number type, spelled ``dense/float32``,
``topk-0.01/int8``, ``randk-0.05/float16``. In secure tasks a scheme of `protocol.secagg` stands for
the number type, as in ``plan-0.1/seedmask``; such bodies are none of this file's. A third part,
``/calibrated``, says that devices send the difference to what was last counted of them. A body is,
without gaps:

1. the values that travel, by ascending index: float32 or float16 (IEEE, little-endian), or levels
   (`protocol.vectors.levels`);
2. with top-k: their indices (`protocol.vectors.sparse`);
3. with int8: a float32 scale for each tensor that has any of the values, in the layout's order;
   with int4 and ternary: one for each 256 of a tensor's values, the last for those that are left.

The value at an index is the number itself, or level times scale in float32. ``decode(encode(x))``
is the codec's C(x) to the last bit, so that a device computes its residual as ``p - C(p)``.

- top-k is *contractive*: what is not sent stays on the device as residual and is added to the next
  delta; numbers are rounded to the nearest, so no coordinate ends up further from x than from 0.
- dense and rand-k are *unbiased* and keep no residual: rand-k multiplies by size / kept
  (as float32), levels are rounded stochastically. (float16 rounds to the nearest: its error is
  below 1/2,000 of a number, or below 3e-8 where that is more.)
- Calibrated, every codec is contractive: what is not sent of a difference is in the next one.
  rand-k enlarges nothing then. Enlarged, what is counted would overshoot the delta by size / kept
  - 1 times their distance, the next difference be larger by as much, and so on without end.

Sources: top-k with error feedback, Stich et al. 2018; rand-k, Konecny et al. 2016; levels, QSGD
(Alistarh et al. 2017); three of them under top-k, Sattler et al. 2019; contractive compression of
differences, EF21 (Richtarik et al. 2021).
"""

import math
import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import numpy as np
import numpy.typing as npt

from protocol import refusals
from protocol.errors import ConfigError, LocalProtocolError, RemoteProtocolError
from protocol.vectors import quantise, sparse
from protocol.vectors.layout import Layout, check_vector
from protocol.vectors.levels import INT4, TERNARY
from protocol.vectors.values import (
    DTYPES,
    Counts,
    Values,
    decode_values,
    encode_values,
    max_scale_bytes,
    num_bytes,
    wrong_length,
)

DENSE: Final = "dense"
TOPK: Final = "topk"
RANDK: Final = "randk"
#: The coordinates that the aggregator publishes (`protocol.messages.Support`): masked codecs only.
PLAN: Final = "plan"

#: Number types that came with a tighter coding of indices (`sparse.encode_indices`).
FINE: Final = frozenset({INT4, TERNARY})
#: What masks instead: the schemes of `protocol.secagg`.
SCHEMES: Final = ("seedmask", "lightsecagg", "pairwise")
CALIBRATED: Final = "calibrated"

#: Less keeps one coordinate of the largest model, as this does.
MIN_FRACTION: Final = 1e-9

_SPELLING: Final = re.compile(
    r"(?P<support>[a-z]+)(-(?P<fraction>[0-9]+(\.[0-9]+)?))?/(?P<dtype>[a-z0-9]+)"
    rf"(?P<calibrated>/{CALIBRATED})?"
)
_MAX_SPELLING: Final = 64


@dataclass(frozen=True, slots=True)
class CodecSpec:
    """A support, the fraction of the coordinates it keeps (1 when dense), and a number type.

    ``dtype`` is a scheme's name where the values are masked. Raises ConfigError that names what is
    wrong. ``str`` gives the spelling of `parse_codec`.
    """

    support: str
    fraction: float
    dtype: str
    calibrated: bool = False

    def __post_init__(self) -> None:
        if self.support not in (DENSE, TOPK, RANDK, PLAN):
            raise ConfigError(f"codec: support {self.support!r} is not dense, topk, randk or plan")
        if self.dtype not in DTYPES and not self.masked:
            known = ", ".join((*DTYPES, *SCHEMES))
            raise ConfigError(f"codec: type {self.dtype!r} is none of {known}")
        if self.support == (TOPK if self.masked else PLAN):
            raise ConfigError(
                f"codec: {self.support} and {self.dtype} do not go together: masked values need"
                " coordinates in common, so plan is for them and topk for the others"
            )
        if not MIN_FRACTION <= self.fraction <= 1:
            raise ConfigError(f"codec: fraction {self.fraction} is not {MIN_FRACTION} to 1")
        if self.support == DENSE and self.fraction != 1:
            raise ConfigError(f"codec: dense keeps everything, not the fraction {self.fraction}")

    def __str__(self) -> str:
        third = f"/{CALIBRATED}" if self.calibrated else ""
        if self.support == DENSE:
            return f"{DENSE}/{self.dtype}{third}"
        fraction = np.format_float_positional(self.fraction, trim="-")
        return f"{self.support}-{fraction}/{self.dtype}{third}"

    @property
    def masked(self) -> bool:
        """Whether ``dtype`` is a scheme of secure aggregation."""
        return self.dtype in SCHEMES

    @property
    def contractive(self) -> bool:
        """Whether what was not sent is sent later (else the codec is unbiased).

        Calibrated it is in the next difference, else the device keeps it as residual.
        """
        return self.calibrated or self.support in (TOPK, PLAN)

    @property
    def words(self) -> frozenset[str]:
        """What a device must understand of it."""
        third = {CALIBRATED} if self.calibrated else set()
        return frozenset({self.support, self.dtype, *third})

    def num_kept(self, size: int) -> int:
        """How many of ``size`` coordinates travel: the fraction as it is written, rounded up."""
        return _num_kept(self.fraction, size)


@lru_cache(maxsize=64)
def _num_kept(fraction: float, size: int) -> int:
    # 0.07 * 100 is 7.000000000000001 in floats; as a fraction of its decimals it is 7.
    from fractions import Fraction  # noqa: PLC0415 - devices start without it

    return max(1, math.ceil(Fraction(repr(float(fraction))) * size))


@lru_cache(maxsize=64)
def parse_codec(text: str) -> CodecSpec:
    """The codec that ``text`` spells, like ``topk-0.01/int8``. Raises ConfigError."""
    spelled = _SPELLING.fullmatch(text) if len(text) <= _MAX_SPELLING else None
    if spelled is None:
        raise ConfigError(f"codec {text[:80]!r}: write it like dense/float32 or topk-0.01/int8")
    support, fraction, dtype = spelled.group("support", "fraction", "dtype")
    if (fraction is None) != (support == DENSE):
        raise ConfigError(f"codec {text!r}: all but dense need a fraction, dense takes none")
    kept = 1.0 if fraction is None else float(fraction)
    return CodecSpec(support, kept, dtype, calibrated=spelled["calibrated"] is not None)


@dataclass(frozen=True, slots=True, eq=False)
class SparseDelta:
    """A decoded delta: ``values`` at ``indices`` (None: at all coordinates) of ``size`` zeros.

    Both arrays may be read-only views of the body they came in.
    """

    indices: sparse.Indices | None
    values: Values
    size: int

    def dense(self) -> Values:
        """All ``size`` numbers; of a dense delta ``values`` itself."""
        if self.indices is None:
            return self.values
        dense = np.zeros(self.size, dtype=np.float32)
        dense[self.indices] = self.values
        return dense

    def add_to(self, total: npt.NDArray[np.float64], weight: float) -> None:
        """Add ``weight`` times the delta to ``total`` in place, computed in float64."""
        weighted = self.values.astype(np.float64)  # faster than a multiply that converts
        weighted *= weight
        if self.indices is None:
            total += weighted
        else:
            total[self.indices] += weighted  # indices are distinct: none is added twice or lost


def encode(
    delta: Values,
    spec: CodecSpec,
    layout: Layout,
    *,
    rounding_seed: bytes,
    support_seed: bytes,
) -> bytes:
    """The body for a float32 vector of the layout's size.

    ``rounding_seed`` (secret, fresh for every update) is used by unbiased levels, ``support_seed``
    (known to both sides) by rand-k. Raises LocalProtocolError for another shape or type, for NaN
    and infinity, for a masked codec, and where a number would exceed `quantise.LARGEST` (rand-k
    enlarges them).
    """
    check_vector(delta)
    _check_open(spec)
    if delta.size != layout.size:
        raise LocalProtocolError(f"{delta.size} numbers for a layout of {layout.size}")
    indices = _support(delta, spec, support_seed)
    values = delta if indices is None else delta[indices]
    if spec.support == RANDK and not spec.contractive:
        with np.errstate(over="ignore"):  # refused in the next line
            values = values * np.float32(layout.size / values.size)
    if np.abs(values).max() > quantise.LARGEST:
        raise LocalProtocolError(f"a delta above {quantise.LARGEST} has diverged")
    seed = None if spec.contractive else rounding_seed
    coded = encode_values(values, spec.dtype, _counts(layout, indices), seed)
    return coded.values + _index_bytes(indices, spec, layout) + coded.scales


def decode(body: bytes, spec: CodecSpec, layout: Layout, *, support_seed: bytes) -> SparseDelta:
    """What `encode` wrote with the same codec, layout and support seed.

    Raises RemoteProtocolError for any other bytes: ``wrong_shape`` for their number, ``not_finite``
    for NaN and infinity (also as a scale), ``malformed`` for indices, scales and levels that no
    encoder writes, ``wrong_codec`` for a masked one.
    """
    if spec.masked:
        raise RemoteProtocolError(refusals.WRONG_CODEC, f"{spec}: its bodies are masked")
    kept = spec.num_kept(layout.size)
    end = num_bytes(spec.dtype, kept)
    if len(body) < end:
        raise wrong_length(body, f"{kept} values")
    indices: sparse.Indices | None = None
    if spec.support == TOPK:
        indices, length = sparse.split_indices(
            body[end:], layout.size, kept, fine=spec.dtype in FINE
        )
        end += length
    elif spec.support == RANDK:
        indices = sparse.rand_k(support_seed, layout.size, kept)
    values = decode_values(body, end, spec.dtype, _counts(layout, indices), kept)
    return SparseDelta(indices, values, layout.size)


def max_body_bytes(spec: CodecSpec, layout: Layout) -> int:
    """No body of this codec and layout is longer: the byte budget of a lease.

    Raises LocalProtocolError for a masked codec: its scheme knows.
    """
    _check_open(spec)
    kept = spec.num_kept(layout.size)
    sent = num_bytes(spec.dtype, kept) + max_scale_bytes(spec.dtype, kept, len(layout.tensors))
    if spec.support != TOPK:
        return sent
    return sent + sparse.max_indices_bytes(layout.size, kept, fine=spec.dtype in FINE)


def _check_open(spec: CodecSpec) -> None:
    if spec.masked:
        raise LocalProtocolError(f"{spec}: what is masked is encoded by its scheme")


def _support(delta: Values, spec: CodecSpec, support_seed: bytes) -> sparse.Indices | None:
    if spec.support == DENSE:
        return None
    kept = spec.num_kept(delta.size)
    if spec.support == TOPK:
        return sparse.top_k(delta, kept)
    return sparse.rand_k(support_seed, delta.size, kept)


def _index_bytes(indices: sparse.Indices | None, spec: CodecSpec, layout: Layout) -> bytes:
    if indices is None or spec.support == RANDK:
        return b""
    return sparse.encode_indices(indices, layout.size, fine=spec.dtype in FINE)


def _counts(layout: Layout, indices: sparse.Indices | None) -> Counts:
    """How many of the values each tensor has, of those tensors that have any."""
    if indices is None:
        return (layout.bounds[1:] - layout.bounds[:-1]).astype(np.intp, copy=False)
    ends = indices.searchsorted(layout.bounds)
    counts = ends[1:] - ends[:-1]
    return counts[counts > 0]
