"""How good the groups of a step would have been alone, and what that says of their devices.

The models are made here, tried by the shell, and judged by `aggregator.robust.group_watch`.
"""

from collections.abc import Sequence

from aggregator.buffers import Outcome
from aggregator.conduct.book import Book
from aggregator.conduct.evidence import GROUP_INFLUENCE, WEIGHTS
from aggregator.records import Standing
from aggregator.refusing import Refusing
from aggregator.robust.group_watch import Candidates, GroupWatch, Trial
from aggregator.versions import Versions
from protocol.vectors.layout import Subset


class GroupTrials:
    """Of the newest step only; those of the one before are given up if nobody took them."""

    def __init__(self, trained: Subset, conduct: Book, refusing: Refusing) -> None:
        self._trained = trained
        self._conduct = conduct
        self._refusing = refusing
        #: Whether anybody will try them; to nobody no models are offered.
        self.are_wanted = False
        self._watch = GroupWatch()
        self._candidates: Candidates | None = None

    def offer(self, outcome: Outcome, versions: Versions) -> None:
        """A buffer is about to be counted: its groups are what may be tried."""
        self._candidates = None
        if not (self.are_wanted and outcome.groups):
            return
        params, before = versions.params, versions.trained
        means = ((each.devices, (before + each.mean).astype("<f4")) for each in outcome.groups)
        models = ((devices, self._trained.replaced(params, moved)) for devices, moved in means)
        self._candidates = Candidates(params, tuple(models))

    def take(self) -> Candidates | None:
        """Take the groups of the newest step, to say how good each would be."""
        candidates, self._candidates = self._candidates, None
        return candidates

    def tried(self, trials: Sequence[Trial]) -> None:
        """So good the groups of a step were; after many, it is known who does harm."""
        for device, sure in self._watch.seen(trials).items():
            if self._conduct.hold(device, GROUP_INFLUENCE, sure):
                self._refusing.show(device, GROUP_INFLUENCE, WEIGHTS[GROUP_INFLUENCE].meaning)
            if self._conduct.standing(device) is not Standing.ADMITTED:
                self._watch.forget(device)  # should it be released, what it did is forgotten
