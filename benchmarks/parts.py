"""What one command measures, part by part: a part that fails costs itself alone."""

import importlib
import json
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from benchmarks.report import Report, figure


class Part(NamedTuple):
    """A part of a benchmark; a benchmark of one piece has one part without a name.

    ``module`` has ``measure(*, quick: bool) -> Report``.
    """

    benchmark: str
    name: str
    module: str


class Found(NamedTuple):
    """What a part reports, how long it took, and whether it went well."""

    report: Report
    seconds: float
    well: bool


def measure_parts(
    parts: Sequence[Part], *, quick: bool, save: Callable[[Mapping[Part, Found]], None]
) -> Mapping[Part, Found]:
    """Measure one part after the other; ``save`` is given all there is before each, and at the end.

    What goes on is said on stderr. Instead of the report of a part that fails there is its error.
    """
    found: dict[Part, Found] = {}
    begun = time.monotonic()
    save(found)
    for number, part in enumerate(parts, start=1):
        label = f"{part.benchmark} {part.name}".strip()
        _say(f"[{number}/{len(parts)}] {label} ...")
        found[part] = _measured(part, quick=quick)
        save(found)
        report, seconds, well = found[part]
        _say(f"{label}: {json.dumps(report)}")
        ended = "done" if well else "FAILED"
        in_all = time.monotonic() - begun
        _say(
            f"[{number}/{len(parts)}] {label} {ended} after {seconds:.0f} s, {in_all:.0f} s in all"
        )
    return found


def _measured(part: Part, *, quick: bool) -> Found:
    begun = time.monotonic()
    well = True
    try:
        report: Report = importlib.import_module(part.module).measure(quick=quick)
    except Exception as error:  # noqa: BLE001 - of any kind: what other parts found must not be lost
        traceback.print_exc()
        report, well = {"error": f"{type(error).__name__}: {error}"}, False
    return Found(report, figure(time.monotonic() - begun), well)


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
