"""Fetching the params that a lease names: chunks in, checked params out.

A model that stops coming is asked for again, after a wait that doubles: asking brings all retained
chunks again, and a slow link must not drown in them.
"""

import hashlib
from typing import Final

import numpy as np
import numpy.typing as npt

from protocol import refusals
from protocol.chunks import Assembly
from protocol.errors import RemoteProtocolError
from protocol.messages import Lease, ModelChunk
from protocol.vectors.layout import params_from_bytes

#: A model that has stopped coming is asked for again after this long, at first.
RETRY_S: Final = 10.0

Float32 = npt.NDArray[np.float32]


class Fetch:
    """What has come of one version so far."""

    def __init__(self, lease: Lease) -> None:
        self._lease = lease
        self._assembly = Assembly(lease.num_chunks, lease.model_bytes)
        self._retry_s = RETRY_S / 2

    def next_retry_s(self) -> float:
        """Return how long to wait before asking again, twice as long each time."""
        self._retry_s *= 2
        return self._retry_s

    @property
    def patience_s(self) -> float:
        """How long the next chunk may take."""
        return self._retry_s

    def add(self, chunk: ModelChunk) -> Float32 | None:
        """Take a chunk, the newest of its index; return the params when it was the last one.

        A chunk beyond the lease's count is a leftover of another cut and ignored. Raises
        RemoteProtocolError (``malformed``, ``oversize``, ``wrong_shape``, ``not_finite``); if the
        chunks do not make the model that the lease names, it starts from the beginning.
        """
        if chunk.index >= self._lease.num_chunks:
            return None
        self._assembly.replace(chunk.index, chunk.data)
        return self._params(self._assembly) if self._assembly.complete else None

    def _params(self, assembly: Assembly) -> Float32:
        self._assembly = Assembly(self._lease.num_chunks, self._lease.model_bytes)
        data = assembly.join()
        if hashlib.sha256(data).digest() != self._lease.model_hash:
            raise RemoteProtocolError(refusals.MALFORMED, "the model does not have its hash")
        return params_from_bytes(data, self._lease.model_bytes // 4)
