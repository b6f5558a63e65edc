"""MQTT topic names. No other module spells a topic.

<p>/<task>/dev/<id>/state        retained text, last will: online | sleeping | offline
<p>/<task>/dev/<id>/info         retained JSON: the birth
<p>/<task>/dev/<id>/tele         JSON, QoS 0
<p>/<task>/dev/<id>/out          msgpack, device -> aggregator
<p>/<task>/dev/<id>/in           msgpack, aggregator -> device
<p>/<task>/up/<part>/<id>        msgpack chunks: the update
<p>/<task>/share/<to>/<from>     msgpack, sealed: mask shares; under a token: `protocol.joining`
<p>/<task>/plan                  retained msgpack
<p>/<task>/roster/<cohort>       retained msgpack, signed: who shares masks with whom
<p>/<task>/support               retained msgpack: the coordinates that updates have in common
<p>/<task>/model/manifest        retained msgpack
<p>/<task>/model/<shelf>/<n>     retained msgpack chunks: a version whole
<p>/<task>/diff/<shelf>/<n>      retained msgpack chunks: what leads to it from the one before
<p>/<task>/mon/<what>            retained JSON: aggregator, rounds, metrics, devices, alerts, denied

``<p>`` is the prefix (``fedbus/1`` by default), so that the deepest topic has 6 slashes; 7 is what
the strictest broker takes. The broker's access rules prove ``<id>``: they are made from `RULES`. A
version's ``<shelf>`` is its number modulo `SHELVES`: names are used again, as there are brokers
that never forget one which ever held something (docs/adr/0034).
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from typing import Final

from protocol import refusals
from protocol.errors import ConfigError, RemoteProtocolError

DEFAULT_PREFIX: Final = "fedbus/1"
MAX_SLASHES: Final = 7
MAX_ID_CHARS: Final = 64
#: So many versions in a row have topics of their own; the one after them takes the first one's.
SHELVES: Final = 256

_ID: Final = re.compile(rf"[a-z0-9_-]{{1,{MAX_ID_CHARS}}}")
_PREFIX: Final = re.compile(r"[a-z0-9_-]+(/[a-z0-9_-]+){0,2}")


class Kind(Enum):
    """What a topic carries; the value is its pattern below ``<prefix>/<task>/``."""

    STATE = "dev/{device}/state"
    INFO = "dev/{device}/info"
    TELEMETRY = "dev/{device}/tele"
    OUT = "dev/{device}/out"
    IN = "dev/{device}/in"
    UPDATE = "up/{part}/{device}"
    SHARE = "share/{to}/{device}"
    PLAN = "plan"
    ROSTER = "roster/{cohort}"
    SUPPORT = "support"
    MANIFEST = "model/manifest"
    MODEL = "model/{shelf}/{index}"
    DIFFERENCE = "diff/{shelf}/{index}"
    MONITOR = "mon/{what}"


class Role(Enum):
    """Who a broker account belongs to; a newcomer's is that of a one-time token."""

    DEVICE = "device"
    NEWCOMER = "newcomer"
    AGGREGATOR = "aggregator"
    MONITOR = "monitor"


@dataclass(frozen=True, slots=True)
class Rule:
    """Which roles may publish and which may read a kind of topic.

    For a device and a newcomer, ``{device}`` (in a share it reads: ``{to}``) is its own id.
    """

    writers: frozenset[Role]
    readers: frozenset[Role]


def _rule(writer: Role, *readers: Role) -> Rule:
    return Rule(frozenset({writer}), frozenset(readers))


_NAMED: Final = frozenset({Role.DEVICE, Role.NEWCOMER})  # roles of many accounts

RULES: Final[dict[Kind, Rule]] = {
    Kind.STATE: _rule(Role.DEVICE, Role.DEVICE, Role.AGGREGATOR, Role.MONITOR),
    Kind.INFO: _rule(Role.DEVICE, Role.DEVICE, Role.AGGREGATOR, Role.MONITOR),
    Kind.TELEMETRY: _rule(Role.DEVICE, Role.AGGREGATOR, Role.MONITOR),
    Kind.OUT: _rule(Role.DEVICE, Role.AGGREGATOR),
    Kind.IN: _rule(Role.AGGREGATOR, Role.DEVICE),
    Kind.UPDATE: _rule(Role.DEVICE, Role.AGGREGATOR),
    Kind.SHARE: Rule(_NAMED, _NAMED),
    Kind.PLAN: _rule(Role.AGGREGATOR, Role.DEVICE, Role.AGGREGATOR, Role.MONITOR),
    Kind.ROSTER: _rule(Role.AGGREGATOR, Role.DEVICE, Role.AGGREGATOR, Role.MONITOR),
    Kind.SUPPORT: _rule(Role.AGGREGATOR, Role.DEVICE, Role.AGGREGATOR, Role.MONITOR),
    Kind.MANIFEST: _rule(Role.AGGREGATOR, Role.DEVICE, Role.AGGREGATOR, Role.MONITOR),
    Kind.MODEL: _rule(Role.AGGREGATOR, Role.DEVICE, Role.AGGREGATOR, Role.MONITOR),
    Kind.DIFFERENCE: _rule(Role.AGGREGATOR, Role.DEVICE, Role.AGGREGATOR, Role.MONITOR),
    Kind.MONITOR: _rule(Role.AGGREGATOR, Role.AGGREGATOR, Role.MONITOR),
}


