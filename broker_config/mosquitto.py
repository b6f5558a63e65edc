"""The files of a mosquitto broker as text: configuration, access rules, password entries.

Pure: `files` reads the template and writes the results.
"""

import hashlib
import hmac
from base64 import b64decode, b64encode
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from broker_config.accounts import SERVICES
from protocol.errors import ConfigError
from protocol.topics import DEFAULT_PREFIX, Role, grants

HASH_ROUNDS: Final = 101
"""What mosquitto_passwd uses. The broker has one thread and hashes at every connect, so that a
reconnecting fleet pays for each round; our passwords are random, which no rounds improve on."""

SALT_BYTES: Final = 12
_LOOPBACK: Final = """\
# Loopback only: nothing is encrypted
listener 1883 127.0.0.1
max_topic_alias 0"""
DROPPED_TOPIC: Final = "$SYS/broker/publish/messages/dropped"
"""Where mosquitto counts what it dropped: the one alarm an operator must have."""

HEAP_TOPIC: Final = "$SYS/broker/heap/current"
"""How many bytes mosquitto has in use; its process may hold more, in pieces that wait for use."""

WATCHED_TOPICS: Final = (DROPPED_TOPIC, HEAP_TOPIC)
"""What every service may read of the broker's own figures."""


@dataclass(frozen=True, slots=True)
class Ports:
    """Where a broker listens: ``tls`` with certificates; with passwords, and those over websockets.

    0: not at all.
    """

    tls: int = 8883
    password: int = 8884
    websockets: int = 9001


def render_listeners(template: str, ports: Ports, host: str = "") -> str:
    """Return the shipped configuration for these ports, on one address or (empty) on all.

    Raises ConfigError for an address that would not stay on its line.
    """
    if not host.isprintable() or " " in host:
        raise ConfigError(f"host {host!r}: one address or name")
    given = {"8883": ports.tls, "8884": ports.password, "9001": ports.websockets}
    blocks = []
    for block in template.split("\n\n"):
        shipped = listener_of(block)
        if shipped is None:
            blocks.append(block)
        elif given[shipped]:
            line = f"listener {given[shipped]} {host}".strip()
            blocks.append(block.replace(f"listener {shipped}", line))
    return "\n\n".join(blocks)


def render_plain(template: str) -> str:
    """Return the shipped configuration without TLS: one listener, on loopback."""
    blocks = [block for block in template.split("\n\n") if listener_of(block) is None]
    return "\n\n".join([blocks[0], _LOOPBACK, *blocks[1:]])


def listener_of(block: str) -> str | None:
    """Return the port of the listener that a block of a configuration is about, if it is."""
    lines = (line.split() for line in block.splitlines())
    return next((words[1] for words in lines if words[:1] == ["listener"]), None)


def listening(config: str) -> tuple[str, int]:
    """Return address (empty: all) and port of the first listener of a configuration.

    Raises ConfigError if it has none.
    """
    for line in config.splitlines():
        match line.split():
            case ["listener", port, *host] if port.isdigit():
                return (host[0] if host else ""), int(port)
    raise ConfigError("the broker's configuration has no listener")


def password_listener(config: str) -> tuple[int, bool] | None:
    """Return the port of a listener for passwords, and whether it speaks TLS; None: none does."""
    listeners: list[tuple[int, set[str]]] = []
    for line in config.splitlines():
        match line.split():
            case ["listener", port, *_] if port.isdigit():
                listeners.append((int(port), set()))
            case [word, *rest] if listeners:
                listeners[-1][1].update((word, *rest))
    for number, words in listeners:
        if "require_certificate" not in words and "websockets" not in words:
            return number, "certfile" in words
    return None


def render_config(template: str, values: Mapping[str, str]) -> str:
    """Return a mosquitto configuration: ``template`` with the values of some directives replaced.

    Comments and all other lines stay. Raises ConfigError for a directive that the template has
    not exactly once, or a value that would not stay on its line.
    """
    lines = template.splitlines()
    for directive, value in values.items():
        if not value.isprintable():
            raise ConfigError(f"{directive} {value!r}: a value stands on one line")
        lines[_line_of(directive, lines)] = f"{directive} {value}"
    return "\n".join(lines) + "\n"


def _line_of(directive: str, lines: list[str]) -> int:
    found = [n for n, line in enumerate(lines) if line.startswith(f"{directive} ")]
    if len(found) != 1:
        raise ConfigError(f"{directive}: {len(found)} lines in the template, expected 1")
    return found[0]


def render_acl(prefix: str = DEFAULT_PREFIX, task: str = "+") -> str:
    """Return the access rules of every account, as `protocol.topics.RULES` has them.

    Devices are one set of patterns: mosquitto puts the user name for ``%u``, so that a new device
    needs no new rule. Patterns hold for all users; the ``deny`` lines take them from the services.
    """
    blocks = [_service_block(name, prefix, task) for name in SERVICES]
    patterns = [
        f"pattern {grant.access} {grant.filter.format(device='%u')}"
        for grant in grants(Role.DEVICE, prefix, task)
    ]
    return "\n\n".join([_HEADER, *blocks, "\n".join([_DEVICES, *patterns])]) + "\n"


