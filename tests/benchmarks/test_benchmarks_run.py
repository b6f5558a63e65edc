"""Each benchmark runs at tiny sizes and reports what the docs show. No figure is judged."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from benchmarks.__main__ import main
from tests.support.mosquitto import require_mosquitto


def report_of(name: str, path: Path) -> dict[str, Any]:
    assert main([name, "--quick", "--json", str(path)]) == 0
    report: dict[str, Any] = json.loads(path.read_text())
    assert report["benchmark"] == name
    assert report["machine"]["blas_threads"] == 1
    assert report["commit"]
    return report


def has_numbers(report: dict[str, Any], names: Sequence[str]) -> bool:
    return all(isinstance(report[name], int | float) and report[name] > 0 for name in names)


@pytest.mark.broker
def test_ingest_compares_the_aggregator_with_a_bare_subscriber(tmp_path: Path) -> None:
    require_mosquitto()
    report = report_of("ingest", tmp_path / "out.json")
    for case in ("a", "b"):
        assert has_numbers(report[case], ["ratio_to_bare_paho", "updates_per_s", "bare_per_s"])


def test_step_compares_with_plain_numpy(tmp_path: Path) -> None:
    report = report_of("step", tmp_path / "out.json")
    for case in ("dense", "sparse"):
        assert has_numbers(report[case], ["ratio_to_plain", "ours_ms", "plain_ms"])


@pytest.mark.broker
def test_wire_counts_bytes_at_the_broker_and_says_what_accuracy_they_buy(tmp_path: Path) -> None:
    require_mosquitto()
    report = report_of("wire", tmp_path / "out.json")
    for row in report["codecs"].values():
        assert has_numbers(row, ["bytes_digits", "bytes_100k", "accuracy"])
    assert has_numbers(report["summary"], ["times_smaller_digits", "times_smaller_100k"])


@pytest.mark.broker
def test_footprint_weighs_import_and_memory(tmp_path: Path) -> None:
    require_mosquitto()
    report = report_of("footprint", tmp_path / "out.json")
    assert has_numbers(report["import"], ["ratio_to_libraries", "device_sdk_ms", "libraries_ms"])
    assert has_numbers(report["memory"], ["pss_peak_mib", "processes"])


@pytest.mark.broker
def test_learning_runs_the_demo_and_the_wearables(tmp_path: Path) -> None:
    require_mosquitto()
    report = report_of("learning", tmp_path / "out.json")
    assert has_numbers(report["demo"]["buffered"], ["accuracy_min"])
    assert report["wearables"].keys() == {"phone", "watch"}


def test_async_compares_times_to_an_accuracy(tmp_path: Path) -> None:
    report = report_of("async", tmp_path / "out.json")
    assert has_numbers(report, ["fedbuff_s", "fedavg_s", "ratio_fedbuff_to_fedavg"])


def test_secagg_measures_every_row_beside_its_reach(tmp_path: Path) -> None:
    report = report_of("secagg", tmp_path / "out.json")
    rows = [
        report["seedmask_device"],
        report["seedmask_aggregator"]["N=4"],
        report["seedmask_aggregator"]["large_over_small"],
        report["seedmask_aggregator"]["per_update"],
        report["lightsecagg_device"],
        report["lightsecagg_aggregator"],
        report["pairwise_unmask"],
        report["wire"]["uplink_bytes"],
    ]
    assert all(has_numbers(row, ["measured", "reach"]) for row in rows)
    assert has_numbers(report["wire"], ["downlink_bytes", "messages_up", "messages_down"])
    assert report["accuracy"].keys() >= {"plain dense", "dense/seedmask, support_every = 1"}
    assert "missing" in report["flower"] or has_numbers(report["flower"], ["client_all_ms"])
