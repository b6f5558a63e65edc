"""A device's part in secure aggregation: the machine that a session of a secure task owns.

It is dealer of its own masks (`dealing`), holder of others' shares (`holding`), and masks what was
trained (`masking`), all under one roster (`membership`); or takes part in rounds (`pairwise`). No
I/O, no clock, no entropy; the time is an argument.

- Masks are dealt while no update waits for its receipt, so that what a dealer names is what it has.
- A request is answered once: the answer is stored, the shares are erased, then it is sent.
"""

import math
from collections import Counter
from collections.abc import Mapping
from typing import Any, Final, TypeVar, get_args

import numpy as np
import numpy.typing as npt

from device_sdk.actions import Action
from device_sdk.budget import Budget
from device_sdk.evidence import Evidence
from device_sdk.holding import Conflict
from device_sdk.identity import Keys
from device_sdk.masking import choose, make_masked
from device_sdk.membership import Membership, Seat
from device_sdk.pending import Pending, Residual
from device_sdk.spending import Spending
from device_sdk.voice import Voice
from protocol import refusals
from protocol.actions import Publish, Subscribe
from protocol.codec import decode, pack
from protocol.errors import RemoteProtocolError
from protocol.messages import AGGREGATOR, CHUNK_BYTES, Lease
from protocol.secagg.messages import (
    AnyMessage,
    RecoveryAnswer,
    RecoveryRefusal,
    RecoveryRequest,
    RoundTold,
    Shares,
    SharesWanted,
    SignedRoster,
    Support,
)
from protocol.secagg.requests import open_request, request_hash
from protocol.secagg.roster import Roster
from protocol.secagg.sealing import Committed
from protocol.topics import Address, Kind, Topics
from protocol.vectors.packing import CodecSpec, parse_codec

#: Receipts are gathered for so long, so that one message answers several dealers.
GATHER_S: Final = 0.2
#: After so many requests for a lease or a receipt without one, all is said again.
_PATIENCE: Final = 4

_UNANSWERED: Final = frozenset({refusals.BAD_SIGNATURE, refusals.MALFORMED})

Float32 = npt.NDArray[np.float32]
M = TypeVar("M")


#: What the aggregator tells a member, beside what it tells every device.
ToMember = SharesWanted | RecoveryRequest | RoundTold


