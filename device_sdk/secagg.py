"""A device's part in secure aggregation: the machine that a session of a secure task owns.

It is dealer of its own masks (`dealing`), holder of others' shares (`holding`), and masks what was
trained (`masking`), all under one roster. No I/O, no clock, no entropy; the time is an argument.

- The roster is what the enrolment key signed, of the highest epoch seen; with it change all shares,
  answers and keys.
- Masks are dealt while no update waits for its receipt, so that what a dealer names is what it has.
- A request is answered once: the answer is stored, the shares are erased, then it is sent.
"""

import math
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeVar

import numpy as np
import numpy.typing as npt

from device_sdk.actions import Action, Delete, Store
from device_sdk.answers import ANSWER, USED
from device_sdk.dealing import Dealer
from device_sdk.epochs import EpochKeys
from device_sdk.evidence import Evidence
from device_sdk.holding import SHARE, Conflict, Holder
from device_sdk.identity import Keys
from device_sdk.masking import choose, make_masked
from device_sdk.pending import Pending, Residual
from protocol import refusals
from protocol.actions import Publish, Subscribe
from protocol.codec import decode, pack, unpack
from protocol.errors import RemoteProtocolError
from protocol.messages import (
    AGGREGATOR,
    CHUNK_BYTES,
    Lease,
    Message,
    RecoveryAnswer,
    RecoveryRefusal,
    RecoveryRequest,
    Shares,
    SharesWanted,
    SignedRoster,
    Support,
)
from protocol.secagg import keys as signing
from protocol.secagg.requests import check_request, request_hash
from protocol.secagg.roster import Roster, open_roster
from protocol.secagg.sealing import ShareBatch, open_shares
from protocol.stream import derive
from protocol.topics import Address, Kind, Topics
from protocol.vectors.packing import CodecSpec, parse_codec

#: Where the roster is stored.
ROSTER: Final = "roster"
#: Receipts are gathered for so long, so that one message answers several dealers.
GATHER_S: Final = 0.2

#: The schemes whose shares are handed out beforehand, which is what this machine does.
HANDED_OUT: Final = ("seedmask", "lightsecagg")
_OF_AN_EPOCH: Final = (SHARE, ANSWER, USED)
_UNANSWERED: Final = frozenset({refusals.BAD_SIGNATURE, refusals.MALFORMED})

Float32 = npt.NDArray[np.float32]
M = TypeVar("M")
Say = Callable[[str, Message, Callable[[bytes], bytes] | None], Publish]


@dataclass(slots=True, repr=False)
class _Seat:
    """The device's place in the present roster."""

    roster: Roster
    index: int
    epoch_secret: bytes
    dealer: Dealer
    holder: Holder


