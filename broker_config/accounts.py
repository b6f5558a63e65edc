"""Broker accounts: who may do what, by name.

Two names are fixed: ``aggregator`` and ``monitor``. ``join-<id>`` is the account of a one-time
token. Every other account is a device, and its name is the id that stands in its topics.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

from protocol.errors import ConfigError
from protocol.joining import NEWCOMER
from protocol.topics import Grant, Role, check_id, grants

AGGREGATOR: Final = "aggregator"
MONITOR: Final = "monitor"
SERVICES: Final = {AGGREGATOR: Role.AGGREGATOR, MONITOR: Role.MONITOR}


def role_of(name: str) -> Role:
    """Return the role of the account called ``name``."""
    usual = Role.NEWCOMER if name.startswith(NEWCOMER) else Role.DEVICE
    return SERVICES.get(name, usual)


def account_names(devices: Iterable[str]) -> tuple[str, ...]:
    """Return every account of a broker that serves ``devices``: the services first.

    Raises ConfigError for an id that cannot stand in a topic, or that a service has already.
    """
    checked = dict.fromkeys(check_id(device, "device") for device in devices)
    taken = checked.keys() & SERVICES.keys()
    if taken:
        raise ConfigError(f"device {min(taken)!r}: this account belongs to a service; rename it")
    return (*SERVICES, *checked)


@dataclass(frozen=True, slots=True)
class Rights:
    """What each account may do below a prefix: the broker's rules as a function.

    mosquitto reads the same rules from a file; the embedded broker asks here.
    """

    prefix: str
    task: str = "+"
    _grants: dict[Role, tuple[Grant, ...]] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        granted = {role: tuple(grants(role, self.prefix, self.task)) for role in Role}
        object.__setattr__(self, "_grants", granted)

    def may(self, name: str, access: str, topic: str) -> bool:
        """Whether the account may ``write`` to a topic, or ``read`` a topic or a whole filter."""
        return any(
            grant.access == access and covers(grant.filter.format(device=name), topic)
            for grant in self._grants[role_of(name)]
        )


def covers(granted: str, wanted: str) -> bool:
    """Whether all that ``wanted`` (a topic or a filter) matches lies within ``granted``.

    ``granted`` has no ``#``. A ``#`` in ``wanted`` stands for the rest of ``granted`` where that
    is wildcards alone: topics have a fixed depth, so ``mon/#`` asks no more than ``mon/+``.
    """
    own, asked = granted.split("/"), wanted.split("/")
    if asked[-1] == "#":
        rest = own[len(asked) - 1 :]
        asked[-1:] = rest if set(rest) == {"+"} else ["#"]
    if len(own) != len(asked):
        return False
    return all(have in ("+", want) and want != "#" for have, want in zip(own, asked, strict=True))
