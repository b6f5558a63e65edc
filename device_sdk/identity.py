"""A device's keys in a secure task: one file, read once, checked once, never shown.

`fedbus enrol` makes it. Its secrets are in no log, no message of an error and no representation.
"""

import json
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass, replace
from hashlib import blake2b
from pathlib import Path
from typing import Any, Final

from protocol.errors import ConfigError
from protocol.messages import KEY_BYTES
from protocol.secagg import keys as signing
from protocol.topics import check_id

_NAMES: Final = ("task", "device", "cohort")
_FIELDS: Final = {*_NAMES, "identity", "epochs", "enrolment"}


@dataclass(frozen=True, slots=True, repr=False)
class Keys:
    """What proves a device, and what it trusts.

    ``identity`` is an Ed25519 seed, ``epochs`` has X25519 secrets by epoch, ``enrolment`` is the
    public key that signs rosters.
    """

    task: str
    device: str
    cohort: str
    identity: bytes
    epochs: Mapping[int, bytes]
    enrolment: bytes

    @property
    def fingerprint(self) -> str:
        """What to compare by eye: 16 hex digits of the public identity's hash."""
        public = signing.identity_public(self.identity)
        return blake2b(public, digest_size=8).hexdigest()

    def __repr__(self) -> str:
        return f"Keys(task={self.task!r}, device={self.device!r}, cohort={self.cohort!r})"


def read_keys(path: Path, *, task: str, device: str) -> Keys:
    """Return the keys in a file of mode 0600 made for this device.

    Raises ConfigError that names the file and what to do, and shows nothing of its contents.
    """
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not text"
        raise ConfigError(
            f"{path}: {reason}; identity.keys is the file from fedbus enrol"
        ) from None
    if mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise ConfigError(f"{path}: others may read these keys: chmod 600 it")
    try:
        keys = parse_keys(text)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None
    if (keys.task, keys.device) != (task, device):
        raise ConfigError(
            f"{path}: the keys of device {keys.device!r} in task {keys.task!r}, and this is"
            f" {device!r} in {task!r}"
        )
    return keys


def parse_keys(text: str) -> Keys:
    """Return the keys that a JSON text holds. Raises ConfigError."""
    try:
        table = json.loads(text)
    except (ValueError, RecursionError):
        raise ConfigError("not JSON") from None
    if not isinstance(table, dict) or table.keys() != _FIELDS:
        raise ConfigError(f"expected an object with {', '.join(sorted(_FIELDS))}")
    for name in _NAMES:
        check_id(_text(table, name), name)
    epochs = table["epochs"]
    if not isinstance(epochs, dict) or not all(map(_is_epoch, epochs)):
        raise ConfigError("epochs: expected an object from epoch to secret")
    return Keys(
        **{name: table[name] for name in _NAMES},
        identity=_key(table, "identity"),
        epochs={int(epoch): _key(epochs, epoch) for epoch in epochs},
        enrolment=_key(table, "enrolment"),
    )


def erase_before(path: Path, keys: Keys, epoch: int) -> Keys:
    """Return the keys without the secrets of epochs that are over, and rewrite their file so.

    Raises OSError if it cannot be replaced; then it is as it was.
    """
    kept = {each: secret for each, secret in keys.epochs.items() if each >= epoch}
    if kept.keys() == keys.epochs.keys():
        return keys
    left = replace(keys, epochs=kept)
    table = {
        **{name: getattr(left, name) for name in _NAMES},
        "identity": left.identity.hex(),
        "epochs": {str(each): secret.hex() for each, secret in kept.items()},
        "enrolment": left.enrolment.hex(),
    }
    partial = path.with_name(path.name + ".partial")
    partial.unlink(missing_ok=True)
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        json.dump(table, file, indent=2)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)
    return left


def _is_epoch(text: str) -> bool:
    return text.isascii() and text.isdigit() and 0 < len(text) < 10  # noqa: PLR2004 - below 2**31


def _text(table: Mapping[str, Any], name: str) -> str:
    value = table[name]
    if not isinstance(value, str):
        raise ConfigError(f"{name}: expected text")
    return value


def _key(table: Mapping[str, Any], name: str) -> bytes:
    try:
        key = bytes.fromhex(_text(table, name))
    except ValueError:
        key = b""
    if len(key) != KEY_BYTES:
        raise ConfigError(f"{name}: expected {KEY_BYTES} bytes in hex")
    return key
