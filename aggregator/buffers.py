"""Where updates wait for a step: what the coordinator asks of buffers, and the plain ones.

Plain buffers hold one running sum; secure ones (`aggregator.secagg`) hold masked sums, and need an
answer from the devices before they are one. Either way a closed buffer ends as an `Outcome`.
"""

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

import numpy as np

from aggregator.actions import Action
from aggregator.admission import admit, read_delta
from aggregator.buffer import Buffer, Float64
from aggregator.leases import Lease
from aggregator.participation import Participation
from aggregator.privacy.central import Central
from aggregator.robust.groups import GroupMean
from aggregator.robust.history import History, Seen
from aggregator.robust.root import RootDelta
from aggregator.robust.rows import Row, RowBuffer, capped
from aggregator.task_config import TaskConfig
from protocol.secagg.messages import Dealt, Holdings, RecoveryAnswer, RecoveryRefusal, RoundSaid
from protocol.vectors.layout import Layout
from protocol.vectors.packing import SparseDelta, parse_codec
from protocol.vectors.support import support_seed

#: What members of a secure task say; each kind of buffers (``said``) understands a part of it.
SecureMessage = Dealt | Holdings | RecoveryAnswer | RecoveryRefusal | RoundSaid


class Fill(NamedTuple):
    """How full the open buffer is; ``opened_at`` None: nothing has begun."""

    num_updates: int
    num_contributors: int
    opened_at: float | None


@dataclass(frozen=True, slots=True, eq=False)
class Outcome:
    """A buffer that is done: the mean delta of its updates, or the reason why there is none.

    What plain buffers know beside: ``samples`` of each device's update (1 where they do not
    count); ``deltas``, (device, delta) of each update, for strategies that keep them; by group of
    `aggregator.strata`, ``weights`` and ``means`` (how many updates, their mean delta); ``seen``,
    each update's length and claim, for `aggregator.robust.history`; ``kept``, what a robust rule
    left of each device's update, from 0 to 1; ``alert``, what a person should know of it.
    """

    ids: tuple[bytes, ...]
    mean: Float64 | None
    reason: str = ""
    samples: Mapping[str, int] = field(default_factory=dict)
    deltas: tuple[tuple[str, SparseDelta], ...] = ()
    weights: Mapping[int, float] = field(default_factory=dict)
    means: Mapping[int, tuple[int, Float64]] = field(default_factory=dict)
    groups: tuple[GroupMean, ...] = ()
    seen: tuple[Seen, ...] = ()
    kept: tuple[tuple[str, float], ...] = ()
    alert: str = ""


class Buffers(Protocol):
    """What the coordinator needs of either kind."""

    def __len__(self) -> int:
        """Return how many updates wait, whatever for."""

    @property
    def fill(self) -> Fill:
        """The open buffer with the most updates."""

    @property
    def fills(self) -> Sequence[Fill]:
        """Every open buffer; without one, that which the next update would go to."""

    def holds_up(self, now: float) -> bool:
        """Whether the next round waits for the outcome of a closed buffer."""

    def waiting_for(self) -> str:
        """Return, for a person, what it waits for beside updates; empty: nothing."""

    def open(self, now: float) -> None:
        """Begin, before the first update: a round has opened."""

    def take(self, lease: Lease, data: bytes, version: int, now: float) -> None:
        """Check an update and take it. Raises RemoteProtocolError and changes nothing."""

    def close(self, is_due: Callable[[Fill], bool], now: float) -> list[Action]:
        """Close what is due; what became of it will be among `outcomes`."""

    def outcomes(self) -> list[Outcome]:
        """Take what is done."""


