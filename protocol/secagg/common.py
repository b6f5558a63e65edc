"""The common support: which coordinates all masked updates of a buffer carry.

A masked vector cannot be compressed, so both sides choose its coordinates beforehand. The
aggregator may name some (those that moved most); the rest is drawn from the support's number among
the others, so that every coordinate is visited. Nothing of it is secret.
"""

from typing import Final

import numpy as np

from protocol import refusals
from protocol.errors import LocalProtocolError, RemoteProtocolError
from protocol.stream import SEED_BYTES, Stream, derive
from protocol.vectors.sparse import Indices, split_indices

#: The part of a support that is named, if any of it is; the rest is drawn.
NAMED: Final = 0.5


def coordinates(task: str, number: int, named: Indices, size: int, num_kept: int) -> Indices:
    """The ``num_kept`` sorted coordinates below ``size`` of support ``number``.

    ``named`` are sorted and distinct, at most ``num_kept``, and all in it. The rest is the
    `Stream.subset` of the coordinates not named, seeded by `derive` from 32 zero bytes with the
    labels "common support", task and number. Raises LocalProtocolError if that cannot be.
    """
    if not named.size <= num_kept <= size:
        raise LocalProtocolError(f"{named.size} named, {num_kept} kept of {size}")
    chosen = np.zeros(size, np.bool_)
    chosen[named] = True
    others = (~chosen).nonzero()[0]
    seed = derive(bytes(SEED_BYTES), "common support", task, number)
    chosen[others[Stream(seed).subset(others.size, num_kept - named.size)]] = True
    return chosen.nonzero()[0].astype(np.int64, copy=False)


def num_named(num_kept: int) -> int:
    """How many coordinates a support names, unless it names none."""
    return int(NAMED * num_kept)


def read_named(indices: bytes, size: int, num_kept: int) -> Indices:
    """The coordinates that `Support` names. Raises RemoteProtocolError (``malformed``)."""
    if not indices:
        return np.zeros(0, np.int64)
    count = num_named(num_kept)
    if count == 0:
        raise RemoteProtocolError(refusals.MALFORMED, "names where there is no room for one")
    named, num_bytes = split_indices(indices, size, count)
    if num_bytes != len(indices):
        raise RemoteProtocolError(refusals.MALFORMED, "bytes after the indices")
    return named
