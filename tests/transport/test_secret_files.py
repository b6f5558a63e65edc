"""Keys at rest: their owner's alone, and locked with a passphrase if one likes."""

import json
import stat
import sys
from pathlib import Path

import pytest

from protocol import locked
from protocol.errors import ConfigError
from transport.config import BrokerConfig
from transport.secret_files import (
    CREDENTIAL,
    new_passphrase,
    open_secret_file,
    others_may_read,
    read_secret_file,
    replace_secret_file,
)

TEXT = "11" * 32 + "\n"


def written(path: Path, text: str, mode: int = 0o600) -> Path:
    path.write_text(text, encoding="utf-8")
    path.chmod(mode)
    return path


@pytest.fixture(autouse=True)
def nobody_at_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)
    monkeypatch.setattr(sys.stdin, "isatty", lambda: False, raising=False)


def test_only_the_passphrase_opens_what_it_locked(tmp_path: Path) -> None:
    path, word = tmp_path / "key", written(tmp_path / "word", "open sesame\n")
    replace_secret_file(path, TEXT, b"open sesame")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert "1111" not in path.read_text(encoding="utf-8")
    assert open_secret_file(path, str(word)) == (TEXT, b"open sesame")
    written(word, "open barley")
    with pytest.raises(ConfigError, match="not the passphrase"):
        open_secret_file(path, str(word))


def test_without_a_passphrase_it_says_where_one_could_come_from(tmp_path: Path) -> None:
    path = tmp_path / "key"
    replace_secret_file(path, TEXT, b"open sesame")
    with pytest.raises(ConfigError, match=r"identity\.passphrase_file.*fedbus\.passphrase"):
        open_secret_file(path, "")


def test_systemd_can_hand_it_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written(tmp_path / CREDENTIAL, "open sesame\n", 0o400)
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    path = tmp_path / "key"
    replace_secret_file(path, TEXT, new_passphrase("", path))
    assert open_secret_file(path, "") == (TEXT, b"open sesame")


def test_at_a_terminal_it_is_asked_for_twice_and_then_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
    said = iter(["one", "two", "", "", "same", "same", "same"])
    monkeypatch.setattr("getpass.getpass", lambda _: next(said))
    path = tmp_path / "key"
    for _ in range(2):
        with pytest.raises(ConfigError, match="nothing was changed"):
            new_passphrase("", path)
    replace_secret_file(path, TEXT, new_passphrase("", path))
    assert open_secret_file(path, "") == (TEXT, b"same")


def test_two_locks_of_one_text_have_nothing_in_common() -> None:
    one, two = (
        json.loads(locked.lock(TEXT, b"word", bytes([n]) * 16, bytes([n]) * 24)) for n in (1, 2)
    )
    assert one["box"] != two["box"]


@pytest.mark.parametrize("change", [{"box": ""}, {"box": "zz"}, {"nonce": "00"}, {"salt": ""}])
def test_damage_is_told_and_nothing_else(change: dict[str, str]) -> None:
    text = json.dumps({**json.loads(locked.lock(TEXT, b"word", bytes(16), bytes(24))), **change})
    with pytest.raises(ConfigError, match="damaged"):
        locked.unlock(text, b"word")


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o644])
def test_what_others_may_read_is_refused(tmp_path: Path, mode: int) -> None:
    with pytest.raises(ConfigError, match="chmod 600"):
        read_secret_file(written(tmp_path / "key", TEXT, mode))


def test_what_systemd_hands_over_is_the_services_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Mode 0440 is how its access control list shows. Where it is mounted it is the same file."""
    handed = tmp_path / "handed"
    handed.mkdir()
    given = written(handed / "key", TEXT, 0o440)
    etc = tmp_path / "etc"
    etc.mkdir()
    (etc / "key").hardlink_to(given)
    for path in (given, etc / "key"):
        with pytest.raises(ConfigError, match="chmod 600"):
            read_secret_file(path)
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(handed))
    for path in (given, etc / "key"):
        assert read_secret_file(path) == TEXT
        assert not others_may_read(path)
    with pytest.raises(ConfigError, match="chmod 600"):
        read_secret_file(written(tmp_path / "key", TEXT, 0o440))


def test_a_file_that_is_no_text_is_named(tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.write_bytes(b"\xff\xfe")
    path.chmod(0o600)
    with pytest.raises(ConfigError, match="key: not text"):
        read_secret_file(path)


def test_a_password_that_others_may_read_opens_no_connection(tmp_path: Path) -> None:
    path = written(tmp_path / "password", "word\n", 0o644)
    config = BrokerConfig(password_file=str(path))
    with pytest.raises(ConfigError, match=r"password_file .*: others may read it: chmod 600"):
        config.check_files()
    path.chmod(0o600)
    config.check_files()
