"""A device on 32-bit ARM, under qemu, on Debian 12's libraries: run by ``make test-arm``.

`FEDBUS_ARM_ROOT` is the root file system that ``scripts/arm/ensure-root`` has made. The SDK comes
into it as it comes onto any device: by ``fedbus flash --root``.
"""

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import pytest

from tests.arm.armhf import (
    DEVICE,
    PATIENCE_S,
    STATE,
    TESTS,
    UNUSED,
    comes,
    flash,
    inside,
    module_of_tests,
    root,
    running,
    say,
    unit_of,
)
from tests.support.audit import audit
from tests.support.federation import ROOT, TASK, TOPICS, Federation
from tests.support.mosquitto import require_mosquitto
from tests.support.secure_federation import SecureFederation

__all__ = ["root"]

pytestmark = pytest.mark.broker

NATIVE: Final = ("ada", "ben", "cleo")
EVERYBODY: Final = (DEVICE, *NATIVE)
ARM: Final = "armv7l linux"
CONFIG_PATH: Final = "/etc/fedbus/device.toml"
KEYS: Final = "/etc/fedbus/keys.json"
NUM_VERSIONS: Final = 20
TESTS_WITHIN_S: Final = 1800.0
NEARLY: Final = 1e-5  # params are around 1, and trained in float32
#: Of these files the tests with "frozen" or "vectors" in their names: all that read tests/vectors.
VECTORS: Final = (
    "tests/protocol/test_number_vectors.py",
    "tests/protocol/test_codec.py",
    "tests/protocol/test_identity.py",
    "tests/protocol/secagg/test_key_vectors.py",
    "tests/protocol/secagg/test_secagg_vectors.py",
    "tests/protocol/secagg/test_pairwise.py",
)
ENGINE: Final = ("tests/device_sdk/engine", "tests/device_sdk/test_trainer.py")
AT_HOME: Final = ("device_sdk", "protocol", "transport")
#: Every version takes one update of each device, and a device has one lease at a time: so each
#: version there is has an update of the ARM device in it.
OF_ALL: Final = {"buffered": {"goal": 4, "max_wait_s": 3600.0, "min_contributors": 3}}
CONFIG: Final = f"""
task = "{TASK}"
device = "{DEVICE}"
state_dir = "/var/lib/fedbus"
[broker]
port = {{port}}
password_file = "/etc/fedbus/password"
[data]
file = "/var/lib/fedbus/samples.npz"
[retry]
first_s = 2.0
[telemetry]
interval_s = 1
"""
#: For what needs the SDK, but no broker.
ALONE: Final = f'task = "{TASK}"\ndevice = "{DEVICE}"\nstate_dir = "/var/lib/fedbus"\n'


# --- numbers -------------------------------------------------------------------------------------


def test_the_frozen_vectors_hold_on_arm(root: Path, tmp_path: Path) -> None:
    said = _tests_hold(root, tmp_path, "-k", "frozen or vectors", *VECTORS)
    say(f"frozen vectors on ARM: {said}")


def test_the_engines_tests_hold_on_arm(root: Path, tmp_path: Path) -> None:
    for package in AT_HOME:  # with the specs that are not flashed
        shutil.copytree(ROOT / package, root / TESTS / package, ignore=UNUSED)
    said = _tests_hold(root, tmp_path, *ENGINE)
    say(f"the engine's tests on ARM: {said}")