class PlainBuffers:
    """One buffer, in the clear: closed, it is done. ``participation`` weighs devices.

    It is a running sum, unless a robust rule has to see single updates; ``history`` says what is
    usual of them, ``root`` what is trusted (FLTrust). ``central`` bounds updates and adds noise to
    their sum; None: neither.
    """

    def __init__(
        self,
        config: TaskConfig,
        layout: Layout,
        participation: Participation,
        history: History,
        *,
        central: Central | None = None,
        root: RootDelta | None = None,
    ) -> None:
        self._central = central
        self._sees_rows = config.robust.sees_rows
        self._sums = Buffer(layout.size)
        self._rows = RowBuffer(config.robust, layout.size, history, root)
        self._history = history
        self._seen: list[Seen] = []
        self._config = config
        self._layout = layout
        self._participation = participation
        self._codec = config.uplink
        self._strategy = config.strategy.strategy()
        self._samples: dict[str, int] = {}
        self._deltas: list[tuple[str, SparseDelta]] = []
        self._weigh = config.staleness_weight()
        self._opened_at: float | None = None
        self._done: deque[Outcome] = deque()

    @property
    def _buffer(self) -> Buffer | RowBuffer:
        return self._rows if self._sees_rows else self._sums

    def __len__(self) -> int:
        return len(self._buffer)

    @property
    def fill(self) -> Fill:
        """How full the buffer is."""
        return Fill(len(self._buffer), len(self._buffer.devices), self._opened_at)

    @property
    def fills(self) -> Sequence[Fill]:
        """There is only one."""
        return [self.fill]

    def holds_up(self, now: float) -> bool:  # noqa: ARG002 - others look at it
        """Never: nothing has to be recovered."""
        return False

    def waiting_for(self) -> str:
        """Nothing but updates."""
        return ""

    def open(self, now: float) -> None:
        """Begin, before the first update."""
        if self._opened_at is None:
            self._opened_at = now

    def take(self, lease: Lease, data: bytes, version: int, now: float) -> None:
        """Check an update and take it into the sum. Raises RemoteProtocolError."""
        config = self._config
        update, staleness = admit(
            data,
            leased_version=lease.record.version,
            leased_codec=lease.record.codec,
            version=version,
            limit=config.staleness_limit,
        )
        codec = self._codec if update.codec == str(self._codec) else parse_codec(update.codec)
        seed = support_seed(config.task, update.base_version)
        delta = read_delta(update, codec, self._layout, seed)
        if config.selection.sees_norms:
            lease.norm = float(np.linalg.norm(delta.values.astype(np.float64)))
        device, participation = lease.record.device, self._participation
        weight = self._weigh(staleness) * participation.weight(device, version, staleness)
        claim = 1
        if config.weigh_by_samples:
            claim = min(max(1, update.num_samples), config.samples_cap)
        strategy = self._strategy
        group = participation.group(device, version, staleness) if strategy.strata else 0
        row = Row(lease.lease_id, device, delta, weight, claim, group)
        if self._sees_rows:
            self._rows.add(row)
        else:
            self._sum(row)
        if strategy.caches:
            self._deltas.append((device, delta))
        self.open(now)

    def _sum(self, row: Row) -> None:
        samples = capped(row.claim, self._config.robust, self._history.usual_samples())
        weight = row.weight * samples
        delta = row.delta if self._central is None else self._central.bounded(row.delta, weight)
        is_weighed = self._central is not None
        self._sums.add(
            row.lease_id, row.device, delta, weight, group=row.group, is_weighed=is_weighed
        )
        self._samples[row.device] = samples
        if self._config.weigh_by_samples:
            self._seen.append(Seen(0.0, row.claim))

    def close(self, is_due: Callable[[Fill], bool], now: float) -> list[Action]:  # noqa: ARG002
        """Close the buffer if it is due."""
        if is_due(self.fill):
            self._done.append(self._judged() if self._sees_rows else self._summed())
            self._buffer.clear()
            self._samples, self._deltas, self._seen = {}, [], []
            self._opened_at = None
        return []

    def _summed(self) -> Outcome:
        sums, strata = self._sums, self._strategy.strata
        return Outcome(
            tuple(sums.ids),
            self._mean(),
            samples=self._samples,
            deltas=tuple(self._deltas),
            weights=sums.weights if strata else {},
            means=sums.means() if strata else {},
            seen=tuple(self._seen),
        )

    def _mean(self) -> Float64:
        sums, normalise = self._sums, self._config.normalise
        if self._central is None:
            return sums.mean(normalise)
        return self._central.released(sums.total, len(sums)) / sums.divisor(normalise)

    def _judged(self) -> Outcome:
        judged = self._rows.judged(by_number=self._config.normalise == "goal")
        strata, robust = self._strategy.strata, self._config.robust
        alert = ""
        if judged.left_out > robust.alert_share:
            alert = f"{robust.rule} left out {judged.left_out:.0%} of {len(self)} updates"
        return Outcome(
            tuple(self._rows.ids),
            judged.vector,
            samples=judged.samples,
            deltas=tuple(self._deltas),
            weights=judged.weights if strata else {},
            means=judged.means if strata else {},
            seen=judged.seen,
            kept=judged.kept,
            alert=alert,
        )

    def outcomes(self) -> list[Outcome]:
        """Take what is done."""
        done = list(self._done)
        self._done.clear()
        return done
