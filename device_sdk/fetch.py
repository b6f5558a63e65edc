"""Fetching the params that a lease names: chunks in, checked params out.

A model is fetched whole, with the differences since if it is of an earlier version; or, by a device
that holds an earlier version, as differences alone. What comes out must have the hash that the
lease names. If it has not, or if something does not come, the next way is tried:

    differences from what is held ──► the whole model, and differences ──► ``is_stuck``

and who is stuck tells the aggregator, which then publishes that version whole. What has stopped
coming is asked for again, after a wait that doubles: asking brings all retained chunks again, and a
slow link must not drown in them.
"""

import math
from typing import Final

import numpy as np
import numpy.typing as npt

from device_sdk.held import HeldModel
from device_sdk.plan import TrainingPlan
from protocol import refusals
from protocol.actions import Subscribe, Unsubscribe
from protocol.chunks import Assembly
from protocol.codec import unpack
from protocol.errors import RemoteProtocolError
from protocol.messages import (
    MAX_DIFFERENCES,
    Difference,
    DifferenceChunk,
    Lease,
    Manifest,
    ModelChunk,
)
from protocol.topics import Topics
from protocol.vectors.hidden import FLOAT32, advanced, model_from_bytes, model_hash, rounded
from protocol.vectors.layout import params_from_bytes

#: A model that has stopped coming is asked for again after this long, at first.
RETRY_S: Final = 10.0
#: At most: links that break and repeated leases ask too, and each time the wait doubles.
RETRY_CAP_S: Final = 160.0
#: So often in a row nothing comes before another way is tried.
MAX_SILENCES: Final = 2
#: The strictest brokers take no more filters at a time.
MAX_FILTERS: Final = 8
#: Differences take no more memory than so many times the whole model, and a little.
MAX_DIFFERENCES_PART: Final = 8
DIFFERENCES_SLACK_BYTES: Final = 1 << 16

Float32 = npt.NDArray[np.float32]