def _tests_hold(root: Path, folder: Path, *which: str) -> str:
    """Run tests in the root, with Debian's pytest; return its last line.

    What is tested is what was flashed, unless the repository's packages lie beside the tests.
    """
    _flash_alone(root, folder)
    words = module_of_tests(root, "pytest", "-q", "-p", "no:cacheprovider", "-c", "/dev/null")
    ran = subprocess.run(
        [*words, "--import-mode=importlib", *which],
        capture_output=True,
        check=False,
        timeout=TESTS_WITHIN_S,
        text=True,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout.splitlines()[-1]


def test_both_machines_make_the_same_numbers(root: Path, tmp_path: Path) -> None:
    _flash_alone(root, tmp_path)
    there = _numbers(module_of_tests(root, "tests.arm.numbers"))
    here = _numbers([sys.executable, "-m", "tests.arm.numbers"])
    assert there["about"]["machine"].endswith("32 bit")
    assert there["exact"] == here["exact"]
    apart = {
        name: float(np.abs(np.subtract(there["close"][name], values)).max())
        for name, values in here["close"].items()
    }
    assert max(apart.values()) < NEARLY, apart
    say(f"here:  {_spelled(here['about'])}")
    say(f"there: {_spelled(there['about'])}")
    say(f"{len(here['exact'])} results are the same to the byte; {_spelled(apart)} apart at most")


def test_what_a_signed_and_masked_update_costs(root: Path, tmp_path: Path) -> None:
    """Nothing is promised: the figures of docs/arm.md."""
    _flash_alone(root, tmp_path)
    there = _numbers(module_of_tests(root, "tests.arm.update_cost"))
    here = _numbers([sys.executable, "-m", "tests.arm.update_cost"])
    for where, found in (("here", here), ("there", there)):
        say(f"{where}: {found['mib']:.1f} MiB before the first update")
        for each in found["updates"]:
            ms = ", ".join(f"{what} {value:.1f}" for what, value in each["ms"].items())
            say(f"{where}: {each['params']} params: {ms} ms; {each['mib']:.1f} MiB at most")


def _flash_alone(root: Path, folder: Path) -> None:
    path = folder / "device.toml"
    path.write_text(ALONE)
    flash(root, "--config", path)


def _numbers(words: Sequence[str]) -> dict[str, Any]:
    ran = subprocess.run(
        words, cwd=ROOT, capture_output=True, check=False, timeout=PATIENCE_S, text=True
    )
    assert ran.returncode == 0, ran.stderr
    return dict(json.loads(ran.stdout))


def _spelled(facts: Mapping[str, str | float]) -> str:
    return ", ".join(
        f"{name} {fact if isinstance(fact, str) else f'{fact:.1e}'}" for name, fact in facts.items()
    )


def _since(began: float) -> str:
    return f"{time.monotonic() - began:.0f} s"


# --- a federation --------------------------------------------------------------------------------


def test_a_flashed_arm_device_is_counted_in_every_version(root: Path, tmp_path: Path) -> None:
    """It is what a user has: the service's command, and the SDK's own engine on a file."""
    require_mosquitto()
    with Federation(tmp_path, EVERYBODY, task=OF_ALL) as federation:
        said = _flash_for(root, federation)
        _write_samples(root / STATE)
        _start_others(federation)
        start, environment = unit_of(root)
        log = tmp_path / f"{DEVICE}.log"
        began = time.monotonic()
        with running(inside(root, f"/{STATE}", environment, *start), log):
            secret = federation.folder / "broker" / "secrets" / "monitor"
            seen = comes(said, "--password-file", secret)
            say(f"{seen} ({_since(began)} after its start)")
            assert json.loads(federation.monitor.latest(TOPICS.info(DEVICE)))["hardware"] == ARM
            _wait_for_versions(federation, log)
        say(f"counted in the versions {_versions(federation)} ({_since(began)})")
        assert not federation.refused


@pytest.mark.parametrize("scheme", ["none", "seedmask", "lightsecagg"])
def test_what_an_arm_device_trains_is_what_is_summed(
    root: Path, tmp_path: Path, scheme: str
) -> None:
    """Masked, nobody can be missing of so few: it deals, masks and answers for the others."""
    require_mosquitto()
    if scheme == "none":
        whole = Federation(tmp_path, EVERYBODY, task=OF_ALL)
    else:
        secure = {"scheme": scheme, "malicious": 1, "noise": 2, "answers": 4}
        whole = SecureFederation(tmp_path, EVERYBODY, secure=secure, task=OF_ALL)
    with whole as federation:
        _flash_for(root, federation)
        (root / STATE).mkdir()
        _start_others(federation)
        words = module_of_tests(root, "tests.support.run_device", CONFIG_PATH, f"/{TESTS}/record")
        log = tmp_path / f"{DEVICE}.log"
        began = time.monotonic()
        with running(words, log):
            _wait_for_versions(federation, log)
        federation.stop()
        assert not federation.refused
        shutil.copytree(root / STATE, federation.state_dir(DEVICE))
        shutil.copy(root / TESTS / "record", federation.folder / f"{DEVICE}.record")
        found = audit(federation)
        versions = _versions(federation)
    assert found.num_versions == len(versions), "each version has an update of each device"
    say(f"{scheme}: {found}, each with one update of the ARM device ({_since(began)})")


def _flash_for(root: Path, federation: Federation) -> str:
    config = CONFIG.format(port=federation.broker.port)
    if federation.signed:
        config += f'[identity]\nkeys = "{KEYS}"\n'
        keys = root / KEYS.removeprefix("/")
        keys.parent.mkdir()
        shutil.copy(federation.keys_file(DEVICE), keys)
    secret = federation.folder / "broker" / "secrets" / DEVICE
    path = federation.folder / "device.toml"
    path.write_text(config)
    return flash(root, "--config", path, "--password-file", secret)


def _start_others(federation: Federation) -> None:
    federation.start_aggregator()
    federation.until(lambda: federation.version >= 0, "the aggregator says nothing")
    for name in NATIVE:
        federation.start_device(name)


def _wait_for_versions(federation: Federation, log: Path) -> None:
    try:
        federation.until(
            lambda: len(_versions(federation)) >= NUM_VERSIONS,
            f"no {NUM_VERSIONS} versions with updates of the ARM device",
            PATIENCE_S,
        )
    except AssertionError:
        sys.stdout.write(log.read_text())
        raise


def _versions(federation: Federation) -> list[int]:
    rows = federation.query(
        "SELECT DISTINCT counted_in FROM fedbus_lease"
        " WHERE device = 'arm' AND counted_in IS NOT NULL ORDER BY counted_in"
    )
    return [int(version) for (version,) in rows]


def _write_samples(folder: Path) -> None:
    folder.mkdir()
    generator = np.random.default_rng(7)
    x = generator.normal(size=(40, 8)).astype("f4")
    np.savez(folder / "samples.npz", x=x, y=np.arange(40) % 4)
