"""``footprint``: what a device pays. The bare install, the import, and memory while it trains.

- Install: the project into a fresh virtual environment, not editable, no extras. Its size is that
  of ``site-packages`` less pip and setuptools, ``.pyc`` files of the install included; packages are
  the distributions there.
- Import: ``import device_sdk.device``, which is what takes part, over importing its four libraries,
  each in a fresh interpreter of that environment, in turn, timed inside it.
- Memory: PSS (what is shared counts in part) over the whole process tree of one device that trains
  the digits MLP in a real federation; the peak of samples, taken while it trains and reports.
"""

import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from benchmarks.report import ROOT, Report, figure, median, ratio_of_medians, spread
from benchmarks.watcher import Watcher
from fedbus.children import stop
from fedbus.datasets import load, split
from fedbus.federation import TASK, Recipe, running_federation

LIBRARIES: Final = ("numpy", "paho.mqtt.client", "msgpack", "nacl.bindings")
_NOT_OURS: Final = ("pip", "setuptools", "_distutils_hack", "pkg_resources", "distutils-precedence")
_SAMPLE_S: Final = 0.02
_SAMPLES_FOR_S: Final = 0.25  # of each version


def measure(*, quick: bool) -> Report:
    """Measure all three."""
    with tempfile.TemporaryDirectory() as folder:
        python, install = _install(Path(folder), quick=quick)
        imports = _imports(python, 1 if quick else 21)
        memory = _memory(python, Path(folder), 2 if quick else 40)
    return {"install": install, "import": imports, "memory": memory}


# --- install -------------------------------------------------------------------------------------


def _install(folder: Path, *, quick: bool) -> tuple[Path, Report]:
    """Return the environment's interpreter and what is in it; quick: this environment itself."""
    if quick:
        return Path(sys.executable), {"skipped": "quick"}
    subprocess.run([sys.executable, "-m", "venv", str(folder / "venv")], check=True)
    python = folder / "venv" / "bin" / "python"
    source = folder / "source"
    files = subprocess.run(
        ["git", "-C", str(ROOT), "archive", "HEAD"], capture_output=True, check=True
    ).stdout
    source.mkdir()
    subprocess.run(["tar", "-x", "-C", str(source)], input=files, check=True)
    subprocess.run([str(python), "-m", "pip", "install", "--quiet", str(source)], check=True)
    (site,) = (folder / "venv" / "lib").glob("python*/site-packages")
    sizes = {
        entry.name: _size(entry) for entry in site.iterdir() if not entry.name.startswith(_NOT_OURS)
    }
    ours = sum(size for name, size in sizes.items() if (ROOT / name).is_dir())
    return python, {
        "mb": figure(sum(sizes.values()) / 1e6, 3),
        "own_code_kb": round(ours / 1e3),
        "packages": sorted(
            name.removesuffix(".dist-info") for name in sizes if name.endswith(".dist-info")
        ),
    }


def _size(path: Path) -> int:
    if path.is_file():
        return path.stat().st_size
    return sum(each.stat().st_size for each in path.rglob("*") if each.is_file())


# --- import --------------------------------------------------------------------------------------


def _imports(python: Path, rounds: int) -> Report:
    sdk, libraries = [], []
    for _ in range(rounds + 1):
        libraries.append(_import_ms(python, ", ".join(LIBRARIES)))
        sdk.append(_import_ms(python, "device_sdk.device"))
    del sdk[0], libraries[0]  # the first reads the disk, and writes .pyc files
    return {
        "ratio_to_libraries": ratio_of_medians(sdk, libraries),
        "device_sdk_ms": median(sdk),
        "device_sdk_ms_range": spread(sdk),
        "libraries_ms": median(libraries),
        "libraries_ms_range": spread(libraries),
        "libraries": list(LIBRARIES),
        "rounds": rounds,
    }


def _import_ms(python: Path, what: str) -> float:
    code = (
        f"import time; start = time.perf_counter(); import {what}; "
        "print(time.perf_counter() - start)"
    )
    done = subprocess.run(
        [str(python), "-c", code], capture_output=True, text=True, check=True, cwd=ROOT.anchor
    )
    return 1e3 * float(done.stdout)


# --- memory --------------------------------------------------------------------------------------


def _memory(python: Path, folder: Path, versions: int) -> Report:
    data = load(None)
    parts = split(data, devices=4, alpha=0.3, seed=0)
    recipe = Recipe(mode="rounds", codec="topk-0.1/int8", seed=0, engine="mosquitto")
    with running_federation(folder / "federation", recipe, data, parts) as federation:
        stop(federation.devices[:1])
        config = folder / "federation" / federation.devices[0].name / "device.toml"
        with (
            _device(python, config) as device,
            Watcher(TASK, federation.broker) as watcher,
        ):
            return _peak(device.pid, watcher, versions)


@contextmanager
def _device(python: Path, config: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run a device in the environment of the bare install: it shares no library's pages."""
    command = [str(python), "-m", "device_sdk", "run", "--config", str(config)]
    with (
        config.with_name("measured.log").open("wb") as log,
        subprocess.Popen(command, stdout=log, stderr=log, cwd=config.parent) as process,
    ):
        try:
            yield process
        finally:
            process.terminate()


def _peak(pid: int, watcher: Watcher, versions: int) -> Report:
    """Sample while so many versions are made, all of whose rounds the device is part of."""
    pss, processes = [], 0
    manifests = watcher.manifests()
    first = next(manifests).version
    for manifest in manifests:
        until = time.monotonic() + _SAMPLES_FOR_S
        while time.monotonic() < until:
            tree = _tree(pid)
            processes = max(processes, len(tree))
            pss.append(sum(_pss_kib(each) for each in tree))
            time.sleep(_SAMPLE_S)
        if manifest.version >= first + versions:
            break
    return {
        "pss_peak_mib": figure(max(pss) / 1024, 3),
        "pss_median_mib": figure(median(pss) / 1024, 3),
        "processes": processes,
        "samples": len(pss),
    }


def _tree(pid: int) -> list[int]:
    tasks = Path(f"/proc/{pid}/task").glob("*/children")
    children = [child for task in tasks for child in task.read_text(encoding="ascii").split()]
    return [pid, *(each for child in children for each in _tree(int(child)))]


def _pss_kib(pid: int) -> int:
    rollup = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii")
    (pss,) = (line for line in rollup.splitlines() if line.startswith("Pss:"))
    return int(pss.split()[1])
