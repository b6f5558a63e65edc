"""What each device has spent: rho in billionths, stored with the version that spent it."""

from collections.abc import Mapping

from aggregator.actions import Action, Store
from aggregator.records import DocumentRecord

#: Documents of this name and a device's hold what it has spent, in decimal digits.
SPENT = "privacy-spent/"


class Ledger:
    """Of one task, for good: another clip or noise, or a restart, gives nobody anything back.

    ``documents`` is what the store keeps.
    """

    def __init__(self, documents: Mapping[str, bytes]) -> None:
        self._spent = {
            key.removeprefix(SPENT): int(data)
            for key, data in documents.items()
            if key.startswith(SPENT)
        }

    def spent(self, device: str) -> int:
        """Return what one device has spent; 0 for one that took no part."""
        return self._spent.get(device, 0)

    @property
    def most(self) -> int:
        """What the device has spent that has spent most: the promise is to each of them."""
        return max(self._spent.values(), default=0)

    def num_spent(self, most: int) -> int:
        """Return how many devices have spent more than ``most``."""
        return sum(spent > most for spent in self._spent.values())

    def charge(self, costs: Mapping[str, int]) -> list[Action]:
        """Devices took part in a release; return what is stored with it."""
        for device, cost in costs.items():
            self._spent[device] = self.spent(device) + cost
        return [
            Store(DocumentRecord(SPENT + device, b"%d" % self._spent[device])) for device in costs
        ]
