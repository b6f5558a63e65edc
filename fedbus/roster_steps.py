"""What an operator runs when the settings and the signed roster disagree. Pure: only text.

Devices take what stands in a roster from nobody but the operator, so that a change there needs
another signature, and each device's key for the next epoch.
"""

from pathlib import Path

from aggregator.secure_config import RosterMismatchError
from fedbus.workplace import Workplace
from protocol.errors import ConfigError

#: Where `fedbus enrol collect` is told to write.
_KEYS = "next-keys.json"


def explained(error: RosterMismatchError, config: Path) -> ConfigError:
    """Return the error with the commands that mend it, in order; ``config`` is the settings' file.

    Where the operator's folder is elsewhere, DIR stands for it.
    """
    place = Workplace(config.parent)
    is_here = place.enrolment.is_dir()
    folder = str(place.enrolment) if is_here else "DIR"
    carried = "it lies in secure.rosters then" if is_here else "then its roster to secure.rosters"
    lines = (
        f"{config}: {error}.",
        "What is signed for all devices changes by a new roster only. Change it back, or:",
        f"  1. fedbus enrol collect -c {config} --out {_KEYS}",
        f"  2. fedbus enrol next {folder} -c {config} --keys {_KEYS}   ({carried})",
        f"  3. fedbus aggregator run -c {config}",
        "If keys are missing at 1: change it back, run the aggregator until all devices have been",
        "online (`fedbus status`), stop it, make the change again, and begin at 1.",
        f"If no device was ever started: fedbus init NEW --from {config} begins anew.",
    )
    return ConfigError("\n".join(lines))
