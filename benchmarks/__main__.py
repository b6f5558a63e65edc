"""``python -m benchmarks NAME --json OUT``: measure, print, and write what was printed.

``fleets`` and ``trust`` have parts; OUT has all that are done, whatever becomes of the others.
"""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from benchmarks import fleets, trust
from benchmarks.parts import Found, Part, measure_parts
from benchmarks.report import Report, origin

ALL: Final = "all"
WHOLE: Final = ""
#: The name of a benchmark -> its parts -> the module of each.
BENCHMARKS: Final[Mapping[str, Mapping[str, str]]] = {
    "ingest": {WHOLE: "benchmarks.ingest"},
    "step": {WHOLE: "benchmarks.step"},
    "wire": {WHOLE: "benchmarks.wire"},
    "footprint": {WHOLE: "benchmarks.footprint"},
    "async": {WHOLE: "benchmarks.async_time"},
    "learning": {WHOLE: "benchmarks.learning"},
    "secagg": {WHOLE: "benchmarks.secagg"},
    "engine": {WHOLE: "benchmarks.engine"},
    "fleets": fleets.PARTS,
    "trust": trust.PARTS,
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one benchmark, or all of them; return the exit code: 1 if a part failed."""
    parser = argparse.ArgumentParser(prog="benchmarks", description=__doc__)
    parser.add_argument("name", choices=[*BENCHMARKS, ALL])
    parser.add_argument("--json", type=Path, help="write the report here too, after every part")
    parser.add_argument("--quick", action="store_true", help="tiny sizes: to see that it runs")
    parser.add_argument(
        "--only", nargs="+", metavar="PART", default=(), help="of fleets or trust: these parts"
    )
    options = parser.parse_args(argv)
    names = [*BENCHMARKS] if options.name == ALL else [options.name]
    known = {part for name in names for part in BENCHMARKS[name] if part != WHOLE}
    for unknown in sorted(set(options.only) - known):
        parser.error(f"{options.name} has no part {unknown!r}; its parts: {sorted(known)}")
    parts = [
        Part(name, part, module)
        for name in names
        for part, module in BENCHMARKS[name].items()
        if part in options.only or not options.only
    ]
    head = origin()

    def save(found: Mapping[Part, Found]) -> None:
        if options.json is not None:
            written(options.json, _report(options.name, head, found))

    found = measure_parts(parts, quick=options.quick, save=save)
    print(json.dumps(_report(options.name, head, found), indent=2))
    return 0 if all(each.well for each in found.values()) else 1


def written(path: Path, report: Report) -> None:
    """Write a report so that there is always a whole one: the last, or this."""
    beside = path.with_name(f"{path.name}.new")
    beside.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    beside.replace(path)


def _report(name: str, head: Report, found: Mapping[Part, Found]) -> Report:
    took = {f"{part.benchmark} {part.name}".strip(): each.seconds for part, each in found.items()}
    of = {each: _joined(each, found) for each in {part.benchmark: None for part in found}}
    if name == ALL:
        return {**head, **of, "took_s": took}
    return {"benchmark": name, **head, **of.get(name, {}), "took_s": took}


def _joined(benchmark: str, found: Mapping[Part, Found]) -> Report:
    """Return the report of a benchmark: that of its only part, or one for each."""
    mine = {part.name: each.report for part, each in found.items() if part.benchmark == benchmark}
    return mine.get(WHOLE, {**mine})


if __name__ == "__main__":
    sys.exit(main())
