"""``python -m benchmarks NAME --json OUT``: measure, print, and write what was printed."""

import argparse
import importlib
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from benchmarks.report import Report, origin

#: The name of a benchmark -> its module, which has ``measure(*, quick: bool) -> Report``.
MODULES: Final = {
    "ingest": "benchmarks.ingest",
    "step": "benchmarks.step",
    "wire": "benchmarks.wire",
    "footprint": "benchmarks.footprint",
    "async": "benchmarks.async_time",
    "learning": "benchmarks.learning",
    "secagg": "benchmarks.secagg",
    "engine": "benchmarks.engine",
    "fleets": "benchmarks.fleets",
    "trust": "benchmarks.trust",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one benchmark, or all of them; return the exit code."""
    parser = argparse.ArgumentParser(prog="benchmarks", description=__doc__)
    parser.add_argument("name", choices=[*MODULES, "all"])
    parser.add_argument("--json", type=Path, help="write the report here too")
    parser.add_argument("--quick", action="store_true", help="tiny sizes: to see that it runs")
    options = parser.parse_args(argv)
    report = origin()
    if options.name == "all":
        for name in MODULES:
            report[name] = measure(name, quick=options.quick)
            print(f"{name}: {json.dumps(report[name])}", file=sys.stderr, flush=True)
    else:
        report = {"benchmark": options.name, **report, **measure(options.name, quick=options.quick)}
    text = json.dumps(report, indent=2)
    print(text)
    if options.json is not None:
        options.json.write_text(text + "\n", encoding="utf-8")
    return 0


def measure(name: str, *, quick: bool) -> Report:
    """Run one benchmark. ``quick``: sizes at which its figures mean nothing."""
    report: Report = importlib.import_module(MODULES[name]).measure(quick=quick)
    return report


if __name__ == "__main__":
    sys.exit(main())