@dataclass(frozen=True, slots=True)
class Address:
    """A parsed topic; the fields a kind does not have are empty or -1."""

    kind: Kind
    device: str = ""
    to: str = ""
    cohort: str = ""
    part: int = -1
    shelf: int = -1
    index: int = -1
    what: str = ""


def denied_filter(prefix: str) -> str:
    """Whom aggregators want denied, of every task: what somebody beside the broker follows."""
    return f"{check_prefix(prefix)}/+/mon/denied"


def check_id(value: str, what: str = "id") -> str:
    """Return ``value``, or raise ConfigError unless it may stand in a topic."""
    if not _ID.fullmatch(value):
        raise ConfigError(
            f"{what} {value!r}: use 1 to {MAX_ID_CHARS} of the characters a-z 0-9 _ and -"
        )
    return value


def check_prefix(value: str) -> str:
    """Return ``value``, or raise ConfigError unless it can stand before every topic."""
    if not _PREFIX.fullmatch(value):
        raise ConfigError(f"prefix {value!r}: use 1 to 3 levels of a-z 0-9 _ and -")
    return value


@dataclass(frozen=True, slots=True)
class Topics:
    """The topics of one task. Raises ConfigError for a prefix or task that cannot be spelled."""

    prefix: str
    task: str

    def __post_init__(self) -> None:
        check_prefix(self.prefix)
        check_id(self.task, "task")

    def state(self, device: str) -> str:
        """Retained presence of a device."""
        return f"{self.prefix}/{self.task}/dev/{device}/state"

    def info(self, device: str) -> str:
        """Retained birth of a device."""
        return f"{self.prefix}/{self.task}/dev/{device}/info"

    def telemetry(self, device: str) -> str:
        """What a device says about its own health."""
        return f"{self.prefix}/{self.task}/dev/{device}/tele"

    def out(self, device: str) -> str:
        """From a device to the aggregator."""
        return f"{self.prefix}/{self.task}/dev/{device}/out"

    def into(self, device: str) -> str:
        """From the aggregator to a device."""
        return f"{self.prefix}/{self.task}/dev/{device}/in"

    def update(self, part: int, device: str) -> str:
        """The one topic a device may publish an update to."""
        return f"{self.prefix}/{self.task}/up/{part}/{device}"

    def share(self, to: str, sender: str) -> str:
        """Mask shares from one device to another."""
        return f"{self.prefix}/{self.task}/share/{to}/{sender}"

    def shares_to(self, device: str) -> str:
        """All that other devices say to one: shares, and what newcomers ask the operator."""
        return f"{self.prefix}/{self.task}/share/{device}/+"

    def plan(self) -> str:
        """What to train and how."""
        return f"{self.prefix}/{self.task}/plan"

    def roster(self, cohort: str) -> str:
        """A cohort's members and their keys."""
        return f"{self.prefix}/{self.task}/roster/{cohort}"

    def support(self) -> str:
        """The coordinates that updates have in common."""
        return f"{self.prefix}/{self.task}/support"

    def manifest(self) -> str:
        """The current model version."""
        return f"{self.prefix}/{self.task}/model/manifest"

    def model(self, version: int, index: int) -> str:
        """One chunk of one model version."""
        return f"{self.prefix}/{self.task}/model/{version % SHELVES}/{index}"

    def model_filter(self, version: int) -> str:
        """All chunks of one model version."""
        return f"{self.prefix}/{self.task}/model/{version % SHELVES}/+"

    def difference(self, version: int, index: int) -> str:
        """One chunk of what leads to a model version."""
        return f"{self.prefix}/{self.task}/diff/{version % SHELVES}/{index}"

    def difference_filter(self, version: int) -> str:
        """All chunks of what leads to a model version."""
        return f"{self.prefix}/{self.task}/diff/{version % SHELVES}/+"

    def monitor(self, what: str) -> str:
        """A monitoring topic; ``what`` is one level."""
        return f"{self.prefix}/{self.task}/mon/{what}"

    def aggregator_filters(self) -> tuple[str, ...]:
        """What the aggregator subscribes to."""
        base = f"{self.prefix}/{self.task}"
        return (f"{base}/dev/+/state", f"{base}/dev/+/out", f"{base}/up/+/+")

    def telemetry_filter(self) -> str:
        """What all devices say about themselves."""
        return f"{self.prefix}/{self.task}/dev/+/tele"

    def own_model_filters(self) -> tuple[str, ...]:
        """Every retained chunk of models: to find the ones an earlier run left behind."""
        base = f"{self.prefix}/{self.task}"
        return (f"{base}/model/+/+", f"{base}/diff/+/+")

    def news_filters(self, device: str) -> tuple[str, ...]:
        """The retained topics that a device listens to all the time, its own state among them."""
        return (self.plan(), self.manifest(), self.state(device))

    def member_news_filters(self, cohort: str) -> tuple[str, ...]:
        """The retained topics that a device of a secure task listens to beside."""
        return (self.roster(cohort), self.support())

    def monitor_filters(self) -> tuple[str, ...]:
        """What a person or a dashboard subscribes to."""
        base = f"{self.prefix}/{self.task}"
        return (f"{base}/mon/+", f"{base}/dev/+/state", f"{base}/dev/+/info", f"{base}/dev/+/tele")

    def parse(self, topic: str) -> Address:
        """Take a topic of this task apart.

        Raises RemoteProtocolError (``wrong_task`` or ``malformed``) for any other string.
        """
        head = f"{self.prefix}/{self.task}/"
        if not topic.startswith(head):
            raise RemoteProtocolError(refusals.WRONG_TASK, f"topic {topic[:200]!r}")
        levels = topic[len(head) :].split("/")
        match levels:
            case ["up", part, device] if _is_number(part) and _is_id(device):
                return Address(Kind.UPDATE, device=device, part=int(part))
            case ["dev", device, leaf] if leaf in _DEVICE_LEAVES and _is_id(device):
                return Address(_DEVICE_LEAVES[leaf], device=device)
            case ["share", to, device] if _is_id(to) and _is_id(device):
                return Address(Kind.SHARE, device=device, to=to)
            case [word] if word in _ALONE:
                return Address(_ALONE[word])
            case ["roster", cohort] if _is_id(cohort):
                return Address(Kind.ROSTER, cohort=cohort)
            case ["model", "manifest"]:
                return Address(Kind.MANIFEST)
            case [what, shelf, index] if (
                what in _OF_VERSIONS and _is_number(shelf) and _is_number(index)
            ):
                return Address(_OF_VERSIONS[what], shelf=int(shelf), index=int(index))
            case ["mon", what] if _is_id(what):
                return Address(Kind.MONITOR, what=what)
        raise RemoteProtocolError(refusals.MALFORMED, f"topic {topic[:200]!r}")


