"""Flashing a root file system: the plan, what it does, and what it leaves alone."""

import io
import os
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

from firmware_scripts.bundle import SDK_ZIP
from firmware_scripts.flashing import act, flash_plan, rollback_plan
from firmware_scripts.plan import KEPT_RELEASES, PlanError, Verdict
from firmware_scripts.target import Folder, TargetError
from firmware_scripts.wish import CONFIG, PASSWORD, Wish
from tests.firmware_scripts.workbench import (
    CONFIG_TEXT,
    PYTHON,
    SECRET,
    command,
    current,
    flash,
    make_root,
    small_wish,
    snapshot,
    unzipped,
    write_config,
)

WITH_PASSWORD = f'{CONFIG_TEXT}password_file = "{PASSWORD}"\n'


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return make_root(tmp_path)


@pytest.fixture
def options(tmp_path: Path, root: Path) -> list[str | Path]:
    secret = tmp_path / "password"
    secret.write_text(SECRET)
    secret.chmod(0o600)
    config = write_config(tmp_path, WITH_PASSWORD)
    return ["flash", "--root", root, "--config", config, "--password-file", secret]


def test_a_dry_run_says_everything_and_changes_nothing(
    root: Path, options: list[str | Path]
) -> None:
    before = snapshot(root)
    status, said = command(*options)
    assert status == 0
    assert snapshot(root) == before
    assert "new      /etc/fedbus/device.toml (" in said
    assert "/sdk.zip (" in said
    assert "/manifest.json (" in said
    assert "new      /opt/fedbus/current -> releases/" in said
    assert "--yes" in said


def test_acting_puts_everything_in_place(root: Path, options: list[str | Path]) -> None:
    status, said = command(*options, "--yes")
    assert status == 0, said
    assert current(root) in said
    assert (root / "etc/fedbus/device.toml").read_text() == WITH_PASSWORD
    assert (root / "etc/fedbus/password").read_text().strip() == SECRET
    assert (root / "etc/fedbus/password").stat().st_mode & 0o777 == 0o600
    units = root / "etc/systemd/system"
    wanted = units / "multi-user.target.wants"
    for unit in ("fedbus-device.service", "fedbus-setup.service"):
        assert (wanted / unit).resolve() == units / unit
    assert os.access(root / "opt/fedbus/setup", os.X_OK)
    assert "fedbus verify --host 127.0.0.1 --port 9 --task digits --device device-1" in said
    leftovers = [path for path in snapshot(root) if "new" in path.split(".")[-1] or "/." in path]
    assert not leftovers


def test_flashing_twice_changes_nothing_and_says_so(root: Path, options: list[str | Path]) -> None:
    command(*options, "--yes")
    before = snapshot(root)
    status, said = command(*options, "--yes")
    assert status == 0
    assert "nothing to do" in said
    assert snapshot(root) == before


def test_the_password_is_never_said(root: Path, options: list[str | Path]) -> None:
    said = "".join(command(*options, *more)[1] for more in ([], ["--yes"], ["--yes"]))
    assert SECRET not in said
    assert f"{PASSWORD} (secret, mode 600)" in said
    assert SECRET not in repr(flash_plan(Folder(str(root)), _wish(root), setup_now=False))


def _wish(root: Path, content: str = "one", config: str = CONFIG_TEXT) -> Wish:
    return small_wish(root.parent, content, config)


def test_only_what_differs_is_written(root: Path) -> None:
    target = Folder(str(root))
    flash(target, _wish(root))
    (root / "etc/fedbus/device.toml").chmod(0o600)
    plan = flash_plan(target, _wish(root), setup_now=False)
    changed = [line.text for line in plan.lines if line.verdict is not Verdict.SAME]
    assert len(changed) == 1
    assert changed[0].startswith(CONFIG)
    act(target, plan)
    assert flash_plan(target, _wish(root), setup_now=False).changes_nothing


def test_a_configuration_that_was_there_is_kept(root: Path) -> None:
    target = Folder(str(root))
    flash(target, _wish(root))
    newer = CONFIG_TEXT.replace("device-1", "device-2")
    flash(target, _wish(root, config=newer))
    assert (root / "etc/fedbus/device.toml").read_text() == newer
    kept = list((root / "etc/fedbus").glob("device.toml.bak-*"))
    assert [path.read_text() for path in kept] == [CONFIG_TEXT]


def test_a_damaged_release_is_mended_in_place(root: Path) -> None:
    target = Folder(str(root))
    flash(target, _wish(root))
    damaged = root / "opt/fedbus/current" / SDK_ZIP
    damaged.write_text("rotten")
    name = str((root / "opt/fedbus/current").readlink())
    flash(target, _wish(root))
    assert f"releases/{current(root)}" == name
    assert unzipped(damaged.read_bytes())["protocol/__init__.py"] == b'CONTENT="one"\n'


