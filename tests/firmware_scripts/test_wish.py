"""What the user gave is checked before a target is touched."""

import shutil
import subprocess
from pathlib import Path

import pytest

from firmware_scripts.wish import PASSWORD, Wish, read_wish
from protocol.errors import ConfigError
from tests.firmware_scripts.workbench import CONFIG_TEXT, SECRET, write_config

WITH_PASSWORD = f'{CONFIG_TEXT}password_file = "{PASSWORD}"\n'


def _secret(folder: Path, text: str = SECRET) -> Path:
    path = folder / "password"
    path.write_text(text)
    path.chmod(0o600)
    return path


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('task = "digits"', "missing"),
        (CONFIG_TEXT.replace("port = 9", "prot = 9"), "did you mean 'port'"),
        (CONFIG_TEXT.replace("/var/lib/fedbus", "/home/me/state"), "state_dir"),
        ("task = ", "not TOML"),
    ],
)
def test_a_bad_configuration_is_refused_by_name(tmp_path: Path, text: str, reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        read_wish(write_config(tmp_path, text))


def test_a_password_that_the_device_would_not_find_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="password_file"):
        read_wish(write_config(tmp_path), password_file=_secret(tmp_path))


def test_an_empty_password_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="empty"):
        read_wish(write_config(tmp_path, WITH_PASSWORD), password_file=_secret(tmp_path, "\n"))


def test_a_password_that_others_may_read_is_refused(tmp_path: Path) -> None:
    secret = _secret(tmp_path)
    secret.chmod(0o644)
    with pytest.raises(ConfigError, match=r"--password-file .*: others may read it: chmod 600"):
        read_wish(write_config(tmp_path, WITH_PASSWORD), password_file=secret)


def test_wheels_and_a_ready_interpreter_exclude_each_other(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="wheelhouse"):
        read_wish(write_config(tmp_path), python="/usr/bin/python3", wheelhouse=tmp_path)
    with pytest.raises(ConfigError, match="whl"):
        read_wish(write_config(tmp_path), wheelhouse=tmp_path)


@pytest.mark.parametrize("python", ["python3", "/usr/bin/python3 -x", "/usr/bin/a\nExecStart=b"])
def test_an_interpreter_that_would_bend_the_unit_is_refused(tmp_path: Path, python: str) -> None:
    with pytest.raises(ConfigError, match="whole path"):
        read_wish(write_config(tmp_path), python=python)


def _unit(wish: Wish) -> str:
    return next(each.data for each in wish.files() if "device.service" in each.path).decode()


def test_the_unit_gets_the_password_only_where_there_is_one(tmp_path: Path) -> None:
    without = _unit(read_wish(write_config(tmp_path)))
    config = write_config(tmp_path, WITH_PASSWORD)
    with_one = _unit(read_wish(config, password_file=_secret(tmp_path)))
    assert "LoadCredential" not in without
    assert f"LoadCredential=password:{PASSWORD}\n" in with_one
    assert "@" not in without.replace("@system-service", "").replace("@privileged", "")


def test_the_password_is_in_no_representation(tmp_path: Path) -> None:
    config = write_config(tmp_path, WITH_PASSWORD)
    wish = read_wish(config, password_file=_secret(tmp_path))
    assert SECRET not in repr(wish)
    assert SECRET not in repr(wish.files())


def test_the_units_pass_systemds_own_check(tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed")
    config = write_config(tmp_path, WITH_PASSWORD)
    wish = read_wish(config, password_file=_secret(tmp_path), python="/bin/sh")
    path = tmp_path / "fedbus-device.service"
    path.write_text(_unit(wish))
    done = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", "--threshold=20", str(path)],
        capture_output=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stdout.decode()[-300:]
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(path)],
        capture_output=True,
        check=False,
        timeout=60,
    )
    ours = [line for line in done.stderr.decode().splitlines() if path.name in line]
    assert not [line for line in ours if "Restart" not in line], ours
