"""A device's keys: one file, read once, checked once, never shown.

`fedbus enrol` makes it. Its secrets are in no log, no message of an error and no representation.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from hashlib import blake2b
from pathlib import Path
from typing import Any, Final

from protocol.errors import ConfigError
from protocol.identity import identity_public
from protocol.messages import KEY_BYTES
from protocol.topics import check_id
from transport.secret_files import open_secret_file, replace_secret_file

_NAMES: Final = ("task", "device", "cohort")
_FIELDS: Final = {*_NAMES, "identity", "epochs", "enrolment", "aggregator", "certificate"}
_KEYS: Final = ("identity", "enrolment", "aggregator")
_MAX_CERTIFICATE: Final = 400


@dataclass(frozen=True, slots=True, repr=False)
class Keys:
    """What proves a device, and what it trusts.

    ``identity`` is an Ed25519 seed, ``certificate`` the operator's word for it
    (`protocol.identity`), ``aggregator`` the public key that signs what the device is told,
    ``enrolment`` the one that signs rosters. A task without masks has no ``cohort``; else
    ``epochs`` has X25519 secrets by epoch. With a ``passphrase`` they are locked at rest.
    """

    task: str
    device: str
    cohort: str
    identity: bytes
    epochs: Mapping[int, bytes]
    enrolment: bytes
    aggregator: bytes
    certificate: bytes
    passphrase: bytes = b""

    @property
    def masked(self) -> bool:
        """Whether the device sends masked updates, and no others."""
        return bool(self.cohort)

    @property
    def fingerprint(self) -> str:
        """What to compare by eye: 16 hex digits of the public identity's hash."""
        public = identity_public(self.identity)
        return blake2b(public, digest_size=8).hexdigest()

    def __repr__(self) -> str:
        return f"Keys(task={self.task!r}, device={self.device!r}, cohort={self.cohort!r})"


def read_keys(path: Path, *, task: str, device: str, passphrase_file: str = "") -> Keys:
    """Return the keys in a file of mode 0600 made for this device; `transport.secret_files`.

    Raises ConfigError that names the file and what to do, and shows nothing of its contents.
    """
    text, passphrase = open_secret_file(path, passphrase_file)
    try:
        keys = replace(parse_keys(text), passphrase=passphrase)
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
    if isinstance(table, dict) and _FIELDS - table.keys() == {"aggregator", "certificate"}:
        raise ConfigError("made before devices had certificates: enrol the device anew")
    if not isinstance(table, dict) or table.keys() != _FIELDS:
        raise ConfigError(f"expected an object with {', '.join(sorted(_FIELDS))}")
    for name in _NAMES:
        if _text(table, name) or name != "cohort":
            check_id(table[name], name)
    epochs = table["epochs"]
    if not isinstance(epochs, dict) or not all(map(_is_epoch, epochs)):
        raise ConfigError("epochs: expected an object from epoch to secret")
    return Keys(
        task=table["task"],
        device=table["device"],
        cohort=table["cohort"],
        identity=_key(table, "identity"),
        epochs={int(epoch): _key(epochs, epoch) for epoch in epochs},
        enrolment=_key(table, "enrolment"),
        aggregator=_key(table, "aggregator"),
        certificate=_certificate(table),
    )


def keys_text(keys: Keys) -> str:
    """Return the text of a keys file: what `parse_keys` reads."""
    table = {
        **{name: getattr(keys, name) for name in _NAMES},
        **{name: getattr(keys, name).hex() for name in _KEYS},
        "epochs": {str(epoch): secret.hex() for epoch, secret in keys.epochs.items()},
        "certificate": keys.certificate.hex(),
    }
    return json.dumps(table, indent=1) + "\n"


def erase_before(path: Path, keys: Keys, epoch: int) -> Keys:
    """Return the keys without the secrets of epochs that are over, and rewrite their file so.

    Raises OSError if it cannot be replaced; then it is as it was.
    """
    kept = {each: secret for each, secret in keys.epochs.items() if each >= epoch}
    if kept.keys() == keys.epochs.keys():
        return keys
    left = replace(keys, epochs=kept)
    replace_secret_file(path, keys_text(left), left.passphrase)
    return left


def _is_epoch(text: str) -> bool:
    return text.isascii() and text.isdigit() and 0 < len(text) < 10  # noqa: PLR2004 - below 2**31


def _text(table: Mapping[str, Any], name: str) -> str:
    value = table[name]
    if not isinstance(value, str):
        raise ConfigError(f"{name}: expected text")
    return value


def _key(table: Mapping[str, Any], name: str) -> bytes:
    key = _bytes(table, name)
    if len(key) != KEY_BYTES:
        raise ConfigError(f"{name}: expected {KEY_BYTES} bytes in hex")
    return key


def _certificate(table: Mapping[str, Any]) -> bytes:
    certificate = _bytes(table, "certificate")
    if not 0 < len(certificate) <= _MAX_CERTIFICATE:
        raise ConfigError("certificate: expected bytes in hex")
    return certificate


def _bytes(table: Mapping[str, Any], name: str) -> bytes:
    try:
        return bytes.fromhex(_text(table, name))
    except ValueError:
        return b""
