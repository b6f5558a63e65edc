"""The rosters that the operator has laid down: which of them are to be offered to the coordinator.

A roster that does not fit beside those that are open is refused, and may fit once another epoch
has begun or ended. It is tried again then, and no sooner: to read one, a signature of each member
is checked.
"""

from collections.abc import Callable, Mapping
from typing import Final

from protocol.errors import ConfigError, RemoteProtocolError
from protocol.secagg.messages import SignedRoster

#: What may mend a roster that was refused over the settings.
_SETTINGS: Final = "start again if the settings changed"


class LaidRosters:
    """Remembers by file name what was offered, and why it was refused, if it was. Pure."""

    def __init__(self) -> None:
        self._offered: dict[str, SignedRoster] = {}
        self._refused: dict[str, str] = {}
        self._epochs = ""

    def offer(
        self,
        found: Mapping[str, SignedRoster],
        epochs: str,
        take: Callable[[SignedRoster], None],
    ) -> list[str]:
        """Hand ``take`` what is new among the files found, and what may fit now and did not.

        ``epochs`` names the open ones: a roster that was refused is tried again when they change.
        ``take`` raises RemoteProtocolError or ConfigError for what it refuses. Return what to tell
        the operator: why a roster is refused, and again only if there is another reason.
        """
        may_fit_now, self._epochs = epochs != self._epochs, epochs
        said = []
        for name, signed in found.items():
            if self._offered.get(name) != signed:
                self._offered[name], self._refused[name] = signed, ""
            elif not (may_fit_now and self._refused[name]):
                continue
            problem = _refusal(signed, take)
            if problem and problem != self._refused[name]:
                said.append(f"roster {name}: {problem}")
            self._refused[name] = problem
        return said


def _refusal(signed: SignedRoster, take: Callable[[SignedRoster], None]) -> str:
    """Return why a roster is refused; empty if it is not."""
    try:
        take(signed)
    except RemoteProtocolError as error:
        return str(error)
    except ConfigError as error:
        return f"{error}; {_SETTINGS}"
    return ""
