"""Which coordinates travel, and how their indices are written.

Indices are sorted, distinct int64 in [0, size). The first byte of their bytes names the coding;
`encode_indices` takes the shortest, the lower number on a tie. All codings are exact about their
length, so that other bytes may follow (`split_indices`).

- 0, bitmap: bit ``i`` is set if ``i`` travels (bit 0 is the lowest of the first byte).
- 1, varints: the first index, then each distance to the index before minus 1, in LEB128: groups
  of 7 bits, lowest first, the high bit set on all but the last. No group more than needed.
- 2, buckets: the low byte of each index, then as bits the bucket of each (index div 256): for
  every bucket in turn as many ones as it has indices, then, but for the last bucket, a zero. Bits
  as in a bitmap, zeros to the end of the byte. (Elias 1974, Fano 1971, with 8 low bits.)
- 3, fitted: as buckets, but with the low n bits of each index in front, without gaps, where n =
  floor(log2(size / count)) leaves about one index to a bucket: within half a bit of the least that
  is possible, where buckets of 256 waste two at a density of 1 in 20. Only where it is asked for
  (``fine``): devices of old would not know it.

A shared seed (`rand_k`) needs none of them.
"""

from functools import lru_cache
from typing import Final

import numpy as np
import numpy.typing as npt

from protocol import refusals
from protocol.errors import LocalProtocolError, RemoteProtocolError
from protocol.stream import Stream
from protocol.vectors.layout import MAX_PARAMS

BITMAP: Final = 0
VARINTS: Final = 1
BUCKETS: Final = 2
FITTED: Final = 3

_BUCKET_BITS: Final = 8
_MAX_VARINT_BYTES: Final = 4  # 28 bits: MAX_PARAMS

Indices = npt.NDArray[np.int64]


def top_k(values: npt.NDArray[np.float32], num_kept: int) -> Indices:
    """The sorted indices of the ``num_kept`` largest magnitudes; on a tie the lower index wins.

    Raises LocalProtocolError for NaN (it has no place in an order) and for a count out of range.
    """
    size = values.size
    if not 1 <= num_kept <= size:
        raise LocalProtocolError(f"cannot keep {num_kept} of {size}")
    magnitudes: npt.NDArray[np.float32] = np.abs(values)
    if np.isnan(magnitudes).any():
        raise LocalProtocolError("NaN among the values")
    least = np.partition(magnitudes, size - num_kept)[size - num_kept]
    kept: npt.NDArray[np.bool_] = magnitudes > least
    tied = (magnitudes == least).nonzero()[0]
    kept[tied[: num_kept - np.count_nonzero(kept)]] = True
    return kept.nonzero()[0].astype(np.int64, copy=False)


@lru_cache(maxsize=8)  # all updates of one base version share a support
def rand_k(seed: bytes, size: int, num_kept: int) -> Indices:
    """Sorted indices that both sides draw from one 32-byte seed (`Stream.subset`); read-only."""
    indices = Stream(seed).subset(size, num_kept)
    indices.setflags(write=False)
    return indices


def encode_indices(indices: Indices, size: int, *, fine: bool = False) -> bytes:
    """The bytes of sorted, distinct indices below ``size``, at least one, in the shortest coding.

    ``fine`` allows coding 3 as well. Raises LocalProtocolError for any other indices, and for a
    ``size`` above MAX_PARAMS.
    """
    if not 0 < indices.size <= size <= MAX_PARAMS or indices[0] < 0 or indices[-1] >= size:
        raise LocalProtocolError(f"{indices.size} indices do not fit into {size}")
    gaps = _gaps(indices)
    if gaps.min() < 0:
        raise LocalProtocolError("indices must be sorted and distinct")
    lengths = {
        BITMAP: _bitmap_bytes(size),
        VARINTS: int(_varint_lengths(gaps).sum()),
        BUCKETS: _buckets_bytes(size, indices.size, _BUCKET_BITS),
    }
    if fine:
        lengths[FITTED] = _buckets_bytes(size, indices.size, _fitting_bits(size, indices.size))
    coding = min(lengths, key=lengths.__getitem__)
    if coding == BITMAP:
        return bytes([BITMAP]) + _pack_bits(indices, size)
    if coding == VARINTS:
        return bytes([VARINTS]) + _encode_varints(gaps)
    low_bits = _BUCKET_BITS if coding == BUCKETS else _fitting_bits(size, indices.size)
    return bytes([coding]) + _encode_buckets(indices, size, low_bits)


