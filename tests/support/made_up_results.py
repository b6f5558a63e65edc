"""Results that no run gave: what a report must be able to show."""

import math
from collections.abc import Sequence

import numpy as np

from simulator.result import ClassResult, Note, Point, Result


def made_up(
    seed: int = 0,
    *,
    name: str = "heterogeneity",
    slow_best: float = 0.9,
    pace_s: float = 40.0,
    duration_s: float = 300.0,
    is_dry: bool = False,
    class_names: Sequence[str] = ("fast", "medium", "slow"),
    about: str = "Digits on 20 devices; the slow ones hold most of the classes 7 to 9.",
    **changes: object,
) -> Result:
    """Return a plausible result whose last class is slow. ``changes`` replace fields."""
    random = np.random.default_rng(seed)
    points = [
        _point(
            version, at_s, slow_best, pace_s, random=random, class_names=class_names, is_dry=is_dry
        )
        for version, at_s in enumerate(np.arange(0.0, duration_s + 1, 3.0))
    ]
    fields: dict[str, object] = {
        "scenario": name,
        "about": about,
        "seed": seed,
        "engine": "local",
        "ended": "duration",
        "virtual_s": duration_s,
        "wall_s": 12.5 + seed,
        "num_events": 48_211,
        "classes": tuple(
            _class(one, place, class_names, random) for place, one in enumerate(class_names)
        ),
        "points": tuple(points),
        "model_hash": f"{seed:064x}",
        "target": None if is_dry else 0.85,
        "refused": {"too_stale": 14 + seed, "incomplete": 3, "busy": 41},
        "counters": {"duplicates": 7, "chunks": 1200},
        "notes": (Note(at_s=120.0, text="the broker was gone for 20 s"),),
        "peak_rss_bytes": 412_000_000,
    }
    return Result(**{**fields, **changes})  # type: ignore[arg-type] # what tests change is theirs


def _point(
    version: int,
    at_s: float,
    slow_best: float,
    pace_s: float,
    *,
    random: np.random.Generator,
    class_names: Sequence[str],
    is_dry: bool,
) -> Point:
    shift = math.sin(7.0 * len(class_names) + 9.1 * pace_s)
    learned = 1 - float(np.exp(-at_s / pace_s))
    groups = {
        name: 0.1 + learned * ((slow_best if name == class_names[-1] else 0.97) - 0.1)
        for name in class_names
    }
    noisy = {
        name: held + float(random.normal(0, 0.006)) + 0.01 * shift for name, held in groups.items()
    }
    return Point(
        version=version,
        at_s=float(at_s),
        accuracy=None if is_dry else sum(noisy.values()) / len(noisy),
        loss=None if is_dry else 2.3 * (1 - learned) + 0.1,
        group_accuracy={} if is_dry else noisy,
        bytes_up=version * 5 * 1900,
        bytes_down=version * 5 * 9800,
        num_updates=version * 5,
        staleness=float(random.uniform(0, 4)),
    )


def _class(
    name: str, place: int, class_names: Sequence[str], random: np.random.Generator
) -> ClassResult:
    is_slow = place == len(class_names) - 1
    per_device = sorted(
        int(v) for v in random.integers(2, 5, 6) * (1 if is_slow else 12 - 3 * place)
    )
    total = sum(per_device)
    lateness = random.poisson(9 if is_slow else 1 + place, total)
    return ClassResult(
        name=name,
        num_devices=len(per_device),
        is_slow=is_slow,
        check_ins=total + 12,
        leases=total + 3,
        updates_counted=total,
        updates_per_device=tuple(per_device),
        staleness={int(v): int((lateness == v).sum()) for v in np.unique(lateness)},
        bytes_up=total * 1900,
        bytes_down=total * 9800,
        reconnects=2 * place,
        declined={"battery": 4} if is_slow else {},
    )
