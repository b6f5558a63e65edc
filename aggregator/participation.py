"""Who took part, how often and how late: what weights, steps and caps may know of single devices.

What is here changes with a version and is stored with it, a document for each device that the
version counted, so that a replay of the journal finds what was there when its updates came. Rates
are counted in versions: time would differ from replay to replay.
"""

from collections import Counter
from collections.abc import Mapping
from typing import Final, NamedTuple, Self

from aggregator.actions import Action, Store
from aggregator.fairness import STALE_WEIGHT, FairnessConfig
from aggregator.records import DocumentRecord
from aggregator.strata import group_of
from aggregator.strategy.inverse_rate import inverse_rate
from aggregator.strategy.stale_weight import stale_weight

#: Documents of this name and a device's hold its `Past`; without a name, what is of all of them.
PARTICIPATION: Final = "participation/"
#: How much of a mean the newest observation is.
_NEWEST: Final = 0.2
#: In so many versions, what was counted of a device is half forgotten.
_HALF_LIFE: Final = 20


class Past(NamedTuple):
    """Of one device: the version that counted it last, and means over its updates.

    ``gap``: versions from one to the next; ``staleness``: versions they were late; ``recent``: how
    many they were, the older the less. ``samples``: what the last one weighed, pace apart.
    """

    version: int
    gap: float
    staleness: float
    recent: float = 0.0
    samples: int = 1

    def after(self, version: int, staleness: int, samples: int) -> Self:
        """Return it once ``version`` has counted another update."""
        return self._replace(
            version=version,
            samples=samples,
            gap=_mean(self.gap, version - self.version),
            staleness=_mean(self.staleness, staleness),
            recent=_faded(self.recent, version - self.version) + 1,
        )


class Participation:
    """The devices with an update counted in the present mask epochs (plain tasks: ever).

    ``epochs`` names those epochs in a word, ``documents`` is what the store keeps. ``is_noted``:
    the strategy asks for the number of devices; else only what ``fairness`` needs is stored.
    """

    def __init__(
        self,
        documents: Mapping[str, bytes],
        epochs: str,
        fairness: FairnessConfig,
        *,
        is_noted: bool,
    ) -> None:
        self._fairness = fairness
        self._epochs = epochs
        self._is_noted = is_noted or fairness.weighs or fairness.max_share < 1
        self._past: dict[str, Past] = {}
        #: The samples of the devices in each group of `aggregator.strata`: whole, so no sum drifts.
        self.fleet: Counter[int] = Counter()
        #: The fastest devices' gap, and all that were counted recently, as of the newest version.
        self._shortest = 1.0
        self._recent = 0.0
        self._version = 0
        for key, data in documents.items():
            if key.startswith(PARTICIPATION):
                self._load(key.removeprefix(PARTICIPATION), data.decode().split())
        #: What is stored is of epochs that are over, if anything is.
        self.is_outdated = not self._past

    def _load(self, device: str, words: list[str]) -> None:
        epochs, version, *means = words
        if epochs != self._epochs:
            return
        if device:
            gap, staleness, recent, samples = means
            past = Past(int(version), float(gap), float(staleness), float(recent), int(samples))
            self._take(device, past)
        else:
            self._version = int(version)
            self._shortest, self._recent = map(float, means)

    def num_devices(self, with_these: Mapping[str, int]) -> int:
        """Return how many there are once these are counted, too."""
        return len(self._past) + sum(device not in self._past for device in with_these)

    def weight(self, device: str, version: int, staleness: int) -> float:
        """Return what fairness makes of the weight of an update that ``version`` + 1 may count."""
        if not self._fairness.weighs:
            return 1.0
        past = self._with(device, version + 1, staleness, 1)
        if self._fairness.weights == STALE_WEIGHT:
            return stale_weight(past.staleness)
        return inverse_rate(past.gap, self._shortest)

    def group(self, device: str, version: int, staleness: int) -> int:
        """Return the group of a device whose update ``version`` + 1 may count."""
        return group_of(self._with(device, version + 1, staleness, 1).gap)

    def may_train(self, device: str) -> bool:
        """Whether a device had no more than its share of what was counted recently."""
        past = self._past.get(device)
        if past is None or self._fairness.max_share >= 1:
            return True
        recent = _faded(past.recent, self._version - past.version)
        return recent <= self._fairness.max_share * self._recent

    def counted(
        self, version: int, staleness: Mapping[str, int], samples: Mapping[str, int]
    ) -> list[Action]:
        """A version counted updates of these devices, so late and of so many samples (else 1).

        Returns what is stored with it.
        """
        if not self._is_noted or not staleness:
            return []
        changed = {
            device: self._with(device, version, late, samples.get(device, 1))
            for device, late in staleness.items()
        }
        for device, past in changed.items():
            self._take(device, past)
        self._recent = _faded(self._recent, version - self._version) + len(changed)
        self._version = version
        least = min(past.gap for past in changed.values())
        self._shortest = _mean(self._shortest, least)
        return [
            self._document("", version, self._shortest, self._recent),
            *(self._document(device, *past) for device, past in changed.items()),
        ]

    def renewed(self, epochs: str) -> bool:
        """Begin anew if the epochs are others now; return whether they are."""
        if epochs == self._epochs:
            return False
        self._epochs = epochs
        self._past = {}
        self.fleet.clear()
        self._shortest, self._recent = 1.0, 0.0
        return True

    def _take(self, device: str, past: Past) -> None:
        if (before := self._past.get(device)) is not None:
            self.fleet[group_of(before.gap)] -= before.samples
            self.fleet += Counter()  # no group of nobody stays: a restart would not know of it
        self.fleet[group_of(past.gap)] += past.samples
        self._past[device] = past

    def _with(self, device: str, version: int, staleness: int, samples: int) -> Past:
        """Return what is known of a device once ``version`` has counted it so late.

        A device of which nothing is known has probably trained since the version it started from.
        """
        past = self._past.get(device)
        if past is None:
            return Past(version, float(staleness + 1), float(staleness), 1.0, samples)
        return past.after(version, staleness, samples)

    def _document(self, device: str, version: int, *means: float) -> Store:
        words = [self._epochs, str(version), *map(repr, means)]  # repr loses no bit
        return Store(DocumentRecord(PARTICIPATION + device, " ".join(words).encode()))


def _mean(before: float, newest: float) -> float:
    return before + _NEWEST * (newest - before)


def _faded(recent: float, versions: int) -> float:
    return float(recent * 0.5 ** (versions / _HALF_LIFE))
