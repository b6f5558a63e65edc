"""The audit of a run: a double count and a loss become figures, whoever is at fault."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from aggregator.records import JournalRecord, Record, VersionRecord
from simulator.audit import Audit, Verdict
from simulator.memory_store import MemoryStore
from simulator.result import FAILED, Result
from simulator.run import run
from simulator.scenario import load_scenario
from tests.simulation.scenario_files import write

ONE, TWO = bytes(16), b"\1" * 16
DRY = """\
name = "dry"
duration_s = 60
[dry]
[task]
check_in_s = 5
[task.model]
input = [4]
layers = [{ type = "dense", units = 2 }]
loss = "softmax_cross_entropy"
[task.buffered]
goal = 2
[[class]]
name = "a"
count = 4
training = { seconds = 2 }
"""
#: Changes what the store is asked to keep, once.
Change = Callable[[VersionRecord, list[bytes]], VersionRecord]


def counted_again(record: VersionRecord, before: list[bytes]) -> VersionRecord:
    return replace(record, counted=(*record.counted, before[0]))


def left_out(record: VersionRecord, _before: list[bytes]) -> VersionRecord:
    return replace(record, counted=record.counted[1:])


@pytest.fixture
def result(tmp_path: Path) -> Callable[[], Result]:
    return lambda: run(load_scenario(write(tmp_path, DRY)), 0)


def inject(monkeypatch: pytest.MonkeyPatch, change: Change) -> None:
    """Let the aggregator ask its store for something else in its third version."""
    commit, before = MemoryStore.commit, list[bytes]()

    def changed(store: MemoryStore, records: Sequence[Record]) -> None:
        asked: list[Record] = []
        for record in records:
            if isinstance(record, VersionRecord):
                before.extend(record.counted)
                asked.append(change(record, before) if record.version == 3 else record)
            else:
                asked.append(record)
        commit(store, asked)

    monkeypatch.setattr(MemoryStore, "commit", changed)


def test_a_sound_run_has_nothing_to_tell(result: Callable[[], Result]) -> None:
    found = result()
    assert (found.ended, found.lost, found.counted_twice) == ("duration", 0, 0)
    assert found.points[-1].num_updates > 20


def test_a_double_count_that_the_store_refuses_is_a_figure_and_a_failed_run(
    result: Callable[[], Result], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    inject(monkeypatch, counted_again)
    found = result()
    assert (found.ended, found.lost, found.counted_twice) == (FAILED, 0, 1)
    assert "is counted, but counted (memory_store.py, line " in found.notes[-1].text
    assert 0 < found.virtual_s < 60
    assert found.points[-1].version == 2
    assert "LocalProtocolError" in caplog.text


def test_a_double_count_that_the_store_keeps_is_a_figure(
    result: Callable[[], Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    inject(monkeypatch, counted_again)
    monkeypatch.setattr(MemoryStore, "_count", lambda *_: None)
    found = result()
    assert (found.ended, found.counted_twice) == ("duration", 1)
    assert found.points[-1].num_updates == sum(each.updates_counted for each in found.classes)


def test_an_update_that_was_promised_and_is_in_no_version_is_lost(
    result: Callable[[], Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    inject(monkeypatch, left_out)
    found = result()
    assert (found.ended, found.lost, found.counted_twice) == ("duration", 1, 0)


# --- each side by itself -------------------------------------------------------------------------


def version(number: int, *counted: bytes) -> VersionRecord:
    return VersionRecord(version=number, model_hash=bytes(32), params=b"", counted=counted)


@pytest.fixture
def audit() -> Audit:
    """Of one update that was sent and taken."""
    watching = Audit()
    watching.sent(ONE)
    watching.committed([JournalRecord(0, ONE, b"")])
    return watching


def test_what_waits_in_the_journal_or_on_its_device_is_not_lost(audit: Audit) -> None:
    audit.sent(TWO)
    assert audit.verdict([], {ONE}, {TWO}) == Verdict(frozenset(), frozenset())
    assert audit.verdict([], {ONE}, ()).lost == {TWO}
    assert audit.verdict([], (), {ONE, TWO}).lost == {ONE}  # the store had taken it


def test_a_refusal_of_what_is_counted_makes_two_of_it(audit: Audit) -> None:
    audit.told(ONE, counted=False)
    assert audit.verdict([], {ONE}, ()).counted_twice == set()
    assert audit.verdict([(1, ONE)], (), ()).counted_twice == {ONE}


def test_two_different_verdicts_show_and_one_heard_twice_does_not(audit: Audit) -> None:
    audit.told(ONE, counted=True)
    audit.told(ONE, counted=True)
    assert audit.verdict([(1, ONE)], (), ()).counted_twice == set()
    audit.told(ONE, counted=False)
    assert audit.verdict([(1, ONE)], (), ()).counted_twice == {ONE}


def test_a_manifest_must_name_the_version_that_the_store_says(audit: Audit) -> None:
    audit.named(1, [ONE])
    audit.named(1, [ONE])
    assert audit.verdict([(1, ONE)], (), ()).counted_twice == set()
    assert audit.verdict([(2, ONE)], (), ()).counted_twice == {ONE}
    audit.named(2, [ONE])
    assert audit.verdict([(1, ONE)], (), ()).counted_twice == {ONE}


def test_a_store_may_be_asked_again_for_what_it_did_not_keep(audit: Audit) -> None:
    audit.asked([version(1, ONE)])
    audit.asked([version(1, ONE)])
    audit.committed([version(1, ONE)])
    assert audit.verdict([(1, ONE)], (), ()).counted_twice == set()
    audit.asked([version(2, ONE)])
    assert audit.verdict([(1, ONE)], (), ()).counted_twice == {ONE}