def decode_indices(data: bytes, size: int, count: int) -> Indices:
    """Exactly ``count`` sorted, distinct indices below ``size``, and not a byte more.

    Raises RemoteProtocolError (``malformed``) for anything else.
    """
    indices, num_bytes = split_indices(data, size, count)
    if num_bytes != len(data):
        raise _malformed("bytes after the indices")
    return indices


def split_indices(data: bytes, size: int, count: int, *, fine: bool = False) -> tuple[Indices, int]:
    """The indices at the start of ``data``, and how many bytes they took. Else as decode_indices.

    ``count`` is 1 to ``size``; ``fine`` as for `encode_indices`.
    """
    match data[:1]:
        case b"\x00":
            indices, num_bytes = _split_bitmap(data, size, count)
        case b"\x01":
            indices, num_bytes = _split_varints(data, count)
        case b"\x02":
            indices, num_bytes = _split_buckets(data, size, count, _BUCKET_BITS)
        case b"\x03" if fine:
            indices, num_bytes = _split_buckets(data, size, count, _fitting_bits(size, count))
        case unknown:
            raise _malformed(f"unknown coding {unknown!r}")
    if indices[-1] >= size:
        raise _malformed("beyond the model")
    return indices, num_bytes


def max_indices_bytes(size: int, count: int, *, fine: bool = False) -> int:
    """No encoding of ``count`` indices below ``size`` is longer."""
    low_bits = _fitting_bits(size, count) if fine else _BUCKET_BITS
    # A gap with a further group takes 2**7, 2**14, ... of the room between the indices.
    groups = (min(count, (size - count) >> shift) for shift in (7, 14, 21))
    varints = count + sum(groups)
    return 1 + min(_bitmap_bytes(size), varints, _buckets_bytes(size, count, low_bits))


def _malformed(problem: str) -> RemoteProtocolError:
    return RemoteProtocolError(refusals.MALFORMED, f"indices: {problem}")


def _gaps(indices: Indices) -> Indices:
    gaps = indices.copy()
    gaps[1:] -= indices[:-1] + 1
    return gaps


def _pack_bits(positions: Indices, num_bits: int) -> bytes:
    bits = np.zeros(num_bits, dtype=np.bool_)
    bits[positions] = True
    return np.packbits(bits, bitorder="little").tobytes()


def _unpack_bits(data: bytes) -> Indices:
    bits = np.unpackbits(np.frombuffer(data, np.uint8), bitorder="little")
    return bits.view(np.bool_).nonzero()[0].astype(np.int64, copy=False)


def _bitmap_bytes(size: int) -> int:
    return (size + 7) // 8


def _split_bitmap(data: bytes, size: int, count: int) -> tuple[Indices, int]:
    end = 1 + _bitmap_bytes(size)
    if len(data) < end:
        raise _malformed("a bitmap that is cut off")
    indices = _unpack_bits(data[1:end])
    if indices.size != count:
        raise _malformed(f"{indices.size} in the bitmap instead of {count}")
    return indices, end


def _varint_lengths(gaps: Indices) -> Indices:
    lengths = np.ones(gaps.size, dtype=np.int64)
    for num_groups in range(1, _MAX_VARINT_BYTES):
        lengths += gaps >= 1 << 7 * num_groups
    return lengths