def test_a_zip_deflated_by_another_library_is_replaced_in_the_same_release(root: Path) -> None:
    """The one thing that the machine that flashes has a say in; next time nothing changes."""
    target = Folder(str(root))
    flash(target, _wish(root))
    name, there = current(root), root / "opt/fedbus/current" / SDK_ZIP
    otherwise = io.BytesIO()
    with zipfile.ZipFile(otherwise, "w", zipfile.ZIP_STORED) as archive:
        for path, data in unzipped(there.read_bytes()).items():
            archive.writestr(path, data)
    wish = _wish(root)
    files = {**wish.bundle.files, SDK_ZIP: otherwise.getvalue()}
    wish = replace(wish, bundle=replace(wish.bundle, files=files))
    plan = flash_plan(target, wish, setup_now=False)
    changed = [line.text for line in plan.lines if line.verdict is not Verdict.SAME]
    assert [SDK_ZIP in text for text in changed] == [True]
    act(target, plan)
    assert current(root) == name
    assert there.read_bytes() == otherwise.getvalue()
    assert flash_plan(target, wish, setup_now=False).changes_nothing


def test_old_releases_stay_but_not_for_ever(root: Path) -> None:
    target = Folder(str(root))
    names = []
    for number in range(KEPT_RELEASES + 2):
        flash(target, _wish(root, str(number)))
        names.append(current(root))
    there = {path.name for path in (root / "opt/fedbus/releases").iterdir()}
    assert there == set(names[-KEPT_RELEASES:])


def test_rolling_back_switches_to_the_release_before(root: Path) -> None:
    target = Folder(str(root))
    flash(target, _wish(root, "one"))
    one = current(root)
    flash(target, _wish(root, "two"))
    two = current(root)
    before = snapshot(root)
    status, said = command("flash", "--root", root, "--rollback")
    assert (status, snapshot(root)) == (0, before)
    assert one in said
    command("flash", "--root", root, "--rollback", "--yes")
    assert current(root) == one
    act(target, rollback_plan(target))
    assert current(root) == two


def test_there_is_no_way_back_from_the_first_release(root: Path) -> None:
    flash(Folder(str(root)), _wish(root))
    status, said = command("flash", "--root", root, "--rollback", "--yes")
    assert status == 2
    assert "no release before" in said


def test_a_given_interpreter_replaces_the_virtual_environment(
    root: Path, options: list[str | Path]
) -> None:
    command(*options, "--yes")
    status, said = command(*options, "--python", PYTHON, "--yes")
    assert status == 0, said
    unit = (root / "etc/systemd/system/fedbus-device.service").read_text()
    assert f"ExecStart={PYTHON} -m device_sdk run" in unit
    wanted = root / "etc/systemd/system/multi-user.target.wants"
    assert [path.name for path in wanted.iterdir()] == ["fedbus-device.service"]
    assert "nothing to do" in command(*options, "--python", PYTHON, "--yes")[1]


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--root", "/"], "--this-machine"),
        (["--root", "{tmp}/root/../root/usr"], "no /etc"),
        (["--root", "{tmp}/nowhere"], "no such folder"),
        (["--root", "{tmp}/root", "--python", "/nowhere/python3"], "no such program"),
        (["--root", "{tmp}/root", "--ssh", "host"], "either"),
        ([], "either"),
    ],
)
def test_what_is_no_target_is_refused(
    root: Path, tmp_path: Path, arguments: list[str], reason: str
) -> None:
    before = snapshot(root)
    words = [each.replace("{tmp}", str(tmp_path)) for each in arguments]
    status, said = command("flash", *words, "--config", write_config(tmp_path), "--yes")
    assert status == 2
    assert reason in said
    assert snapshot(root) == before


def test_a_device_without_its_password_is_refused(root: Path, tmp_path: Path) -> None:
    config = write_config(tmp_path, WITH_PASSWORD)
    status, said = command("flash", "--root", root, "--config", config, "--yes")
    assert status == 2
    assert "--password-file" in said


def test_links_are_followed_inside_the_root(root: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (root / "really/opt").mkdir(parents=True)
    (root / "opt").symlink_to("/really/opt")
    (root / "etc/systemd").symlink_to("../../../../really/systemd")
    (root / "etc/fedbus").symlink_to(f"{outside}/fedbus")
    flash(Folder(str(root)), _wish(root))
    assert current(root / "really")
    assert (root / "really/systemd/system/fedbus-device.service").is_file()
    assert list(outside.iterdir()) == []
    inside = root / str(outside).removeprefix("/") / "fedbus/device.toml"
    assert inside.read_text() == CONFIG_TEXT
    assert flash_plan(Folder(str(root)), _wish(root), setup_now=False).changes_nothing


def test_a_link_in_place_of_a_file_is_replaced_not_written_through(
    root: Path, tmp_path: Path
) -> None:
    precious = tmp_path / "precious"
    precious.write_text("precious")
    (root / "etc/fedbus").mkdir()
    for name in ("device.toml", "device.toml.fedbus-new"):
        (root / "etc/fedbus" / name).symlink_to(precious)
    flash(Folder(str(root)), _wish(root))
    assert precious.read_text() == "precious"
    assert not (root / "etc/fedbus/device.toml").is_symlink()


def test_links_in_a_circle_end_in_a_sentence(root: Path) -> None:
    (root / "opt").symlink_to("opt")
    with pytest.raises(TargetError, match="too many links"):
        flash(Folder(str(root)), _wish(root))


def test_a_folder_named_current_is_not_overwritten(root: Path) -> None:
    (root / "opt/fedbus/current").mkdir(parents=True)
    with pytest.raises(PlanError, match="no link"):
        flash(Folder(str(root)), _wish(root))
