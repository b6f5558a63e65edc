"""Loads, the soak and the comparison with reality: the measures can fail, and small runs do not."""

import json
from pathlib import Path
from typing import Any

import pytest

from aggregator.records import JournalRecord, LeaseRecord, RefusalRecord, VersionRecord
from aggregator.store import open_store
from benchmarks import fleet_grants, fleet_load, fleet_real, soak
from benchmarks.fleet_real_runs import DEVICES, Counted, Run
from benchmarks.soak_audit import audit
from benchmarks.soak_memory import Memory
from fedbus.federation import write_tables
from fedbus.load_ledger import Ledger
from fedbus.load_scratch import MODEL, TASK
from tests.support.mosquitto import require_mosquitto


def run_with(shares: tuple[int, ...], stalenesses: tuple[int, ...], accuracy: float = 0.9) -> Run:
    """100 updates: ``shares`` of the devices and of the stalenesses in percent."""
    devices = [name for name, share in zip(DEVICES, shares, strict=False) for _ in range(share)]
    stale = [staleness for staleness, share in enumerate(stalenesses) for _ in range(share)]
    return Run(tuple(map(Counted, devices, stale)), accuracy, 1.0)


REAL = run_with((30, 30, 20, 20), (50, 30, 20))


def test_runs_that_differ_by_chance_are_alike() -> None:
    report = fleet_real.compared([REAL], [run_with((28, 31, 22, 19), (48, 33, 19), 0.905)])
    assert report["alike"]


@pytest.mark.parametrize(
    "virtual",
    [
        run_with((60, 10, 15, 15), (50, 30, 20)),
        run_with((30, 30, 20, 20), (20, 30, 50)),
        run_with((30, 30, 20, 20), (50, 30, 20), 0.92),
    ],
    ids=["participation", "staleness", "accuracy"],
)
def test_runs_that_differ_in_one_thing_are_not_alike(virtual: Run) -> None:
    assert not fleet_real.compared([REAL], [virtual])["alike"]


def test_a_leak_is_found_and_noise_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sampled every 5 s for half an hour; the life before does not count."""
    flat, leaking = Memory(), Memory()
    flat.samples = [(5.0 * at, 1, 200_000) for at in range(20)]
    flat.samples += [(5.0 * at, 2, 100_000 + at % 7 * 30) for at in range(20, 360)]
    leaking.samples = [(5.0 * at, 2, 100_000 + 20 * at) for at in range(360)]
    report, worse = flat.report(900.0), leaking.report(900.0)
    assert report["flat"]
    assert report["lives"] == 2
    assert not worse["flat"]
    assert worse["slope_kb_per_min"] == pytest.approx(240 * 1.024, rel=0.01)
    assert worse["theil_sen_kb_per_min"] == pytest.approx(240 * 1.024, rel=0.01)
    monkeypatch.setattr("benchmarks.soak_memory.memory_kib", lambda _pid: None)
    flat.sample(9_999.0, 2)
    assert flat.samples[-1][0] < 9_999.0  # it is gone


def test_every_rule_gives_its_leases() -> None:
    report: dict[str, Any] = dict(fleet_grants.measure(quick=True))
    assert len(report) == 8
    assert all(each["us_few"] > 0 and each["us_many"] > 0 for each in report.values())


@pytest.mark.broker
def test_a_load_on_a_real_broker_loses_nothing() -> None:
    require_mosquitto()
    report = fleet_load.measure(quick=True)
    assert report["lost"] == 0
    assert report["problem"] == ""
    assert report["connected_at_once"] == fleet_load.QUICK_DEVICES
    assert report["updates_counted"] == fleet_load.ROUNDS * fleet_load.QUICK_DEVICES


@pytest.mark.broker
@pytest.mark.slow
def test_a_short_soak_with_every_fault_loses_and_doubles_nothing(tmp_path: Path) -> None:
    require_mosquitto()
    out = tmp_path / "soak.json"
    arguments = ["--minutes", "0.4", "--devices", "30", "--train-s", "1", "--json", str(out)]
    assert soak.main(arguments) == 0
    report = json.loads(out.read_text())
    assert {fault["what"] for fault in report["faults"]} == {what for _, what in soak.FAULTS}
    assert report["load"]["reconnects"] > 30
    assert report["store"]["counted"] == report["load"]["updates_counted"] > 30
    assert report["memory"]["broker_in_use"]["peak_mib"] > 0
    for process, lives in (("aggregator", 4), ("broker", 4)):
        assert report["memory"][process]["lives"] == lives


@pytest.mark.broker
@pytest.mark.slow
def test_a_virtual_run_counts_like_real_processes() -> None:
    require_mosquitto()
    report: dict[str, Any] = dict(fleet_real.measure(quick=True))
    for what in ("participation", "staleness"):
        assert report[what]["alike"], report[what]
    assert report["seconds_virtual"] == pytest.approx(report["seconds_real"], rel=0.25)
    assert not report["control"]["alike"]


def test_the_audit_finds_broken_promises_and_what_nobody_sent(tmp_path: Path) -> None:
    """Of four updates, the store has counted one of a client and one of nobody."""
    config = write_tables(
        tmp_path / "fed.toml",
        {
            "": {"state_dir": str(tmp_path)},
            "secure": {"scheme": "none"},
            "identity": {"required": False},
            "task": {"task": TASK},
            "task.model": MODEL,
        },
    )
    good, unknown, refused, promised = (bytes([number] * 16) for number in range(4))
    store = open_store(tmp_path, TASK)
    params = bytes(8)
    store.commit([VersionRecord(0, params, bytes(32))])
    store.commit([LeaseRecord(one, "d", 0, "c") for one in (good, unknown, refused, promised)])
    store.commit([JournalRecord(at, one, b"-") for at, one in enumerate((good, unknown))])
    store.commit([VersionRecord(1, params, bytes(32), (good, unknown))])
    store.commit([RefusalRecord(refused, "too_stale")])
    store.close()
    ledger = Ledger()
    for lease_id in (good, refused, promised):
        ledger.sent(lease_id, leased_at=0.0, now=0.0)
    ledger.receipt(good, 1.0)
    ledger.refusal(refused, "too_stale", 1.0)
    found = audit(config, ledger)
    assert (found["lost"], found["held_by_devices"], found["counted_unsent"]) == (0, 1, 1)
    ledger.receipt(promised, 1.0)
    found = audit(config, ledger)
    assert (found["lost"], found["receipts_not_counted"], found["counted_twice"]) == (1, 1, 0)
