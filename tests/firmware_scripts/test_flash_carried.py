"""A device's folder by `fedbus init` goes onto the device whole: settings, certificate, keys."""

import tomllib
from pathlib import Path

import pytest

from fedbus.__main__ import main
from firmware_scripts.wish import CARRIED
from tests.firmware_scripts.workbench import command, make_root, snapshot


@pytest.fixture
def carried(tmp_path: Path) -> Path:
    """A fresh device's folder; nobody listens where its broker would be."""
    assert main(["init", str(tmp_path / "farm"), "--port", "9"]) == 0
    return tmp_path / "farm" / "enrolment" / "carry" / "device-1"


def test_everything_lies_where_the_settings_say_and_secrets_are_roots_alone(
    tmp_path: Path, carried: Path
) -> None:
    root = make_root(tmp_path)
    status, said = command("flash", "--root", root, "--carry", carried, "--yes")
    assert status == 0, said
    etc = root / "etc" / "fedbus"
    for name, mode in CARRIED.items():
        assert (etc / name).read_bytes() == (carried / name).read_bytes()
        assert (etc / name).stat().st_mode & 0o777 == mode
    flashed = tomllib.loads((etc / "device.toml").read_text())
    assert flashed["state_dir"] == "/var/lib/fedbus"
    assert flashed["identity"]["keys"] == "/etc/fedbus/keys.json"
    named = {flashed["broker"][key] for key in ("ca_file", "certificate_file", "key_file")}
    assert named == {f"/etc/fedbus/{name}" for name in ("ca.crt", "device.crt", "device.key")}
    unit = (root / "etc/systemd/system/fedbus-device.service").read_text()
    for name in ("device.key", "keys.json"):
        assert f"\nLoadCredential={name}:/etc/fedbus/{name}\n" in unit
        assert f"/{name}:/etc/fedbus/{name}\n" in unit.split("BindReadOnlyPaths=", 1)[1]
    assert "LoadCredential=password" not in unit
    assert f"--ca-file {carried / 'ca.crt'}" in said


def test_secrets_are_never_said_and_flashing_twice_changes_nothing(
    tmp_path: Path, carried: Path
) -> None:
    root = make_root(tmp_path)
    dry = command("flash", "--root", root, "--carry", carried)[1]
    said = dry + command("flash", "--root", root, "--carry", carried, "--yes")[1]
    assert "/etc/fedbus/keys.json (secret, mode 600)" in dry
    key = (carried / "device.key").read_text().splitlines()[1]
    assert key not in said
    before = snapshot(root)
    status, again = command("flash", "--root", root, "--carry", carried, "--yes")
    assert status == 0
    assert "nothing to do" in again
    assert snapshot(root) == before


@pytest.mark.parametrize("name", ["device.key", "keys.json"])
def test_secrets_that_others_may_read_are_not_carried(
    tmp_path: Path, carried: Path, name: str
) -> None:
    (carried / name).chmod(0o644)
    status, said = command("flash", "--root", make_root(tmp_path), "--carry", carried, "--yes")
    assert status == 2
    assert f"{name}: others may read it: chmod 600" in said


def test_its_data_goes_along_or_is_said_where_it_belongs(tmp_path: Path, carried: Path) -> None:
    root = make_root(tmp_path)
    there = root / "etc" / "fedbus" / "data.npz"
    dry = command("flash", "--root", root, "--carry", carried)[1]
    said = command("flash", "--root", root, "--carry", carried, "--yes")[1]
    for each in (dry, said):
        assert "it looks for /etc/fedbus/data.npz there" in each
    assert not there.exists()
    (carried / "data.npz").write_bytes(b"x and y")
    status, said = command("flash", "--root", root, "--carry", carried, "--yes")
    assert status == 0
    assert "new      /etc/fedbus/data.npz (7 bytes, mode 644)" in said
    assert "it looks for" not in said
    assert there.read_bytes() == b"x and y"
    assert there.stat().st_mode & 0o777 == 0o644


def test_half_a_folder_is_refused(tmp_path: Path, carried: Path) -> None:
    root = make_root(tmp_path)
    (carried / "keys.json").unlink()
    status, said = command("flash", "--root", root, "--carry", carried, "--yes")
    assert status == 2
    assert "keys.json: No such file" in said
    assert command("flash", "--root", root)[0] == 2
