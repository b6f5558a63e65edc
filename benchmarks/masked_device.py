"""What one device computes for one masked update, with the product's own dealer and holder.

It deals a mask and boxes a share of it for each other device, opens theirs and makes a receipt for
each, masks its own update, and answers one request. Every device deals one mask an update, which is
the dearest way: a stock of several travels in one box.
"""

import os
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import numpy as np

from benchmarks.enrolled import Cohort, enrolled
from device_sdk.dealing import Dealer
from device_sdk.holding import Holder
from device_sdk.masking import Chosen, make_masked
from protocol.messages import CHUNK_BYTES, HASH_BYTES, Lease
from protocol.secagg.messages import Shares
from protocol.secagg.parameters import Parameters
from protocol.secagg.requests import make_request, open_request, request_hash
from protocol.secagg.sealing import Boxes
from protocol.stream import SEED_BYTES
from protocol.vectors.packing import parse_codec

OWN: Final = 0  # the index of the device that is measured

Times = dict[str, list[float]]


class Watch:
    """CPU milliseconds of this process, by what they were spent on."""

    def __init__(self) -> None:
        self.ms: Times = defaultdict(list)

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        """Time what is inside."""
        start = time.process_time()
        yield
        self.ms[name].append(1e3 * (time.process_time() - start))


def device_times(given: Parameters, rounds: int) -> Times:
    """Return the times of each part, in as many rounds; the first is that of a new epoch."""
    table = _Table(enrolled(given))
    watch = Watch()
    for _ in range(rounds):
        table.play(watch)
    return watch.ms


class _Table:
    """The measured device, and the others as far as it meets them."""

    def __init__(self, cohort: Cohort) -> None:
        self._cohort = cohort
        self._roster = cohort.roster
        self._given = cohort.roster.parameters
        self._boxes = [
            Boxes(cohort.roster, index, keys.epochs[cohort.roster.epoch])
            for index, keys in enumerate(cohort.keys)
        ]
        self._dealers = [
            Dealer(
                cohort.roster,
                index,
                identity=keys.identity,
                boxes=self._boxes[index],
                seed=os.urandom(SEED_BYTES),
            )
            for index, keys in enumerate(cohort.keys)
        ]
        self._holder = Holder(cohort.roster, stored={}, max_bytes=1 << 30, counts=Counter())
        self._delta = np.random.default_rng(0).normal(0, 0.1, self._given.size - 1)
        codec = f"dense/{self._given.scheme}"
        self._lease = Lease(bytes(16), bytes(16), 0, bytes(HASH_BYTES), 0, 1, codec, 1 << 30, 0, 60)

    def play(self, watch: Watch) -> None:
        """One update's worth of everything."""
        others = [index for index in range(self._given.num_devices) if index != OWN]
        arriving = {index: self._from(index) for index in others}
        with watch("deal"):
            batches = self._dealers[OWN].deal(1, CHUNK_BYTES)
            dealt = self._dealers[OWN].dealt(CHUNK_BYTES)
        with watch("box"):
            for holder in others:
                for batch in batches[holder]:
                    self._dealers[OWN].seal(batch)
        if dealt is None:
            raise RuntimeError("nothing was dealt")
        counters = {OWN: dealt.counters[0]}
        with watch("open"):
            masks, _ = self._holder.keep(batches[OWN][0])
            for dealer, shares in arriving.items():
                opened = self._boxes[OWN].open(shares, dealer)
                masks += self._holder.keep(opened)[0]
                counters[dealer] = opened.batch.counters[0]
            list(self._holder.holdings(masks, CHUNK_BYTES))
        with watch("mask"):
            self._mask()
        contributors = range(self._given.max_contributors)
        request = make_request(
            self._roster,
            {index: counters[index] for index in contributors},
            self._cohort.aggregator,
        )
        with watch("answer"):
            asked = open_request(request, self._roster)
            self._holder.answer(request, request_hash(request), asked)

    def _from(self, dealer: int) -> Shares:
        """Return what another device deals to the measured one; it then uses its mask."""
        given = self._dealers[dealer].deal(1, CHUNK_BYTES)
        self._dealers[dealer].take()
        return self._dealers[dealer].seal(given[OWN][0])

    def _mask(self) -> None:
        mask = self._dealers[OWN].take()
        if mask is None:
            raise RuntimeError("no mask is at hand")
        make_masked(
            self._lease,
            parse_codec(self._lease.codec),
            self._delta.astype(np.float32),
            100,
            staleness=0,
            chosen=Chosen(0, None),
            roster=self._roster,
            mask=mask,
            residual=None,
        )
