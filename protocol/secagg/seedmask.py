"""`seedmask`: masks that grow out of short secrets by a map that is linear but for a small noise.

A device has a secret polynomial s and hands out shares of it (`protocol.secagg.shares`). Its update
is, block by block of 1024 elements, ``c = x + a s + e`` in Z_q[x] / (x**1024 + 1), without its
lowest ``shift`` bits: x are the values, a is public, e are fresh errors. From the sum of such
updates and the sum S of their secrets follows the sum of the values, up to `noise_bound`. So the
shares are as short for a large model as for a small one, and a is multiplied by S once for a whole
buffer. Ring-LWE with hints; precedents: ACORN (Bell et al., ePrint 2022/1461, section 3.2), OPA
(Karthikeyan and Polychroniadou, arXiv 2410.22303), Willow (ePrint 2024/936), Hint-LWE (ePrint
2023/623).

A secret masks one update, ever: two of them under one secret show the difference of their values.
"""

from functools import lru_cache
from typing import Final

import numpy as np

from protocol import refusals
from protocol.errors import RemoteProtocolError
from protocol.secagg.field import Q31, Elements, uniform
from protocol.secagg.fixedpoint import pack, unpack
from protocol.secagg.parameters import MAX_ERROR, Parameters
from protocol.secagg.ring import DEGREE, intt, multiply, ntt
from protocol.secagg.shares import Sharing
from protocol.stream import Stream, derive

_EVEN_BYTES: Final = np.uint64(0x00FF_00FF_00FF_00FF)
_LANES: Final = np.uint64(0x0001_0001_0001_0001)
_BAND: Final = 1 << 14  # elements at a time: errors are never in memory all at once


def secret(_parameters: Parameters, seed: bytes) -> Elements:
    """What is shared: s (1024,) modulo q, small numbers (`small`) of the seed's child "secret"."""
    return small(derive(seed, "secret"), DEGREE) % Q31


def secret_size(_parameters: Parameters) -> int:
    """How many elements a secret has, whatever the update's size."""
    return DEGREE


def sharing(parameters: Parameters) -> Sharing:
    """How secrets are shared."""
    return Sharing(parameters.num_devices, parameters.num_answers, parameters.num_noise, Q31)


def mask(
    parameters: Parameters, public_seed: bytes, secret: Elements, values: Elements, seed: bytes
) -> bytes:
    """The body of the update: floor(c / 2**shift) for each c = x + a s + e mod q, packed.

    ``values``: x (size,), within +-limit, else LocalProtocolError. ``public_seed`` (32 bytes) is
    the roster's; ``seed`` (32 secret bytes, used once) gives e, as `small` numbers of its child
    "errors". Rounding to the nearest would need a bit more for c near q.
    """
    parameters.check_values(values)
    masked = _mask(parameters, public_seed, secret)
    errors = Stream(derive(seed, "errors"))
    for start in range(0, parameters.size, _BAND):
        part = masked[start : start + _BAND]
        part += values[start : start + _BAND]
        part += _small(errors, part.size)
        part %= Q31
        part >>= parameters.shift
    return pack(masked, parameters.width)


def add(parameters: Parameters, total: Elements, body: bytes) -> None:
    """Add an arriving update to ``total`` (size,), in place. One of weight w is added w times.

    Raises RemoteProtocolError (malformed), and then has added nothing.
    """
    elements = unpack(body, parameters.width, parameters.size)
    if elements.max() > (Q31 - 1) >> parameters.shift:
        raise RemoteProtocolError(refusals.MALFORMED, "an element that is no remainder")
    total += elements


def unmask(
    parameters: Parameters,
    public_seed: bytes,
    total: Elements,
    num_updates: int,
    secret_sum: Elements,
) -> Elements:
    """The sums of the values (size,), centred, each within `noise_bound` of the true one.

    ``total`` holds ``num_updates`` updates (one of weight w counts as w), ``secret_sum`` is the sum
    of just their secrets. Another one leaves uniform values, of which a sixteenth or more are
    beyond what any values can add up to: raises RecoveryError.
    """
    sums = total << parameters.shift
    sums += num_updates << parameters.shift >> 1  # what was cut off, on average
    sums -= _mask(parameters, public_seed, secret_sum)
    sums += Q31 // 2
    sums %= Q31
    sums -= Q31 // 2
    parameters.check_sums(sums, num_updates)
    return sums


def noise_bound(parameters: Parameters, num_updates: int) -> int:
    """How far an unmasked sum may be from the true one, in size."""
    return num_updates * parameters.noise


def small(seed: bytes, count: int) -> Elements:
    """Small secret numbers: mean 0, variance 43,690, at most `MAX_ERROR` in size.

    Rule: each is the sum of the next 8 bytes of `Stream` (seed), less 1,020. Near-Gaussian.
    """
    return _small(Stream(seed), count)


def _small(stream: Stream, count: int) -> Elements:
    words = np.frombuffer(stream.bytes(8 * count), "<u8")
    # Two bytes at a time into four sums of 16 bits, whose sum a product leaves in the highest.
    sums = (words & _EVEN_BYTES) + (words >> np.uint64(8) & _EVEN_BYTES)
    return (sums * _LANES >> np.uint64(48)).astype(np.int64) - MAX_ERROR


def _mask(parameters: Parameters, public_seed: bytes, secret: Elements) -> Elements:
    """The product a s (size,), a new array: every block of a times the same s."""
    blocks = _public(public_seed, -(-parameters.size // DEGREE))
    return intt(multiply(blocks, ntt(secret))).reshape(-1)[: parameters.size]


@lru_cache(maxsize=2)  # this epoch's, and that of late updates
def _public(public_seed: bytes, num_blocks: int) -> Elements:
    """The blocks of a (blocks, 1024), drawn as values at the roots, where products are cheap."""
    blocks = uniform(derive(public_seed, "seedmask a", DEGREE, Q31), (num_blocks, DEGREE), Q31)
    blocks.flags.writeable = False
    return blocks
