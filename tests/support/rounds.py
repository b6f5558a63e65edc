"""One round of `pairwise`: real devices' machines on dicts, and the real aggregator's round.

Each step is spelled out, for those named, so that a test can leave some out or do it wrong.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import TypeVar

import numpy as np

from aggregator.cohorts import Cohort, Offer
from aggregator.pairwise_round import PairwiseRound
from device_sdk.actions import Action, Delete, Store
from device_sdk.pairwise import Rounds
from protocol.secagg import keys
from protocol.secagg.field import Elements
from protocol.secagg.messages import AnyMessage as Message
from protocol.secagg.messages import MaskedUpdate, RoundSaid, RoundTold
from protocol.stream import derive
from tests.support.enrolment import SEED, Overrides, cohort

NUMBER = 77
M = TypeVar("M", bound=Message)


class Ring:
    """Devices ``d00``, ``d01``, ... of one roster: N, t, T, U of the defaults unless told."""

    def __init__(self, num_devices: int = 5, overrides: Overrides | None = None) -> None:
        names = [f"d{index:02}" for index in range(num_devices)]
        given: Overrides = {"scheme": "pairwise", "size": 21, **(overrides or {})}
        self.enrolled = cohort(names, **given)
        self.roster = self.enrolled.roster
        self.everybody = range(num_devices)
        self.flash: list[dict[str, bytes]] = [{} for _ in names]
        self.counts: Counter[str] = Counter()
        self._num_starts = 0
        self.devices = [self._start(index) for index in self.everybody]
        self.aggregator = self.new_round(NUMBER)
        self.bodies: dict[int, bytes] = {}

    def new_round(self, number: int) -> PairwiseRound:
        """Let the aggregator begin a round."""
        offer = Offer(self.enrolled.signed, self.roster)
        self.aggregator = PairwiseRound(Cohort(offer, 0.0), number, 0)
        self.bodies = {}
        return self.aggregator

    def _start(self, index: int) -> Rounds:
        self._num_starts += 1
        return Rounds(
            self.roster,
            index,
            identity=self.identity(index),
            seed=derive(SEED, "start", self._num_starts),
            stored=dict(self.flash[index]),
            counts=self.counts,
        )

    def restart(self, index: int) -> None:
        """A device loses its memory, and comes back with what it has stored."""
        self.devices[index] = self._start(index)

    def identity(self, index: int) -> bytes:
        """What a device signs with."""
        return self.enrolled.identity(self.roster.members[index].device)

    def sign(self, index: int, purpose: bytes, message: bytes) -> bytes:
        """A device's signature, over whatever a test wants."""
        return keys.sign(self.identity(index), purpose, message)

    # --- steps ---------------------------------------------------------------------------------

    def tell(self, index: int, message: RoundTold) -> Message | None:
        """A device hears a message; it stores what it must, then answers."""
        actions, said = self.devices[index].told(message)
        self._perform(index, actions)
        return said

    def _perform(self, index: int, actions: Sequence[Action]) -> None:
        for action in actions:
            match action:
                case Store(key, data):
                    self.flash[index][key] = data
                case Delete(key):
                    self.flash[index].pop(key, None)

    def to_say(self, index: int, kind: type[M]) -> M:
        """What the aggregator has to say to a device now, of one kind."""
        return next(said for said in self.aggregator.to_say(index) if isinstance(said, kind))

    def converse(self, who: Iterable[int]) -> None:
        """The aggregator tells each of them what there is to say, and hears the answers."""
        for index in who:
            for message in self.aggregator.to_say(index):
                said = self.tell(index, message)
                if isinstance(said, RoundSaid):
                    self.aggregator.hear(index, said)

    def advertise(self, *who: int) -> None:
        """Keys are said."""
        self.converse(who or self.everybody)

    def deal(self, *who: int) -> None:
        """Shares are dealt among those who advertised."""
        self.aggregator.deal()
        self.converse(who or sorted(self.aggregator.keys))

    def know_dealers(self, *who: int) -> None:
        """Those who dealt learn of each other."""
        self.aggregator.mask()
        self.converse(who or self.aggregator.dealers)

    def upload(self, *who: int) -> None:
        """Updates are masked, and arrive."""
        for index in who or self.aggregator.dealers:
            mask = self.devices[index].take()
            assert mask is not None
            self.bodies[index] = mask.apply(self.roster, self.values(index))
            self.aggregator.take(index, b"lease %d" % index, self.update(index))

    def update(self, index: int) -> MaskedUpdate:
        """What a device has sent."""
        return MaskedUpdate(0, self.roster.hash, self.aggregator.number, 0, self.bodies[index])

    def sign_outcome(self, *who: int) -> None:
        """The survivors sign whose updates arrived."""
        self.aggregator.close()
        self.converse(who or self.aggregator.survivors)

    def answer(self, *who: int) -> None:
        """The survivors answer."""
        self.aggregator.certify()
        self.converse(who or self.aggregator.survivors)

    def until_uploaded(self, *dropped: int) -> None:
        """Everybody takes part, but the ``dropped`` send no update."""
        self.advertise()
        self.deal()
        self.know_dealers()
        self.upload(*(index for index in self.everybody if index not in dropped))

    def until_signed(self, *dropped: int) -> None:
        """The same, and the survivors have signed."""
        self.until_uploaded(*dropped)
        self.sign_outcome()

    # --- sums ----------------------------------------------------------------------------------

    def values(self, index: int) -> Elements:
        """What a device puts in: anything within the limit, the count last."""
        given = self.roster.parameters
        draw = np.random.default_rng(index)
        values = draw.integers(-given.limit, given.limit, given.size, endpoint=True)
        values[:2] = given.limit, -given.limit
        values[-1] = given.step * given.levels
        return values

    def sum(self, survivors: Iterable[int]) -> Elements:
        """What has to come out."""
        total = np.zeros(self.roster.parameters.size, np.int64)
        for index in survivors:
            total += self.values(index)
        return total
