"""What a round of `pairwise` (SecAgg) computes: one device's steps, and the aggregator's unmasking.

Everybody deals; some then send nothing. The aggregator rebuilds the secrets of all and removes the
masks; what it finds is compared with the sum of what the devices put in.
"""

import os
from typing import Final

import numpy as np

from benchmarks.enrolled import Cohort, enrolled
from benchmarks.masked_device import Times, Watch
from protocol.secagg import keys as signing
from protocol.secagg import pairwise, pairwise_keys
from protocol.secagg.field import Elements
from protocol.secagg.pairwise import Outcome, Ring, View
from protocol.secagg.pairwise_keys import Part, Publics, Round
from protocol.secagg.parameters import Parameters
from protocol.stream import SEED_BYTES

OWN: Final = 0  # the index of the device that is measured


def round_times(given: Parameters, rounds: int) -> Times:
    """Return the times of each part, in as many rounds; the first, which fills caches, left out."""
    table = _Table(enrolled(given))
    watch = Watch()
    for _ in range(rounds + 1):
        table.unmask(watch)
        table.device(watch)
    return {name: times[1:] for name, times in watch.ms.items()}


class _Table:
    """One round: N dealers, of which the last N - U have dropped out."""

    def __init__(self, cohort: Cohort) -> None:
        given = cohort.roster.parameters
        self._cohort = cohort
        self._round = Round(cohort.roster, 1)
        everybody = tuple(range(given.num_devices))
        self._parts = [
            Part(self._round, index, pairwise_keys.make_keys(os.urandom(SEED_BYTES)))
            for index in everybody
        ]
        self._publics: dict[int, Publics] = {
            part.own: part.secrets.publics() for part in self._parts
        }
        self._view: View = pairwise.view(self._round, self._publics, everybody)
        self._outcome = Outcome(self._view, everybody[: given.num_answers])
        self._held: dict[int, dict[int, bytes]] = {index: {} for index in everybody}
        for part in self._parts:
            for holder, pair in pairwise_keys.make_shares(part).items():
                self._held[holder][part.own] = pair
        draw = np.random.default_rng(0)
        self._values = draw.integers(-given.limit, given.limit, given.size, endpoint=True)
        self._total: Ring = np.zeros(given.size, np.uint32)
        for survivor in self._outcome.survivors:
            body = pairwise.mask(self._parts[survivor], self._publics, self._view, self._values)
            pairwise.add(self._total, body)
        self._signatures = self._signed(pairwise.OUTCOME, self._outcome.message)
        self._views = self._signed(pairwise.VIEW, self._view.message)
        self._answers = [
            pairwise.unmask_answer(
                self._parts[survivor], self._held[survivor], self._outcome, self._signatures
            )
            for survivor in self._outcome.survivors
        ]

    def _signed(self, purpose: bytes, message: bytes) -> dict[int, bytes]:
        return {
            index: signing.sign(self._cohort.keys[index].identity, purpose, message)
            for index in self._outcome.survivors
        }

    def unmask(self, watch: Watch) -> None:
        """The aggregator reads the answers and finds the sum."""
        with watch("unmask"):
            answers: dict[int, Elements] = {
                holder: pairwise.read_answer(self._round, holder, self._outcome, answer)
                for holder, answer in zip(self._outcome.survivors, self._answers, strict=True)
            }
            found = pairwise.unmask(self._round, self._publics, self._outcome, self._total, answers)
        if not np.array_equal(found, len(self._outcome.survivors) * self._values):
            raise RuntimeError("this is not the sum")

    def device(self, watch: Watch) -> None:
        """One device's steps, from its keys to its answer."""
        others = [index for index in self._publics if index != OWN]
        arriving = {
            dealer: pairwise_keys.seal(
                self._parts[dealer], OWN, self._publics[OWN], self._held[OWN][dealer]
            )
            for dealer in others
        }
        part = self._parts[OWN]
        with watch("share_keys"):
            pairwise_keys.make_keys(os.urandom(SEED_BYTES)).publics()
            for holder, pair in pairwise_keys.make_shares(part).items():
                if holder != OWN:
                    pairwise_keys.seal(part, holder, self._publics[holder], pair)
        with watch("open"):
            for dealer, sealed in arriving.items():
                pairwise_keys.open_sealed(part, dealer, self._publics[dealer], sealed)
        with watch("mask"):
            pairwise.mask(part, self._publics, self._view, self._values)
        with watch("answer"):
            pairwise.check_outcome(part, self._outcome, self._views)
            pairwise.unmask_answer(part, self._held[OWN], self._outcome, self._signatures)
