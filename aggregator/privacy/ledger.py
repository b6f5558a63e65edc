"""What each device has spent, in rho: stored with the version that spent it."""

from collections.abc import Mapping

from aggregator.actions import Action, Store
from aggregator.records import DocumentRecord

#: Documents of this name and a device's hold what it has spent, as text that loses no bit.
SPENT = "privacy-spent/"


class Ledger:
    """Of one task, for good: another clip or noise, or a restart, gives nobody anything back.

    ``documents`` is what the store keeps.
    """

    def __init__(self, documents: Mapping[str, bytes]) -> None:
        self._spent = {
            key.removeprefix(SPENT): float(data)
            for key, data in documents.items()
            if key.startswith(SPENT)
        }

    def spent(self, device: str) -> float:
        """Return what one device has spent; 0 for one that took no part."""
        return self._spent.get(device, 0.0)

    @property
    def most(self) -> float:
        """What the device has spent that has spent most: the promise is to each of them."""
        return max(self._spent.values(), default=0.0)

    def num_spent(self, most: float) -> int:
        """Return how many devices have spent more than ``most``."""
        return sum(spent > most for spent in self._spent.values())

    def charge(self, costs: Mapping[str, float]) -> list[Action]:
        """Devices took part in a release; return what is stored with it."""
        for device, rho in costs.items():
            self._spent[device] = self.spent(device) + rho
        return [
            Store(DocumentRecord(SPENT + device, repr(self._spent[device]).encode()))
            for device in costs
        ]
