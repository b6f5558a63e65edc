"""The fairness floor: everybody who waits is chosen at least once in R versions.

A rule that prefers good links or much data would never choose some devices, and the model would
not learn what only they have seen (a floor is what Chen et al.'s objective lacks). So each device
has a deadline, R versions after it was chosen last. Earliest deadlines are served first, and as
late as can be: of a version's leases they take those that later versions cannot make up for.
Where R versions have too few leases for all who wait, no order keeps the floor: half of the leases
then go to those who have not been chosen for longest.

Soft state, one number a device: a restart begins anew. Pure.
"""

from bisect import insort
from collections import OrderedDict
from collections.abc import Callable


class Turns:
    """Of those who wait; ``every`` is R, 0: no floor. ``version`` is the newest, kept up to date.

    Remembers when ``max_devices`` devices were chosen last.
    """

    def __init__(self, every: int, max_devices: int, version: int) -> None:
        self.version = version
        self._every = every
        self._max_devices = max_devices
        self._began = version
        self._chosen_at: OrderedDict[str, int] = OrderedDict()
        self._deadlines: dict[str, int] = {}
        self._due: dict[int, dict[str, None]] = {}
        self._times: list[int] = []
        self._share = 0.0

    def wait(self, device: str) -> None:
        """A device begins to wait."""
        if not self._every:
            return
        deadline = self._chosen_at.get(device, self.version - 1) + self._every
        self._deadlines[device] = deadline
        if deadline not in self._due:
            self._due[deadline] = {}
            insort(self._times, deadline)
        self._due[deadline][device] = None

    def leave(self, device: str) -> None:
        """It waits no more; nothing if it did not."""
        deadline = self._deadlines.pop(device, None)
        if deadline is None:
            return
        del self._due[deadline][device]
        if not self._due[deadline]:
            del self._due[deadline]
            self._times.remove(deadline)

    def chosen(self, device: str) -> None:
        """It got a lease."""
        self._chosen_at[device] = self.version
        self._chosen_at.move_to_end(device)
        if len(self._chosen_at) > self._max_devices:
            self._chosen_at.popitem(last=False)

    def age(self, device: str) -> int:
        """Return how many versions ago a device was chosen last, at least 1.

        One never chosen counts as chosen just before the beginning.
        """
        return max(1, self.version - self._chosen_at.get(device, self._began - 1))

    def is_kept(self, per_version: int) -> bool:
        """Whether the leases of R versions are enough for all who wait."""
        return len(self._deadlines) <= self._every * per_version

    def due(self, *, count: int, per_version: int, is_open: Callable[[str], bool]) -> list[str]:
        """Return who must be among the next ``count`` chosen.

        ``per_version`` leases are given a version; who is not ``is_open`` cannot be chosen now.
        """
        needed = self._needed(count, per_version)
        if not self.is_kept(per_version):
            self._share = min(self._share + count / 2, float(count))
            needed = min(needed, int(self._share))
            self._share -= needed
        found: list[str] = []
        for deadline in self._times:
            for device in self._due[deadline]:
                if len(found) >= needed:
                    return found
                if is_open(device):
                    found.append(device)
        return found

    def _needed(self, count: int, per_version: int) -> int:
        """How many cannot be put off: more are due by then than later versions have leases for."""
        num_due = needed = 0
        for deadline in self._times:
            num_due += len(self._due[deadline])
            needed = max(needed, num_due - max(0, deadline - self.version) * per_version)
            if needed >= count:
                return count
        return needed
