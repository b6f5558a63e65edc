"""Files of secret keys: their owner's alone, and open only to a passphrase where they are locked.

The passphrase comes from a file, from a credential that systemd hands to the service, or is asked
for at the terminal. It is never an argument, which anybody on the machine could read.
"""

import getpass
import os
import stat
import sys
from pathlib import Path
from typing import Final

from protocol.errors import ConfigError
from protocol.messages import NONCE_BYTES

#: What systemd's LoadCredential= calls it: ``LoadCredential=fedbus.passphrase:/etc/...``.
CREDENTIAL: Final = "fedbus.passphrase"
OTHERS: Final = stat.S_IRWXG | stat.S_IRWXO


def read_secret_file(path: Path) -> str:
    """Return the text of a file of mode 0600, as it is.

    Raises ConfigError that names the file and shows nothing of it.
    """
    try:
        is_open = others_may_read(path)
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not text"
        raise ConfigError(f"{path}: {reason}") from None
    if is_open:
        raise ConfigError(f"{path}: others may read it: chmod 600 it")
    return text


def others_may_read(path: Path) -> bool:
    """Return whether a file is not ours alone. Raises OSError.

    What systemd hands to a service is: nobody else sees the folder. Its access control list (since
    version 254) shows as mode 0440, which is not ours to change.
    """
    is_open = bool(stat.S_IMODE(path.stat().st_mode) & OTHERS)
    return is_open and not _is_handed_over(path)


def open_secret_file(path: Path, passphrase_file: str) -> tuple[str, bytes]:
    """Return what is in a file of secrets, and the passphrase that opened it; none: it was open.

    Raises ConfigError.
    """
    from protocol import locked  # noqa: PLC0415 - few have keys

    text = read_secret_file(path)
    if not locked.is_locked(text):
        return text, b""
    passphrase = read_passphrase(passphrase_file, path)
    try:
        return locked.unlock(text, passphrase), passphrase
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None


def replace_secret_file(path: Path, text: str, passphrase: bytes = b"") -> None:
    """Write a file of mode 0600 in one step; locked with a ``passphrase``. Raises OSError."""
    if passphrase:
        import nacl.utils  # noqa: PLC0415 - few have keys

        from protocol import locked  # noqa: PLC0415

        salt, nonce = nacl.utils.random(locked.SALT_BYTES), nacl.utils.random(NONCE_BYTES)
        text = locked.lock(text, passphrase, salt, nonce)
    partial = path.with_name(path.name + ".partial")
    partial.unlink(missing_ok=True)
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


def read_passphrase(passphrase_file: str, what: Path) -> bytes:
    """Return the passphrase for a file. Raises ConfigError that says where one could come from."""
    found = _told(passphrase_file)
    if not found:
        raise ConfigError(
            f"{what}: it is locked: name the passphrase's file in identity.passphrase_file, give"
            f" the service the credential {CREDENTIAL}, or start at a terminal"
        )
    return found


def new_passphrase(passphrase_file: str, what: Path) -> bytes:
    """Return the passphrase to lock a file with; at a terminal it is asked for twice.

    Raises ConfigError.
    """
    if passphrase_file or _credential() is not None or not sys.stdin.isatty():
        return read_passphrase(passphrase_file, what)
    first, second = (getpass.getpass(f"{word} passphrase: ") for word in ("New", "Again, the"))
    if not first or first != second:
        raise ConfigError(f"{what}: empty, or not twice the same: nothing was changed")
    return first.encode()


def _told(passphrase_file: str) -> bytes:
    if passphrase_file:
        return read_secret_file(Path(passphrase_file)).strip().encode()
    credential = _credential()
    if credential is not None:
        return credential.read_bytes().strip()
    return getpass.getpass("Passphrase: ").encode() if sys.stdin.isatty() else b""


def _credential(name: str = CREDENTIAL) -> Path | None:
    """Return a file that systemd hands over, the passphrase's; its folder is the service's."""
    folder = os.environ.get("CREDENTIALS_DIRECTORY", "")
    path = Path(folder) / name
    return path if folder and path.is_file() else None


def _is_handed_over(path: Path) -> bool:
    """Return whether it is one of systemd's credentials, or the same file mounted elsewhere."""
    credential = _credential(path.name)
    return credential is not None and credential.samefile(path)
