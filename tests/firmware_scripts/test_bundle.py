"""The bundle: the same source gives the same zip, and Python runs the SDK from inside it."""

import ast
import functools
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

import protocol
from device_sdk import SDK_VERSION
from firmware_scripts import bundle
from firmware_scripts.bundle import MANIFEST, MAX_BYTES, SDK_ZIP, Bundle, BundleError, build_bundle
from firmware_scripts.slim import slim
from protocol.messages import WIRE_VERSION
from tests.firmware_scripts.workbench import noise, unzipped

ROOT: Final = Path(bundle.__file__).parents[1]
LEFT_OUT: Final = "device_sdk.engine.specs"


@pytest.fixture(scope="module", autouse=True)
def slimmed_once() -> Iterator[None]:
    """Each source is slimmed once for all bundles here: it takes most of the time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("firmware_scripts.bundle.slim", functools.cache(slim))
        yield


@pytest.fixture(scope="module")
def whole() -> Bundle:
    """Return the bundle of the source as it is."""
    return build_bundle()


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
    assert one == two


def test_another_process_builds_the_same_bytes(tmp_path: Path) -> None:
    code = "import pathlib, sys; from firmware_scripts.bundle import build_bundle;"
    code += "built = build_bundle({'protocol': pathlib.Path(sys.argv[1])});"
    code += "sys.stdout.buffer.write(b'|'.join([built.name.encode(), *built.files.values()]))"
    source = _copy(tmp_path)["protocol"]
    environment = {**os.environ, "PYTHONHASHSEED": "7", "TZ": "Asia/Tokyo"}
    made = [
        subprocess.run(
            [sys.executable, "-c", code, source],
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


def test_its_name_follows_from_the_modules_and_not_from_how_they_are_deflated(
    whole: Bundle,
) -> None:
    manifest = json.loads(whole.files[MANIFEST])
    assert whole.name == f"{SDK_VERSION}-{hashlib.sha256(whole.files[MANIFEST]).hexdigest()[:12]}"
    assert hashlib.sha256(whole.files[SDK_ZIP]).hexdigest() not in whole.files[MANIFEST].decode()
    assert manifest == {
        "sdk": SDK_VERSION,
        "wire": WIRE_VERSION,
        "requires": list(bundle.REQUIREMENTS),
        "modules": {
            path: hashlib.sha256(data).hexdigest()
            for path, data in unzipped(whole.files[SDK_ZIP]).items()
        },
    }


def test_all_that_a_device_stores_of_it_is_small(whole: Bundle) -> None:
    """With ``-rP`` pytest prints the sizes; "room" is what the SDK may still grow by."""
    files = whole.files
    size = sum(map(len, files.values()))
    code = sum(map(len, unzipped(files[SDK_ZIP]).values()))
    figures = f"{code} bytes of code, {len(files[SDK_ZIP])} as a zip, {size} with the manifest; "
    figures += f"a device takes {MAX_BYTES} ({MAX_BYTES - size} of room)"
    sys.stdout.write(f"{figures}\n")
    assert size <= MAX_BYTES, figures


def test_a_source_that_has_grown_too_large_is_refused(tmp_path: Path) -> None:
    sources = _copy(tmp_path)
    (sources["protocol"] / "large.py").write_text(f"x = '{noise(MAX_BYTES)}'")
    build_bundle(sources)
    (sources["protocol"] / "larger.py").write_text(f"x = '{noise(2 * MAX_BYTES)}'")
    with pytest.raises(BundleError, match="grown"):
        build_bundle(sources)


@pytest.mark.parametrize("source", [b"def f(:\n", b"x = '\xff'\n"])
def test_a_source_that_is_not_python_is_refused_by_name(tmp_path: Path, source: bytes) -> None:
    sources = _copy(tmp_path)
    (sources["protocol"] / "broken.py").write_bytes(source)
    with pytest.raises(BundleError, match=r"broken\.py is not Python"):
        build_bundle(sources)


def test_it_holds_the_three_packages_and_no_data(whole: Bundle) -> None:
    assert list(whole.files) == [SDK_ZIP, MANIFEST]
    paths = set(unzipped(whole.files[SDK_ZIP]))
    assert {path.split("/")[0] for path in paths} == {"device_sdk", "protocol", "transport"}
    assert all(path.endswith((".py", "/py.typed")) for path in paths)
    assert not [path for path in paths if "test" in path or "__pycache__" in path]


def test_what_is_no_source_stays_at_home(tmp_path: Path) -> None:
    sources = _copy(tmp_path)
    before = build_bundle(sources)
    (sources["protocol"] / "password.txt").write_text("secret")
    (sources["protocol"] / "notes.md").write_text("notes")
    assert build_bundle(sources) == before


def test_nothing_in_it_looks_for_files_beside_itself(whole: Bundle) -> None:
    """There are none: a module lies in a zip, which no ``open`` looks into."""
    for path, data in unzipped(whole.files[SDK_ZIP]).items():
        words = {getattr(node, "id", "") for node in ast.walk(ast.parse(data))}
        assert not words & {"__file__", "__path__"}, path


def test_nothing_in_it_needs_what_is_left_out(whole: Bundle) -> None:
    modules = unzipped(whole.files[SDK_ZIP])
    assert (ROOT / LEFT_OUT.replace(".", "/")).is_dir()
    assert not [path for path in modules if path.startswith(LEFT_OUT.replace(".", "/"))]
    for path, data in modules.items():
        for node in ast.walk(ast.parse(data)):
            if isinstance(node, ast.ImportFrom):
                assert LEFT_OUT not in {f"{node.module}.{each.name}" for each in node.names}, path
                assert node.module != LEFT_OUT, path
            if isinstance(node, ast.Import):
                assert LEFT_OUT not in {each.name for each in node.names}, path


def test_what_it_requires_is_the_bare_install() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert sorted(project["dependencies"]) == sorted(bundle.REQUIREMENTS)


@pytest.fixture(scope="module")
def sdk(whole: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the zip as it lies on a device."""
    path = tmp_path_factory.mktemp("release") / SDK_ZIP
    path.write_bytes(whole.files[SDK_ZIP])
    return path