class Fetch:
    """What has come of one version so far; ``held`` is the model that is here, if any.

    ``is_silent``: it has waited in vain since the last chunk, so that something is gone, it seems.
    ``is_spoilt``: what is retained of the whole model is not what the lease names.

    Raises RemoteProtocolError (``malformed``) for a lease with more differences than there can be.
    """

    def __init__(self, lease: Lease | Manifest, held: HeldModel | None = None) -> None:
        self.is_stuck = False
        self.is_silent = False
        self.is_spoilt = False
        self._lease = lease
        self._keyframe = lease.version if lease.keyframe < 0 else lease.keyframe
        self._base = lease.base if isinstance(lease, Lease) else -1
        self._held = held if held is not None and 0 <= self._base == held.version else None
        self._asked: dict[str, None] = {}
        self._retry_s = RETRY_S / 2
        self._begin()

    def _begin(self) -> None:
        lease, held = self._lease, self._held
        start = self._keyframe if held is None else held.version
        if lease.version - start > MAX_DIFFERENCES:
            raise RemoteProtocolError(refusals.MALFORMED, f"differences from version {start} on")
        self._whole = None if held else Assembly(lease.num_chunks, lease.model_bytes)
        self._differences = {
            number: Assembly(1, 0) for number in range(start + 1, lease.version + 1)
        }
        self._num_silences = 0

    # --- asking ------------------------------------------------------------------------------

    def ask(self, topics: Topics) -> list[Subscribe]:
        """Return the subscriptions for what is not here."""
        if self.is_stuck:
            return []
        filters = []
        if self._whole is not None and not self._whole.complete:
            filters.append(topics.model_filter(self._keyframe))
        filters += [
            topics.difference_filter(number)
            for number, assembly in self._differences.items()
            if not assembly.complete
        ]
        self._asked |= dict.fromkeys(filters)
        return [Subscribe(some, retained=True) for some in _in_batches(filters)]

    def leave(self) -> list[Unsubscribe]:
        """End all subscriptions."""
        asked, self._asked = list(self._asked), {}
        return [Unsubscribe(some) for some in _in_batches(asked)]

    def next_retry_s(self) -> float:
        """Return how long to wait before asking again, twice as long each time, up to a cap."""
        self._retry_s = min(2 * self._retry_s, RETRY_CAP_S)
        return self._retry_s

    @property
    def patience_s(self) -> float:
        """How long the next chunk may take."""
        return self._retry_s

    def silent(self) -> bool:
        """Nothing came for as long as one waits; return whether it is time for another way."""
        self.is_silent = True
        self._num_silences += 1
        return self._num_silences >= MAX_SILENCES

    def fall_back(self) -> None:
        """Begin again on the next way, if there is one."""
        lease = self._lease
        if self._held is not None:
            self._retry_s = RETRY_S / 2
        is_last = lease.keyframe < 0 and self._base < 0 and lease.model == FLOAT32
        self.is_stuck = self._held is None and not is_last
        self.is_spoilt = is_last
        self._held = None
        self._begin()

    # --- taking ------------------------------------------------------------------------------

    def awaits(self, chunk: ModelChunk | DifferenceChunk) -> bool:
        """Whether a chunk belongs to what is fetched."""
        if isinstance(chunk, DifferenceChunk):
            return chunk.version in self._differences
        return self._whole is not None and chunk.version == self._keyframe

    def add(self, chunk: ModelChunk | DifferenceChunk) -> None:
        """Take a chunk that is awaited, the newest of its index.

        A chunk beyond the lease's count is a leftover of another cut and ignored. Raises
        RemoteProtocolError (``malformed``, ``oversize``).
        """
        self.is_silent = False
        self._num_silences = 0
        if isinstance(chunk, DifferenceChunk):
            self._add_difference(chunk)
        elif self._whole is not None and chunk.index < self._lease.num_chunks:
            self._whole.replace(chunk.index, chunk.data)

    def _add_difference(self, chunk: DifferenceChunk) -> None:
        assembly = self._differences[chunk.version]
        taken = sum(each.num_bytes for each in self._differences.values()) - assembly.num_bytes
        limit = MAX_DIFFERENCES_PART * self._lease.model_bytes + DIFFERENCES_SLACK_BYTES
        if assembly.num_chunks != chunk.num_chunks or assembly.num_bytes == 0:
            assembly = Assembly(chunk.num_chunks, max(0, limit - taken))
            self._differences[chunk.version] = assembly
        assembly.replace(chunk.index, chunk.data)

    @property
    def is_complete(self) -> bool:
        """Whether all chunks are here."""
        return all(each.complete for each in self._all)

    @property
    def num_missing(self) -> int:
        """How many chunks are not here, as far as that is known."""
        return self.num_chunks - sum(each.num_chunks - len(each.missing()) for each in self._all)

    @property
    def num_chunks(self) -> int:
        """How many chunks there are, as far as that is known."""
        return sum(each.num_chunks for each in self._all)

    @property
    def _all(self) -> list[Assembly]:
        whole = [] if self._whole is None else [self._whole]
        return [*whole, *self._differences.values()]

    @property
    def needs_plan(self) -> bool:
        """Whether what comes can be read by the plan only."""
        is_plain = self._held is None and self._lease.model == FLOAT32 and not self._differences
        return not is_plain

    def params(self, plan: TrainingPlan | None, task: str) -> Float32:
        """Return the params, once all is complete; ``plan`` is not None where it is needed.

        Raises RemoteProtocolError (``malformed``, ``wrong_shape``, ``wrong_codec``,
        ``not_finite``) if they are not what the lease names.
        """
        params = self._start(plan)
        for number, assembly in self._differences.items():
            if plan is None:
                break
            told = unpack(assembly.join(), Difference)
            params = advanced(params, told, plan.trained, task=task, version=number)
            params = rounded(params, told.model, plan.trained.whole)
        if model_hash(params) != self._lease.model_hash:
            raise RemoteProtocolError(refusals.MALFORMED, "the model does not have its hash")
        return params

    def _start(self, plan: TrainingPlan | None) -> Float32:
        data = b"" if self._whole is None else self._whole.join()
        if plan is None or not self.needs_plan:
            return params_from_bytes(data, self._lease.model_bytes // 4)
        if self._held is None:
            return model_from_bytes(data, self._lease.model, plan.trained.whole)
        if self._held.params.size != plan.trained.whole.size:
            raise RemoteProtocolError(refusals.WRONG_SHAPE, "what is held is of another model")
        return self._held.params


def _in_batches(filters: list[str]) -> list[tuple[str, ...]]:
    count = math.ceil(len(filters) / MAX_FILTERS)
    return [tuple(filters[MAX_FILTERS * at : MAX_FILTERS * (at + 1)]) for at in range(count)]
