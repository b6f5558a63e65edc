"""What the tests of flashing share: small releases, a target to flash, the command line."""

import hashlib
import io
import json
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Final

from typer.testing import CliRunner

from fedbus.flash import app
from firmware_scripts.bundle import MANIFEST, SDK_ZIP, Bundle, build_bundle
from firmware_scripts.flashing import act, flash_plan
from firmware_scripts.target import Target
from firmware_scripts.wish import Wish, read_wish

SECRET: Final = "correct horse battery staple"  # noqa: S105 - a made-up one
PYTHON: Final = "/usr/bin/python3"
CONFIG_TEXT: Final = """
task = "digits"
device = "device-1"
state_dir = "/var/lib/fedbus"
[broker]
port = 9
"""


def write_config(folder: Path, text: str = CONFIG_TEXT) -> Path:
    """Write a device's configuration."""
    path = folder / "device.toml"
    path.write_text(text)
    return path


def make_root(folder: Path) -> Path:
    """Return a folder that passes for a root file system, with an interpreter at `PYTHON`."""
    root = folder / "root"
    (root / "etc").mkdir(parents=True)
    interpreter = root / PYTHON.removeprefix("/")
    interpreter.parent.mkdir(parents=True)
    interpreter.write_text("#!/bin/sh\nexit 1\n")
    interpreter.chmod(0o755)
    return root


def small_bundle(folder: Path, content: str) -> Bundle:
    """Return a bundle of one small package whose content is of our choice."""
    package = folder / "protocol"
    package.mkdir(exist_ok=True)
    (package / "__init__.py").write_text(f'CONTENT = "{content}"\n')
    (package / "py.typed").touch()
    return build_bundle({"protocol": package})


def unzipped(data: bytes) -> dict[str, bytes]:
    """Return what a zip holds."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return {path: archive.read(path) for path in archive.namelist()}


def noise(size: int) -> str:
    """Return ``size`` characters, always the same, that no zip makes less than half as long."""
    blocks = (hashlib.sha256(bytes([n // 256, n % 256])).hexdigest() for n in range(size // 64 + 1))
    return "".join(blocks)[:size]


def small_wish(folder: Path, content: str, config: str = CONFIG_TEXT) -> Wish:
    """Return a wish for a small bundle, with an interpreter that is there."""
    wish = read_wish(write_config(folder, config), python=PYTHON)
    return replace(wish, bundle=small_bundle(folder, content))


def flash(target: Target, wish: Wish) -> None:
    """Look, plan, act."""
    act(target, flash_plan(target, wish, setup_now=False))


def command(*arguments: str | Path) -> tuple[int, str]:
    """Run a command of the command line; return its exit status and all it said."""
    result = CliRunner().invoke(app, [str(each) for each in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.output


def current(root: Path) -> str:
    """Return the name of the release that a device would start; it must be whole."""
    link = root / "opt/fedbus/current"
    assert (link / MANIFEST).is_file(), "current leads to no release"
    release = link.resolve()
    manifest = json.loads((release / MANIFEST).read_bytes())
    assert manifest["modules"] == {
        path: hashlib.sha256(data).hexdigest()
        for path, data in unzipped((release / SDK_ZIP).read_bytes()).items()
    }
    return release.name


def snapshot(folder: Path) -> dict[str, tuple[int, str]]:
    """Return every path below with its mode and its content or the text of its link."""
    found = {}
    for path in sorted(folder.rglob("*")):
        mode = path.lstat().st_mode
        text = str(path.readlink()) if path.is_symlink() else ""
        if path.is_file() and not path.is_symlink():
            text = path.read_bytes().hex()
        found[str(path.relative_to(folder))] = (mode, text)
    return found
