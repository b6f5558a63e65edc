"""Folders of commands that were killed go with the next command; all others stay."""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from fedbus.temporary import LOCK, SETTLED_S, temporary_folder

HELD = """
from fedbus.temporary import temporary_folder
with temporary_folder('held-') as folder:
    print(folder, flush=True)
    input()
"""


@pytest.fixture(autouse=True)
def _apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))


def age(folder: Path, seconds: float = SETTLED_S + 1) -> None:
    os.utime(folder, (0, time.time() - seconds), follow_symlinks=False)


def sweep() -> None:
    with temporary_folder("held-") as folder:
        assert folder.is_dir()
    assert not folder.exists()


def test_the_folder_of_a_killed_command_goes_and_of_one_that_runs_stays(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HELD],
        cwd=Path(__file__).parents[2],
        env={**os.environ, "TMPDIR": str(tmp_path)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as command:
        assert command.stdout is not None
        folder = Path(command.stdout.readline().strip())
        (folder / "secret").write_text("a secret")
        age(folder)
        sweep()
        assert (folder / "secret").exists()
        command.kill()
    assert folder.exists()
    age(folder)
    sweep()
    assert not folder.exists()


def test_nothing_else_is_deleted(tmp_path: Path) -> None:
    for name in ("held-young", "held-own", "other-left", "elsewhere"):
        (tmp_path / name).mkdir()
        (tmp_path / name / LOCK).touch()
    (tmp_path / "held-own" / LOCK).unlink()
    (tmp_path / "held-link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "held-file").touch()
    before = {path.name for path in tmp_path.iterdir()}
    for name in before - {"held-young"}:
        age(tmp_path / name)
    sweep()
    assert {path.name for path in tmp_path.iterdir()} == before
    assert (tmp_path / "elsewhere" / LOCK).exists()
