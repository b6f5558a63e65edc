"""What the aggregator may ask a holder for: the sum of one mask each of enough distinct devices.

Where the roster has groups, a request names a whole buffer and one of its groups; who is in that
follows from the buffer (`protocol.secagg.groups`), so that nobody can ask for another list.

The rules of DESIGN section 4 that can be checked from the request and the roster alone; what a
holder has answered before is its own to know (`device_sdk.secagg`).
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated

from protocol import refusals
from protocol.codec import pack, unpack
from protocol.errors import RemoteProtocolError
from protocol.messages import (
    ADDED,
    HASH_BYTES,
    MAX_COHORT,
    Hash,
    Limit,
    MaskCounter,
    Members,
    Word,
)
from protocol.secagg import keys
from protocol.secagg.groups import draw_groups
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
    group: Annotated[int, Limit(0, MAX_COHORT)] = field(default=0, metadata=ADDED)


@dataclass(frozen=True, slots=True)
class Asked:
    """What a request asks for. Masks are dealer's index -> counter.

    ``buffer`` has all that were closed together; ``masks`` those to be summed: of group number
    ``group``, counted from 1, or all of them where there are no groups, and ``group`` is 0.
    """

    buffer: Mapping[int, int]
    group: int
    masks: Mapping[int, int]


def make_request(
    roster: Roster, buffer: Mapping[int, int], aggregator_secret: bytes, *, group: int = 0
) -> RecoveryRequest:
    """Return the signed request for a sum of masks of ``buffer``; the arguments are as in `Asked`.

    It is the same for the same arguments.
    """
    members = tuple(sorted(buffer))
    counters = tuple(buffer[member] for member in members)
    weights = (1,) * len(members)
    body = pack(_Body(roster.task, roster.hash, roster.epoch, members, counters, weights, group))
    return RecoveryRequest(body, keys.sign(aggregator_secret, keys.REQUEST, body))


def request_hash(request: RecoveryRequest) -> bytes:
    """Return the 32 bytes by which a request is known."""
    return hashlib.blake2b(request.body, digest_size=HASH_BYTES).digest()


def named_masks(request: RecoveryRequest) -> Mapping[int, int]:
    """Return all masks that a request names, which was checked before (dealer's index -> counter).

    Raises RemoteProtocolError (``malformed``).
    """
    body = unpack(request.body, _Body)
    return dict(zip(body.members, body.counters, strict=True))


def check_request(request: RecoveryRequest, roster: Roster) -> Mapping[int, int]:
    """Return the masks to be summed (dealer's index -> counter). Raises as `open_request`."""
    return open_request(request, roster).masks


def open_request(request: RecoveryRequest, roster: Roster) -> Asked:
    """Return what is asked for, if a holder may answer at all.

    Raises RemoteProtocolError: ``bad_signature``, ``wrong_roster``, ``malformed``, or
    ``wrong_members`` for too few or too many, out of order, twice, unknown, or weighted, or for a
    group that the buffer does not have.
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
    if not given.fewest_updates <= len(members) <= given.max_contributors:
        raise RemoteProtocolError(
            refusals.WRONG_MEMBERS,
            f"{len(members)} members, allowed are {given.fewest_updates} to"
            f" {given.max_contributors}",
        )
    if members[-1] >= len(roster.members):
        raise RemoteProtocolError(refusals.WRONG_MEMBERS, "a member that the roster does not name")
    if set(body.weights) != {1}:
        raise RemoteProtocolError(refusals.WRONG_MEMBERS, "the policy is weight 1 for everybody")
    buffer = dict(zip(members, body.counters, strict=True))
    return Asked(buffer, body.group, _summed(roster, buffer, body.group))


def _summed(roster: Roster, buffer: Mapping[int, int], group: int) -> Mapping[int, int]:
    """Return the masks of one group; of everybody, where the roster has no groups."""
    if not roster.parameters.group:
        if group:
            raise RemoteProtocolError(refusals.WRONG_MEMBERS, "a group where there are none")
        return buffer
    groups = draw_groups(roster, buffer)
    if not 1 <= group <= len(groups):
        raise RemoteProtocolError(
            refusals.WRONG_MEMBERS, f"group {group} of {len(groups)}, counted from 1"
        )
    return {dealer: buffer[dealer] for dealer in groups[group - 1]}
