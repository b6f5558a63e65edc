"""A flash that fails or is killed anywhere leaves the old release current; the next one mends."""

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from firmware_scripts.flashing import act, flash_plan
from firmware_scripts.target import Folder, TargetError, _text
from tests.firmware_scripts.workbench import (
    CONFIG_TEXT,
    current,
    flash,
    make_root,
    noise,
    small_wish,
    snapshot,
)

#: Every program that target.sh runs and that changes something.
PROGRAMS: Final = ("chmod", "cp", "ln", "mkdir", "mv", "rm", "sha256sum", "sync", "tar", "touch")
NEW_CONFIG: Final = CONFIG_TEXT.replace("device-1", "device-2")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    made = make_root(tmp_path)
    flash(Folder(str(made)), small_wish(tmp_path, "old"))
    return made


def _killers(folder: Path) -> Path:
    """Return a folder of programs that count themselves and kill their whole group at one."""
    folder.mkdir()
    for name in PROGRAMS:
        real = shutil.which(name)
        program = folder / name
        program.write_text(
            "#!/bin/sh\n"
            'read -r n <"$COUNT"\n'
            'echo $((n + 1)) >"$COUNT"\n'
            '[ "$n" != "$KILL_AT" ] || kill -9 0\n'
            f'exec {real} "$@"\n'
        )
        program.chmod(0o755)
    return folder


def test_killed_before_any_of_its_steps_it_breaks_nothing(root: Path, tmp_path: Path) -> None:
    """SIGKILL at each program in turn, until a flash gets through without meeting its killer."""
    target = Folder(str(root))
    old = current(root)
    wish = small_wish(tmp_path, "new", NEW_CONFIG)
    killers, count, pristine = _killers(tmp_path / "bin"), tmp_path / "count", tmp_path / "pristine"
    shutil.copytree(root, pristine, symlinks=True)
    before: set[str] = set()
    returncode = kill_at = -1
    while returncode:
        kill_at += 1
        shutil.rmtree(root)
        shutil.copytree(pristine, root, symlinks=True)
        plan = flash_plan(target, wish, setup_now=False)
        count.write_text("0\n")
        returncode = subprocess.run(
            ["sh", "-c", _text(target.root, plan.script)],
            input=plan.payload,
            env={
                "PATH": f"{killers}:{os.environ['PATH']}",
                "COUNT": str(count),
                "KILL_AT": str(kill_at),
            },
            start_new_session=True,
            capture_output=True,
            check=False,
            timeout=60,
        ).returncode
        assert returncode in {0, -signal.SIGKILL}
        before.add(current(root))
        flash(target, wish)
        assert current(root) == wish.bundle.name
        assert (root / "etc/fedbus/device.toml").read_text() == NEW_CONFIG
        assert not [path for path in snapshot(root) if path.endswith((".partial", ".incoming"))]
    assert kill_at > 15
    assert before == {old, wish.bundle.name}


@pytest.mark.parametrize("share", [0.0, 0.3, 0.99])
def test_a_connection_lost_in_the_middle_changes_nothing(
    root: Path, tmp_path: Path, share: float
) -> None:
    target = Folder(str(root))
    wish = small_wish(tmp_path, "new", NEW_CONFIG)
    plan = flash_plan(target, wish, setup_now=False)
    before = snapshot(root)
    with pytest.raises(TargetError):
        target.run(plan.script, plan.payload[: int(len(plan.payload.rstrip(bytes(1))) * share)])
    assert snapshot(root) == before


def test_what_arrives_damaged_is_refused(root: Path, tmp_path: Path) -> None:
    target = Folder(str(root))
    plan = flash_plan(target, small_wish(tmp_path, "new", NEW_CONFIG), setup_now=False)
    before = snapshot(root)
    damaged = plan.payload.replace(b"device-2", b"device-3")
    with pytest.raises(TargetError, match="damaged"):
        target.run(plan.script, damaged)
    assert snapshot(root) == before


def test_a_file_size_limit_leaves_the_old_release_current(root: Path, tmp_path: Path) -> None:
    """RLIMIT_FSIZE: what a full disk looks like where none can be mounted."""
    target = Folder(str(root))
    old = current(root)
    wish = small_wish(tmp_path, noise(9000))
    plan = flash_plan(target, wish, setup_now=False)
    done = subprocess.run(
        ["sh", "-c", "ulimit -f 4\n" + _text(target.root, plan.script)],
        input=plan.payload,
        capture_output=True,
        check=False,
        timeout=60,
    )
    assert done.returncode != 0
    assert current(root) == old
    act(target, plan)
    assert current(root) == wish.bundle.name


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 600 kB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=600k", "none", str(folder)],
        capture_output=True,
        check=False,
    )
    if mounted.returncode:
        pytest.skip("may not mount a small file system here")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_leaves_the_old_release_current(small_disk: Path, tmp_path: Path) -> None:
    root = make_root(small_disk)
    target = Folder(str(root))
    flash(target, small_wish(tmp_path, "old"))
    old = current(root)
    filler = small_disk / "filler"
    for room in (0, 8_000, 16_000, 24_000):
        with filler.open("wb", buffering=0) as file:
            while True:
                try:
                    file.write(bytes(4096))
                except OSError:
                    break
        os.truncate(filler, filler.stat().st_size // 4096 * 4096 - room)
        before = snapshot(root)
        with pytest.raises(TargetError, match="No space left"):
            flash(target, small_wish(tmp_path, noise(60_000), NEW_CONFIG))
        assert current(root) == old
        assert (root / "etc/fedbus/device.toml").read_text() == CONFIG_TEXT
        assert snapshot(root) == before
        filler.unlink()
    flash(target, small_wish(tmp_path, noise(60_000), NEW_CONFIG))
    assert current(root) != old
