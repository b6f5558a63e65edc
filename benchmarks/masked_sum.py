"""What the aggregator computes for one sum of masked updates, from the last answer to params.

The answer's signature is checked, the sum of the secrets is decoded from the answers, the sum of
the values unmasked, and of the mean the next version is made and hashed. No two sums are decoded
from the same holders' answers. ``sum``: U have answered, the others are gone; ``sum_checked``: t +
1 more have, which is waited for while devices are online, and wrong answers would be named.
``add``: an arriving update, unpacked and added.
"""

import os
from typing import Final

import numpy as np

from aggregator.records import VersionRecord
from aggregator.strategy.fedavg import fedavg
from aggregator.versions import Versions
from benchmarks.enrolled import Cohort, enrolled
from benchmarks.masked_device import Times, Watch
from benchmarks.step import all_of
from protocol.codec import encode
from protocol.identity import Signer, check_envelope
from protocol.messages import HASH_BYTES
from protocol.secagg import scheme
from protocol.secagg.field import Elements, from_bytes, to_bytes
from protocol.secagg.messages import RecoveryAnswer
from protocol.secagg.parameters import Parameters
from protocol.secagg.shares import TEST_COLUMNS, deal, recover
from protocol.stream import SEED_BYTES, derive
from protocol.topics import DEFAULT_PREFIX
from protocol.vectors.layout import params_to_bytes

REQUEST_HASH: Final = bytes(HASH_BYTES)
TOPIC: Final = f"{DEFAULT_PREFIX}/t/dev/a/out"


def sum_times(given: Parameters, rounds: int) -> Times:
    """Return the times of each part, in as many rounds; the first, which fills caches, left out."""
    buffer = _Buffer(enrolled(given))
    watch = Watch()
    for number in range(rounds + 1):
        buffer.add(watch)
        buffer.sum(watch, "sum", number, given.num_answers)
        buffer.sum(watch, "sum_checked", number, given.num_answers + given.num_malicious + 1)
    return {name: times[1:] for name, times in watch.ms.items()}


class _Buffer:
    """A closed buffer of K updates, and what all holders answer; it can be summed many times."""

    def __init__(self, cohort: Cohort) -> None:
        given = cohort.roster.parameters
        self._cohort = cohort
        self._given = given
        self._scheme = scheme(given.scheme)
        self._values = np.random.default_rng(0).normal(0, 0.1, given.size - 1).astype(np.float32)
        self._bodies: list[bytes] = []
        self._shares: Elements = np.zeros(0, np.int64)  # summed, a row for each holder
        for _ in range(given.max_contributors):
            self._contribute()
        self._total: Elements = np.zeros(given.size, np.int64)

    def _contribute(self) -> None:
        given, seed = self._given, os.urandom(SEED_BYTES)
        secret = self._scheme.secret(given, seed)
        elements, _ = given.encode(self._values, 1)
        public = self._cohort.roster.public_seed
        self._bodies.append(self._scheme.mask(given, public, secret, elements, seed))
        shares = deal(secret, self._scheme.sharing(given), derive(seed, "dealing"))
        shares = shares[:, :-TEST_COLUMNS]
        self._shares = (self._shares + shares if self._shares.size else shares) % given.modulus

    def add(self, watch: Watch) -> None:
        """Add all updates; what is noted is the time of one."""
        with watch("add"):
            self._total = np.zeros(self._given.size, np.int64)
            for body in self._bodies:
                self._scheme.add(self._given, self._total, body)
        watch.ms["add"][-1] /= len(self._bodies)

    def sum(self, watch: Watch, name: str, number: int, num_answers: int) -> None:
        """Sum it once, from so many answers; of other holders than for another ``number``."""
        order = np.random.default_rng(number).permutation(self._given.num_devices)
        *first, last = (int(holder) for holder in order[:num_answers])
        answers = {holder: self._read(self._said(holder)) for holder in first}
        arriving = self._payload(last)
        size = self._given.size - 1
        params = params_to_bytes(np.zeros(size, np.float32))
        versions = Versions(fedavg(), all_of(size), VersionRecord(0, params, bytes(HASH_BYTES)))
        with watch(name):
            identity = self._cohort.roster.members[last].identity
            check_envelope(identity, arriving, topic=TOPIC, prefix=DEFAULT_PREFIX)
            answers[last] = self._read(self._said(last))
            versions.step(self._mean(answers), tuple(map(bytes, range(len(self._bodies)))))
        if not np.allclose(versions.params, self._values, atol=1e-2):
            raise RuntimeError("this is not the mean")

    def _mean(self, answers: dict[int, Elements]) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
        given, chosen = self._given, self._scheme
        secret = recover(answers, chosen.sharing(given), chosen.secret_size(given)).secret
        public, num_updates = self._cohort.roster.public_seed, len(self._bodies)
        sums = chosen.unmask(given, public, self._total, num_updates, secret)
        factor = 1 / (given.scale * given.weight_of(int(sums[-1])))
        return sums[:-1].astype(np.float64) * factor

    def _said(self, holder: int) -> bytes:
        return to_bytes(self._shares[holder], self._given.modulus)

    def _read(self, elements: bytes) -> Elements:
        return from_bytes(elements, self._given.modulus, self._shares.shape[1])

    def _payload(self, holder: int) -> bytes:
        keys = self._cohort.keys[holder]
        return encode(
            RecoveryAnswer(REQUEST_HASH, self._said(holder)),
            task=keys.task,
            sender=keys.device,
            counter=1,
            sign=Signer(keys.identity, DEFAULT_PREFIX).on(TOPIC),
        )