def _encode_varints(gaps: Indices) -> bytes:
    lengths = _varint_lengths(gaps)
    at = np.cumsum(lengths) - lengths
    data = np.empty(lengths.sum(), dtype=np.uint8)
    while at.size:
        more = gaps >= 1 << 7
        data[at] = np.where(more, gaps & 127 | 128, gaps)
        at, gaps = at[more] + 1, gaps[more] >> 7
    return data.tobytes()


def _split_varints(data: bytes, count: int) -> tuple[Indices, int]:
    groups = np.frombuffer(data, np.uint8, offset=1)
    last = (groups < 1 << 7).nonzero()[0][:count]
    if last.size != count:
        raise _malformed("varints that are cut off")
    lengths = last + 1
    lengths[1:] -= last[:-1] + 1
    if lengths.max() > _MAX_VARINT_BYTES:
        raise _malformed("a varint that is too long")
    gaps = groups[last].astype(np.int64)
    at = (lengths > 1).nonzero()[0]
    if not gaps[at].all():
        raise _malformed("a varint with a group too many")
    num_read = 1
    while at.size:
        gaps[at] = gaps[at] << 7 | groups[last[at] - num_read] & 127
        num_read += 1
        at = at[lengths[at] > num_read]
    return (gaps + 1).cumsum() - 1, 1 + int(last[-1]) + 1


@lru_cache(maxsize=8)
def _ramp(count: int) -> Indices:
    ramp = np.arange(count)
    ramp.setflags(write=False)
    return ramp


def _fitting_bits(size: int, count: int) -> int:
    """floor(log2(size / count)), in whole numbers."""
    return (size // count).bit_length() - 1


def _high_bits(size: int, count: int, low_bits: int) -> int:
    return count + (size - 1 >> low_bits)


def _low_bytes(count: int, low_bits: int) -> int:
    return (count * low_bits + 7) // 8


def _buckets_bytes(size: int, count: int, low_bits: int) -> int:
    return _low_bytes(count, low_bits) + (_high_bits(size, count, low_bits) + 7) // 8


def _encode_buckets(indices: Indices, size: int, low_bits: int) -> bytes:
    ones = (indices >> low_bits) + np.arange(indices.size)
    high = _pack_bits(ones, _high_bits(size, indices.size, low_bits))
    if low_bits == _BUCKET_BITS:
        return indices.astype(np.uint8).tobytes() + high
    bits = indices[:, np.newaxis] >> np.arange(low_bits) & 1
    return np.packbits(bits.astype(np.uint8), bitorder="little").tobytes() + high


def _low_parts(data: bytes, count: int, low_bits: int) -> Indices | npt.NDArray[np.uint8]:
    """The low bits of each index; what fills up the last byte must be zeros."""
    if low_bits == _BUCKET_BITS:
        return np.frombuffer(data, np.uint8, count, 1)
    packed = np.frombuffer(data, np.uint8, _low_bytes(count, low_bits), 1)
    bits = np.unpackbits(packed, bitorder="little")
    if bits[count * low_bits :].any():
        raise _malformed("bits after the low ones")
    places = bits[: count * low_bits].reshape(count, low_bits)
    return places @ (1 << np.arange(low_bits))


def _split_buckets(data: bytes, size: int, count: int, low_bits: int) -> tuple[Indices, int]:
    end = 1 + _buckets_bytes(size, count, low_bits)
    if len(data) < end:
        raise _malformed("buckets that are cut off")
    low = _low_parts(data, count, low_bits)
    ones = _unpack_bits(data[1 + _low_bytes(count, low_bits) : end])
    if ones.size != count:
        raise _malformed(f"{ones.size} in the buckets instead of {count}")
    indices = (ones - _ramp(count) << low_bits) | low
    if b"\0" in (indices[1:] > indices[:-1]).tobytes():  # `all` takes ten times longer to begin
        raise _malformed("not sorted and distinct")
    return indices, end