class Member:
    """Events in, actions out. ``seed`` is 32 secret bytes of this start, used for nothing else.

    ``voice`` and ``counts`` are the session's. At most ``stock`` masks are dealt ahead, at most
    ``max_share_bytes`` of shares are held.
    """

    told: Final[tuple[type[ToMember], ...]] = get_args(ToMember)

    def __init__(
        self,
        topics: Topics,
        keys: Keys,
        *,
        stored: Mapping[str, bytes],
        seed: bytes,
        stock: int,
        max_share_bytes: int,
        voice: Voice,
        counts: Counter[str],
    ) -> None:
        self.timer_at = math.inf
        self._topics = topics
        self._keys = keys
        self._stock = stock
        self._voice = voice
        self._counts = counts
        self._evidence = Evidence(stored, counts)
        self._spending = Spending(stored)
        self._budget = Budget()
        self._membership = Membership(
            keys,
            stored=stored,
            seed=seed,
            max_share_bytes=max_share_bytes,
            evidence=self._evidence,
            counts=counts,
        )
        self._online = False
        self._heard_roster = self._is_subscribed = False
        self._room_bytes = CHUNK_BYTES
        self._support: Support | None = None
        self._num_saturated = 0
        self._unsaid: dict[tuple[int, int], None] = {}
        self._says_all = self._says_dealt = False
        self._num_asked = 0

    @property
    def in_rounds(self) -> bool:
        """Whether a mask is for one round, and lost with it."""
        return self._membership.rounds is not None

    @property
    def epoch(self) -> int:
        """The epoch of the present roster, 0 without one."""
        return self._membership.epoch

    @property
    def birth(self) -> Mapping[str, Any]:
        """What the device's birth says beside."""
        return self._membership.birth

    # --- the connection ----------------------------------------------------------------------

    def start(self) -> list[Action]:
        """Return what must be stored or forgotten before anything is said."""
        return self._membership.start()

    def connected(self, room_bytes: int, now: float) -> list[Action]:
        """The bus is there; a message of the device's may have so many bytes."""
        self._online, self._heard_roster = True, False
        self._room_bytes = room_bytes
        self.say_all_again(now)
        if not self._is_subscribed:
            self._is_subscribed = True
            return self._subscribe()
        return [Subscribe((self._topics.roster(self._keys.cohort),), retained=True)]  # heard anew

    def disconnected(self) -> None:
        """The bus is gone."""
        self._online = False
        self.timer_at = math.inf

    def say_all_again(self, now: float) -> None:
        """Whoever listens may have forgotten: soon say all that is held and at hand."""
        self._says_all = self._says_dealt = True
        self._say_soon(now)

    def unserved(self, now: float) -> list[Action]:
        """The device asks once more for a lease or a receipt: perhaps something got lost.

        After the 4th, the 8th, the 16th time, ... all is said again, and the roster asked for.
        """
        self._num_asked += 1
        if self._num_asked < _PATIENCE or self._num_asked.bit_count() > 1:
            return []
        self.say_all_again(now)
        return self._subscribe()

    def _subscribe(self) -> list[Action]:
        return [
            Subscribe((self._topics.shares_to(self._keys.device),)),
            Subscribe(self._topics.member_news_filters(self._keys.cohort), retained=True),
        ]

    def timer(self, now: float) -> list[Action]:
        """`timer_at` has come: say what is held."""
        seat = self._membership.seat
        if now < self.timer_at:
            return []
        self.timer_at = math.inf
        if not self._online or seat is None:
            return []
        named = None if self._says_all else tuple(self._unsaid)
        self._says_all = False
        self._unsaid.clear()
        return [self._tell(holdings) for holdings in seat.holder.holdings(named, self._room_bytes)]

    # --- what it hears -----------------------------------------------------------------------

    def heard(self, address: Address, payload: bytes, now: float) -> list[Action]:
        """A roster, a support or shares arrived. Raises RemoteProtocolError."""
        match address.kind:
            case Kind.ROSTER:
                return self._hear_roster(self._decode(payload, SignedRoster), now)
            case Kind.SUPPORT:
                self._support = self._decode(payload, Support)
                return []
            case Kind.SHARE:
                return self._hear_shares(address, payload, now)
        raise RemoteProtocolError(refusals.WRONG_KIND, f"{address.kind.name} to a device")

    def asked(self, message: ToMember) -> list[Action]:
        """The aggregator asks for shares again, an answer, or a word in a round.

        Raises RemoteProtocolError.
        """
        match message:
            case SharesWanted():
                return self._deal_again(message)
            case RecoveryRequest():
                return self._answer(message)
        actions, said = self._membership.in_rounds().told(message)
        return actions if said is None else [*actions, self._tell(said)]

    def _hear_roster(self, signed: SignedRoster, now: float) -> list[Action]:
        before = self._membership.seat
        actions = self._membership.follow(signed)
        self._heard_roster = self._heard_roster or self._membership.follows(signed)
        if self._membership.seat is not before:
            self._unsaid.clear()
            self.say_all_again(now)
        return actions

    def _hear_shares(self, address: Address, payload: bytes, now: float) -> list[Action]:
        seat = self._membership.seated()
        dealer = seat.roster.index(address.device)
        if dealer is None or address.to != self._keys.device or dealer == seat.index:
            raise RemoteProtocolError(refusals.WRONG_SENDER, f"shares from {address.device!r}")
        self._budget.admit(dealer, now)
        shares = decode(payload, (Shares,), task=self._topics.task, sender=address.device)
        batch = seat.boxes.open(shares, dealer)
        self._budget.charge(dealer, len(batch.batch.counters), now)
        return self._keep(seat, batch, now)

    def _keep(self, seat: Seat, batch: Committed, now: float) -> list[Action]:
        masks, actions = seat.holder.keep(batch)
        self._unsaid.update(dict.fromkeys(masks))
        self._say_soon(now)
        return actions

    # --- dealing -----------------------------------------------------------------------------

    def stock_up(self, now: float) -> list[Action]:
        """Deal what the stock lacks; call it while no update waits for its receipt.

        Once that is half of it: the more masks share a box, the fewer bytes each takes.
        Not before the roster was heard since the bus is there: it may be another one by now.
        """
        seat = self._membership.seat
        if seat is None or not self._online or not self._heard_roster:
            return []
        stock = max(1, min(self._stock, seat.dealer.most(self._room_bytes)))
        lacking = stock - len(seat.dealer)
        actions = self._deal(seat, lacking, now) if 2 * lacking >= stock else []
        dealt = seat.dealer.dealt(self._room_bytes)
        if dealt is None or not (actions or self._says_dealt):
            return actions
        self._says_dealt = False
        return [*actions, self._tell(dealt)]

    def _deal(self, seat: Seat, num_masks: int, now: float) -> list[Action]:
        """The device's own shares are stored like others'; those of the others leave sealed."""
        try:
            batches = seat.dealer.deal(num_masks, self._room_bytes)
        except RemoteProtocolError as error:  # a share that no message can carry
            self._counts[f"dealing_refused_{error.reason}"] += 1
            return []
        self._counts["masks_dealt"] += num_masks
        actions: list[Action] = []
        for batch in batches.pop(seat.index):
            actions += self._keep_own(seat, batch, now)
        sealed = [self._sealed(seat, batch) for holder in batches.values() for batch in holder]
        return [*actions, *sealed]

    def _keep_own(self, seat: Seat, batch: Committed, now: float) -> list[Action]:
        try:
            return self._keep(seat, batch, now)
        except RemoteProtocolError as error:  # no room: the others hold theirs
            self._counts[f"refused_{error.reason}"] += 1
            return []

    def _sealed(self, seat: Seat, batch: Committed) -> Publish:
        holder = seat.roster.members[batch.batch.holder].device
        topic = self._topics.share(holder, self._keys.device)
        return self._voice.whisper(topic, seat.dealer.seal(batch))

    def _deal_again(self, wanted: SharesWanted) -> list[Action]:
        seat = self._membership.seated()
        if wanted.roster_hash != seat.roster.hash:
            raise RemoteProtocolError(refusals.WRONG_ROSTER, "shares of another roster wanted")
        if wanted.holder == seat.index or wanted.holder >= len(seat.roster.members):
            raise RemoteProtocolError(refusals.WRONG_MEMBERS, f"no holder {wanted.holder}")
        batches = seat.dealer.again(wanted.holder, wanted.counters, self._room_bytes)
        return [self._sealed(seat, batch) for batch in batches]

    # --- masking -----------------------------------------------------------------------------

    def check_lease(self, lease: Lease) -> None:
        """Raise RemoteProtocolError for a lease that this device must not train for."""
        roster = self._membership.place().roster
        self._codec(roster, lease)
        self._spending.check(roster.parameters)
        self._num_asked = 0
        if lease.mask_epoch != roster.epoch:
            raise RemoteProtocolError(
                refusals.WRONG_ROSTER, f"epoch {lease.mask_epoch}, not {roster.epoch}"
            )

    def mask(
        self,
        lease: Lease,
        delta: Float32,
        num_samples: int,
        residual: Residual | None,
        *,
        staleness: int,
    ) -> Pending | None:
        """Return the masked update of ``delta`` (finite); None: there is no mask or support yet.

        In rounds the mask is there once the dealers are known. ``staleness`` counts the versions
        that were made while this one was trained.

        Spends a mask, and privacy: `spent` must be durable before the update leaves. Raises
        RemoteProtocolError: as `check_lease`, ``wrong_shape``, ``oversize``.
        """
        place = self._membership.place()
        roster = place.roster
        codec = self._codec(roster, lease)
        chosen = choose(self._topics.task, codec, self._support, delta.size)
        if chosen is None:
            return None
        kept = delta.size if chosen.indices is None else chosen.indices.size
        if kept + 1 != roster.parameters.size:
            raise RemoteProtocolError(
                refusals.WRONG_SHAPE, f"{kept} values, the roster is for another model"
            )
        self._spending.check(roster.parameters)
        mask = place.take()
        if mask is None:
            return None
        self._spending.spend(roster.parameters)
        pending, num_saturated = make_masked(
            lease,
            codec,
            delta,
            num_samples,
            staleness=staleness,
            chosen=chosen,
            roster=roster,
            mask=mask,
            residual=residual,
        )
        self._num_saturated += num_saturated
        # Telemetry is everybody's: how many values of one device were cut, it says roughly.
        self._counts["saturated_values"] = _rounded_up(self._num_saturated)
        return pending

    @property
    def has_spent(self) -> bool:
        """Whether this device may send no more updates: its privacy budget is spent."""
        try:
            roster = self._membership.place().roster
        except RemoteProtocolError:  # there is none yet
            return False
        return self._spending.is_over(roster.parameters)

    def spent(self) -> list[Action]:
        """Return what must be stored before the update that was masked last leaves."""
        return self._spending.kept()

    def _codec(self, roster: Roster, lease: Lease) -> CodecSpec:
        codec = parse_codec(lease.codec)
        if codec.dtype != roster.parameters.scheme:
            self._counts["unmasked_leases"] += not codec.masked
            raise RemoteProtocolError(refusals.WRONG_CODEC, f"{codec} in a secure task")
        return codec

    # --- answering ---------------------------------------------------------------------------

    def _answer(self, request: RecoveryRequest) -> list[Action]:
        seat = self._membership.seated()
        hashed = request_hash(request)
        try:
            asked = open_request(request, seat.roster)
            elements, actions = seat.holder.answer(request, hashed, asked)
        except Conflict as conflict:
            first = b"" if conflict.earlier is None else pack(conflict.earlier)
            kept = self._evidence.keep("requests", first, pack(request))
            return [*kept, self._refuse(hashed, refusals.MASK_USED, str(conflict))]
        except RemoteProtocolError as error:
            if error.reason in _UNANSWERED:
                raise
            self._counts[f"refused_{error.reason}"] += 1
            return [self._refuse(hashed, error.reason, error.detail)]
        if seat.index in asked.buffer:
            seat.dealer.drop(asked.buffer[seat.index])  # summed before it was used: never use it
        self._counts["answers"] += bool(actions)
        return [*actions, self._tell(RecoveryAnswer(hashed, elements))]

    def _refuse(self, hashed: bytes, reason: str, detail: str) -> Publish:
        return self._tell(RecoveryRefusal(hashed, reason, detail[:200]))

    # --- small things ------------------------------------------------------------------------

    def _decode(self, payload: bytes, kind: type[M]) -> M:
        return decode(payload, (kind,), task=self._topics.task, sender=AGGREGATOR)

    def _tell(self, message: AnyMessage) -> Publish:
        """Return a message for the aggregator."""
        return self._voice.tell(message)

    def _say_soon(self, now: float) -> None:
        if self._online:
            self.timer_at = min(self.timer_at, now + GATHER_S)


def _rounded_up(count: int) -> int:
    """Return the next power of two, or 0."""
    return 1 << (count - 1).bit_length() if count else 0
