"""What every benchmark says beside its figures: on which machine, of which commit, and when."""

import datetime as dt
import os
import platform
import statistics
import subprocess
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Final

from broker_config.programs import BrokerError, find_program

ROOT: Final = Path(__file__).parent.parent
_LIBRARIES: Final = ("numpy", "paho-mqtt", "msgpack", "pynacl", "sqlalchemy")

#: What ends up in the JSON.
Value = str | int | float | bool | None | Sequence["Value"] | Mapping[str, "Value"]
Report = dict[str, Value]


def origin() -> Report:
    """Return machine, versions, commit and date."""
    return {
        "machine": {
            "cpu": _cpu_model(),
            "cores": len(os.sched_getaffinity(0)),
            "memory_gib": round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30),
            "system": f"{platform.system()} {platform.release()}",
            "python": platform.python_version(),
            "broker": _broker(),
            **{name: version(name) for name in _LIBRARIES},
            "load_average": [round(load, 2) for load in os.getloadavg()],
            "blas_threads": int(os.environ["OPENBLAS_NUM_THREADS"]),
        },
        "commit": _commit(),
        "date": dt.datetime.now(dt.UTC).date().isoformat(),
    }


def figure(value: float, digits: int = 4) -> float:
    """Return ``value`` with so many significant digits: more would be noise."""
    return float(f"{value:.{digits}g}")


def median(values: Sequence[float]) -> float:
    """Return the median, as a `figure`."""
    return figure(statistics.median(values))


def spread(values: Sequence[float]) -> list[Value]:
    """Return the smallest and the largest value, as figures."""
    return [figure(min(values)), figure(max(values))]


def within(value: float, reach: float) -> Report:
    """Return a figure beside the most that it should be."""
    return {"measured": value, "reach": reach, "met": value <= reach}


def ratio_of_medians(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """Return how many times theirs ours is."""
    return figure(statistics.median(ours) / statistics.median(theirs))


def _cpu_model() -> str:
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.machine()


def _broker() -> str:
    try:
        return find_program().name
    except BrokerError:
        return "none"


def _commit() -> str:
    """Return the commit, with a plus if the working tree has changed since."""
    commit = _git("rev-parse", "--short=12", "HEAD")
    if not commit:
        return "unknown"
    return f"{commit}+" if _git("status", "--porcelain", "--untracked-files=no") else commit


def _git(*arguments: str) -> str:
    done = subprocess.run(
        ["git", "-C", str(ROOT), *arguments], capture_output=True, text=True, check=False
    )
    return done.stdout.strip()
