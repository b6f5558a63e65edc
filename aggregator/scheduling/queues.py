"""Who waits for a lease, site by site: the oldest and a random one, each in constant time. Pure."""

from collections import OrderedDict
from collections.abc import Iterable, Mapping

from aggregator.scheduling.turns import Turns
from protocol.stream import Stream


class _Queue:
    """Devices of one site: in order of arrival, and by place so that one can be drawn."""

    def __init__(self) -> None:
        self.arrivals: OrderedDict[str, int] = OrderedDict()
        self.devices: list[str] = []
        self._places: dict[str, int] = {}

    def add(self, device: str, arrival: int) -> None:
        self.arrivals[device] = arrival
        self._places[device] = len(self.devices)
        self.devices.append(device)

    def remove(self, device: str) -> None:
        """Take a device out; the last one takes its place."""
        del self.arrivals[device]
        place, last = self._places.pop(device), self.devices.pop()
        if last != device:
            self.devices[place] = last
            self._places[last] = place


class Queues:
    """The devices that wait; ``turns``, where somebody keeps them, is told who does."""

    def __init__(self) -> None:
        self.turns: Turns | None = None
        self._queues: dict[str, _Queue] = {}
        self._sites: dict[str, str] = {}
        self._num_arrivals = 0

    def __len__(self) -> int:
        return len(self._sites)

    def __contains__(self, device: str) -> bool:
        return device in self._sites

    @property
    def sites(self) -> Mapping[str, int]:
        """How many wait at each site that has any."""
        return {site: len(queue.devices) for site, queue in self._queues.items()}

    def site(self, device: str) -> str:
        """Return the site of a device that waits."""
        return self._sites[device]

    def add(self, device: str, site: str) -> None:
        """Let a device wait that does not wait yet."""
        self._num_arrivals += 1
        self._sites[device] = site
        self._queues.setdefault(site, _Queue()).add(device, self._num_arrivals)
        if self.turns is not None:
            self.turns.wait(device)

    def remove(self, device: str) -> None:
        """It waits no more; nothing if it did not."""
        site = self._sites.pop(device, None)
        if site is None:
            return
        queue = self._queues[site]
        queue.remove(device)
        if not queue.devices:
            del self._queues[site]
        if self.turns is not None:
            self.turns.leave(device)

    def oldest(self, sites: Iterable[str]) -> str | None:
        """Return who has waited longest of these sites."""
        fronts = [next(iter(queue.arrivals.items())) for queue in self._of(sites)]
        return min(fronts, key=_arrival)[0] if fronts else None

    def draw(self, sites: Iterable[str], stream: Stream) -> str | None:
        """Return one who waits at these sites, each equally likely; None: nobody does."""
        queues = self._of(sites)
        total = sum(len(queue.devices) for queue in queues)
        if not total:
            return None
        return _at(queues, int(stream.integers(total, 1)[0]))

    def sample(self, sites: Iterable[str], size: int, stream: Stream) -> list[str]:
        """Return up to ``size`` different ones who wait at these sites, drawn at random.

        All of them if they are no more; the cost is that of ``size`` draws, whoever else waits.
        """
        queues = self._of(sites)
        total = sum(len(queue.devices) for queue in queues)
        if total <= size:
            return [device for queue in queues for device in queue.devices]
        drawn: dict[int, None] = {}
        while len(drawn) < size:
            drawn |= dict.fromkeys(stream.integers(total, size - len(drawn)).tolist())
        return [_at(queues, place) for place in drawn]

    def _of(self, sites: Iterable[str]) -> list[_Queue]:
        return [self._queues[site] for site in sites if site in self._queues]


def _arrival(front: tuple[str, int]) -> int:
    return front[1]


def _at(queues: Iterable[_Queue], place: int) -> str:
    for queue in queues:
        if place < len(queue.devices):
            return queue.devices[place]
        place -= len(queue.devices)
    raise IndexError(place)
