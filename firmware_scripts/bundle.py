"""The SDK bundle: the code that goes onto a device, as one reproducible archive.

Docstrings and comments stay at home (`firmware_scripts.slim`), line numbers do not change.
"""

import gzip
import hashlib
import io
import json
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import device_sdk
import protocol
import transport
from device_sdk import SDK_VERSION
from firmware_scripts.slim import slim
from protocol.messages import WIRE_VERSION

MANIFEST: Final = "manifest.json"
MAX_BYTES: Final = 300_000
#: What the device's interpreter must have: the bare install of this distribution.
REQUIREMENTS: Final = ("msgpack>=1.0.3", "numpy>=1.24", "paho-mqtt>=2", "pynacl>=1.5")
#: 1980-01-01: every file's time, as far back as every archive format goes.
EPOCH: Final = 315_532_800

_PACKAGES: Final = (device_sdk, protocol, transport)


@dataclass(frozen=True, slots=True)
class Bundle:
    """``files`` (path -> content, the manifest among them) and ``archive``, a tar.gz of them.

    ``name`` is ``<sdk version>-<12 hex digits of the manifest's sha256>``: it follows from the
    content alone, as compressors differ.
    """

    name: str
    files: Mapping[str, bytes]
    archive: bytes


class BundleError(Exception):
    """The source cannot be bundled."""


def build_bundle(sources: Mapping[str, Path] | None = None) -> Bundle:
    """Bundle the SDK's packages, by default as imported.

    Raises BundleError above `MAX_BYTES`, and for a source that is not Python.
    """
    files = {}
    for package, folder in (sources or _installed()).items():
        files.update(_package(package, folder))
    size = sum(map(len, files.values()))
    if size > MAX_BYTES:
        raise BundleError(f"the SDK has grown to {size} bytes, and a device takes {MAX_BYTES}")
    manifest = _manifest(files)
    files[MANIFEST] = manifest
    name = f"{SDK_VERSION}-{hashlib.sha256(manifest).hexdigest()[:12]}"
    return Bundle(name, files, gzip.compress(pack(files), compresslevel=9, mtime=0))


def pack(files: Mapping[str, bytes], modes: Mapping[str, int] | None = None) -> bytes:
    """Return a tar of ``files``: sorted, owned by root, with one fixed time.

    Files have mode 0644 unless ``modes`` says otherwise; folders above them 0755.
    """
    folders = {str(above) for path in files for above in Path(path).parents} - {"."}
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for path in sorted({*files, *folders}):
            entry = tarfile.TarInfo(path)
            entry.mtime = EPOCH
            if path in folders:
                entry.type, entry.mode = tarfile.DIRTYPE, 0o755
                archive.addfile(entry)
                continue
            entry.mode = (modes or {}).get(path, 0o644)
            entry.size = len(files[path])
            archive.addfile(entry, io.BytesIO(files[path]))
    return buffer.getvalue()


def sums(files: Mapping[str, bytes]) -> bytes:
    """Return what ``sha256sum -c`` reads."""
    lines = [f"{hashlib.sha256(files[path]).hexdigest()}  {path}\n" for path in sorted(files)]
    return "".join(lines).encode()


def _installed() -> dict[str, Path]:
    return {each.__name__: Path(str(each.__file__)).parent for each in _PACKAGES}


def _package(name: str, folder: Path) -> dict[str, bytes]:
    found = {}
    for path in folder.rglob("*"):
        inside = f"{name}/{path.relative_to(folder).as_posix()}"
        if path.is_file() and path.suffix == ".py":
            found[inside] = _code(path)
        elif path.is_file() and path.name == "py.typed":
            found[inside] = path.read_bytes()
    return found


def _code(path: Path) -> bytes:
    try:
        return slim(path.read_text(encoding="utf-8")).encode()
    except (SyntaxError, UnicodeDecodeError) as error:
        raise BundleError(f"{path} is not Python: {error}") from error


def _manifest(files: Mapping[str, bytes]) -> bytes:
    manifest = {
        "sdk": SDK_VERSION,
        "wire": WIRE_VERSION,
        "requires": REQUIREMENTS,
        "files": {path: hashlib.sha256(data).hexdigest() for path, data in files.items()},
    }
    return (json.dumps(manifest, sort_keys=True, indent=1) + "\n").encode()
