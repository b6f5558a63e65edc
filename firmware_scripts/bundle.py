"""The SDK bundle: the code that goes onto a device, as one zip that Python imports from.

Docstrings and comments stay at home (`firmware_scripts.slim`), line numbers do not change.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import device_sdk
import protocol
import transport
from device_sdk import SDK_VERSION
from firmware_scripts.archives import make_zip
from firmware_scripts.slim import slim
from protocol.messages import WIRE_VERSION

SDK_ZIP: Final = "sdk.zip"
MANIFEST: Final = "manifest.json"
#: What a device stores of a release: both files.
MAX_BYTES: Final = 300_000
#: What the device's interpreter must have: the bare install of this distribution.
REQUIREMENTS: Final = ("msgpack>=1.0.3", "numpy>=1.24", "paho-mqtt>=2", "pynacl>=1.5")

_PACKAGES: Final = (device_sdk, protocol, transport)
#: Models to copy from, beside files that no zip opens: a device gets its model with its task.
_STAYS_AT_HOME: Final = "device_sdk/engine/specs/"


@dataclass(frozen=True, slots=True)
class Bundle:
    """``files``: what lies in a release's folder, `SDK_ZIP` and `MANIFEST`.

    ``name`` is ``<sdk version>-<12 hex digits of the manifest's sha256>``: it follows from the
    modules alone, as compressors differ.
    """

    name: str
    files: Mapping[str, bytes]


class BundleError(Exception):
    """The source cannot be bundled."""


def build_bundle(sources: Mapping[str, Path] | None = None) -> Bundle:
    """Bundle the SDK's packages, by default as imported.

    Raises BundleError above `MAX_BYTES`, and for a source that is not Python.
    """
    modules: dict[str, bytes] = {}
    for package, folder in (sources or _installed()).items():
        modules.update(_package(package, folder))
    files = {SDK_ZIP: make_zip(modules), MANIFEST: _manifest(modules)}
    size = sum(map(len, files.values()))
    if size > MAX_BYTES:
        raise BundleError(f"the SDK has grown to {size} bytes, and a device takes {MAX_BYTES}")
    name = f"{SDK_VERSION}-{hashlib.sha256(files[MANIFEST]).hexdigest()[:12]}"
    return Bundle(name, files)


def _installed() -> dict[str, Path]:
    return {each.__name__: Path(str(each.__file__)).parent for each in _PACKAGES}


def _package(name: str, folder: Path) -> dict[str, bytes]:
    found = {}
    for path in folder.rglob("*"):
        inside = f"{name}/{path.relative_to(folder).as_posix()}"
        if inside.startswith(_STAYS_AT_HOME) or not path.is_file():
            continue
        if path.suffix == ".py":
            found[inside] = _code(path)
        elif path.name == "py.typed":
            found[inside] = path.read_bytes()
    return found


def _code(path: Path) -> bytes:
    try:
        return slim(path.read_text(encoding="utf-8")).encode()
    except (SyntaxError, UnicodeDecodeError) as error:
        raise BundleError(f"{path} is not Python: {error}") from error


def _manifest(modules: Mapping[str, bytes]) -> bytes:
    manifest = {
        "sdk": SDK_VERSION,
        "wire": WIRE_VERSION,
        "requires": REQUIREMENTS,
        "modules": {path: hashlib.sha256(data).hexdigest() for path, data in modules.items()},
    }
    return (json.dumps(manifest, sort_keys=True, indent=1) + "\n").encode()
