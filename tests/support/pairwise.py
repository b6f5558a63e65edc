"""A round of `pairwise` as all its parties see it: everybody honest, whoever you like gone."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from protocol.secagg import keys, pairwise, pairwise_keys
from protocol.secagg.pairwise import Outcome, View
from protocol.secagg.pairwise_keys import Part, Publics, Round
from protocol.secagg.parameters import Parameters
from protocol.secagg.roster import Roster, RosterMember
from protocol.stream import derive

SEED = bytes(range(32))


def parameters(
    num_devices: int, num_malicious: int, num_answers: int, *, size: int = 40
) -> Parameters:
    """Those of `pairwise` with the smallest T that rules out split views."""
    given = Parameters(
        scheme="pairwise",
        num_devices=num_devices,
        num_malicious=num_malicious,
        num_noise=(num_devices + num_malicious) // 2,
        num_answers=num_answers,
        min_contributors=num_malicious + 2,
        max_contributors=num_devices,
        size=size,
        clip=1.0,
        bits=16,
        samples_cap=0,
    )
    given.check()
    return given


def identity(index: int) -> bytes:
    """The secret that a device signs with."""
    return derive(SEED, "identity", index)


def roster(given: Parameters) -> Roster:
    """A cohort d000, d001, ..."""
    members = [
        RosterMember(
            f"d{index:03}",
            keys.identity_public(identity(index)),
            keys.epoch_public(derive(SEED, "epoch", index)),
            bytes(64),
        )
        for index in range(given.num_devices)
    ]
    return Roster(
        task="digits",
        cohort="all",
        epoch=1,
        valid_s=3_600,
        parameters=given,
        members=tuple(members),
        aggregator=keys.identity_public(derive(SEED, "aggregator")),
    )


@dataclass(frozen=True)
class World:
    """Round ``number`` in which the devices ``dealers`` advertised and dealt, and who says what."""

    round: Round
    dealers: tuple[int, ...]

    def part(self, index: int) -> Part:
        """One device's secrets."""
        seed = derive(SEED, "round", self.round.number, index)
        return Part(self.round, index, pairwise_keys.make_keys(seed))

    @cached_property
    def publics(self) -> dict[int, Publics]:
        """What the dealers advertised."""
        return {dealer: self.part(dealer).secrets.publics() for dealer in self.dealers}

    @cached_property
    def held(self) -> dict[int, dict[int, bytes]]:
        """Holder -> dealer -> the shares it was dealt, opened."""
        held: dict[int, dict[int, bytes]] = {dealer: {} for dealer in self.dealers}
        for dealer in self.dealers:
            for holder, pair in pairwise_keys.make_shares(self.part(dealer)).items():
                if holder in held:
                    held[holder][dealer] = pair
        return held

    def values(self, index: int) -> npt.NDArray[np.int64]:
        """What a device puts in: anything within the limit."""
        given = self.round.roster.parameters
        draw = np.random.default_rng(index)
        return draw.integers(-given.limit, given.limit, given.size, endpoint=True)

    def body(self, index: int) -> bytes:
        """Its masked values."""
        return pairwise.mask(self.part(index), self.publics, self.view, self.values(index))

    @cached_property
    def view(self) -> View:
        """What every dealer believes."""
        return pairwise.view(self.round, self.publics, self.dealers)

    def outcome(self, *dropped: int) -> Outcome:
        """All others survived."""
        survivors = tuple(dealer for dealer in self.dealers if dealer not in dropped)
        return Outcome(self.view, survivors)

    def views(self, outcome: Outcome) -> dict[int, bytes]:
        """The survivors' signatures of the view."""
        return {
            index: keys.sign(identity(index), pairwise.VIEW, self.view.message)
            for index in outcome.survivors
        }

    def signatures(self, outcome: Outcome, num_absent: int = 0) -> dict[int, bytes]:
        """The survivors' signatures of the outcome, without the last ``num_absent``."""
        signers = outcome.survivors[: len(outcome.survivors) - num_absent]
        return {
            index: keys.sign(identity(index), pairwise.OUTCOME, outcome.message)
            for index in signers
        }

    def answer(self, index: int, outcome: Outcome, signatures: Mapping[int, bytes]) -> bytes:
        """A survivor's shares."""
        held = self.held[index]
        return pairwise.unmask_answer(self.part(index), held, outcome, signatures)

    def answers(self, outcome: Outcome, num_absent: int = 0) -> dict[int, npt.NDArray[np.int64]]:
        """What the aggregator reads of all survivors but the first ``num_absent``."""
        signatures = self.signatures(outcome)
        return {
            index: pairwise.read_answer(
                self.round, index, outcome, self.answer(index, outcome, signatures)
            )
            for index in outcome.survivors[num_absent:]
        }

    def total(self, outcome: Outcome) -> npt.NDArray[np.uint32]:
        """The sum of the survivors' bodies."""
        total = np.zeros(self.round.roster.parameters.size, np.uint32)
        for index in outcome.survivors:
            pairwise.add(total, self.body(index))
        return total

    def sum(self, outcome: Outcome) -> npt.NDArray[np.int64]:
        """What the aggregator has to find."""
        total = np.zeros(self.round.roster.parameters.size, np.int64)
        for index in outcome.survivors:
            total += self.values(index)
        return total


def world(num_devices: int, num_malicious: int, num_answers: int, num_absent: int = 0) -> World:
    """Everybody dealt but the first ``num_absent``."""
    given = parameters(num_devices, num_malicious, num_answers)
    return World(Round(roster(given), 1), tuple(range(num_absent, num_devices)))
