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


def test_words_and_columns_alone_make_no_new_release(tmp_path: Path) -> None:
    sources = _copy(tmp_path)
    module = sources["protocol"] / "errors.py"
    before = build_bundle(sources).name
    module.write_text(module.read_text().replace("protocol", "PROTOCOL") + "# an afterthought")
    assert build_bundle(sources).name == before
    module.write_text("\n" + module.read_text())
    assert build_bundle(sources).name != before, "a traceback would name other lines"


def test_it_is_small_packed_and_unpacked() -> None:
    """With ``-rP`` pytest prints the sizes; "room" is what the SDK may still grow by."""
    built = build_bundle()
    code = sum(len(data) for path, data in built.files.items() if path != MANIFEST)
    size, packed = code + len(built.files[MANIFEST]), len(built.archive)
    figures = f"{code} bytes of code, {size} with the manifest, {packed} packed; a device takes "
    figures += f"{MAX_BYTES} ({MAX_BYTES - size} of room) and {MAX_BYTES // 2} packed"
    sys.stdout.write(f"{figures}\n")
    assert size <= MAX_BYTES, figures
    assert packed <= MAX_BYTES / 2, figures


def test_a_source_that_has_grown_too_large_is_refused(tmp_path: Path) -> None:
    sources = _copy(tmp_path)
    (sources["protocol"] / "large.py").write_text(f"x = '{'#' * MAX_BYTES}'")
    with pytest.raises(BundleError, match="grown"):
        build_bundle(sources)


@pytest.mark.parametrize("source", [b"def f(:\n", b"x = '\xff'\n"])
def test_a_source_that_is_not_python_is_refused_by_name(tmp_path: Path, source: bytes) -> None:
    sources = _copy(tmp_path)
    (sources["protocol"] / "broken.py").write_bytes(source)
    with pytest.raises(BundleError, match=r"broken\.py is not Python"):
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


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("unpacked")
    with tarfile.open(fileobj=io.BytesIO(build_bundle().archive)) as archive:
        archive.extractall(folder, filter="data")
    return folder


def _run(folder: Path, *arguments: str) -> str:
    """Run Python with what lies in ``folder`` and the libraries only; return what it said."""
    done = subprocess.run(
        [sys.executable, "-P", *arguments],
        env={"PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1"},
        cwd="/",
        capture_output=True,
        check=False,
        timeout=60,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_unpacked_bundle_is_an_sdk_on_its_own(unpacked: Path) -> None:
    assert SDK_VERSION in _run(unpacked, "-m", "device_sdk", "--version")


@pytest.mark.parametrize("more", [[], ["run"], ["check"]])
def test_it_explains_itself_as_the_source_does(unpacked: Path, more: list[str]) -> None:
    said = _run(unpacked, "-m", "device_sdk", *more, "--help")
    assert said == _run(ROOT, "-m", "device_sdk", *more, "--help")
    assert ("--config" if more else "Take part in a federation") in said


def test_every_module_of_it_can_be_imported(unpacked: Path) -> None:
    paths = [path for path in build_bundle().files if path.endswith(".py")]
    names = [path[:-3].replace("/", ".").removesuffix(".__init__") for path in paths]
    code = "import importlib, sys; made = [importlib.import_module(n) for n in sys.argv[1:]];"
    code += "print(*{m.__file__ for m in made}, *[m for m in made if m.__doc__])"
    wanted = {str(unpacked / path) for path in paths if path != "device_sdk/__main__.py"}
    said = _run(unpacked, "-c", code, *(name for name in names if "__main__" not in name))
    assert set(said.split()) == wanted
