"""The bare install is the device side, and stays as small as it is."""

import re
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
DIRECT = {"numpy", "paho-mqtt", "msgpack", "pynacl"}
#: What those four bring along.
CLOSURE = DIRECT | {"cffi", "pycparser"}


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _required_by(name: str) -> set[str]:
    requirements = (Requirement(line) for line in metadata.requires(name) or [])
    return {
        _normal(requirement.name)
        for requirement in requirements
        if requirement.marker is None or requirement.marker.evaluate({"extra": ""})
    }


def test_the_bare_install_needs_four_libraries() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert {_normal(Requirement(line).name) for line in project["dependencies"]} == DIRECT


def test_the_closure_of_the_bare_install_does_not_grow() -> None:
    seen: set[str] = set()
    todo = set(DIRECT)
    while todo:
        name = todo.pop()
        seen.add(name)
        todo |= _required_by(name) - seen
    assert seen <= CLOSURE


def test_the_device_side_imports_nothing_else() -> None:
    allowed = ["numpy", "paho", "msgpack", "nacl", "cffi", "pycparser", "cython_runtime"]
    ours = ["protocol", "transport", "device_sdk"]
    script = f"""
import sys
before = set(sys.modules)
import device_sdk.cli, device_sdk.device, device_sdk.redeem, device_sdk.secagg
new = {{name.partition('.')[0] for name in set(sys.modules) - before}}
known = set(sys.stdlib_module_names) | set({allowed + ours!r})
print(*sorted(name for name in new - known if not name.startswith('_')))
"""
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, check=True, capture_output=True, text=True
    )
    assert done.stdout.split() == []
