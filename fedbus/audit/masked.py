"""A cohort in memory, as a task's configuration makes it: what it says in the open, and its sums.

Keys come from a seed: right for an audit, for nothing else.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from aggregator.secure_config import SecureConfig, goal
from aggregator.task_config import TaskConfig
from device_sdk.dealing import Dealer
from protocol.errors import LocalProtocolError
from protocol.messages import CHUNK_BYTES, MAX_COHORT
from protocol.secagg import fixedpoint, pairwise, scheme
from protocol.secagg.common import coordinates
from protocol.secagg.field import Elements, from_bytes
from protocol.secagg.messages import Shares
from protocol.secagg.pairwise_keys import Part, Round, make_keys
from protocol.secagg.parameters import PAIRWISE, SEEDMASK, Parameters
from protocol.secagg.roster import Roster, open_roster
from protocol.secagg.sealing import Boxes, ShareBatch
from protocol.stream import derive
from protocol.vectors.packing import DENSE
from simulator.enrolment import enrol

Floats = npt.NDArray[np.float64]
Float32 = npt.NDArray[np.float32]

#: Smaller cohorts need every device to answer.
_FEW: Final = 6
_NO_INDICES: Final = np.empty(0, np.int64)


@dataclass(frozen=True, slots=True)
class Masked:
    """One update and the shares of its mask, by holder: as they travel, and as they were dealt.

    ``secret`` is what the shares are of. A round of `pairwise` has no shares beforehand.
    """

    body: bytes
    secret: Elements
    sealed: Mapping[int, Shares]
    opened: Mapping[int, ShareBatch]


class Cohort:
    """The devices of a masked task. ``num_params`` are trained.

    Raises ConfigError for numbers that the configuration does not allow.
    """

    def __init__(
        self, secure: SecureConfig, task: TaskConfig, num_devices: int, num_params: int, seed: bytes
    ) -> None:
        self._seed = seed
        self._num_masked = 0
        parameters = secure.parameters(task, num_devices, num_params)
        names = [f"device-{number:03}" for number in range(num_devices)]
        enrolled = enrol(secure, parameters, task.task, names, seed)
        (signed,) = enrolled.enrolment.rosters
        self.roster: Roster = open_roster(signed, enrolled.enrolment.enrolment_key)
        self._keys = [enrolled.keys[name] for name in names]
        codec = secure.codec
        self._where = (
            slice(None)
            if codec.support == DENSE
            else self._support(codec.num_kept(num_params), num_params)
        )
        self._num_params = num_params

    def _support(self, num_kept: int, num_params: int) -> npt.NDArray[np.int64]:
        return coordinates(self.roster.task, 0, _NO_INDICES, num_params, num_kept)

    @property
    def parameters(self) -> Parameters:
        """The roster's."""
        return self.roster.parameters

    @property
    def smallest_sum(self) -> int:
        """Over so many devices the smallest sum is that the aggregator may learn."""
        return self.parameters.group or self.parameters.min_contributors

    def masked(self, device: int, delta: Float32, num_samples: int) -> Masked:
        """Return what one device says of ``delta`` (num_params,)."""
        elements = self._encoded(device, delta, num_samples)
        if self.parameters.scheme == PAIRWISE:
            return Masked(self._in_round(device, elements), _NO_INDICES, {}, {})
        own = self._keys[device]
        boxes = Boxes(self.roster, device, own.epochs[self.roster.epoch])
        dealer = Dealer(
            self.roster,
            device,
            identity=own.identity,
            boxes=boxes,
            seed=derive(self._seed, "dealer", device, self._num_masked),
        )
        batches = dealer.deal(1, CHUNK_BYTES)
        mask = dealer.take()
        if mask is None:
            raise LocalProtocolError("no mask was dealt")
        return Masked(
            mask.apply(self.roster, elements, self.roster.public_seed),
            mask.secret(self.roster),
            {holder: dealer.seal(batch) for holder, (batch,) in batches.items()},
            {holder: batch.batch for holder, (batch,) in batches.items()},
        )

    def _encoded(self, device: int, delta: Float32, num_samples: int) -> Elements:
        """Return the numbers beneath the mask, with noise that is new each time if there is any."""
        self._num_masked += 1
        seed = derive(self._seed, "privacy", device, self._num_masked)
        given = self.parameters
        return given.noisy(given.encode(delta[self._where], num_samples)[0], seed)

    def _in_round(self, device: int, elements: Elements) -> bytes:
        """Mask as in a round of all devices."""
        round_ = Round(self.roster, 0)
        secrets = [make_keys(derive(self._seed, "round", at)) for at in range(len(self._keys))]
        publics = {at: each.publics() for at, each in enumerate(secrets)}
        seen = pairwise.view(round_, publics, tuple(publics))
        return pairwise.mask(Part(round_, device, secrets[device]), publics, seen, elements)

    def seen(self, body: bytes) -> Floats:
        """Return what somebody without the mask's secret reads as values, (num_params,)."""
        given = self.parameters
        if given.scheme == PAIRWISE:
            elements = np.frombuffer(body, "<u4").astype(np.int64)
        elif given.scheme == SEEDMASK:
            elements = fixedpoint.unpack(body, given.width, given.size) << given.shift
        else:
            elements = from_bytes(body, given.modulus, given.size)
        half = given.modulus // 2
        return self._values((elements + half) % given.modulus - half)

    def summed(self, updates: Sequence[tuple[Float32, int]]) -> Floats:
        """Return the mean over devices that the aggregator learns of a sum, (num_params,).

        ``updates`` has the delta of each device and its number of samples.
        """
        given = self.parameters
        if given.scheme == PAIRWISE:  # its masks cancel to the last bit
            total = np.sum([self._encoded(at, *each) for at, each in enumerate(updates)], axis=0)
        else:
            each = [self.masked(at, *update) for at, update in enumerate(updates)]
            secrets = np.sum([one.secret for one in each], axis=0) % given.modulus
            total = self.unmasked([one.body for one in each], secrets)
        return self._values(total) / given.weight_of(int(total[-1]))

    def unmasked(self, bodies: Sequence[bytes], secret: Elements) -> Elements:
        """Return the sum of updates whose secrets' sum somebody knows, or guesses."""
        given, chosen = self.parameters, scheme(self.parameters.scheme)
        total = np.zeros(given.size, np.int64)
        for body in bodies:
            chosen.add(given, total, body)
        public_seed = self.roster.public_seed
        return chosen.unmask(given, public_seed, total, len(bodies), secret)

    def values(self, body: bytes, secret: Elements) -> Floats:
        """Return one update's values under a secret, right or wrong, (num_params,)."""
        return self._values(self.unmasked([body], secret))

    def _values(self, elements: Elements) -> Floats:
        values = np.zeros(self._num_params)
        values[self._where] = elements[:-1] / self.parameters.scale
        return values


def smallest_cohort(secure: SecureConfig, task: TaskConfig) -> int:
    """Return how many devices a cohort of this configuration has at least."""
    return min(MAX_COHORT, max(_FEW, goal(task), secure.min_contributors))
