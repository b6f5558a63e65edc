"""A text that only a passphrase opens: argon2id makes a key of it, libsodium's secretbox locks.

As a JSON object, so that a file says what it is. Salt and nonce are drawn by whoever locks.
"""

import json
from typing import Final

from nacl.bindings import (
    crypto_pwhash_alg,
    crypto_pwhash_ALG_ARGON2ID13,
    crypto_secretbox,
    crypto_secretbox_KEYBYTES,
    crypto_secretbox_open,
)
from nacl.exceptions import CryptoError

from protocol.errors import ConfigError, LocalProtocolError
from protocol.messages import NONCE_BYTES

SALT_BYTES: Final = 16
#: What argon2id takes each time: 64 MiB, which a small computer has, and about a quarter second.
PASSES: Final = 2
MEMORY_BYTES: Final = 64 << 20
_MARK: Final = "argon2id"
_FIELDS: Final = {"locked", "salt", "nonce", "box"}


def lock(text: str, passphrase: bytes, salt: bytes, nonce: bytes) -> str:
    """Return what `unlock` opens; ``salt`` and ``nonce`` are fresh random bytes."""
    if len(salt) != SALT_BYTES or len(nonce) != NONCE_BYTES:
        raise LocalProtocolError(f"a salt has {SALT_BYTES} bytes, a nonce {NONCE_BYTES}")
    box = crypto_secretbox(text.encode(), nonce, _key(passphrase, salt))
    table = {"locked": _MARK, "salt": salt.hex(), "nonce": nonce.hex(), "box": box.hex()}
    return json.dumps(table, indent=1) + "\n"


def is_locked(text: str) -> bool:
    """Whether a text was made by `lock`."""
    return _table(text) is not None


def unlock(text: str, passphrase: bytes) -> str:
    """Return the text that was locked. Raises ConfigError; shows nothing of it."""
    table = _table(text)
    if table is None:
        raise ConfigError("not locked")
    try:
        salt, nonce, box = (bytes.fromhex(table[name]) for name in ("salt", "nonce", "box"))
        return crypto_secretbox_open(box, nonce, _key(passphrase, salt)).decode()
    except (CryptoError, ValueError, TypeError):
        raise ConfigError("not the passphrase that it was locked with, or damaged") from None


def _table(text: str) -> dict[str, str] | None:
    try:
        table = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(table, dict) or table.keys() != _FIELDS or table["locked"] != _MARK:
        return None
    return table if all(isinstance(value, str) for value in table.values()) else None


def _key(passphrase: bytes, salt: bytes) -> bytes:
    return crypto_pwhash_alg(
        crypto_secretbox_KEYBYTES,
        passphrase,
        salt,
        PASSES,
        MEMORY_BYTES,
        crypto_pwhash_ALG_ARGON2ID13,
    )
