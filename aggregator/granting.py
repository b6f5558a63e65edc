"""Giving leases: to whom of those that wait, with which codec, for how many bytes and from when.

The scheduling of the mode says how many are wanted; credit and the budgets of sites say how many
may be given; a rule of selection says to whom (`aggregator.scheduling`). What is learned of devices
and their links on the way is soft: a restart begins anew.
"""

from collections.abc import Callable, Iterable, Iterator
from collections.abc import Set as AbstractSet
from typing import Final, NamedTuple

from aggregator.bandwidth import budget_bytes, choose_codec, largest_budget
from aggregator.fleet import Fleet, Waiting
from aggregator.leases import Lease, LeaseBook
from aggregator.records import LeaseRecord
from aggregator.scheduling import Supply
from aggregator.scheduling.credit import Credit, most_bytes
from aggregator.scheduling.hungarian import Hungarian
from aggregator.scheduling.links import MAX_LINKS, Link, Links, rate
from aggregator.scheduling.longest_waiting import LongestWaiting
from aggregator.scheduling.oort import Oort
from aggregator.scheduling.rules import Knowledge, Moment, Rule, Seat
from aggregator.scheduling.selection import HUNGARIAN, MAX_SLOTS, OORT, UNIFORM, SelectionConfig
from aggregator.scheduling.sites import Sites
from aggregator.scheduling.turns import Turns
from aggregator.scheduling.uniform import Uniform
from aggregator.task_config import TaskConfig
from aggregator.telemetry import uplink_speed
from protocol.messages import CheckIn
from protocol.stream import Stream
from protocol.vectors.layout import Layout
from protocol.vectors.packing import CodecSpec, parse_codec

#: Said where more devices wait than R versions have leases for.
FLOOR_LOST: Final = "more devices wait than every_versions versions have leases for"


class Grant(NamedTuple):
    """A lease that is to be given: `Granting.open` takes it before the next one is asked for."""

    waiting: Waiting
    codec: CodecSpec
    seat: Seat
    site: str