def _run(path: Path | str, *arguments: str, status: int = 0) -> str:
    """Run Python with what lies on ``path`` and the libraries only; return what it said."""
    done = subprocess.run(
        [sys.executable, "-P", *arguments],
        env={"PYTHONPATH": str(path), "PYTHONDONTWRITEBYTECODE": "1"},
        cwd="/",
        capture_output=True,
        check=False,
        timeout=60,
        text=True,
    )
    assert done.returncode == status, done.stderr
    return done.stderr if status else done.stdout


def test_the_zip_is_an_sdk_on_its_own(sdk: Path) -> None:
    assert SDK_VERSION in _run(sdk, "-m", "device_sdk", "--version")


@pytest.mark.parametrize("more", [[], ["run"], ["check"]])
def test_it_explains_itself_as_the_source_does(sdk: Path, more: list[str]) -> None:
    said = _run(sdk, "-m", "device_sdk", *more, "--help")
    assert said == _run(ROOT, "-m", "device_sdk", *more, "--help")
    assert ("--config" if more else "Take part in a federation") in said


def test_every_module_of_it_can_be_imported_from_it(sdk: Path) -> None:
    """Adapters to a library need that library, which a device has only if it trains with it."""
    paths = [path for path in unzipped(sdk.read_bytes()) if path.endswith(".py")]
    names = [path[:-3].replace("/", ".").removesuffix(".__init__") for path in paths]
    code = (
        "import importlib, sys\n"
        "for name in sys.argv[1:]:\n"
        "    try:\n"
        "        made = importlib.import_module(name)\n"
        "    except ModuleNotFoundError as error:\n"
        "        assert error.name == 'torch' and '.adapters.' in name, error\n"
        "    else:\n"
        "        assert made.__doc__ is None, name\n"
        "        print(name, made.__file__)\n"
    )
    said = _run(sdk, "-c", code, *(name for name in names if "__main__" not in name))
    made = dict(line.split() for line in said.splitlines())
    assert len(made) > 100
    assert made == {
        name: str(sdk / path) for name, path in zip(names, paths, strict=True) if name in made
    }
    assert [path.name for path in sdk.parent.iterdir()] == [SDK_ZIP], "nothing is cached beside it"


def test_a_trainer_of_the_users_own_finds_the_sdk_and_is_found(sdk: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "from device_sdk import Trainer\n"
        "from device_sdk.trainer import Assignment, Trained, TrainingError\n"
        "class Mine(Trainer):\n"
        "    def num_samples(self) -> int:\n"
        "        return 3\n"
        "    def train(self, assignment: Assignment) -> Trained:\n"
        "        raise TrainingError('not today')\n"
    )
    config = 'trainer = "mine:Mine"\ntask = "t"\ndevice = "d"\nstate_dir = "s"\n'
    (tmp_path / "device.toml").write_text(config)
    code = "import sys; from pathlib import Path; from device_sdk.device import make_trainer;"
    code += "from device_sdk.config import load_config;"
    code += "print(make_trainer(load_config(Path(sys.argv[1]))).num_samples())"
    path = f"{sdk}:{tmp_path}"
    assert _run(path, "-c", code, str(tmp_path / "device.toml")).strip() == "3"


def test_a_traceback_names_files_and_lines_of_the_repository(sdk: Path) -> None:
    """Printed as ``logging`` does, which shows the lines too; and as Python ends with it."""
    code = (
        "import traceback; from device_sdk.engine import parse_spec\n"
        "try:\n"
        "    parse_spec({'layers': [{'type': 'dense', 'units': 0}],"
        " 'input': [3], 'loss': 'softmax_cross_entropy'})\n"
        "except Exception:\n"
        "    traceback.print_exc()\n"
        "    raise"
    )
    inside = r"((?:device_sdk|protocol)/.+\.py)"
    frame = re.compile(rf'File "(.+)/{inside}", line (\d+), in (.+)(?:\n {{4}}(.+))?')
    from_zip, from_source = (
        frame.findall(_run(path, "-c", code, status=1)) for path in (sdk, ROOT)
    )
    assert len(from_source) >= 6
    assert {path for path, *_ in from_source} == {str(ROOT)}
    assert {path for path, *_ in from_zip} == {str(sdk)}
    assert [each[1:4] for each in from_zip] == [each[1:4] for each in from_source]
    modules = unzipped(sdk.read_bytes())
    for _, module, number, _, shown in from_zip[: len(from_zip) // 2]:
        assert shown == modules[module].decode().split("\n")[int(number) - 1].strip()
