"""Who took part: what weights and steps may know of single devices.

What is here changes with a version and is stored with it, so that a replay of the journal finds
what was there when its updates came.
"""

from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from typing import Final

from aggregator.actions import Action, Store
from aggregator.records import DocumentRecord

#: The document that names the devices whose updates were counted in this epoch.
CONTRIBUTORS: Final = "contributors"


class Participation:
    """The devices with an update counted in the present mask epochs (plain tasks: ever).

    ``epochs`` names those epochs in a word, ``documents`` is what the store keeps. Only calibrated
    steps ask (``is_noted``).
    """

    def __init__(self, documents: Mapping[str, bytes], epochs: str, *, is_noted: bool) -> None:
        stored, *names = documents.get(CONTRIBUTORS, b"-").decode().split()
        self._epochs = epochs
        self._is_noted = is_noted
        #: What is stored is of epochs that are over.
        self.is_outdated = stored != epochs
        self._devices = set() if self.is_outdated else set(names)

    def num_devices(self, with_these: AbstractSet[str]) -> int:
        """Return how many there are once these are counted, too."""
        return len(self._devices | with_these)

    def counted(self, devices: AbstractSet[str]) -> list[Action]:
        """A version counted updates of these devices: return what is stored with it."""
        if not self._is_noted or devices <= self._devices:
            return []
        self._devices |= devices
        names = " ".join([self._epochs, *sorted(self._devices)])
        return [Store(DocumentRecord(CONTRIBUTORS, names.encode()))]

    def renewed(self, epochs: str) -> bool:
        """Begin anew if the epochs are others now; return whether they are."""
        if epochs == self._epochs:
            return False
        self._epochs = epochs
        self._devices = set()
        return True