_ALONE: Final = {"plan": Kind.PLAN, "support": Kind.SUPPORT}
_OF_VERSIONS: Final = {"model": Kind.MODEL, "diff": Kind.DIFFERENCE}
_DEVICE_LEAVES: Final = {
    "state": Kind.STATE,
    "info": Kind.INFO,
    "tele": Kind.TELEMETRY,
    "out": Kind.OUT,
    "in": Kind.IN,
}


def _is_id(level: str) -> bool:
    return _ID.fullmatch(level) is not None


def _is_number(level: str) -> bool:
    return level.isascii() and level.isdigit() and len(level) <= 10  # noqa: PLR2004 - below 2**34


@dataclass(frozen=True, slots=True)
class Grant:
    """One right: to ``write`` or ``read`` the topics a filter matches.

    In ``filter``, ``{device}`` stands for the account's own id.
    """

    access: str
    filter: str


def grants(role: Role, prefix: str, task: str = "+") -> Iterator[Grant]:
    """Every right of a role, in the order of `RULES`: what a broker's access rules are made from.

    A device or newcomer may write and read only what carries its own id, wherever a kind has one.
    """
    check_prefix(prefix)
    for kind, rule in RULES.items():
        if role in rule.writers:
            yield Grant("write", f"{prefix}/{task}/{_own(kind, role, reading=False)}")
        if role in rule.readers:
            yield Grant("read", f"{prefix}/{task}/{_own(kind, role, reading=True)}")


def _own(kind: Kind, role: Role, *, reading: bool) -> str:
    own = "{device}" if role in _NAMED else "+"
    device, to = ("+", own) if kind is Kind.SHARE and reading else (own, "+")
    fields = {"device": device, "to": to, "part": "+", "shelf": "+", "index": "+", "what": "+"}
    fields["cohort"] = "+"
    return kind.value.format_map(fields)
