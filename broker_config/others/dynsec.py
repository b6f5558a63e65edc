"""mosquitto with its dynamic-security plugin: accounts and rights that change while it runs.

A service has one role. A device has two: ``device``, what all may read, and one of its own, for
the plugin of mosquitto 2.0 knows no ``%u``; the account of a token has its own alone. Clients come
with certificates, so that only ``admin`` has a password.
"""

import hashlib
import json
from base64 import b64encode
from collections.abc import Iterable
from typing import Any, Final

from broker_config.accounts import SERVICES, role_of
from broker_config.mosquitto import HASH_ROUNDS, WATCHED_TOPICS
from broker_config.others.wanted import Wanted
from protocol.errors import ConfigError
from protocol.topics import Role as AccountRole

ADMIN: Final = "admin"
CONTROL: Final = "$CONTROL/dynamic-security/v1"
_EVERY_DEVICE: Final = "device"
_READING: Final = ("publishClientReceive", "subscribePattern")
_FILE_RULES: Final = "password_file passwords\nacl_file acl\n"
_PLUGIN: Final = """\
# Accounts and rights change while the broker runs: dynamic-security.json is the plugin's own file
plugin mosquitto_dynamic_security.so
plugin_opt_config_file dynamic-security.json
"""
Role = dict[str, Any]  # as JSON has it


def render_config(shipped: str) -> str:
    """Return a mosquitto configuration with the plugin in place of password and rule files.

    Raises ConfigError if it has no such files.
    """
    if shipped.count(_FILE_RULES) != 1:
        raise ConfigError(
            "mosquitto.conf: expected password_file and acl_file, one after the other"
        )
    return shipped.replace(_FILE_RULES, _PLUGIN)


def render_state(wanted: Wanted, admin_password: str, salt: bytes) -> str:
    """Return the file that the plugin starts with; it writes to it from then on."""
    shared = {"rolename": _EVERY_DEVICE, "acls": _reads(_common(wanted))}
    roles = [_admin_role(), *(_service_role(wanted, name) for name in SERVICES), shared]
    clients = [_client(ADMIN, [ADMIN]) | _hashed(admin_password, salt)]
    clients += [_client(name, [name]) for name in SERVICES]
    for device in wanted.devices:
        roles.append(_own_role(wanted, device))
        clients.append(_client(device, _names(device)))
    state = {
        "defaultACLAccess": {
            "publishClientSend": False,
            "publishClientReceive": False,
            "subscribe": False,
            "unsubscribe": True,
        },
        "clients": clients,
        "roles": roles,
    }
    return json.dumps(state, indent=1) + "\n"


def add_device(wanted: Wanted, device: str) -> str:
    """Return what to publish to `CONTROL` so that a running broker serves one more device."""
    own = _own_role(wanted, device)
    roles = _roles(_names(device))
    return _commands(
        {"command": "createRole", **own},
        {"command": "createClient", "username": device, "roles": roles},
    )


def remove_device(device: str) -> str:
    """Return what to publish to `CONTROL` so that a device is disconnected and has no right left.

    To disable it is not enough: who comes with a certificate is not asked for a password, so that
    mosquitto 2.0 lets the disabled in, with all their rights. `add_device` takes it back.
    """
    return _commands(
        {"command": "deleteClient", "username": device},
        {"command": "deleteRole", "rolename": _own_name(device)},
    )


def _commands(*commands: Role) -> str:
    return json.dumps({"commands": commands}) + "\n"


def _common(wanted: Wanted) -> set[str]:
    """What every device may read alike."""
    one, other = (set(wanted.topics(name, "read")) for name in ("one", "other"))
    return one & other


def _names(device: str) -> list[str]:
    is_device = role_of(device) is AccountRole.DEVICE
    return [*([_EVERY_DEVICE] * is_device), _own_name(device)]


def _own_name(device: str) -> str:
    return f"{_EVERY_DEVICE}:{device}"


def _own_role(wanted: Wanted, device: str) -> Role:
    common = _common(wanted)
    own = [topic for topic in wanted.topics(device, "read") if topic not in common]
    acls = [*_writes(wanted.topics(device, "write")), *_reads(own)]
    return {"rolename": _own_name(device), "acls": acls}


def _service_role(wanted: Wanted, name: str) -> Role:
    reads = [*wanted.topics(name, "read"), *WATCHED_TOPICS]
    return {"rolename": name, "acls": [*_writes(wanted.topics(name, "write")), *_reads(reads)]}


def _admin_role() -> Role:
    topics = ["$CONTROL/dynamic-security/#"]
    return {"rolename": ADMIN, "acls": [*_writes(topics), *_reads(topics)]}


def _reads(topics: Iterable[str]) -> list[Role]:
    return [_right(kind, topic) for topic in sorted(topics) for kind in _READING]


def _writes(topics: Iterable[str]) -> list[Role]:
    return [_right("publishClientSend", topic) for topic in topics]


def _right(kind: str, topic: str) -> Role:
    return {"acltype": kind, "topic": topic, "priority": 0, "allow": True}


def _client(username: str, roles: Iterable[str]) -> Role:
    return {"username": username, "roles": _roles(roles)}


def _roles(names: Iterable[str]) -> list[Role]:
    return [{"rolename": name, "priority": 0} for name in names]


def _hashed(password: str, salt: bytes) -> Role:
    digest = hashlib.pbkdf2_hmac("sha512", password.encode(), salt, HASH_ROUNDS)
    return {
        "password": b64encode(digest).decode(),
        "salt": b64encode(salt).decode(),
        "iterations": HASH_ROUNDS,
    }
