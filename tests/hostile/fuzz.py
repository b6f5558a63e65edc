"""Fuzz every decoder, and keep what reaches new code.

::

    python -m tests.hostile.fuzz --seconds 600 [--target NAME] [--workers 2]

With atheris the search follows the code that inputs reach; where it does not install, inputs are
mutations of the corpus. New inputs that reach further go to tests/corpus/<target>/, smallest
first; one that breaks a decoder is left there as crash-..., and the exit status is 1. Every file
there is tried again by each test run (tests/hostile/test_corpus.py).
"""

import argparse
import hashlib
import importlib.util
import os
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

from tests.hostile.seeds import seeds
from tests.hostile.targets import TARGETS
from tests.simulation.garbage import Garbage

ROOT: Final = Path(__file__).parents[2]
CORPUS: Final = ROOT / "tests" / "corpus"
_ONE: Final = Path(__file__).with_name("fuzz_one.py")
#: Larger inputs find nothing that smaller ones do not, and take longer.
MAX_BYTES: Final = 1024
#: A single input that takes longer is a finding.
SLOW_S: Final = 10


def main(argv: Sequence[str] | None = None) -> int:
    """Fuzz all targets, or one; return the exit status."""
    parser = argparse.ArgumentParser(prog="fuzz", description=__doc__)
    parser.add_argument("--seconds", type=float, default=600.0, help="of all targets together")
    parser.add_argument("--target", choices=list(TARGETS), action="append")
    parser.add_argument("--workers", type=int, default=2, help="targets at a time")
    options = parser.parse_args(argv)
    chosen = options.target or list(TARGETS)
    seconds = options.seconds * min(options.workers, len(chosen)) / len(chosen)
    with ThreadPoolExecutor(options.workers) as pool:
        found = list(pool.map(lambda name: fuzz(name, seconds), chosen))
    for name, is_sound in zip(chosen, found, strict=True):
        print(f"{name}: {'sound' if is_sound else 'BROKEN'}, {len(inputs(name))} inputs kept")  # noqa: T201 - a program
    return int(not all(found))


def fuzz(name: str, seconds: float) -> bool:
    """Fuzz one target for so long, in a process of its own; return whether nothing broke."""
    folder = CORPUS / name
    folder.mkdir(parents=True, exist_ok=True)
    if importlib.util.find_spec("atheris") is None:
        return mutate(name, folder, seconds)
    limits = (f"-max_len={MAX_BYTES}", f"-timeout={SLOW_S}", "-verbosity=0")
    length = f"-max_total_time={max(1, round(seconds))}"
    with tempfile.TemporaryDirectory() as new:
        for number, data in enumerate(seeds()[name]):
            (Path(new) / f"seed-{number}").write_bytes(data)
        found = _guided(name, length, f"-artifact_prefix={folder}/crash-", *limits, new, folder)
        # Of the new inputs, those that reach what the kept ones do not.
        return found and _guided(name, "-merge=1", *limits, folder, new)


def _guided(name: str, *arguments: str | Path) -> bool:
    """Run libFuzzer on one target; return whether nothing broke."""
    environment = {
        **os.environ,
        "FEDBUS_FUZZ": name,
        "PYTHONPATH": str(ROOT),
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }
    command = [_ONE, *arguments]
    return subprocess.run(command, env=environment, check=False).returncode == 0


def inputs(name: str) -> list[Path]:
    """Return the kept inputs of a target."""
    return sorted((CORPUS / name).iterdir()) if (CORPUS / name).is_dir() else []


def mutate(name: str, folder: Path, seconds: float) -> bool:
    """Try mutations of the kept inputs; return whether nothing broke."""
    kept = [path.read_bytes() for path in inputs(name)]
    garbage = Garbage(time.time_ns(), [*seeds()[name], *kept])
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        data = garbage.payload()[:MAX_BYTES]
        try:
            TARGETS[name](data)
        except Exception:  # noqa: BLE001 - whatever it is, it is what is looked for
            traceback.print_exc()
            digest = hashlib.sha256(data).hexdigest()[:16]
            (folder / f"crash-{digest}").write_bytes(data)
            return False
    return True


if __name__ == "__main__":
    sys.exit(main())
