"""Whom a rule compares: a bounded number, however many wait. Pure."""

from collections.abc import Sequence
from typing import Final

from aggregator.scheduling.rules import Knowledge, Moment

#: A rule that compares devices looks at so many at once, drawn at random ...
MAX_CANDIDATES: Final = 256
#: ... for so many seats; for more it is asked again.
MAX_SEATS: Final = 64


def candidates(
    known: Knowledge, sites: Sequence[str], num_seats: int, moment: Moment
) -> tuple[list[str], int]:
    """Return devices of these sites that may be chosen, and how many at the front must be."""
    open_sites = set(sites)
    queues = known.queues
    must = known.turns.due(
        count=num_seats,
        per_version=moment.per_version,
        is_open=lambda device: queues.site(device) in open_sites,
    )
    drawn = queues.sample(sites, MAX_CANDIDATES, known.stream)
    return list(dict.fromkeys([*must, *drawn])), len(must)
