"""From a buffer that is done to the next model version, or to nothing.

A version and the ids it counts are one record: once that is durable, the manifest that follows is
everybody's receipt.
"""

from collections.abc import Sequence
from typing import Final

from aggregator.actions import Action, Store
from aggregator.buffers import Outcome
from aggregator.conduct.evidence import OUTLIER
from aggregator.contributors import devices_of, gain, leases_of, staleness_of
from aggregator.group_trials import GroupTrials
from aggregator.leases import Lease
from aggregator.parts import Parts
from aggregator.records import LeaseState, VersionRecord
from aggregator.strategy import Float64
from aggregator.versions import wanted
from protocol import refusals
from protocol.messages import Manifest

#: A robust rule that keeps less than this part of an update has left it out.
LEFT_OUT: Final = 0.1


class Stepping:
    """The steps of one task; ``groups`` has what may be tried of the newest."""

    def __init__(self, parts: Parts) -> None:
        self.groups = GroupTrials(parts.trained, parts.conduct, parts.refusing)
        self._config = parts.config
        self._conduct = parts.conduct
        self._downlink = parts.downlink
        self._granting = parts.granting
        self._leases = parts.leases
        self._memory = parts.memory
        self._privacy = parts.privacy
        self._publication = parts.publication
        self._refusing = parts.refusing
        self._secure = parts.secure
        self._trained = parts.trained
        self._versions = parts.versions

    def ended(self, outcome: Outcome, now: float) -> list[Action]:
        """A buffer is done: its mean is stepped by, or it is given up. Its sum has been seen."""
        devices = devices_of(leases_of(outcome.ids, self._leases))
        spent = self._privacy.released(devices)
        if outcome.mean is None:
            return [*spent, *self._refusing.abandon(outcome.ids, outcome.reason)]
        self._note_outliers(outcome.kept)
        self.groups.offer(outcome, self._versions)
        return [*spent, *self._step(outcome, outcome.mean, now)]

    def manifest(self) -> Manifest:
        """Return what is said of the newest version."""
        newest = self._versions.newest
        route = self._downlink.route(newest.version)
        return Manifest(
            newest.version,
            route.model_hash,
            route.model_bytes,
            self._publication.num_chunks(route.model_bytes),
            newest.counted,
            route.keyframe,
            route.model,
        )

    # --- the step ----------------------------------------------------------------------------

    def _step(self, outcome: Outcome, mean: Float64, now: float) -> list[Action]:
        version = self._versions.number
        members = leases_of(outcome.ids, self._leases)
        staleness = staleness_of(members, version)
        counted = self._memory.told(outcome, staleness, version, self._versions.trained)
        if counted is None:
            return self._refusing.abandon(outcome.ids, refusals.TOO_STALE)
        moved = gain(members, version, self._trained.layout.size)
        record = self._versions.step(mean, outcome.ids, counted, gain=moved)
        if record is None:
            return self._refusing.abandon(outcome.ids, refusals.NOT_FINITE)
        if outcome.alert:
            self._refusing.show("buffer", "robust", outcome.alert)
        self._leases.close(outcome.ids)
        late = self._too_late(now)
        record = self._publish(record)
        retained = self._downlink.retained
        secured: list[Action] = []
        if self._secure is not None:
            secured = self._secure.stepped(record.version, self._versions.trained, now)
        return [
            Store(record),
            *self._memory.counted(outcome, staleness, record.version),
            *[each for lease in late for each in self._refusing.close(lease, refusals.TOO_STALE)],
            *secured,
            *self._publication.add(retained),
            self._publication.manifest(self.manifest()),
            *self._publication.clear(retained),
        ]

    def _too_late(self, now: float) -> list[Lease]:
        """Return the leases whose updates will be too stale for the version that there is now."""
        version = self._versions.number
        stale = self._leases.below(version - self._config.staleness_limit)
        late = [lease for lease in stale if lease.state is LeaseState.OPEN]
        self._granting.stepped(version, late, now)
        return late

    def _publish(self, record: VersionRecord) -> VersionRecord:
        """Let the downlink decide how a version travels; return it with what goes with it."""
        running = self._leases.open_versions()
        needed = wanted(record.version, running, self._config.keep_versions)
        record = self._downlink.step(record, self._versions.params, needed)
        hidden = self._trained.take(self._downlink.hidden)
        self._memory.published(record.version, hidden, needed)
        return record

    def _note_outliers(self, kept: Sequence[tuple[str, float]]) -> None:
        """What a robust rule has left out of a buffer is a hint, unless it leaves out most."""
        left_out = [device for device, part in kept if part < LEFT_OUT]
        if 2 * len(left_out) < len(kept):
            for device in left_out:
                self._conduct.note(device, OUTLIER)
