"""How a closed buffer is cut into groups whose sums are recovered alone.

A robust rule needs several numbers to choose between, and a masked buffer has one sum. So a cohort
may agree (`protocol.secagg.parameters.Parameters.group`) on groups of m updates: the rule then
works on group means (ALGORITHMS 16.2; Velicheti et al. 2021, "Secure Byzantine-robust distributed
learning via clustering"). Nobody may choose who is summed with whom. The order is drawn by a hash
of names that stand before the buffer is closed: the roster's, and those of the masks, which their
dealers numbered before they had a lease. Everybody computes it.
"""

import hashlib
from collections.abc import Mapping
from typing import Final

from protocol.messages import HASH_BYTES
from protocol.secagg.roster import Roster

#: Personalisation of the hash by which updates are ordered.
_PERSON: Final = b"fedbus.groups"

#: The dealers of one group, ascending.
Group = tuple[int, ...]


def draw_groups(roster: Roster, masks: Mapping[int, int]) -> tuple[Group, ...]:
    """Return the groups of a buffer of ``masks`` (dealer's index -> counter), in the order drawn.

    Each has `Parameters.group` members, the last one also what is left over; without groups there
    is one, of everybody.
    """
    order = sorted(masks, key=lambda dealer: _drawn(roster.mask_id(dealer, masks[dealer])))
    size = roster.parameters.group or len(order)
    last = max(0, len(order) // size - 1) * size
    cuts = [*range(0, last, size), last]
    ends = [*cuts[1:], len(order)]
    return tuple(tuple(sorted(order[at:end])) for at, end in zip(cuts, ends, strict=True))


def _drawn(mask_id: bytes) -> bytes:
    return hashlib.blake2b(mask_id, digest_size=HASH_BYTES, person=_PERSON).digest()
