"""How a model reaches devices: whole, or as differences from what they hold.

The line of published versions, and for each device the cheapest way along it. A version is reached
from one that is published whole, its *keyframe*, by the differences since; or by the differences
since the version that the device holds. What is needed for the one or the other stays published,
and everything else is cleared:

- of each version that is among the newest few, or that a running lease names: its keyframe, and
  the differences since;
- older differences, as long as a device that comes back pays less for them than for a whole model;
- nothing for versions beyond `REACH`. A device that still wants one gets another lease.

The hidden state that goes with it (`protocol.vectors.hidden`) is made again from what is published
after a restart.

A codec may take a number to the other side of what it is to become. Of a running variance that
could be zero or below, and the model would predict NaN: such a fall waits for a later version,
whose scale is finer. Pure.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from itertools import chain
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from aggregator.bandwidth import NONE, BandwidthConfig
from aggregator.records import Published, VersionRecord
from aggregator.statistics import LEAST_PART, Flags
from protocol.codec import pack, unpack
from protocol.errors import LocalProtocolError
from protocol.messages import MAX_DIFFERENCES, Difference
from protocol.topics import SHELVES, Kind
from protocol.vectors.hidden import (
    DIFFERENCES,
    FLOAT32,
    advanced,
    difference,
    model_from_bytes,
    model_hash,
    model_to_bytes,
    parse_downlink,
)
from protocol.vectors.layout import Subset
from protocol.vectors.packing import CodecSpec

#: Versions that are older by so many are not published, whoever would like to have them: they and
#: the way to them are not to meet newer ones on their shelves.
REACH: Final = SHELVES - MAX_DIFFERENCES
#: What a message costs beside the bytes it carries: topic, envelope, subscription.
MESSAGE_BYTES: Final = 128

Float32 = npt.NDArray[np.float32]
#: What is published: `Kind.MODEL` or `Kind.DIFFERENCE`, and the version.
Place = tuple[Kind, int]


class Route(NamedTuple):
    """How a version is reached; the fields are those of `protocol.messages.Lease`."""

    model_hash: bytes
    model_bytes: int
    keyframe: int
    model: str
    base: int


@dataclass(slots=True)
class _Step:
    """A version as it is published; ``full`` and ``difference`` may be empty.

    ``is_params``: its full are the version's params, which a store keeps for a while only.
    """

    model: str
    full: bytes
    difference: bytes
    is_params: bool
    model_hash: bytes = b""

    @property
    def cost(self) -> int:
        """What its difference costs a device, in bytes."""
        return len(self.difference) + MESSAGE_BYTES


class Downlink:
    """The published versions of one task; ``hidden`` is what holders of the newest one hold.

    ``variances``: which of the trained numbers are above 0 and have to stay so; None: of none.
    """

    def __init__(
        self,
        config: BandwidthConfig,
        subset: Subset,
        task: str,
        variances: Flags | None = None,
    ) -> None:
        self.hidden: Float32 = np.zeros(0, np.float32)
        self._variances = np.zeros(subset.layout.size, np.bool_) if variances is None else variances
        self._config = config
        self._codec = None if config.differences == NONE else parse_downlink(config.differences)
        self._subset = subset
        self._task = task
        self._steps: dict[int, _Step] = {}
        self._newest = -1
        self._keyframes: set[int] = set()
        self._differences: set[int] = set()
        self._asked_for: dict[int, bytes] = {}
        self._bases: dict[int, int] = {}

    @property
    def needs(self) -> frozenset[str]:
        """The words that a device must say to be served."""
        always_whole = self._codec is None or self._config.keyframe_every == 1
        plain = always_whole and self._config.model == FLOAT32
        return frozenset() if plain else frozenset({DIFFERENCES})

    # --- the line ----------------------------------------------------------------------------

    def restore(
        self,
        newest: VersionRecord,
        published: Mapping[int, Published],
        params: Mapping[int, bytes],
        needed: Iterable[int],
    ) -> None:
        """Take up the line where a store has it; ``params`` are those that are kept, by version.

        Raises LocalProtocolError if it does not lead to the hash of ``newest``.
        """
        params = {**params, newest.version: newest.params}
        hidden: Float32 | None = None
        for version, what in sorted(published.items()):
            full = what.full or (params.get(version, b"") if what.model else b"")
            is_params = bool(full) and not what.full
            step = _Step(what.model if full else "", full, what.difference, is_params)
            hidden = self._follow(version, step, hidden)
            if hidden is not None:
                step.model_hash = model_hash(hidden)
            self._steps[version] = step
        self._newest = newest.version
        if hidden is None or self._steps[self._newest].model_hash != newest.model_hash:
            raise LocalProtocolError(f"version {newest.version} is not what was published of it")
        self.hidden = hidden
        self._keep(needed)

    def _follow(self, version: int, step: _Step, hidden: Float32 | None) -> Float32 | None:
        """Return the hidden state of a version; None where the line begins with a difference."""
        if step.full:
            return model_from_bytes(step.full, step.model, self._subset.whole)
        if hidden is None or not step.difference or version - 1 not in self._steps:
            return None
        return self._advanced(hidden, unpack(step.difference, Difference), version)

    def step(
        self, record: VersionRecord, params: Float32, needed: Collection[int]
    ) -> VersionRecord:
        """Publish a version with these exact params; return its record with what that is.

        ``needed`` are the versions that somebody may want to fetch.
        """
        step = self._steps[record.version] = self._next(record, params)
        self._newest = record.version
        self._keep(needed)
        return replace(
            record,
            model_hash=step.model_hash,
            published=Published(step.model, b"" if step.is_params else step.full, step.difference),
            published_since=min(self._keyframes | self._differences),
        )

    def _next(self, record: VersionRecord, params: Float32) -> _Step:
        model = self._config.model
        if self._codec is None and model == FLOAT32:
            self.hidden = params
            return _Step(model, record.params, b"", is_params=True, model_hash=record.model_hash)
        encoded = b""
        if self._codec is not None and self._steps:
            model = model if self._is_keyframe_due(record.version) else ""
            told, params = self._next_difference(
                self._codec, params, record.version, model or FLOAT32
            )
            encoded = pack(told)
        whole = self._subset.whole
        full = model_to_bytes(params, model, whole) if model else b""
        self.hidden = model_from_bytes(full, model, whole) if full else params
        return _Step(model, full, encoded, is_params=False, model_hash=model_hash(self.hidden))

    def _difference(
        self, codec: CodecSpec, params: Float32, version: int, model: str
    ) -> Difference:
        return difference(
            params, self.hidden, codec, self._subset, task=self._task, version=version, model=model
        )

    def _next_difference(
        self, codec: CodecSpec, params: Float32, version: int, model: str
    ) -> tuple[Difference, Float32]:
        """Return the difference to a version and the params it leads to, all variances positive.

        They fall to a tenth of themselves at most, as in `aggregator.statistics`; those that would
        fall further all the same stay. If others do then, by another scale, none falls.
        """
        take = self._subset.take
        before, wanted = take(self.hidden), take(params)
        falling = self._variances & (wanted < before)
        wanted = np.where(falling, np.maximum(wanted, LEAST_PART * before), wanted)
        held = np.zeros_like(falling)
        while True:
            aim = self._subset.replaced(params, np.where(held, before, wanted))
            told = self._difference(codec, aim, version, model)
            after = self._advanced(self.hidden, told, version)
            moved = take(after)
            too_far = falling & (moved < before) & (moved < LEAST_PART * wanted)
            if not too_far.any():
                return told, after
            held = falling if held.any() else too_far

    def _advanced(self, hidden: Float32, told: Difference, version: int) -> Float32:
        return advanced(hidden, told, self._subset, task=self._task, version=version)

    def _is_keyframe_due(self, version: int) -> bool:
        """At the latest when a newcomer would pay as much for differences as for the model."""
        keyframe = self._keyframe(version - 1)
        step = self._steps[keyframe]
        is_far = version - keyframe >= self._config.keyframe_every
        return is_far or step.is_params or self._sum(keyframe, version - 1) > len(step.full)

    # --- what is published -------------------------------------------------------------------

    def _keep(self, needed: Iterable[int]) -> None:
        """Forget what nobody needs any more."""
        known = {version for version, step in self._steps.items() if step.model_hash}
        in_reach = known.intersection(needed, range(self._newest - REACH + 1, self._newest))
        wanted = {self._newest, *in_reach}
        keyframes = {self._keyframe(version) for version in wanted}
        self._bases = {at: base for at, base in self._bases.items() if at in wanted}
        ways = [range(self._way_from(version) + 1, version + 1) for version in wanted]
        back = range(self._horizon() + 1, self._newest + 1)
        differences = set(chain(back, *ways))
        since = min(keyframes | differences)
        self._keyframes, self._differences = keyframes, differences
        self._asked_for = {at: full for at, full in self._asked_for.items() if at in wanted}
        self._steps = {version: step for version, step in self._steps.items() if version >= since}

    def _way_from(self, version: int) -> int:
        """Return from which version on a needed one must be reachable by differences."""
        return min(self._keyframe(version), self._bases.get(version, version))

    def _horizon(self) -> int:
        """Return the oldest version that a device can hold and still pays less by differences."""
        keyframe = self._keyframe(self._newest)
        whole = len(self._steps[keyframe].full) + self._sum(keyframe, self._newest)
        at, cost = self._newest, 0
        while self._newest - at < MAX_DIFFERENCES and self._has_difference(at):
            cost += self._steps[at].cost
            if cost > whole:
                break
            at -= 1
        return at

    def _has_difference(self, version: int) -> bool:
        return version in self._steps and bool(self._steps[version].difference)

    def _keyframe(self, version: int) -> int:
        """Return the newest version up to this one that is published whole."""
        while not self._steps[version].full:
            version -= 1
        return version

    @property
    def retained(self) -> dict[Place, bytes]:
        """What is to be retained at the broker: models and differences, by kind and version."""
        models = {version: self._steps[version].full for version in sorted(self._keyframes)}
        models |= self._asked_for
        differences = {at: self._steps[at].difference for at in sorted(self._differences)}
        return {
            **{(Kind.MODEL, version): full for version, full in models.items()},
            **{(Kind.DIFFERENCE, version): data for version, data in differences.items()},
        }

    def make_whole(self, version: int) -> None:
        """Publish a version that is needed whole, too; forgotten at the next restart."""
        if version in self._keyframes or version in self._asked_for:
            return
        hidden = self.held(version)
        if hidden is None:
            raise LocalProtocolError(f"version {version} is not published")
        self._asked_for[version] = model_to_bytes(hidden, FLOAT32, self._subset.whole)

    # --- for a device ------------------------------------------------------------------------

    def held(self, version: int) -> Float32 | None:
        """Return what a device holds that has fetched a version; None: that is not kept."""
        if version == self._newest:
            return self.hidden
        if version not in self._steps or not self._steps[version].model_hash:
            return None
        keyframe = self._keyframe(version)
        hidden: Float32 | None = None
        for number in range(keyframe, version + 1):
            hidden = self._follow(number, self._steps[number], hidden)
        return hidden

    def is_published(self, version: int) -> bool:
        """Whether a device can fetch this version."""
        is_known = version in self._steps and bool(self._steps[version].model_hash)
        return is_known and self._newest - version < REACH

    def route(self, version: int, held: int = -1) -> Route:
        """Return how a device gets to a version that is needed, from the one it ``held``."""
        step, keyframe = self._steps[version], self._keyframe(version)
        whole = self._steps[keyframe]
        is_cheaper = 0 <= held < version and self._cost(held, version) <= (
            len(whole.full) + self._cost(keyframe, version)
        )
        return Route(
            step.model_hash,
            len(whole.full),
            -1 if keyframe == version else keyframe,
            whole.model,
            held if is_cheaper else -1,
        )

    def lend(self, version: int, base: int) -> None:
        """A device is on its way from a version to another: what is between stays for it.

        As long as that other is needed, however many versions are made meanwhile.
        """
        if 0 <= base < self._bases.get(version, version):
            self._bases[version] = base

    def whole_route(self, version: int) -> Route:
        """Return how a device gets to a version by nothing but itself; see `make_whole`."""
        step = self._steps[version]
        full, model = step.full, step.model
        if version not in self._keyframes:
            full, model = self._asked_for[version], FLOAT32
        return Route(step.model_hash, len(full), -1, model, -1)

    def num_bytes(self, version: int, held: int = -1) -> int:
        """Return what `route` makes a device fetch, in bytes, and what that costs beside them."""
        if held == version:
            return 0
        way = self.route(version, held)
        if way.base >= 0:
            return self._sum(way.base, version)
        return way.model_bytes + self._sum(self._keyframe(version), version)

    def _cost(self, base: int, version: int) -> float:
        """Return what the differences after ``base`` cost, in bytes; infinite: some are gone."""
        numbers = range(base + 1, version + 1)
        if len(numbers) > MAX_DIFFERENCES or not self._differences.issuperset(numbers):
            return float("inf")
        return self._sum(base, version)

    def _sum(self, base: int, version: int) -> int:
        return sum(self._steps[number].cost for number in range(base + 1, version + 1))
