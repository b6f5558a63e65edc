"""The way of an update: from what was trained, or was not, to its receipt or refusal.

It is stored before its first packet leaves, and kept until it is settled. In a secure task what was
trained waits for a mask first, in memory alone, until its lease has run out.
"""

from dataclasses import replace
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from device_sdk.actions import Action
from device_sdk.fetch import RETRY_S
from device_sdk.outgoing import pieces
from device_sdk.parts import Parts
from device_sdk.pending import Pending
from device_sdk.plan import TrainingPlan
from device_sdk.reporting import make_pending
from device_sdk.states import State
from device_sdk.trainer import Trained
from protocol import refusals
from protocol.errors import RemoteProtocolError
from protocol.messages import Lease
from protocol.stream import derive

#: Why training failed is told in no more characters.
MAX_REASON: Final = 200

Float32 = npt.NDArray[np.float32]


class _Result(NamedTuple):
    """What was trained and is not on its way: a mask for it is waited for until ``give_up_at``."""

    delta: Float32
    num_samples: int
    give_up_at: float


class Delivery:
    """One update at a time. ``failure``: why the last training failed; empty if it did not.

    Updates of fewer than ``min_samples`` are not sent. What is not answered is asked after again
    after ``retry_first_s``, then twice as long, up to ``retry_cap_s``.
    """

    def __init__(
        self, parts: Parts, *, min_samples: int, retry_first_s: float, retry_cap_s: float
    ) -> None:
        self.failure = ""
        self._alarm = parts.alarm
        self._counts = parts.counts
        self._device = parts.device
        self._draws = parts.draws
        self._keys = parts.keys
        self._machine = parts.machine
        self._member = parts.member
        self._min_samples = min_samples
        self._outgoing = parts.outgoing
        self._presence = parts.presence
        self._result: _Result | None = None
        self._retry_cap_s = retry_cap_s
        self._retry_first_s = retry_first_s
        self._retry_s = retry_first_s
        self._seals = parts.seals
        self._seed = parts.seed
        self._send_at: float | None = None  # when the update is to be sent, while it is held back
        self._topics = parts.topics
        self._voice = parts.voice
        self._work = parts.work

    # --- the end of training -----------------------------------------------------------------

    def failed(
        self,
        lease_id: bytes,
        now: float,
        *,
        abandoned: str = "",
        why: str = "",
        is_plan_unfit: bool = False,
    ) -> list[Action]:
        """Training ended without a result; see `Session.failed`."""
        if not self._is_training(lease_id):
            return []
        self._machine.step("failed")
        self._result = None
        self._counts[f"abandoned_{abandoned}" if abandoned else "trainings_failed"] += 1
        if not abandoned:
            self.failure = why[:MAX_REASON] or "unknown"
        if is_plan_unfit:
            self._work.refuse_plan()
        self._alarm.after(self._work.check_in_s, now)
        return []

    def trained(self, lease_id: bytes, trained: Trained, now: float) -> list[Action]:
        """Training ended: what leaves the device is on flash before it leaves."""
        if not self._is_training(lease_id):
            return []
        if trained.num_skipped:
            self._counts["skipped_steps"] += trained.num_skipped
        if trained.num_samples < self._min_samples:
            least = self._min_samples
            why = f"trained on {trained.num_samples} samples: an update needs at least {least}"
            return self.failed(lease_id, now, why=why)
        delta = self._work.delta(trained)
        if delta is None:
            why = "the delta has another size, or a number that is too large or none"
            return self.failed(lease_id, now, why=why)
        give_up_at = max(self._work.ends_at, now + RETRY_S)
        self._result = _Result(delta, trained.num_samples, give_up_at)
        return self.report(now)

    def _is_training(self, lease_id: bytes) -> bool:
        return self._machine.state is State.TRAINING and self._work.lease.lease_id == lease_id

    # --- what is trained, and not stored yet ---------------------------------------------------

    @property
    def waits_for_mask(self) -> bool:
        """Whether there is a result that nothing can be sent of yet."""
        return self._result is not None

    def stock_up(self, now: float) -> list[Action]:
        """Masks are dealt while no update waits for its receipt."""
        if self._member is None or self._outgoing.pending is not None:
            return []
        return self._member.stock_up(now)

    def report(self, now: float) -> list[Action]:
        """Send what was trained; in a secure task as soon as there is a mask for it."""
        result, plan = self._result, self._work.plan
        if result is None or plan is None:
            return []
        lease = self._work.lease
        actions = self.stock_up(now)
        try:
            pending = self._encode(lease, plan, result)
        except RemoteProtocolError as error:
            self._counts[f"refused_{error.reason}"] += 1
            return [*actions, *self.failed(lease.lease_id, now, why=str(error))]
        if pending is None and now < result.give_up_at:
            self._alarm.at = result.give_up_at
            return actions
        if pending is None:
            self._counts["leases_lost"] += 1
            return [*actions, *self.failed(lease.lease_id, now, why="no mask came in time")]
        return [*actions, *self._hold(pending, now)]

    def _encode(self, lease: Lease, plan: TrainingPlan, result: _Result) -> Pending | None:
        residual = self._outgoing.residual
        if self._member is not None:
            staleness = max(0, self._work.newest_version - lease.version)
            return self._member.mask(
                lease, result.delta, result.num_samples, residual, staleness=staleness
            )
        pending = make_pending(
            self._topics.task,
            lease,
            result.delta,
            result.num_samples,
            layout=plan.trained.layout,
            residual=residual,
            rounding_seed=derive(self._seed, "rounding", lease.lease_id),
        )
        if not self._seals:
            return pending
        seal_seed = derive(self._seed, "seal", lease.lease_id, self._draws.num, pending.update)
        return replace(pending, seal_seed=seal_seed)

    def _hold(self, pending: Pending, now: float) -> list[Action]:
        """Store an update, and send it, or wait until it may be sent."""
        self._machine.step("trained")
        self._result = None
        self._counts["trainings"] += 1
        self.failure = ""
        self._retry_s = self._retry_first_s
        actions = [] if self._member is None else self._member.spent()
        actions += self._outgoing.hold(pending)
        if now < self._work.upload_at:
            self._send_at = self._alarm.at = self._work.upload_at
            return actions
        if self._presence.online:
            self._alarm.after(self._retry_s, now)
        else:
            self._alarm.off()
        return [*actions, *self.send(pending, ())]

    def round_over(self) -> bool:
        """Whether a newer version makes what waits for its mask worthless: then it is given up."""
        if self._result is None or self._member is None or not self._member.in_rounds:
            return False
        if self._work.newest_version <= self._work.lease.version:
            return False
        self._counts["leases_lost"] += 1
        self._result = None
        self._machine.step("failed")
        return True

    # --- what is stored ------------------------------------------------------------------------

    @property
    def is_held_back(self) -> bool:
        """Whether there is an update that was not to be sent at once."""
        return self._outgoing.pending is not None and self._send_at is not None

    def send_when_due(self, now: float) -> list[Action]:
        """Send an update for the first time that was held back."""
        pending, due = self._outgoing.pending, self._send_at
        if pending is None or due is None:
            return []
        if now < due:
            self._alarm.at = due
            return []
        self._send_at = None
        self._alarm.after(self._retry_s, now)
        return self.send(pending, ())

    def next_retry_s(self) -> float:
        """Return how long to wait for an answer, twice as long each time."""
        wait_s, self._retry_s = self._retry_s, min(2 * self._retry_s, self._retry_cap_s)
        return wait_s

    def send(self, pending: Pending, indices: tuple[int, ...]) -> list[Action]:
        """Publish chunks of the update: the ones named, or all."""
        if not self._presence.online or self._send_at is not None:
            return []
        topic = self._topics.update(pending.partition, self._device)
        aggregator = b"" if self._keys is None else self._keys.aggregator
        chunks = pieces(pending, indices, self._presence.chunk_bytes, aggregator)
        return [self._voice.say(topic, chunk) for chunk in chunks]

    def counted(self, pending: Pending, version: int) -> list[Action]:
        """It was counted in a version; return what is to be stored."""
        self._counts["receipts"] += 1
        stores = self._outgoing.counted(pending, version)
        self._settled("receipt")
        return stores

    def refused(self, pending: Pending, reason: str) -> list[Action]:
        """It will not be used; return what is to be stored: nothing, while it is kept all the same.

        It is if the aggregator was busy, or if folding needs a plan that is not here: it is asked
        after again.
        """
        self._counts[f"update_refused_{reason}"] += 1
        if reason == refusals.BUSY:
            return []
        layout = None if self._work.plan is None else self._work.plan.trained.layout
        stores = self._outgoing.refused(pending, reason, layout)
        if stores:
            self._settled("refusal")
        return stores

    def _settled(self, event: str) -> None:
        self._machine.step(event)
        self._send_at = None
