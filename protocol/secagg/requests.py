"""What the aggregator may ask a holder for: the sum of one mask each of enough distinct devices.

The rules of DESIGN section 4 that can be checked from the request and the roster alone; what a
holder has answered before is its own to know (`device_sdk.secagg`).
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

from protocol import refusals
from protocol.codec import pack, unpack
from protocol.errors import RemoteProtocolError
from protocol.messages import HASH_BYTES, MAX_COHORT, Hash, Limit, MaskCounter, Members, Word
from protocol.secagg import keys
from protocol.secagg.messages import RecoveryRequest
from protocol.secagg.roster import Roster


@dataclass(frozen=True, slots=True)
class _Body:
    task: Word
    roster_hash: Hash
    epoch: Annotated[int, Limit(1, 1 << 31)]
    members: Members
    counters: Annotated[tuple[MaskCounter, ...], Limit(0, MAX_COHORT)]
    weights: Annotated[tuple[Annotated[int, Limit(-1_000, 1_000)], ...], Limit(0, MAX_COHORT)]


def make_request(
    roster: Roster, masks: Mapping[int, int], aggregator_secret: bytes
) -> RecoveryRequest:
    """Return the signed request for the sum of ``masks`` (dealer's index -> mask counter)."""
    members = tuple(sorted(masks))
    counters = tuple(masks[member] for member in members)
    body = pack(
        _Body(roster.task, roster.hash, roster.epoch, members, counters, (1,) * len(members))
    )
    return RecoveryRequest(body, keys.sign(aggregator_secret, keys.REQUEST, body))


def request_hash(request: RecoveryRequest) -> bytes:
    """Return the 32 bytes by which a request is known."""
    return hashlib.blake2b(request.body, digest_size=HASH_BYTES).digest()


def check_request(request: RecoveryRequest, roster: Roster) -> Mapping[int, int]:
    """Return the masks asked for (dealer's index -> counter) if a holder may answer at all.

    Raises RemoteProtocolError: ``bad_signature``, ``wrong_roster``, ``malformed``, or
    ``wrong_members`` for too few or too many, out of order, twice, unknown, or weighted.
    """
    keys.check_signature(roster.aggregator, keys.REQUEST, request.body, request.signature)
    body = unpack(request.body, _Body)
    if (body.task, body.roster_hash, body.epoch) != (roster.task, roster.hash, roster.epoch):
        raise RemoteProtocolError(refusals.WRONG_ROSTER, "a request for another roster")
    members, given = body.members, roster.parameters
    if not len(members) == len(body.counters) == len(body.weights):
        raise RemoteProtocolError(refusals.WRONG_MEMBERS, "not a mask and a weight a member")
    if list(members) != sorted(set(members)):
        raise RemoteProtocolError(refusals.WRONG_MEMBERS, "members must be sorted, each once")
    if not given.min_contributors <= len(members) <= given.max_contributors:
        raise RemoteProtocolError(
            refusals.WRONG_MEMBERS,
            f"{len(members)} members, allowed are {given.min_contributors} to"
            f" {given.max_contributors}",
        )
    if members[-1] >= len(roster.members):
        raise RemoteProtocolError(refusals.WRONG_MEMBERS, "a member that the roster does not name")
    if set(body.weights) != {1}:
        raise RemoteProtocolError(refusals.WRONG_MEMBERS, "the policy is weight 1 for everybody")
    return dict(zip(members, body.counters, strict=True))
