"""What one signed and masked update costs the machine it runs on, as one JSON object.

    python -m tests.arm.update_cost

``ms`` is CPU time by what it was spent on, the median of `ROUNDS` rounds after a first one, as the
product's own dealer, holder and voice spend it in a cohort of `NUM_DEVICES` with the default
numbers (scheme seedmask, dense). ``mib``: the peak of this process when each was done, in order.
"""

import json
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Final

import numpy as np

from device_sdk.dealing import Dealer
from device_sdk.holding import Holder
from device_sdk.masking import Chosen, make_masked
from device_sdk.outgoing import pieces
from device_sdk.pending import Pending
from device_sdk.voice import Voice
from protocol.identity import Signer
from protocol.messages import CHUNK_BYTES, HASH_BYTES, Lease
from protocol.secagg.messages import Shares
from protocol.secagg.requests import make_request, open_request, request_hash
from protocol.secagg.sealing import Boxes
from protocol.stream import derive
from protocol.topics import Topics
from protocol.vectors.packing import parse_codec
from tests.support.enrolment import SEED, Cohort, cohort

ROUNDS: Final = 3
NUM_DEVICES: Final = 10
#: Params: of the model that `fedbus init` begins with, and of one that is large for such a board.
SIZES: Final = (2_410, 100_000)
TOPICS: Final = Topics("fedbus/1", "t")
NAMES: Final = tuple(f"d{number}" for number in range(NUM_DEVICES))
OTHERS: Final = range(1, NUM_DEVICES)
LEASE: Final = Lease(
    bytes(16), bytes(16), 0, bytes(HASH_BYTES), 0, 1, "dense/seedmask", 1 << 30, 0, 60
)


class Costs:
    """CPU milliseconds by what they were spent on."""

    def __init__(self) -> None:
        self.ms: dict[str, list[float]] = defaultdict(list)

    @contextmanager
    def of(self, what: str) -> Iterator[None]:
        """Time what is inside."""
        start = time.process_time()
        yield
        self.ms[what].append(1e3 * (time.process_time() - start))

    def medians(self) -> dict[str, float]:
        """Return them, and their sum, without the first round."""
        found = {what: median(each[1:]) for what, each in self.ms.items()}
        return {**found, "all": sum(found.values())}


class Table:
    """The device that is measured, which is the first, and the others as far as it meets them."""

    def __init__(self, size: int) -> None:
        self.enrolled: Cohort = cohort(NAMES, size=size + 1)
        roster = self.enrolled.roster
        boxes = [
            Boxes(roster, index, self.enrolled.epoch_secret(name))
            for index, name in enumerate(NAMES)
        ]
        self._boxes = boxes[0]
        self._dealers = [
            Dealer(
                roster,
                index,
                identity=self.enrolled.identity(name),
                boxes=boxes[index],
                seed=derive(SEED, "dealer", name),
            )
            for index, name in enumerate(NAMES)
        ]
        self._holder = Holder(roster, stored={}, max_bytes=1 << 30, counts=Counter())
        self._voice = Voice(
            TOPICS, NAMES[0], 1, Signer(self.enrolled.identity(NAMES[0]), "fedbus/1")
        )
        self._delta = np.random.default_rng(0).normal(0, 0.1, size).astype(np.float32)

    def play(self, costs: Costs) -> None:
        """One update, and all that comes with it."""
        own, roster = self._dealers[0], self.enrolled.roster
        arriving = {index: self._from(self._dealers[index]) for index in OTHERS}
        with costs.of("deal"):
            batches = own.deal(1, CHUNK_BYTES)
            dealt = own.dealt(CHUNK_BYTES)
        assert dealt is not None
        counters = {0: dealt.counters[0]}
        with costs.of("seal shares"):
            for index in OTHERS:
                own.seal(batches[index][0])
        with costs.of("open shares"):
            self._holder.keep(batches[0][0])
            for index, shares in arriving.items():
                opened = self._boxes.open(shares, index)
                self._holder.keep(opened)
                counters[index] = opened.batch.counters[0]
        with costs.of("mask"):
            pending = self._masked()
        with costs.of("sign"):
            for piece in pieces(pending, (), CHUNK_BYTES):
                self._voice.say(TOPICS.update(0, NAMES[0]), piece)
        request = make_request(roster, counters, self.enrolled.aggregator)
        with costs.of("answer"):
            asked = open_request(request, roster)
            self._holder.answer(request, request_hash(request), asked)

    def _from(self, dealer: Dealer) -> Shares:
        """Return what another device deals to this one; it then uses its mask."""
        batches = dealer.deal(1, CHUNK_BYTES)
        dealer.take()
        return dealer.seal(batches[0][0])

    def _masked(self) -> Pending:
        mask = self._dealers[0].take()
        assert mask is not None
        pending, _ = make_masked(
            LEASE,
            parse_codec(LEASE.codec),
            self._delta,
            100,
            staleness=0,
            chosen=Chosen(0, None),
            roster=self.enrolled.roster,
            mask=mask,
            residual=None,
        )
        return pending


def costs(size: int) -> dict[str, object]:
    """Return what an update of so many params costs."""
    found, table = Costs(), Table(size)
    for _ in range(ROUNDS + 1):
        table.play(found)
    return {"params": size, "ms": found.medians(), "mib": peak_mib()}


def peak_mib() -> float:
    """Return the most memory that this program has had resident; emulated: its emulator."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


def main() -> None:
    """Print them."""
    started = peak_mib()
    json.dump({"mib": started, "updates": [costs(size) for size in SIZES]}, sys.stdout)


if __name__ == "__main__":
    main()
