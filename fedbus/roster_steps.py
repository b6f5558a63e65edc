"""What an operator runs so that a cohort gets another roster. Pure: only text.

Devices take what stands in a roster from nobody but the operator, so that a change there needs
another signature, and each device's key for the next epoch.
"""

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from protocol.errors import ConfigError

if TYPE_CHECKING:
    from aggregator.secure_config import RosterMismatchError

#: Where `fedbus enrol collect` is told to write.
_KEYS: Final = "next-keys.json"
_DEFAULT_COHORT: Final = "all"


def next_roster(
    config: str,
    folder: str,
    *,
    cohort: str,
    remove: Sequence[str] = (),
    to_enrol: int = 0,
    goal_at_most: int = 0,
) -> list[str]:
    """Return the steps to a cohort's next roster, in order.

    ``config`` is the settings' file, ``folder`` the enrolment's. So many devices are ``to_enrol``
    first, for a cohort that would be too small; ``goal_at_most``: so many are left then, and a
    buffer waits for more; 0: it does not.
    """
    place = str(Path(folder).parent)
    here = "" if place == "." else f" --dir {shlex.quote(place)}"
    config, folder = shlex.quote(config), shlex.quote(folder)
    name = "" if cohort == _DEFAULT_COHORT else f" --cohort {cohort}"
    gone = "".join(f" --remove {device}" for device in remove)
    steps = [
        f"fedbus enrol collect -c {config}{name} --out {_KEYS}",
        f"fedbus enrol next {folder} -c {config}{name} --keys {_KEYS}{gone}",
    ]
    if to_enrol:
        steps.insert(
            0, f"fedbus enrol DEVICE...{here}   ({to_enrol} more, or the cohort is too small)"
        )
    if not goal_at_most:
        return steps
    key = "task.buffered.goal (in rounds: task.rounds.size)"
    return [
        f"set {key} to {goal_at_most} or less in {config}",
        *steps,
        f"stop the aggregator, and: fedbus aggregator run -c {config}",
    ]


def explained(error: "RosterMismatchError", config: Path) -> ConfigError:
    """Return the error with the commands that mend it, in order; ``config`` is the settings' file.

    Where the operator's folder is elsewhere, DIR stands for it.
    """
    place, file = config.parent / "enrolment", shlex.quote(str(config))
    is_here = place.is_dir()
    carried = "" if is_here else "   (then its roster into secure.rosters)"
    folder = str(place) if is_here else "DIR"
    collect, sign = next_roster(str(config), folder, cohort=_DEFAULT_COHORT)
    lines = (
        f"{config}: {error}.",
        "What is signed for all devices changes by a new roster only. Change it back, or:",
        f"  1. {collect}",
        f"  2. {sign}{carried}",
        f"  3. fedbus aggregator run -c {file}",
        "If keys are missing at 1: change it back, run the aggregator until all devices have been",
        "online (`fedbus status`), stop it, make the change again, and begin at 1.",
        f"If no device was ever started: fedbus init NEW --from {file} begins anew.",
    )
    return ConfigError("\n".join(lines))
