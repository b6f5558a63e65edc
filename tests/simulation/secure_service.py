"""That nothing hangs once faults have ended: who must be served, and who cannot be."""

from collections.abc import Collection, Mapping
from itertools import combinations

from aggregator.secagg import SecureBuffers
from device_sdk.pending import PENDING, unpack_pending
from protocol.secagg.roster import Roster
from tests.simulation.exposed import Mask
from tests.simulation.secure_audit import SecureAudit
from tests.simulation.secure_plaintext import Plain

#: Without faults, everything must be settled within so many virtual seconds.
PATIENCE_S = 400.0


class Service:
    """What the ``living`` devices may expect from now on; ``newest`` is the newest roster.

    All that was accepted is counted or refused, and every device that lives has an update settled
    that it made from now on. Not so where fewer than U living members of the open epoch can stand
    for a sum, which then waits for the epoch's end, and in rounds all others with it; nor where
    of the others no sum can be made that U of them stand for.
    """

    def __init__(self, audit: SecureAudit, living: Collection[str], newest: Roster) -> None:
        self._audit = audit
        self._living = living
        self._newest = newest
        self._open_ids = audit.open_ids
        self._wanted = {
            name: audit.outcomes.get(name, 0) + 1 + (PENDING in audit.storages[name])
            for name in living
        }

    def expect(self) -> None:
        """Let time pass until it has happened, or cannot. Raises AssertionError."""
        world = self._audit.world
        until = world.now + PATIENCE_S
        while not world.run_until(self._is_settled, PATIENCE_S / 10):
            if self._is_excused():
                return
            assert world.now < until, f"starving {self._starving}: {self._state()}"

    @property
    def _starving(self) -> set[str]:
        served = self._audit.outcomes
        return {name for name, count in self._wanted.items() if served.get(name, 0) < count}

    @property
    def _unsettled(self) -> set[bytes]:
        return self._open_ids & self._audit.open_ids

    def _is_settled(self) -> bool:
        return not self._starving and not self._unsettled

    def _is_excused(self) -> bool:
        """Whether nobody can be helped before the next epoch who has not been served."""
        roster = self._open_roster()
        if roster is None:
            return True
        members = {name for name in self._living if roster.index(name) is not None}
        given = roster.parameters
        if len(members) < given.num_answers:
            return True
        blocked = self._blocked(roster, members)
        if blocked and self._audit.world.server.config.mode == "rounds":
            return True
        free = members - {self._plain(update).device for update in blocked}
        if not self._can_sum(roster, members, free):
            return True
        waiting = {self._audit.journalled[each] for each in self._unsettled}
        return waiting <= blocked and not self._starving & free

    def _can_sum(self, roster: Roster, members: Collection[str], free: Collection[str]) -> bool:
        """Whether U living members can stand for a sum of what these have, or would make next.

        Updates that are in one buffer stay together: no better partition is looked for.
        """
        buffers = [each for each in self._in_buffers(roster) if each <= set(free)]
        others = set(free).difference(*self._in_buffers(roster))
        units = [*buffers, *({name} for name in sorted(others))]
        standing = {name: self._standing(roster, members, name) for name in members}
        given = roster.parameters
        for count in range(1, len(units) + 1):
            for chosen in combinations(units, count):
                names = set[str]().union(*chosen)
                together = set(members).intersection(*(standing[name] for name in names))
                fits = given.fewest_updates <= len(names) <= given.max_contributors
                if fits and len(together) >= given.num_answers:
                    return True
        return False

    def _in_buffers(self, roster: Roster) -> list[set[str]]:
        """Return whose updates are in each of the open buffers."""
        coordinator = self._audit.world.server.coordinator
        secure = None if coordinator is None else coordinator.secure
        if not isinstance(secure, SecureBuffers):
            return []
        names = [member.device for member in roster.members]
        return [{names[dealer] for dealer in each.masks} for each in secure.buffers]

    def _standing(self, roster: Roster, members: Collection[str], name: str) -> set[str]:
        """Return who can answer for a device's pending update; everybody, if it has none."""
        stored = self._audit.storages[name].get(PENDING)
        plain = None if stored is None else self._plain(unpack_pending(stored).update)
        mask = None if plain is None else _mask(roster, plain)
        asked = [] if mask is None else [mask]
        return self._audit.holders.holding(roster.hash, asked, members)

    def _open_roster(self) -> Roster | None:
        coordinator = self._audit.world.server.coordinator
        if coordinator is None or coordinator.secure is None:
            return self._newest
        cohorts = list(coordinator.secure.cohorts)
        return cohorts[0].roster if cohorts else None

    def _blocked(self, roster: Roster, members: Collection[str]) -> set[bytes]:
        """Updates of an epoch for whose masks, or for whose sum, fewer than U living stand."""
        audit = self._audit
        updates = {audit.journalled[each] for each in audit.open_ids}
        for name in members:
            if PENDING in audit.storages[name]:
                updates.add(unpack_pending(audit.storages[name][PENDING]).update)
        masks = {update: _mask(roster, self._plain(update)) for update in updates}
        stuck: set[Mask] = set()
        for asked in self._sums(masks):
            held = audit.holders.holding(roster.hash, asked, members)
            if len(held) < roster.parameters.num_answers:
                stuck |= asked
        return {update for update, mask in masks.items() if mask in stuck}

    def _sums(self, masks: Mapping[bytes, Mask | None]) -> list[frozenset[Mask]]:
        """Return what must be answered together: each mask, and those of each request."""
        requests = self._audit.holders.requests.values()
        asked = [self._audit.holders.masks(request)[1] for request in requests]
        alone = [frozenset([mask]) for mask in masks.values() if mask is not None]
        return alone + [frozenset(each.items()) for each in asked]

    def _plain(self, update: bytes) -> Plain:
        return self._audit.plaintexts.updates[update]

    def _state(self) -> str:
        coordinator = self._audit.world.server.coordinator
        now = self._audit.world.now
        waiting = coordinator.waiting_for(now) if coordinator else "the aggregator"
        states = {
            name: session.state.value if (session := device.session) else "no session"
            for name, device in self._audit.world.devices.items()
        }
        return f"waiting for {waiting}; {states}"


def _mask(roster: Roster, plain: Plain) -> Mask | None:
    """Return an update's mask, None if it is of another epoch."""
    index = roster.index(plain.device)
    if index is None or plain.masked.roster_hash != roster.hash:
        return None
    return index, plain.masked.counter
