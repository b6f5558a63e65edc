"""``secagg``: what secure aggregation costs devices, aggregator and wire; what accuracy it leaves.

CPU time of the product's own parts at d = 100,000 params, 30 % of the devices dropped: what is in
it say `benchmarks.masked_device`, `benchmarks.masked_sum` and `benchmarks.pairwise_round`. Bytes
and accuracy are those of whole federations (`benchmarks.masked_world`). Beside them, in the same
run, one round of Flower's SecAgg+ (`benchmarks.flower_round`), where that is installed.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from benchmarks.enrolled import Numbers, parameters
from benchmarks.flower_round import flower_round
from benchmarks.masked_device import Times, device_times
from benchmarks.masked_sum import sum_times
from benchmarks.masked_world import SUPPORTS, accuracies, wire
from benchmarks.pairwise_round import round_times
from benchmarks.report import Report, figure, median, ratio_of_medians, spread, within


@dataclass(frozen=True, slots=True)
class Scale:
    """How large a run is; cohorts as (N, t, T, U), of which N - U have dropped out."""

    size: int
    rounds: int
    small: Numbers
    middle: Numbers
    large: Numbers
    wire_devices: int
    wire_versions: int
    versions: int
    seeds: tuple[int, ...]


FULL: Final = Scale(
    size=100_000,
    rounds=15,
    small=(10, 1, 5, 7),
    middle=(50, 5, 27, 35),
    large=(100, 10, 55, 70),
    wire_devices=32,
    wire_versions=6,
    versions=100,
    seeds=(0, 1, 2),
)
TINY: Final = Scale(
    size=2_000,
    rounds=2,
    small=(4, 1, 2, 3),
    middle=(5, 1, 3, 4),
    large=(6, 1, 3, 5),
    wire_devices=4,
    wire_versions=2,
    versions=2,
    seeds=(0,),
)


def measure(*, quick: bool) -> Report:
    """Measure every row; quick: at sizes at which the figures mean nothing."""
    scale = TINY if quick else FULL
    num_devices, _, _, answers = scale.middle
    return {
        "params": scale.size,
        "rounds": scale.rounds,
        "seedmask_device": _device("seedmask", scale.large, scale, reach=35.0),
        "seedmask_aggregator": _seedmask_sums(scale),
        "lightsecagg_device": _device("lightsecagg", scale.middle, scale, reach=15.0),
        "lightsecagg_aggregator": _sum("lightsecagg", scale.middle, scale, reach=8.0)[0],
        "pairwise_unmask": _pairwise(scale),
        "flower": flower_round(num_devices, num_devices - answers, scale.size),
        "wire": wire(scale.wire_devices, scale.size, versions=scale.wire_versions),
        "accuracy": accuracies(SUPPORTS, versions=scale.versions, seeds=scale.seeds),
    }


def _device(scheme: str, numbers: Numbers, scale: Scale, *, reach: float) -> Report:
    """The first update of an epoch stands apart: with it, all keys are agreed on."""
    times = device_times(parameters(scheme, numbers, scale.size), scale.rounds + 1)
    first, *totals = (sum(parts) for parts in zip(*times.values(), strict=True))
    parts = _medians({name: values[1:] for name, values in times.items()})
    return {
        "N, t, T, U": list(numbers),
        **within(median(totals), reach),
        "range": spread(totals),
        "parts_ms": parts,
        "without_open_ms": figure(sum(parts.values()) - parts["open"]),
        "first_of_epoch_ms": figure(first),
    }


def _seedmask_sums(scale: Scale) -> Report:
    """All three cohorts, and how much more the large one takes than the small one."""
    rows: Report = {}
    sums, adding = [], []
    for numbers in (scale.small, scale.middle, scale.large):
        rows[f"N={numbers[0]}"], times = _sum("seedmask", numbers, scale, reach=15.0)
        sums.append(times["sum"])
        adding += times["add"]
    return {
        **rows,
        "large_over_small": within(ratio_of_medians(sums[-1], sums[0]), 2.0),
        "per_update": within(median(adding), 1.0),
    }


def _sum(scheme: str, numbers: Numbers, scale: Scale, *, reach: float) -> tuple[Report, Times]:
    times = sum_times(parameters(scheme, numbers, scale.size), scale.rounds)
    return _row(numbers, times, "sum", reach), times


def _pairwise(scale: Scale) -> Report:
    times = round_times(parameters("pairwise", scale.middle, scale.size), scale.rounds)
    return _row(scale.middle, times, "unmask", reach=200.0)


def _row(numbers: Numbers, times: Times, name: str, reach: float) -> Report:
    return {
        "N, t, T, U": list(numbers),
        **within(median(times[name]), reach),
        "range": spread(times[name]),
        "parts_ms": _medians(times),
    }


def _medians(times: Times) -> Mapping[str, float]:
    return {name: median(values) for name, values in times.items()}
