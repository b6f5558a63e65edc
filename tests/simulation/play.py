"""Lets a history happen, then lets the world go quiet, and says what is wrong."""

import hashlib
from functools import partial

from aggregator.bandwidth import BandwidthConfig
from aggregator.scheduling.buffered import Buffered
from aggregator.scheduling.rounds import Rounds
from aggregator.task_config import StalenessConfig, StrategyConfig, TaskConfig
from device_sdk.pending import PENDING, Pending
from device_sdk.trainer import Assignment
from protocol.stream import derive
from protocol.vectors.packing import parse_codec
from simulator import SimulatedDevice, World
from tests.simulation.audit import Audit
from tests.simulation.faults import break_something, meddle
from tests.simulation.history import (
    AdvanceTime,
    Deliver,
    Drop,
    Duplicate,
    History,
    Join,
    Leave,
    Operation,
    Reorder,
)
from tests.simulation.training import MODEL, OneHot

#: Fewer devices than this can make no version (quorum and ``min_contributors``).
QUORUM = 2
#: Without faults, every device must have been served again within so many virtual seconds.
PATIENCE_S = 400.0
#: A training takes one of these; a lease runs for `LEASE_TTL_S`.
DURATIONS_S = (0.3, 1.0, 2.0, 5.0, 9.0, 26.0)
LEASE_TTL_S = 20


def config(history: History) -> TaskConfig:
    """Return settings under which everything happens within a minute."""
    return TaskConfig(
        task="sim",
        model=MODEL,
        codec=history.codec,
        mode=history.mode,
        buffered=Buffered(goal=3, concurrency=3, max_wait_s=15.0, min_contributors=QUORUM),
        rounds=Rounds(size=3, over_selection=1.3, quorum=QUORUM, deadline_s=12.0, gather_s=2.0),
        staleness=StalenessConfig(rule="constant"),
        strategy=StrategyConfig(name="fedbuff"),
        normalise="goal",
        weigh_by_samples=False,
        max_staleness=2 if history.mode == "buffered" else 0,
        bandwidth=bandwidth(history),
        lease_ttl_s=LEASE_TTL_S,
        chunk_patience_s=3.0,
        check_in_s=6,
    )


def bandwidth(history: History) -> BandwidthConfig:
    """Return how models go down: with differences now and then whole, in either of two ways."""
    if history.downlink == "none":
        return BandwidthConfig(differences="none", model="float32")
    every, model = ((2, "int8"), (6, "float16"))[history.seed % 2]
    return BandwidthConfig(differences=history.downlink, model=model, keyframe_every=every)


class Player:
    """One history in one world."""

    def __init__(self, history: History) -> None:
        self.history = history
        seed = history.seed.to_bytes(32, "little", signed=False)
        self.world = World(config(history), seed, max_packet_bytes=history.packet_bytes)
        self.trainer = OneHot(2 if parse_codec(history.codec).contractive else 1)
        self.audit = Audit(self.world, self.trainer)
        self.gone: set[str] = set()
        self._seed = seed
        self._num_trainings = 0

    def run(self) -> str:
        """Play it and check everything; return the digest of what came out."""
        for operation in self.history.operations:
            self.perform(operation)
            self.audit.check_bounds()
        self._settle()
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

    def perform(self, operation: Operation) -> None:
        match operation:
            case Join(name):
                self._join(name)
            case Leave(name):
                self._leave(name)
            case AdvanceTime(seconds):
                self.world.run_for(seconds)
            case Deliver() | Drop() | Duplicate() | Reorder():
                meddle(self.world.broker, operation)
            case _:
                break_something(self.world, operation, self._living())

    def _join(self, name: str) -> None:
        if name in self.world.devices:
            return
        device = self.world.add(
            name,
            self.trainer,
            self._duration,
            storage=self.trainer.storage(),
            retry_first_s=3.0,
            retry_cap_s=12.0,
        )
        device.closed = partial(self._closed, device)

    def _closed(self, device: SimulatedDevice, pending: Pending, counted: bool) -> None:  # noqa: FBT001 - the hook's
        self.audit.closed(device.name, pending, counted=counted)

    def _leave(self, name: str) -> None:
        if len(self._living()) <= QUORUM or name not in self._living():
            return
        self.gone.add(name)
        self.world.devices[name].lose_power(down_s=None)

    def _living(self) -> list[str]:
        return [name for name in self.world.devices if name not in self.gone]

    def _duration(self, _assignment: Assignment) -> float:
        self._num_trainings += 1
        drawn = derive(self._seed, "duration", self._num_trainings)
        return DURATIONS_S[drawn[0] % len(DURATIONS_S)]

    # --- going quiet -------------------------------------------------------------------------

    def _settle(self) -> None:
        """Let time pass without new faults until all is settled and everybody served again."""
        for name in "yz":
            if len(self._living()) < QUORUM:
                self._join(name)
        audit = self.audit
        open_ids = set(audit.journalled)
        wanted = {
            name: audit.outcomes.get(name, 0) + 1 + (PENDING in self.world.devices[name].storage)
            for name in self._living()
        }

        def is_settled() -> bool:
            served = all(audit.outcomes.get(name, 0) >= count for name, count in wanted.items())
            return served and open_ids <= audit.counted | audit.refused

        settled = self.world.run_until(is_settled, PATIENCE_S)
        assert settled, f"stuck: {self._stuck(wanted, open_ids)}"

    def _stuck(self, wanted: dict[str, int], open_ids: set[bytes]) -> str:
        starved = {
            name: session.state.value if (session := device.session) else "no session"
            for name, device in self.world.devices.items()
            if self.audit.outcomes.get(name, 0) < wanted.get(name, 0)
        }
        coordinator = self.world.server.coordinator
        waiting = coordinator.waiting_for(self.world.now) if coordinator else "the aggregator"
        unsettled = [each.hex() for each in open_ids - self.audit.counted - self.audit.refused]
        return f"devices {starved}; unsettled {unsettled}; waiting for {waiting}"


def play(history: History) -> str:
    """Play a history; raise AssertionError or whatever else went wrong; return the digest."""
    return Player(history).run()
