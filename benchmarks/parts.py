"""A benchmark of several parts, each in a module of its own."""

import importlib
import json
import sys
from collections.abc import Sequence

from benchmarks.report import Report


def measure_parts(name: str, prefix: str, parts: Sequence[str], *, quick: bool) -> Report:
    """Measure all parts, one after the other; each is said on stderr as soon as it is known.

    A part is the module ``benchmarks.<prefix>_<part>``, which has ``measure(*, quick)``.
    """
    report: Report = {}
    for part in parts:
        module = importlib.import_module(f"benchmarks.{prefix}_{part}")
        found: Report = module.measure(quick=quick)
        report[part] = found
        print(f"{name} {part}: {json.dumps(found)}", file=sys.stderr, flush=True)
    return report
