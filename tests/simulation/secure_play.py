"""Lets a secure history happen, then lets everything heal, and says what is wrong."""

import hashlib
from collections.abc import Mapping
from functools import partial

from aggregator.robust.config import RobustConfig
from aggregator.scheduling.buffered import Buffered
from aggregator.scheduling.rounds import Rounds
from aggregator.secure_config import Enrolment
from aggregator.task_config import StalenessConfig, TaskConfig
from device_sdk.pending import Pending
from device_sdk.trainer import Assignment
from protocol.codec import encode, open_envelope
from protocol.identity import Signer
from protocol.messages import AGGREGATOR
from protocol.secagg.messages import RecoveryRequest
from protocol.secagg.parameters import MIN_GROUPS
from protocol.secagg.requests import make_request, request_hash
from protocol.secagg.roster import Roster
from protocol.stream import derive
from simulator import SimulatedDevice, World
from tests.simulation.faults import break_something, meddle
from tests.simulation.history import (
    AdvanceTime,
    Deliver,
    Drop,
    Duplicate,
    Join,
    Leave,
    Reorder,
)
from tests.simulation.secure_audit import SecureAudit
from tests.simulation.secure_enrolment import (
    TASK,
    Operator,
    device_keys,
    everybody,
    secure_config,
)
from tests.simulation.secure_generate import NAMES
from tests.simulation.secure_history import (
    Ask,
    NextRoster,
    Replay,
    Rollback,
    SecureHistory,
    SecureOperation,
)
from tests.simulation.secure_service import Service
from tests.simulation.secure_training import SAMPLES_CAP, Trainings
from tests.simulation.training import MODEL

#: Fewer devices than this are never left.
FEWEST = 2
#: So long after the next roster was laid down the epoch before is over, whatever is missing: it
#: drains for a minute, and once more if the last fault that was asked for strikes only then.
DRAINED_S = 60.0 + 60.0 + 15.0
#: A training takes one of these; a lease runs for `LEASE_TTL_S`.
DURATIONS_S = (1.0, 4.0, 9.0, 13.0, 26.0)
LEASE_TTL_S = 20


def config(history: SecureHistory) -> TaskConfig:
    """Return settings under which everything happens within a minute."""
    fewest = max(history.numbers.malicious + 2, MIN_GROUPS * history.group)
    goal = fewest + 1
    return TaskConfig(
        task=TASK,
        model=MODEL,
        codec="dense/float32",
        mode=history.mode,
        buffered=Buffered(
            goal=goal, concurrency=goal + 1, max_wait_s=15.0, min_contributors=fewest
        ),
        rounds=Rounds(size=goal, over_selection=1.3, quorum=fewest, deadline_s=12.0, gather_s=2.0),
        staleness=StalenessConfig(rule=history.staleness),
        robust=RobustConfig(group=history.group, rule="mean"),
        weigh_by_samples=history.weighted,
        samples_cap=SAMPLES_CAP,
        max_staleness=2 if history.mode == "buffered" else 0,
        lease_ttl_s=LEASE_TTL_S,
        chunk_patience_s=3.0,
        check_in_s=6,
    )