_HEADER: Final = "# Made from protocol/topics.py: change the rules there, not here."


def prefix_of(acl: str) -> str:
    """Return the prefix of the topics that `render_acl` made rules for."""
    end = "/+/mon/+"
    found = (line.split()[-1] for line in acl.splitlines() if line.endswith(end))
    return next(found, DEFAULT_PREFIX + end).removesuffix(end)


#: Without a pattern such a rule would have to name every device.
_DEVICES: Final = (
    "# Every device. Of those without %u mosquitto warns at each start: they are meant."
)


def _service_block(name: str, prefix: str, task: str) -> str:
    lines = [f"user {name}"]
    lines += [f"topic deny {topic}" for topic in _as_a_device(name, prefix, task)]
    lines += [
        f"topic {grant.access} {grant.filter}" for grant in grants(SERVICES[name], prefix, task)
    ]
    lines += [f"topic read {topic}" for topic in WATCHED_TOPICS]
    return "\n".join(lines)


def _as_a_device(name: str, prefix: str, task: str) -> list[str]:
    """What the patterns would let a service do as the device that shares its name."""
    own = (grant for grant in grants(Role.DEVICE, prefix, task) if "{device}" in grant.filter)
    return list(dict.fromkeys(grant.filter.format(device=name) for grant in own))


def deny(acl: str, name: str) -> str:
    """Return access rules that also deny an account everything, from the next message on."""
    return acl if name in denied(acl) else f"{acl.rstrip()}\n\n{_denial(name)}\n"


def allow(acl: str, name: str) -> str:
    """Return access rules without what `deny` has added for an account."""
    return acl.replace(f"\n\n{_denial(name)}\n", "\n")


def denied(acl: str) -> set[str]:
    """Return the accounts that `deny` was asked for."""
    blocks = (block.strip().splitlines() for block in acl.split("\n\n"))
    return {
        lines[0].removeprefix("user ")
        for lines in blocks
        if len(lines) == _DENIAL_LINES and lines[1] == _EVERYTHING
    }


def confine(acl: str, name: str) -> str:
    """Return access rules that leave a token's account a newcomer's rights of all a device has.

    mosquitto's patterns are for every account, so that what is too much has to be denied by name.
    """
    block = confinement(name, prefix_of(acl))
    return acl if block in acl else f"{acl.rstrip()}\n\n{block}"


def unconfine(acl: str, name: str) -> str:
    """Return access rules without what `confine` has added for an account."""
    return acl.replace(f"\n\n{confinement(name, prefix_of(acl))}", "\n")


def confinement(name: str, prefix: str) -> str:
    """Return the lines that `confine` adds for an account."""
    left = {grant.filter for grant in grants(Role.NEWCOMER, prefix)}
    too_much = {grant.filter for grant in grants(Role.DEVICE, prefix)} - left
    lines = (f"topic deny {topic.format(device=name)}" for topic in sorted(too_much))
    return "\n".join([f"user {name}", *lines]) + "\n"


_EVERYTHING: Final = "topic deny #"
_DENIAL_LINES: Final = 2


def _denial(name: str) -> str:
    return f"user {name}\n{_EVERYTHING}"


def password_entry(username: str, password: str, salt: bytes) -> str:
    """Return one line of a mosquitto password file, without its end of line.

    PBKDF2 with SHA-512 (``$7$``), as mosquitto 2.0 writes it; ``salt`` is `SALT_BYTES` random
    bytes. Raises ConfigError for a user name that would end its field or line.
    """
    if not username or ":" in username or not username.isprintable():
        raise ConfigError(f"user name {username!r}: printable characters without a colon")
    return f"{username}:{_hashed(password, salt, HASH_ROUNDS)}"


def is_password(entry: str, password: str) -> bool:
    """Whether ``entry``, a line of a password file, was made from ``password``."""
    _, _, stored = entry.partition(":")
    match stored.split("$"):
        case ["", "7", rounds, salt, _]:
            return _is_hash(stored, password, rounds, salt)
    return False


def _is_hash(stored: str, password: str, rounds: str, salt: str) -> bool:
    try:
        made = _hashed(password, b64decode(salt, validate=True), int(rounds))
    except (ValueError, OverflowError):  # a damaged entry fits no password
        return False
    return hmac.compare_digest(made.encode(), stored.encode())


def _hashed(password: str, salt: bytes, rounds: int) -> str:
    digest = hashlib.pbkdf2_hmac("sha512", password.encode(), salt, rounds)
    return f"$7${rounds}${b64encode(salt).decode()}${b64encode(digest).decode()}"
