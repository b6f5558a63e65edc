"""What a device asks of the aggregator: a lease, or what has become of its update."""

import math
from collections.abc import Callable
from typing import Final

from device_sdk.actions import Action
from device_sdk.delivery import Delivery
from device_sdk.fetch import RETRY_S
from device_sdk.parts import Parts
from device_sdk.states import State
from protocol import refusals
from protocol.actions import Publish
from protocol.messages import Refusal

#: When the aggregator starts, devices check in spread over this part of their interval.
START_SPREAD: Final = 0.1


class Asking:
    """``num_samples``, ``declines`` and ``min_samples`` as `Session` has them.

    ``turned_away`` says why this device was, the last time.
    """

    def __init__(
        self,
        parts: Parts,
        delivery: Delivery,
        *,
        num_samples: Callable[[], int],
        declines: Callable[[], str],
        min_samples: int,
    ) -> None:
        self.turned_away = ""
        self._alarm = parts.alarm
        self._away_until = math.inf
        self._check_ins = parts.check_ins
        self._counts = parts.counts
        self._declines = declines
        self._delivery = delivery
        self._has_keys = parts.keys is not None
        self._install_id = parts.install_id
        self._machine = parts.machine
        self._member = parts.member
        self._min_samples = min_samples
        self._num_samples = num_samples
        self._outgoing = parts.outgoing
        self._presence = parts.presence
        self._voice = parts.voice
        self._work = parts.work

    def speak(self, now: float) -> list[Action]:
        """Check in when idle, ask after the pending update when reporting; later, again."""
        if not self._presence.online or self._machine.state not in {State.IDLE, State.REPORTING}:
            return []
        if self._delivery.is_held_back:
            return self._delivery.send_when_due(now)
        is_idle = self._machine.state is State.IDLE
        wait_s = self._work.check_in_s if is_idle else self._delivery.next_retry_s()
        self._alarm.after(wait_s, now)
        num_samples = self._num_samples()
        if is_idle and not self._would_train(num_samples):
            return []
        unserved = [] if self._member is None else self._member.unserved(now)
        return [*unserved, self._check_in(num_samples)]

    def ask_whole(self) -> Publish:
        """Say that the model of the lease cannot be put together here."""
        self._check_ins.is_unreachable = True
        return self._check_in(max(1, self._num_samples()))

    def soon(self, now: float) -> None:
        """Speak within a little while, at another time than the other devices."""
        self._alarm.within(START_SPREAD * self._work.check_in_s, now)

    def _check_in(self, num_samples: int) -> Publish:
        pending = self._outgoing.pending
        told = self._check_ins.next(
            self._work.held_version,
            num_samples,
            b"" if pending is None else pending.lease_id,
            fetching=self._machine.state is State.FETCHING,
        )
        if told.unreachable:
            self._counts["models_unreachable"] += 1
        return self._voice.tell(told)

    def _would_train(self, num_samples: int) -> bool:
        if num_samples == 0:
            return False  # nothing to train on yet
        reason = "unfit_plan" if self._work.is_unfit else self._declines()
        if num_samples < self._min_samples:
            reason = refusals.FEW_SAMPLES
        if self._member is not None and self._member.has_spent:
            reason = refusals.PRIVACY_SPENT
        if reason:
            self._counts[f"declined_{reason}"] += 1
        return not reason

    # --- certificates ------------------------------------------------------------------------

    def is_known(self) -> None:
        """The aggregator has answered: it knows this device's key."""
        self._check_ins.shows_certificate = False

    def is_unknown(self, now: float) -> None:
        """The aggregator does not know this device's key (any more): it is shown soon."""
        if not self._has_keys:
            return
        self._check_ins.shows_certificate = True
        self._counts["certificates_wanted"] += 1
        self.soon(now)

    # --- being away --------------------------------------------------------------------------

    def turn_away(self, refusal: Refusal, now: float) -> None:
        """This installation gets no lease: it asks again when the refusal says."""
        if refusal.install_id != self._install_id or self._machine.state is not State.IDLE:
            return
        self._machine.step("turned away")
        self.turned_away = f"{refusal.reason}: {refusal.detail}"
        self._counts[f"turned_away_{refusal.reason}"] += 1
        self._alarm.after(refusal.retry_s, now)
        self._away_until = self._alarm.at

    def stay_away(self) -> None:
        """Connected again, a device that was turned away goes on waiting."""
        if self._machine.state is State.AWAY:
            self._alarm.at = self._away_until

    def come_back(self, now: float) -> None:
        """Why it was turned away may be gone: another roster may name this device."""
        if self._machine.state is State.AWAY:
            self._alarm.anew(RETRY_S, now)
            self._away_until = self._alarm.at
