"""The bundle: the same source gives the same bytes, and nothing else goes onto a device."""

import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tomllib
from pathlib import Path

import pytest

import protocol
from device_sdk import SDK_VERSION
from firmware_scripts import bundle
from firmware_scripts.bundle import MANIFEST, MAX_BYTES, BundleError, build_bundle
from protocol.messages import WIRE_VERSION

ROOT = Path(bundle.__file__).parents[1]


def _copy(folder: Path) -> dict[str, Path]:
    source = Path(str(protocol.__file__)).parent
    return {"protocol": Path(shutil.copytree(source, folder / "anywhere"))}


def test_the_same_source_gives_the_same_bytes_wherever_and_whenever(tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    first, second = _copy(tmp_path / "one"), _copy(tmp_path / "two")
    for path in second["protocol"].rglob("*.py"):
        path.chmod(0o600)
        os.utime(path, (1e9, 1e9))
    one, two = build_bundle(first), build_bundle(second)
    assert one.archive == two.archive
    assert one.name == two.name


def test_another_process_builds_the_same_bytes() -> None:
    code = "import sys; from firmware_scripts.bundle import build_bundle as b;"
    code += "sys.stdout.buffer.write(b().archive)"
    environment = {**os.environ, "PYTHONHASHSEED": "7", "TZ": "Asia/Tokyo"}
    made = [
        subprocess.run(
            [sys.executable, "-c", code],
            cwd=ROOT,
            env=each,
            capture_output=True,
            check=True,
            timeout=60,
        ).stdout
        for each in (environment, {**environment, "PYTHONHASHSEED": "8", "TZ": "UTC"})
    ]
    assert made[0] == made[1]


def test_another_source_gives_another_name(tmp_path: Path) -> None:
    sources = _copy(tmp_path)
    before = build_bundle(sources).name
    (sources["protocol"] / "one_more.py").write_text("\n")
    assert build_bundle(sources).name != before


def test_it_is_small_packed_and_unpacked() -> None:
    built = build_bundle()
    assert sum(map(len, built.files.values())) <= MAX_BYTES
    assert len(built.archive) <= MAX_BYTES / 2


def test_a_source_that_has_grown_too_large_is_refused(tmp_path: Path) -> None:
    sources = _copy(tmp_path)
    (sources["protocol"] / "large.py").write_text("#" * MAX_BYTES)
    with pytest.raises(BundleError, match="grown"):
        build_bundle(sources)


def test_it_holds_the_three_packages_and_a_manifest() -> None:
    files = set(build_bundle().files)
    assert MANIFEST in files
    files.remove(MANIFEST)
    assert {path.split("/")[0] for path in files} == {"device_sdk", "protocol", "transport"}
    assert all(path.endswith((".py", "/py.typed")) for path in files)
    assert not [path for path in files if "test" in path or "__pycache__" in path]


def test_what_is_no_source_stays_at_home(tmp_path: Path) -> None:
    sources = _copy(tmp_path)
    before = build_bundle(sources)
    (sources["protocol"] / "password.txt").write_text("secret")
    (sources["protocol"] / "notes.md").write_text("notes")
    assert build_bundle(sources) == before


def test_the_manifest_names_every_file_and_both_versions() -> None:
    built = build_bundle()
    manifest = json.loads(built.files[MANIFEST])
    assert manifest["sdk"] == SDK_VERSION
    assert manifest["wire"] == WIRE_VERSION
    assert manifest["files"] == {
        path: hashlib.sha256(data).hexdigest()
        for path, data in built.files.items()
        if path != MANIFEST
    }


def test_the_archive_holds_exactly_the_files_and_nobodys_name() -> None:
    built = build_bundle()
    with tarfile.open(fileobj=io.BytesIO(built.archive)) as archive:
        members = archive.getmembers()
        content = {
            each.name: file.read()
            for each in members
            if (file := archive.extractfile(each)) is not None
        }
    assert content == built.files
    assert [each.name for each in members] == sorted(each.name for each in members)
    assert {(each.uid, each.gid, each.uname, each.gname, each.mtime) for each in members} == {
        (0, 0, "", "", bundle.EPOCH)
    }


def test_what_it_requires_is_the_bare_install() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert sorted(project["dependencies"]) == sorted(bundle.REQUIREMENTS)


def test_the_unpacked_bundle_is_an_sdk_on_its_own(tmp_path: Path) -> None:
    with tarfile.open(fileobj=io.BytesIO(build_bundle().archive)) as archive:
        archive.extractall(tmp_path, filter="data")
    done = subprocess.run(
        [sys.executable, "-P", "-m", "device_sdk", "--version"],
        env={"PYTHONPATH": str(tmp_path), "PYTHONDONTWRITEBYTECODE": "1"},
        cwd="/",
        capture_output=True,
        check=True,
        timeout=60,
    )
    assert SDK_VERSION in done.stdout.decode()
