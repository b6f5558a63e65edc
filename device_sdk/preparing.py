"""From a lease to an assignment: the model that it names and the plan are brought together."""

from device_sdk.actions import Action, Train
from device_sdk.asking import Asking
from device_sdk.fetch import RETRY_S, Fetch
from device_sdk.parts import Parts
from device_sdk.states import State
from protocol import refusals
from protocol.actions import Subscribe
from protocol.errors import ConfigError, RemoteProtocolError
from protocol.messages import DifferenceChunk, Lease, ModelChunk
from protocol.stream import derive
from protocol.vectors.packing import parse_codec


class Preparing:
    """A device that can put no model together asks for a whole one, by ``asking``."""

    def __init__(self, parts: Parts, asking: Asking) -> None:
        self._alarm = parts.alarm
        self._asking = asking
        self._check_ins = parts.check_ins
        self._counts = parts.counts
        self._gate = parts.gate
        self._install_id = parts.install_id
        self._machine = parts.machine
        self._member = parts.member
        self._outgoing = parts.outgoing
        self._seed = parts.seed
        self._topics = parts.topics
        self._work = parts.work

    # --- what comes --------------------------------------------------------------------------

    def leased(self, lease: Lease, now: float) -> list[Action]:
        """A lease came, perhaps for another installation, or late. Raises RemoteProtocolError."""
        if lease.install_id != self._install_id:
            return []
        if self._machine.state is not State.IDLE and not self._is_helped_by(lease):
            return []
        if self._outgoing.is_closed(lease.lease_id) or self._work.is_unfit:
            return []  # a late copy: its update has been settled, or there will be none
        self._check(lease)
        fetch = self._work.fetch
        left: list[Action] = [] if fetch is None else [*fetch.leave()]
        self._work.begin(lease, now)
        if self._machine.state is State.IDLE:
            self._machine.step("lease")
        begun = self.train(now) if self._work.fetch is None else self.ask(now)
        return [*left, *begun]

    def _is_helped_by(self, lease: Lease) -> bool:
        """Whether the model of a lease is published whole for who is stuck.

        It is the same lease, or the next one if the aggregator has given that one up.
        """
        fetch = self._work.fetch
        if self._machine.state is not State.FETCHING or fetch is None or not fetch.is_stuck:
            return False
        return lease.version >= self._work.lease.version

    def _check(self, lease: Lease) -> None:
        try:
            codec = parse_codec(lease.codec)
        except ConfigError as error:
            raise RemoteProtocolError(refusals.WRONG_CODEC, str(error)) from None
        if self._member is not None:
            self._member.check_lease(lease)
        elif codec.masked:
            raise RemoteProtocolError(refusals.WRONG_CODEC, "masked, and this device has no keys")

    def chunk(self, chunk: ModelChunk | DifferenceChunk, now: float) -> list[Action]:
        """A part of a model came, perhaps of another one, perhaps the last part."""
        fetch = self._work.fetch
        if fetch is None or not fetch.awaits(chunk):
            return []
        self._alarm.after(fetch.patience_s, now)
        fetch.add(chunk)
        return self.train(now)

    # --- what does not come --------------------------------------------------------------------

    def timer(self, now: float) -> list[Action]:
        """Nothing came for as long as one waits."""
        fetch = self._work.fetch
        if now >= self._work.ends_at:
            return self._give_up(fetch)
        if fetch is not None and not fetch.is_complete and fetch.silent():
            self._fall_back(fetch)
        return self.ask(now)

    def ask(self, now: float) -> list[Action]:
        """The model, or a plan that fits it, is not here: both are retained somewhere."""
        fetch = self._work.fetch
        if fetch is None or fetch.is_complete:
            self._alarm.after(RETRY_S, now)
            return [Subscribe((self._topics.plan(),), retained=True)]
        self._alarm.after(fetch.next_retry_s(), now)
        return [self._asking.ask_whole()] if fetch.is_stuck else [*fetch.ask(self._topics)]

    def _fall_back(self, fetch: Fetch) -> None:
        self._counts["fetches_failed"] += 1
        fetch.fall_back()

    def _give_up(self, fetch: Fetch | None) -> list[Action]:
        self._machine.step("lease ran out")
        self._counts["leases_lost"] += 1
        self._work.fetch = None
        if fetch is None:
            return []
        self._check_ins.is_unreachable = fetch.is_stuck or fetch.is_silent or fetch.is_spoilt
        return [*fetch.leave()]

    # --- when all is here --------------------------------------------------------------------

    def train(self, now: float) -> list[Action]:
        """Train if a lease, its model and the plan are all here."""
        fetch, fetched = self._work.fetch, list[Action]()
        if self._machine.state is not State.FETCHING:
            return []
        if fetch is not None and fetch.is_complete:
            fetched = self._fetched(fetch, now)
        if not self._work.is_complete:
            return fetched
        lease_id = self._work.lease.lease_id
        assignment = self._work.assignment(derive(self._seed, "training", lease_id))
        if assignment is None:
            self._counts["refused_wrong_shape"] += 1  # plan and model change one after the other
            return fetched
        self._machine.step("model")
        self._alarm.off()
        kept = [*self._gate.kept(), *self._work.kept()]
        return [*fetched, *kept, Train(lease_id, assignment, self._work.ends_at)]

    def _fetched(self, fetch: Fetch, now: float) -> list[Action]:
        """All of a model is here: it is put together, or fetched on another way."""
        try:
            if not self._work.put_together(self._topics.task):
                self._alarm.after(RETRY_S, now)
                return []
        except RemoteProtocolError as error:
            self._counts[f"refused_{error.reason}"] += 1
            was_last = not fetch.needs_plan
            self._fall_back(fetch)
            return [] if was_last else self.ask(now)
        self._check_ins.is_unreachable = False
        self._alarm.after(RETRY_S, now)
        return [*fetch.leave()]