class SecurePlayer:
    """One history in one world. Devices that are rolled back count as malicious."""

    def __init__(self, history: SecureHistory) -> None:
        self.history = history
        seed = history.seed.to_bytes(32, "little", signed=False)
        task = config(history)
        secure = secure_config(history)
        self.operator = Operator(history, task)
        self._aggregator = everybody(1).aggregator
        rosters = (self.operator.sign(),)
        enrolment = Enrolment(secure, self._aggregator, everybody(1).enrolment, rosters)
        self.world = World(task, seed, max_packet_bytes=history.packet_bytes, enrolment=enrolment)
        self.trainings = Trainings()
        self.audit = SecureAudit(self.world, secure.codec, self.trainings)
        self.audit.holders.rosters[self.operator.newest.hash] = self.operator.newest
        self.gone: set[str] = set()
        self._copies: dict[str, dict[str, bytes]] = {}
        self._seed = seed
        self._num_trainings = 0

    def run(self) -> str:
        """Play it and check everything; return the digest of what came out."""
        rolled = {each.device for each in self.history.operations if isinstance(each, Rollback)}
        assert len(rolled) <= self.history.numbers.malicious
        self.audit.holders.malicious = self.audit.plaintexts.malicious = frozenset(rolled)
        for operation in self.history.operations:
            self.perform(operation)
        self._settle()
        self.world.run_until(lambda: self.world.server.coordinator is not None, LEASE_TTL_S)
        self.audit.check()
        return self.digest()

    def digest(self) -> str:
        """Return a hash over the model, the counted ids, the clock and every device's storage."""
        store = self.world.server.store
        newest = store.snapshot().version
        assert newest is not None
        state = [newest.params, store.counted_ids(), self.world.now]
        state += [sorted(device.storage.items()) for device in self.world.devices.values()]
        return hashlib.sha256(repr(state).encode()).hexdigest()

    def perform(self, operation: SecureOperation) -> None:
        match operation:
            case Join(name):
                self._join(name)
            case Leave(name):
                self._leave(name)
            case AdvanceTime(seconds):
                self.world.run_for(seconds)
            case Deliver() | Drop() | Duplicate() | Reorder():
                meddle(self.world.broker, operation)
            case NextRoster():
                self._next_roster()
            case Replay(index):
                self._replay(index)
            case Ask():
                self._ask(operation)
            case Rollback(name, down_s) if name in self._living():
                self._roll_back(name, down_s)
            case Rollback():
                pass
            case _:
                break_something(self.world, operation, self._living())

    # --- devices -----------------------------------------------------------------------------

    def _join(self, name: str) -> None:
        if name in self.world.devices:
            return
        device = self.world.add(
            name,
            self.trainings.trainer(name),
            self._duration,
            storage=self.audit.storage(name),
            retry_first_s=3.0,
            retry_cap_s=12.0,
            keys=device_keys(name, founder=name in NAMES[: self.history.numbers.devices]),
        )
        device.closed = partial(self._closed, device)

    def _closed(self, device: SimulatedDevice, pending: Pending, counted: bool) -> None:  # noqa: FBT001 - the hook's
        if device.name not in self.audit.holders.malicious:
            self.audit.closed(device.name, pending, counted=counted)

    def _leave(self, name: str) -> None:
        if len(self._living()) <= FEWEST or name not in self._living():
            return
        self.gone.add(name)
        self.world.devices[name].lose_power(down_s=None)

    def _living(self) -> list[str]:
        return [name for name in self.world.devices if name not in self.gone]

    def _duration(self, _assignment: Assignment) -> float:
        self._num_trainings += 1
        drawn = derive(self._seed, "duration", self._num_trainings)
        return DURATIONS_S[drawn[0] % len(DURATIONS_S)]

    def _roll_back(self, name: str, down_s: float) -> None:
        device = self.world.devices[name]
        if name not in self._copies:
            self._copies[name] = dict(device.storage)
            return
        device.lose_power(down_s=down_s)
        device.storage.clear()
        device.storage.update(self._copies[name])

    # --- the operator, and whoever has the aggregator's key ------------------------------------

    def _next_roster(self) -> bool:
        """Lay down the next roster; switch on who is new in it."""
        signed = self.operator.make_next(self.world, self._living())
        if signed is None:
            return False
        newest = self.operator.newest
        self.audit.holders.rosters[newest.hash] = newest
        self.world.server.lay_down(signed)
        for member in newest.members:
            self._join(member.device)
        return True

    def _replay(self, index: int) -> None:
        holders = self.audit.holders
        log = holders.log if index % 8 else holders.rare
        if log:
            topic, payload = log[-1 - index % len(log)]
            self.world.broker.publish(topic, payload, qos=1, retain=False)

    def _ask(self, ask: Ask) -> None:
        holders = self.audit.holders
        roster, masks = self._asked(ask)
        if not masks:
            return
        group = 1 + ask.holders % 4 if self.history.group else 0
        request = make_request(roster, masks, self._aggregator, group=group)
        holders.forged[request_hash(request)] = request
        for index, member in enumerate(roster.members):
            if ask.holders >> index & 1:
                topic = self.world.topics.into(member.device)
                payload = self._forged(topic, request)
                self.world.broker.publish(topic, payload, qos=1, retain=False)

    def _forged(self, topic: str, request: RecoveryRequest) -> bytes:
        """Return a request as the next message of the aggregator on a topic."""
        heard = (payload for to, payload in self.audit.holders.log if to == topic)
        newest = max((open_envelope(payload).counter for payload in heard), default=0)
        signer = Signer(self._aggregator, self.world.topics.prefix)
        return encode(
            request,
            task=TASK,
            sender=AGGREGATOR,
            counter=newest + 1,
            sign=signer.on(topic),
            key_id=signer.key_id,
        )

    def _asked(self, ask: Ask) -> tuple[Roster, Mapping[int, int]]:
        """Return the masks of an earlier request or of the newest dealt, but for one."""
        holders = self.audit.holders
        roster = self.operator.newest
        dealt = holders.dealt.get(roster.hash, {})
        most = roster.parameters.max_contributors
        known = [*holders.requests.values(), *holders.forged.values()]
        masks = dict(sorted(dealt.items())[:most])
        if known and ask.base:
            roster, asked, _ = holders.named(known[-1 - ask.base % len(known)])
            masks = dict(asked)
        if ask.change % 2 and masks:
            for dealer in sorted(masks)[: 1 + ask.change // 2]:
                del masks[dealer]
        elif ask.change:
            others = [(dealer, mask) for dealer, mask in dealt.items() if dealer not in masks]
            masks.update(others[: most - len(masks)][:1])
        return roster, masks

    # --- healing -----------------------------------------------------------------------------

    def _settle(self) -> None:
        """Let time pass without new faults until all is settled and everybody served again."""
        for name in NAMES[: self.history.numbers.devices]:
            self._join(name)
        self.world.run_for(LEASE_TTL_S)
        self._expect_service()
        before = self.audit.open_ids
        if not self._next_roster():
            return
        over = self.world.run_until(lambda: not before & self.audit.open_ids, DRAINED_S)
        assert over, f"its epoch is over and updates are open: {before & self.audit.open_ids}"
        self._expect_service()

    def _expect_service(self) -> None:
        """Expect it, unless somebody with the aggregator's key, or old copies, uses masks up."""
        if not any(isinstance(each, Ask | Rollback) for each in self.history.operations):
            Service(self.audit, self._living(), self.operator.newest).expect()


def play_secure(history: SecureHistory) -> str:
    """Play a history; raise AssertionError or whatever else went wrong; return the digest."""
    return SecurePlayer(history).run()