class Member:
    """Events in, actions out. ``seed`` is 32 secret bytes of this start, used for nothing else.

    ``say`` makes a message of the device's for a topic, with a signature or None. ``counts`` is
    the session's. At most ``stock`` masks are dealt ahead, ``max_share_bytes`` of shares held.
    """

    def __init__(
        self,
        topics: Topics,
        keys: Keys,
        *,
        stored: Mapping[str, bytes],
        seed: bytes,
        stock: int,
        max_share_bytes: int,
        say: Say,
        counts: Counter[str],
    ) -> None:
        self.timer_at = math.inf
        self._topics = topics
        self._keys = keys
        self._seed = seed
        self._stock = stock
        self._max_share_bytes = max_share_bytes
        self._say = say
        self._counts = counts
        self._epochs = EpochKeys(keys, stored)
        self._evidence = Evidence(stored, counts)
        self._online = self._confirmed = False
        self._room_bytes = CHUNK_BYTES
        self._signed: SignedRoster | None = None
        self._roster: Roster | None = None
        self._seat: _Seat | None = None
        self._support: Support | None = None
        self._unsaid: dict[tuple[int, int], None] = {}
        self._says_all = self._says_dealt = False
        self._stale = [key for key in stored if key.startswith(_OF_AN_EPOCH)]
        self._restore(stored)

    def _restore(self, stored: Mapping[str, bytes]) -> None:
        if ROSTER not in stored:
            return
        signed = unpack(stored[ROSTER], SignedRoster)
        try:
            roster = open_roster(signed, self._keys.enrolment)
            self._check_ours(roster)
        except RemoteProtocolError:
            return  # enrolled anew, by another key or for another cohort
        self._sit_down(signed, roster, stored)
        if self._seat is not None:
            kept = self._seat.holder.keys
            self._stale = [key for key in self._stale if key not in kept]

    @property
    def birth(self) -> Mapping[str, Any]:
        """What the device's birth says beside: its key for the next epoch."""
        if self._roster is None:
            return {}
        announced = self._epochs.announcement(self._roster.epoch + 1)
        return {"next_epoch": announced} if announced else {}

    # --- the connection ----------------------------------------------------------------------

    def start(self) -> list[Action]:
        """Return what must be stored or forgotten before anything is said."""
        actions: list[Action] = [Delete(key) for key in self._stale]
        if self._roster is not None:
            actions += self._epochs.move_to(self._roster.epoch, self._draw("epoch key"))
        return actions

    def connected(self, room_bytes: int, now: float) -> list[Action]:
        """The bus is there; a message of the device's may have so many bytes."""
        self._online, self._confirmed = True, False
        self._room_bytes = room_bytes
        self.say_all_again(now)
        return [Subscribe(self._topics.member_filters(self._keys.device, self._keys.cohort))]

    def disconnected(self) -> None:
        """The bus is gone."""
        self._online = False
        self.timer_at = math.inf

    def say_all_again(self, now: float) -> None:
        """Whoever listens may have forgotten: soon say all that is held and at hand."""
        self._says_all = self._says_dealt = True
        self._say_soon(now)

    def timer(self, now: float) -> list[Action]:
        """`timer_at` has come: say what is held."""
        if now < self.timer_at:
            return []
        self.timer_at = math.inf
        if not self._online or self._seat is None:
            return []
        named = None if self._says_all else tuple(self._unsaid)
        self._says_all = False
        self._unsaid.clear()
        return [self._to_aggregator(said) for said in self._seat.holder.holdings(named)]

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

    def asked(self, message: SharesWanted | RecoveryRequest) -> list[Action]:
        """The aggregator asks for shares again, or for an answer. Raises RemoteProtocolError."""
        if isinstance(message, SharesWanted):
            return self._deal_again(message)
        return self._answer(message)

    def _hear_roster(self, signed: SignedRoster, now: float) -> list[Action]:
        if signed == self._signed:
            self._confirmed = True
            return []
        roster = open_roster(signed, self._keys.enrolment)
        self._check_ours(roster)
        before = self._roster
        if before is not None and self._signed is not None and roster.epoch <= before.epoch:
            if roster.epoch < before.epoch:
                self._counts["rosters_gone_back"] += 1
                raise RemoteProtocolError(refusals.WRONG_ROSTER, f"epoch {roster.epoch} is over")
            if roster.hash != before.hash:
                return self._evidence.keep("rosters", pack(self._signed), pack(signed))
            return []
        erased = [] if self._seat is None else [Delete(key) for key in self._seat.holder.keys]
        self._sit_down(signed, roster, {})
        self._confirmed = True
        self.say_all_again(now)
        return [
            Store(ROSTER, pack(signed)),
            *self._epochs.move_to(roster.epoch, self._draw("epoch key")),
            *erased,
        ]

    def _check_ours(self, roster: Roster) -> None:
        if (roster.task, roster.cohort) != (self._keys.task, self._keys.cohort):
            raise RemoteProtocolError(refusals.WRONG_ROSTER, "another task's or cohort's")
        if roster.parameters.scheme not in HANDED_OUT:
            raise RemoteProtocolError(refusals.WRONG_CODEC, "a scheme that works in rounds")

    def _sit_down(self, signed: SignedRoster, roster: Roster, stored: Mapping[str, bytes]) -> None:
        """Take the place that a roster gives; without one, the epoch passes without this device."""
        self._signed, self._roster, self._seat = signed, roster, None
        self._unsaid.clear()
        index = roster.index(self._keys.device)
        secret = self._epochs.secret(roster.epoch)
        if index is None or secret is None:
            return
        member = roster.members[index]
        public = (signing.identity_public(self._keys.identity), signing.epoch_public(secret))
        if (member.identity, member.epoch_key) != public:
            return
        dealer = Dealer(
            roster,
            index,
            identity=self._keys.identity,
            epoch_secret=secret,
            seed=self._draw("dealer"),
        )
        holder = Holder(
            roster, index, stored=stored, max_bytes=self._max_share_bytes, counts=self._counts
        )
        self._seat = _Seat(roster, index, secret, dealer, holder)

    def _hear_shares(self, address: Address, payload: bytes, now: float) -> list[Action]:
        shares = decode(payload, (Shares,), task=self._topics.task, sender=address.device)
        seat = self._seated()
        dealer = seat.roster.index(address.device)
        if dealer is None or address.to != self._keys.device or dealer == seat.index:
            raise RemoteProtocolError(refusals.WRONG_SENDER, f"shares from {address.device!r}")
        batch = open_shares(
            seat.roster, shares, dealer=dealer, holder=seat.index, epoch_secret=seat.epoch_secret
        )
        return self._keep(seat, batch, now)

    def _keep(self, seat: _Seat, batch: ShareBatch, now: float) -> list[Action]:
        masks, actions = seat.holder.keep(batch)
        self._unsaid.update(dict.fromkeys(masks))
        self._say_soon(now)
        return actions

    # --- dealing -----------------------------------------------------------------------------

    def stock_up(self, now: float) -> list[Action]:
        """Deal what the stock lacks; call it while no update waits for its receipt.

        Not before the roster was heard since the bus is there: it may be another one by now.
        """
        seat = self._seat
        if seat is None or not self._online or not self._confirmed:
            return []
        actions = []
        if len(seat.dealer) < self._stock:
            actions = self._deal(seat, self._stock - len(seat.dealer), now)
        dealt = seat.dealer.dealt()
        if dealt is None or not (actions or self._says_dealt):
            return actions
        self._says_dealt = False
        return [*actions, self._to_aggregator(dealt)]

    def _deal(self, seat: _Seat, num_masks: int, now: float) -> list[Action]:
        """The device's own shares are stored like others'; those leave sealed."""
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

    def _keep_own(self, seat: _Seat, batch: ShareBatch, now: float) -> list[Action]:
        try:
            return self._keep(seat, batch, now)
        except RemoteProtocolError as error:  # no room: the others hold theirs
            self._counts[f"refused_{error.reason}"] += 1
            return []

    def _sealed(self, seat: _Seat, batch: ShareBatch) -> Publish:
        holder = seat.roster.members[batch.holder].device
        topic = self._topics.share(holder, self._keys.device)
        return self._say(topic, seat.dealer.seal(batch), None)

    def _deal_again(self, wanted: SharesWanted) -> list[Action]:
        seat = self._seated()
        if wanted.roster_hash != seat.roster.hash:
            raise RemoteProtocolError(refusals.WRONG_ROSTER, "shares of another roster wanted")
        if wanted.holder == seat.index or wanted.holder >= len(seat.roster.members):
            raise RemoteProtocolError(refusals.WRONG_MEMBERS, f"no holder {wanted.holder}")
        batches = seat.dealer.again(wanted.holder, wanted.counters, self._room_bytes)
        return [self._sealed(seat, batch) for batch in batches]

    # --- masking -----------------------------------------------------------------------------

    def check_lease(self, lease: Lease) -> None:
        """Raise RemoteProtocolError for a lease that this device must not train for."""
        seat = self._seated()
        self._codec(seat, lease)
        if lease.mask_epoch != seat.roster.epoch:
            raise RemoteProtocolError(
                refusals.WRONG_ROSTER, f"epoch {lease.mask_epoch}, not {seat.roster.epoch}"
            )

    def mask(
        self, lease: Lease, delta: Float32, num_samples: int, residual: Residual | None
    ) -> Pending | None:
        """Return the masked update of ``delta`` (finite); None: there is no mask or support yet.

        Each call spends a mask. Raises RemoteProtocolError: as `check_lease`, ``wrong_shape``,
        ``oversize``.
        """
        seat = self._seated()
        codec = self._codec(seat, lease)
        chosen = choose(self._topics.task, codec, self._support, delta.size)
        if chosen is None:
            return None
        kept = delta.size if chosen.indices is None else chosen.indices.size
        if kept + 1 != seat.roster.parameters.size:
            raise RemoteProtocolError(
                refusals.WRONG_SHAPE, f"{kept} values, the roster is for another model"
            )
        mask = seat.dealer.take()
        if mask is None:
            return None
        pending, num_saturated = make_masked(
            lease,
            codec,
            delta,
            num_samples,
            chosen=chosen,
            roster=seat.roster,
            mask=mask,
            residual=residual,
        )
        self._counts["saturated_values"] += num_saturated
        return pending

    def _codec(self, seat: _Seat, lease: Lease) -> CodecSpec:
        codec = parse_codec(lease.codec)
        if codec.dtype != seat.roster.parameters.scheme:
            self._counts["unmasked_leases"] += not codec.masked
            raise RemoteProtocolError(refusals.WRONG_CODEC, f"{codec} in a secure task")
        return codec

    # --- answering ---------------------------------------------------------------------------

    def _answer(self, request: RecoveryRequest) -> list[Action]:
        seat = self._seated()
        hashed = request_hash(request)
        try:
            masks = check_request(request, seat.roster)
            elements, actions = seat.holder.answer(request, hashed, tuple(masks.items()))
        except Conflict as conflict:
            first = b"" if conflict.earlier is None else pack(conflict.earlier)
            kept = self._evidence.keep("requests", first, pack(request))
            return [*kept, self._refuse(hashed, refusals.MASK_USED, str(conflict))]
        except RemoteProtocolError as error:
            if error.reason in _UNANSWERED:
                raise
            self._counts[f"refused_{error.reason}"] += 1
            return [self._refuse(hashed, error.reason, error.detail)]
        if seat.index in masks:
            seat.dealer.drop(masks[seat.index])  # summed before it was used: never use it
        self._counts["answers"] += bool(actions)
        return [*actions, self._to_aggregator(RecoveryAnswer(hashed, elements))]

    def _refuse(self, hashed: bytes, reason: str, detail: str) -> Publish:
        return self._to_aggregator(RecoveryRefusal(hashed, reason, detail[:200]))

    # --- small things ------------------------------------------------------------------------

    def _seated(self) -> _Seat:
        if self._roster is None:
            raise RemoteProtocolError(refusals.WRONG_ROSTER, "no roster yet")
        if self._seat is None:
            raise RemoteProtocolError(refusals.NOT_ENROLLED, f"epoch {self._roster.epoch}")
        return self._seat

    def _decode(self, payload: bytes, kind: type[M]) -> M:
        return decode(payload, (kind,), task=self._topics.task, sender=AGGREGATOR)

    def _to_aggregator(self, message: Message) -> Publish:
        return self._say(self._topics.out(self._keys.device), message, self._sign)

    def _sign(self, data: bytes) -> bytes:
        return signing.sign(self._keys.identity, signing.ENVELOPE, data)

    def _say_soon(self, now: float) -> None:
        if self._online:
            self.timer_at = min(self.timer_at, now + GATHER_S)

    def _draw(self, purpose: str) -> bytes:
        """Return the next 32 secret bytes; those before cannot be found from what remains."""
        drawn, self._seed = derive(self._seed, purpose), derive(self._seed, "next")
        return drawn
