"""Archives: the same files give the same bytes, whoever packs them."""

import hashlib
import io
import os
import shutil
import stat
import subprocess
import sys
import tarfile
import zipfile
import zlib
from pathlib import Path
from typing import Final

import pytest

from firmware_scripts import archives
from firmware_scripts.archives import EPOCH, make_tar, make_zip, sums

FILES: Final = {"b/c.py": b"x=1\n" * 100, "a/__init__.py": b"", "b/__init__.py": b"'\xc3\xa9'\n"}
BACKWARDS: Final = dict(reversed(FILES.items()))
ROOT: Final = Path(archives.__file__).parents[1]


def test_the_order_of_the_files_does_not_matter() -> None:
    assert make_zip(FILES) == make_zip(BACKWARDS)
    assert make_tar(FILES) == make_tar(BACKWARDS)
    assert sums(FILES) == sums(BACKWARDS)


def test_a_zip_holds_exactly_the_files_and_says_nothing_of_its_maker() -> None:
    with zipfile.ZipFile(io.BytesIO(make_zip(FILES))) as archive:
        assert {path: archive.read(path) for path in archive.namelist()} == FILES
        entries = archive.infolist()
    assert [each.filename for each in entries] == sorted(FILES)
    assert {(each.date_time, each.create_system, each.extra, each.comment) for each in entries} == {
        ((1980, 1, 1, 0, 0, 0), 3, b"", b"")
    }
    assert {each.external_attr >> 16 for each in entries} == {stat.S_IFREG | 0o644}
    assert {each.compress_type for each in entries} == {zipfile.ZIP_DEFLATED}


def test_a_tar_holds_exactly_the_files_and_nobodys_name() -> None:
    with tarfile.open(fileobj=io.BytesIO(make_tar(FILES, {"b/c.py": 0o600}))) as archive:
        members = archive.getmembers()
        content = {
            each.name: file.read()
            for each in members
            if (file := archive.extractfile(each)) is not None
        }
    assert content == FILES
    assert [(each.name, each.mode) for each in members] == [
        ("a", 0o755),
        ("a/__init__.py", 0o644),
        ("b", 0o755),
        ("b/__init__.py", 0o644),
        ("b/c.py", 0o600),
    ]
    assert {(each.uid, each.gid, each.uname, each.gname, each.mtime) for each in members} == {
        (0, 0, "", "", EPOCH)
    }


@pytest.mark.parametrize("name", ["python3.11", "python3.12", "python3.13", "python3.14"])
def test_another_python_with_this_zlib_makes_the_same_zip(name: str) -> None:
    """Tried with those that are on the path, or beside ours as pyenv puts them."""
    beside = sorted(Path(sys.base_prefix).parent.glob(f"*/bin/{name}"))
    python = beside[0] if beside else shutil.which(name)
    if python is None:
        pytest.skip(f"{name} is not here")
    code = (
        "import hashlib, zlib; from firmware_scripts.archives import make_zip\n"
        f"print(zlib.ZLIB_RUNTIME_VERSION, hashlib.sha256(make_zip({FILES!r})).hexdigest())"
    )
    done = subprocess.run(
        [python, "-B", "-c", code],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONHASHSEED": "7", "TZ": "Asia/Tokyo"},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    if "pyenv: " in done.stderr:
        pytest.skip(f"{name} is not here")
    version, _, sha = done.stdout.strip().partition(" ")
    if version != zlib.ZLIB_RUNTIME_VERSION:
        pytest.skip(f"{name} has zlib {version}: its bytes may differ")
    assert sha == hashlib.sha256(make_zip(FILES)).hexdigest(), done.stderr
