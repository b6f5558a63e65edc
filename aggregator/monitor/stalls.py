"""Which cohorts can make no sum before the operator has signed their next roster. Pure.

A roster's numbers stay as they are signed. So a cohort from which devices are kept out may have too
few left: to answer for masks, which a quarantined device may still do if it is not cut off, or to
fill a buffer.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from aggregator.cohorts import Cohort
from aggregator.records import Standing
from protocol.secagg.parameters import MIN_COHORT, PAIRWISE


@dataclass(frozen=True, slots=True)
class Stall:
    """Of one cohort: of so many devices ``left`` as may do what is missing, ``needed`` must.

    ``kept_out`` names the others; so many are ``to_enrol`` before there can be a roster without
    them, and ``goal_at_most`` is what a buffer may then wait for; 0: it waits for no more now.
    """

    what: str
    left: int
    needed: int
    kept_out: tuple[str, ...]
    to_enrol: int
    goal_at_most: int

    def waits_for(self, cohort: str) -> str:
        """Return, for a person, what the next version waits for."""
        return (
            f"the next roster of cohort {cohort}: {self.left} of its devices may {self.what},"
            f" {self.needed} must"
        )


def stall_of(
    cohort: Cohort, standings: Mapping[str, Standing], smallest_buffer: int
) -> Stall | None:
    """Return why a cohort can make no sum; None if it can.

    ``standings`` has the devices that are not admitted, those of which nothing is heard as revoked;
    no buffer of the task is closed with fewer than ``smallest_buffer`` updates.
    """
    parameters = cohort.roster.parameters
    names = [member.device for member in cohort.roster.members]
    excluded = {names[index] for index in cohort.excluded}
    mute = {name for name in names if standings.get(name) is Standing.REVOKED} | excluded
    idle = {name for name in names if name in standings} | excluded
    num_answers = (
        parameters.num_noise + 1 if parameters.scheme == PAIRWISE else parameters.num_answers
    )
    for what, lost, needed in (
        ("answer", mute, num_answers),
        ("contribute", idle, max(parameters.fewest_updates, smallest_buffer)),
    ):
        left = len(names) - len(lost)
        if left < needed:
            num_after = max(left, MIN_COHORT)
            goal_at_most = num_after if num_after < parameters.max_contributors else 0
            return Stall(
                what, left, needed, tuple(sorted(lost)), max(0, MIN_COHORT - left), goal_at_most
            )
    return None