class Granting:
    """Of one task; ``codec`` is what leases name where nothing else is chosen.

    ``seed`` (32 bytes of this start) makes what rules draw; ``version`` is the newest. ``links`` is
    what it has learned.
    """

    def __init__(
        self,
        config: TaskConfig,
        fleet: Fleet,
        leases: LeaseBook,
        codec: CodecSpec,
        layout: Layout,
        *,
        seed: bytes,
        version: int,
    ) -> None:
        self._config = config
        self._selection = config.selection
        self._fleet = fleet
        self._leases = leases
        self._codec = codec
        self._layout = layout
        self._budgets: dict[str, int] = {}
        self._budget = (
            self.budget_bytes(str(codec))
            if codec.masked
            else largest_budget(codec, config.bandwidth, layout)
        )
        self._per_version = config.scheduling.per_version
        version_bytes = self._per_version * self._budget
        most = most_bytes(self._selection.max_outstanding_bytes, version_bytes)
        self._credit = Credit(most, version_bytes)
        self._sites = Sites(self._selection.site_configs(), leases.sites)
        self._num_slots = num_slots(config)
        max_links = min(MAX_LINKS, config.max_devices)
        self.links = Links(max(1, self._num_slots), self._selection.slot_s, max_links)
        every = self._selection.every_versions if self._selection.scores else 0
        self._turns = fleet.queues.turns = Turns(every, config.max_devices, version)
        self._rule = self._make_rule(Stream(seed))
        self._ended_at: float | None = None

    def _make_rule(self, stream: Stream) -> Rule:
        known = Knowledge(self._fleet.queues, self.links, self._turns, stream, self._num_samples_of)
        selection = self._selection
        if selection.rule == UNIFORM:
            return Uniform(known)
        if selection.rule == HUNGARIAN:
            return Hungarian(known, selection.freshness)
        if selection.rule == OORT:
            sees_norms = selection.sees_norms and not self._codec.masked
            return Oort(known, selection.oort, sees_norms=sees_norms)
        return LongestWaiting(known)

    @property
    def update_bytes(self) -> int:
        """The most that an update may take."""
        return self._budget

    # --- how many ----------------------------------------------------------------------------

    def supply(self, partial_bytes: int, now: float) -> Supply:
        """Return what scheduling may know of the leases that could be given now."""
        return Supply(
            num_grantable=min(self._num_in_open_sites(now), self._num_in_credit(partial_bytes)),
            num_online=self._fleet.num_online,
            completion=self.links.completion,
            is_choosing=self._selection.is_choosing,
            ended_at=self._ended_at,
        )

    def _num_in_open_sites(self, now: float) -> int:
        if not self._selection.sites:
            return self._fleet.num_waiting
        queued = self._fleet.queues.sites
        return sum(min(count, self._sites.room(site, now)) for site, count in queued.items())

    def _num_in_credit(self, partial_bytes: int) -> int:
        left = self._credit.bytes_now(partial_bytes) - self._leases.outstanding_bytes
        return max(0, left // self._budget)

    def next_at(self, now: float) -> float | None:
        """Return when a lease may be possible that is not now; None: an event will tell."""
        if not self._selection.sites:
            return None
        return self._sites.opens_at(self._fleet.queues.sites, now)

    # --- to whom -----------------------------------------------------------------------------

    def grants(
        self,
        count: int,
        now: float,
        *,
        opened_at: float | None = None,
        partial_bytes: int = 0,
        bytes_down: Callable[[CheckIn], int] = lambda _check_in: 0,
    ) -> Iterator[Grant]:
        """Take up to so many of the devices that wait; each grant is to be opened at once.

        ``opened_at``: of the round. ``bytes_down`` says what a device will fetch.
        """
        seats = self._seats(count)
        moment = self._moment(opened_at, now)
        while seats:
            used = []
            for pick in self._rule.pick(seats, self._sites.open_sites(now), moment):
                site = self._fleet.queues.site(pick.device)
                if self._sites.room(site, now) <= 0:
                    continue
                codec = self._choose(self._fleet.waiting(pick.device))
                budget = 0 if codec is None else self.budget_bytes(str(codec))
                left = self._credit.bytes_now(partial_bytes) - self._leases.outstanding_bytes
                if budget > left and self._leases.num_active:  # one alone always gets a lease
                    return
                waiting = self._fleet.take(pick.device)
                used.append(pick.seat)
                if codec is None:
                    continue  # it was turned away when it asked: `serves`
                self._turns.chosen(pick.device)
                self._sites.given(site, budget + bytes_down(waiting.check_in), now)
                yield Grant(waiting, codec, seats[pick.seat], site)
            if not used:
                return
            taken = set(used)
            seats = [seat for place, seat in enumerate(seats) if place not in taken]

    def open(self, record: LeaseRecord, grant: Grant, now: float) -> Lease:
        """Start the lease of a grant."""
        lease = self._open(record, now, site=grant.site, slot=grant.seat.slot)
        lease.given_at = now
        lease.upload_after_s = grant.seat.upload_after_s
        lease.num_samples = grant.waiting.check_in.num_samples
        return lease

    def reopen(self, record: LeaseRecord, now: float) -> Lease:
        """Start a lease again that was open before a restart, for its full time."""
        return self._open(record, now, site=self._fleet.site_of(record.device), slot=0)

    def _open(self, record: LeaseRecord, now: float, *, site: str, slot: int) -> Lease:
        return self._leases.open(
            record,
            now + self._config.lease_ttl_s,
            budget_bytes=self.budget_bytes(record.codec),
            site=site,
            slot=slot,
        )

    def budget_bytes(self, codec: str) -> int:
        """Return how large an update may be whose lease names this codec."""
        if codec not in self._budgets:
            self._budgets[codec] = budget_bytes(parse_codec(codec), self._layout)
        return self._budgets[codec]

    # --- what is learned ---------------------------------------------------------------------

    def chunk(self, lease: Lease, num_bytes: int, now: float) -> None:
        """A part of an update came."""
        if lease.first_chunk is None:
            lease.first_chunk = (now, num_bytes)

    def arrived(self, lease: Lease, num_bytes: int, now: float) -> None:
        """The update of a lease is complete."""
        self._credit.took()
        if lease.given_at is None:
            return
        link = self._judge_arrival(lease, now - lease.given_at)
        link.arrived_at = self._turns.version
        if lease.first_chunk is not None:
            since, before = lease.first_chunk
            rate(link, num_bytes - before, now - since)
        if isinstance(self._rule, Oort):
            link.norm = lease.norm or 0.0
            worth = self._weight(lease.num_samples) * (lease.norm or 1.0)
            self._rule.came(self._turns.version, worth)

    def expired(self, leases: Iterable[Lease], now: float) -> None:
        """These ran out without an update."""
        late_s = 0.0
        for lease in leases:
            late_s = max(late_s, now - lease.expires_at)
            self._judge_lost(lease)
        self._credit.late(late_s)

    def stepped(self, version: int, open_: Iterable[Lease], now: float) -> None:
        """There is a new version; for the leases that are still ``open_`` it is too late.

        One that has not had its time yet (twice what its device takes, or the deadline) says
        nothing of its link.
        """
        self._turns.version = version
        self._ended_at = now
        for lease in open_:
            if lease.given_at is not None and now >= lease.given_at + self._patience_s(lease):
                self._judge_lost(lease)

    @property
    def deadline_s(self) -> float:
        """How long after its lease an update is in time."""
        config = self._config
        if self._selection.deadline_s:
            return self._selection.deadline_s
        return config.rounds.deadline_s if config.mode == "rounds" else float(config.lease_ttl_s)

    def _judge_arrival(self, lease: Lease, elapsed_s: float) -> Link:
        in_time = elapsed_s <= self.deadline_s
        lease.is_judged, was_judged = True, lease.is_judged
        device = lease.record.device
        return self.links.arrived(
            device,
            lease.slot,
            elapsed_s=elapsed_s,
            upload_after_s=lease.upload_after_s,
            in_time=None if was_judged else in_time,
        )

    def _patience_s(self, lease: Lease) -> float:
        usual_s = self.links.expected_s(lease.record.device, lease.upload_after_s, 0)
        return min(self.deadline_s, 2 * usual_s) if usual_s else self.deadline_s

    def _judge_lost(self, lease: Lease) -> None:
        if lease.given_at is not None and not lease.is_judged:
            lease.is_judged = True
            self.links.lost(lease.record.device, lease.slot)

    @property
    def hears_telemetry(self) -> bool:
        """Whether who is chosen depends on links, of which devices tell something there."""
        return self._selection.scores

    def told(self, device: str, payload: bytes) -> None:
        """Take what telemetry says of a link. Raises RemoteProtocolError (``malformed``)."""
        speed = uplink_speed(payload)
        if speed > 0 and self._fleet.is_online(device):
            self.links.told(device, speed)

    # --- for people --------------------------------------------------------------------------

    def _why_wait(self, partial_bytes: int, now: float) -> str:
        """What keeps back devices that wait; empty: nothing here."""
        if not self._fleet.num_waiting:
            return ""
        if not self._num_in_credit(partial_bytes):
            most = self._credit.bytes_now(partial_bytes)
            return f"credit: updates of {self._leases.outstanding_bytes} of {most} bytes are out"
        reasons = (self._sites.why_closed(site, now) for site in sorted(self._fleet.queues.sites))
        return "; ".join(reason for reason in reasons if reason)

    def report(self, partial_bytes: int, now: float) -> dict[str, object]:
        """Return what selection knows, for ``mon/rounds``."""
        sites = self._sites.report(now)
        is_kept = not self._selection.scores or self._turns.is_kept(self._per_version)
        why = self._why_wait(partial_bytes, now)
        return {
            "rule": self._selection.rule,
            "outstanding_bytes": self._leases.outstanding_bytes,
            "credit_bytes": self._credit.bytes_now(partial_bytes),
            "in_time_percent": round(100 * self.links.completion),
            "links_known": len(self.links),
            **({"held_back_by": why} if why else {}),
            **({} if is_kept else {"floor": FLOOR_LOST}),
            **({"sites": sites} if sites else {}),
        }

    # --- inside ------------------------------------------------------------------------------

    def _moment(self, opened_at: float | None, now: float) -> Moment:
        left_s = self.deadline_s - (0.0 if opened_at is None else now - opened_at)
        return Moment(
            version=self._turns.version,
            left_s=left_s if left_s > 0 else self.deadline_s,
            per_version=self._per_version,
            budget_bytes=self._budget,
        )

    def _seats(self, count: int) -> list[Seat]:
        """So many seats over the slots: those with the fewest leases that run come first."""
        if not self._num_slots:
            return [Seat(0, 0)] * count
        running = self._leases.slots
        slots = sorted(range(self._num_slots), key=lambda slot: (running[slot], slot))
        slot_s = self._selection.slot_s
        places = (slots[place % len(slots)] for place in range(count))
        return [Seat(slot, slot * slot_s) for slot in places]

    def _num_samples_of(self, device: str) -> float:
        return self._weight(self._fleet.waiting(device).check_in.num_samples)

    def _weight(self, num_samples: int) -> float:
        """What the samples of a device count in a mean."""
        if not self._config.weigh_by_samples:
            return 1.0
        return float(min(max(1, num_samples), self._config.samples_cap))

    def serves(self, words: AbstractSet[str]) -> bool:
        """Whether a device that understands these words can ever have a lease."""
        return self._codec_for(words) is not None

    def _choose(self, waiting: Waiting) -> CodecSpec | None:
        bandwidth, link = self._config.bandwidth, self.links.get(waiting.device)
        limit = bandwidth.link_bytes(link.bytes_per_s) if link and link.bytes_per_s else 0
        return self._codec_for(frozenset(waiting.check_in.codecs), limit)

    def _codec_for(self, words: AbstractSet[str], limit_bytes: int = 0) -> CodecSpec | None:
        if self._codec.masked:
            return self._codec if self._codec.words <= words else None
        bandwidth = self._config.bandwidth
        return choose_codec(self._codec, words, bandwidth, self._layout, limit_bytes=limit_bytes)


def num_slots(config: TaskConfig) -> int:
    """Return how many upload slots there are; 0: everybody uploads when ready."""
    selection: SelectionConfig = config.selection
    if selection.slots or selection.rule != HUNGARIAN:
        return selection.slots
    return min(MAX_SLOTS, config.scheduling.per_version)
