"""The store keeps all of a commit or nothing, settles a lease once, and has one owner.

Every claim holds on SQLite and, where a PostgreSQL is installed, there too.
"""

import sqlite3
import stat
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import Connection, Table, create_engine, select, update

from aggregator import schema
from aggregator.records import (
    CounterRecord,
    DeviceRecord,
    DocumentRecord,
    EvidenceRecord,
    JournalRecord,
    LeaseRecord,
    LeaseState,
    Published,
    RefusalRecord,
    Snapshot,
    Standing,
    StandingRecord,
    VersionRecord,
)
from aggregator.store import Store, StoreError, open_store
from protocol.errors import ConfigError, LocalProtocolError
from tests.support.postgres import PostgresServer, running_postgres

Open = Callable[..., Store]
BACKENDS = ["sqlite", pytest.param("postgresql", marks=pytest.mark.broker)]


@pytest.fixture(scope="module")
def postgres() -> Iterator[PostgresServer]:
    with running_postgres() as server:
        yield server


@pytest.fixture(params=BACKENDS)
def url(request: pytest.FixtureRequest) -> str | None:
    if request.param == "sqlite":
        return None
    server: PostgresServer = request.getfixturevalue("postgres")
    return server.new_database()


@pytest.fixture
def opened(tmp_path: Path, url: str | None) -> Iterator[Open]:
    """Return a function that opens the one store of the test, having closed it if it was open."""
    stores: list[Store] = []

    def open_again(*, keep_versions: int = 3, segment_bytes: int = 1000) -> Store:
        if stores:
            stores.pop().close()
        stores.append(
            open_store(
                tmp_path, "digits", url, keep_versions=keep_versions, segment_bytes=segment_bytes
            )
        )
        return stores[-1]

    yield open_again
    for store in stores:
        store.close()


def key(number: int) -> bytes:
    return number.to_bytes(16)


def lease(number: int, version: int = 0) -> LeaseRecord:
    return LeaseRecord(key(number), f"device-{number}", version, "topk-0.1/int8")


def journalled(number: int, update: bytes = b"payload") -> JournalRecord:
    return JournalRecord(number, key(number), update)


def journalled_in(sequence: int, number: int) -> JournalRecord:
    return JournalRecord(sequence, key(number), b"payload")


def version(number: int, *counted: int) -> VersionRecord:
    return VersionRecord(
        version=number,
        params=b"params %d" % number,
        model_hash=bytes([number]) * 32,
        counted=tuple(map(key, counted)),
        strategy_state={"momentum": b"m%d" % number},
    )


def test_a_changed_model_is_refused_under_the_same_task(tmp_path: Path) -> None:
    open_store(tmp_path, "t", model="one").close()
    open_store(tmp_path, "t").close()
    with pytest.raises(StoreError, match="new task name"):
        open_store(tmp_path, "t", model="two")
    open_store(tmp_path, "t", model="one").close()


def test_a_new_store_is_empty(opened: Open) -> None:
    assert opened().snapshot() == Snapshot(None, (), (), (), {}, {}, 0)


def test_what_is_committed_is_there_after_a_restart(opened: Open) -> None:
    store = opened()
    ada = DeviceRecord("a", b"install", 3 << 32)
    store.commit([version(0), ada, lease(0), lease(1), lease(2)])
    store.commit([journalled(0, b"zero"), journalled(2, b"\x00" * 3000)])
    store.commit([CounterRecord({"accepted": 2, "refused": 1})])
    store.commit([version(1, 0), CounterRecord({"accepted": 3})])
    store = opened()
    assert store.snapshot() == Snapshot(
        version=version(1, 0),
        devices=(ada,),
        leases=(
            lease(1),
            LeaseRecord(key(2), "device-2", 0, "topk-0.1/int8", LeaseState.JOURNALLED),
        ),
        journal=(journalled(2, b"\x00" * 3000),),
        live_params={0: b"params 0", 1: b"params 1"},
        totals={"accepted": 3, "refused": 1},
        next_sequence=3,
        published={0: Published("float32"), 1: Published("float32")},
    )


def test_what_was_published_is_kept_as_long_as_a_version_says(opened: Open) -> None:
    told = [Published("int8", b"whole"), *(Published("", b"", data) for data in (b"a", b"b"))]
    store = opened()
    store.commit([replace(version(0), published=told[0])])
    store.commit([replace(version(1), published=told[1])])
    assert opened().snapshot().published == dict(enumerate(told[:2]))
    store = opened()
    store.commit([replace(version(2), published=told[2], published_since=1)])
    assert opened().snapshot().published == {1: told[1], 2: told[2]}


def test_documents_survive_and_the_last_word_on_each_stands(opened: Open) -> None:
    store = opened()
    store.commit([DocumentRecord("roster/all", b"one"), DocumentRecord("request/0", b"\0" * 99)])
    store.commit([DocumentRecord("roster/all", b"two"), DocumentRecord("roster/all", b"three")])
    assert opened().snapshot().documents == {"roster/all": b"three", "request/0": b"\0" * 99}


def test_an_empty_document_is_forgotten(opened: Open) -> None:
    store = opened()
    store.commit([DocumentRecord("a", b"1"), DocumentRecord("b", b"2")])
    store.commit([DocumentRecord("a", b""), DocumentRecord("never-there", b"")])
    assert opened().snapshot().documents == {"b": b"2"}
    store = opened()
    store.commit([DocumentRecord("b", b""), DocumentRecord("b", b"again")])
    store.commit([DocumentRecord("c", b"3"), DocumentRecord("c", b"")])
    assert opened().snapshot().documents == {"b": b"again"}


def test_a_document_is_kept_with_its_commit_or_not_at_all(opened: Open) -> None:
    store = opened()
    with pytest.raises(LocalProtocolError):
        store.commit([DocumentRecord("a", b"1"), version(1, 7)])  # 7 was never given
    assert opened().snapshot().documents == {}


def test_a_database_of_the_third_schema_keeps_what_was_published(
    opened: Open, tmp_path: Path, url: str | None
) -> None:
    told = Published("int8", b"whole", b"difference")
    store = opened()
    store.commit([replace(version(0), published=told)])
    store.close()
    engine = schema.open_engine(tmp_path / "digits.sqlite", url)
    with engine.begin() as connection:
        _make_older(connection, 3, schema.standing, schema.evidence)
    engine.dispose()
    assert opened().snapshot().published == {0: told}


def test_standings_and_evidence_survive_and_a_release_wipes_the_sheet(opened: Open) -> None:
    store = opened()
    quarantined = StandingRecord("ada", Standing.QUARANTINED, "not_finite: why")
    revoked = StandingRecord("bob", Standing.REVOKED, "by the operator", is_cut=True)
    store.commit([quarantined, EvidenceRecord("ada", "late", 1, 0.5), revoked])
    store.commit([EvidenceRecord("ada", "late", 2, 1.0), EvidenceRecord("ada", "drift", 1, 0.25)])
    store = opened()
    assert store.standings() == store.snapshot().standings == (quarantined, revoked)
    assert store.snapshot().evidence == (
        EvidenceRecord("ada", "drift", 1, 0.25),
        EvidenceRecord("ada", "late", 2, 1.0),
    )
    store.commit([StandingRecord("ada", Standing.ADMITTED)])
    assert opened().snapshot().standings == (revoked,)
    assert {(each.count, each.points) for each in opened().snapshot().evidence} == {
        (1, 0.0),
        (2, 0.0),
    }


@pytest.mark.parametrize("standing", [Standing.QUARANTINED, Standing.ADMITTED])
def test_what_an_aggregator_says_before_it_has_read_of_a_revocation_does_not_end_it(
    opened: Open, standing: Standing
) -> None:
    """An operator writes beside it: a device that floods meanwhile must not come back."""
    store, revoked = opened(), StandingRecord("bob", Standing.REVOKED, "lost", is_cut=True)
    store.commit([revoked])
    store.commit([StandingRecord("bob", standing, "flood", is_cut=True)])
    assert store.standings() == (revoked,)
    store.commit([replace(revoked, reason="stolen")])
    assert [each.standing for each in opened().standings()] == [Standing.REVOKED]


def test_a_database_of_the_first_schema_opens_and_gains_what_is_new(
    opened: Open, tmp_path: Path, url: str | None
) -> None:
    store = opened()
    store.commit([version(0), lease(0), journalled(0, b"waits"), CounterRecord({"starts": 3})])
    before = store.snapshot()
    store.close()
    engine = schema.open_engine(tmp_path / "digits.sqlite", url)
    with engine.begin() as connection:  # as the program before this one left it
        added = (schema.document, schema.published, schema.standing, schema.evidence)
        _make_older(connection, 1, *added)
    engine.dispose()
    store = opened()
    assert store.snapshot() == before
    store.commit([DocumentRecord("roster/all", b"one")])
    store = opened()
    assert store.snapshot().documents == {"roster/all": b"one"}
    store.close()
    engine = schema.open_engine(tmp_path / "digits.sqlite", url)
    with engine.begin() as connection:
        is_schema = schema.meta.c.key == "schema"
        found = connection.execute(select(schema.meta.c.value).where(is_schema)).scalar_one()
    engine.dispose()
    assert found == str(schema.SCHEMA_VERSION) == "5"


def _make_older(connection: Connection, number: int, *without: Table) -> None:
    """Take away what schemas after this one have added."""
    for table in without:
        table.drop(connection)
    connection.exec_driver_sql("ALTER TABLE fedbus_device DROP COLUMN counter")
    older = update(schema.meta).where(schema.meta.c.key == "schema").values(value=str(number))
    connection.execute(older)


def test_nobody_else_can_read_what_it_keeps(tmp_path: Path) -> None:
    """Updates, and what robust rules hold against whom; a file of an older program's, too."""
    made, given = tmp_path / "made", tmp_path / "given"
    given.mkdir(mode=0o755)
    (given / "digits.sqlite").touch(mode=0o644)
    for folder in (made, given):
        with closing(open_store(folder, "digits")):
            files = [path for path in folder.rglob("*") if path.is_file()]
            modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in files}
        assert "digits.sqlite" in modes
        assert set(modes.values()) == {0o600}, modes
        assert stat.S_IMODE((folder / "digits.journal").stat().st_mode) == 0o700
    assert stat.S_IMODE(made.stat().st_mode) == 0o700


def test_the_first_schemas_tables_are_read_as_they_were_written(tmp_path: Path) -> None:
    """Its own words, so that no change of today's tables can hide here."""
    with sqlite3.connect(tmp_path / "digits.sqlite") as connection:
        connection.executescript(FIRST_SCHEMA)
    connection.close()
    store = open_store(tmp_path, "digits")
    found = store.snapshot()
    assert found.devices == (DeviceRecord("ada", b"install"),)
    assert found.leases == (LeaseRecord(key(1), "ada", 0, "topk-0.1/int8"),)
    assert found.version is not None
    assert (found.version.version, found.version.params) == (0, b"params")
    assert (found.totals, found.next_sequence) == ({"starts": 2}, 5)
    assert found.published == {0: Published("float32")}  # whole, and just as they are
    store.commit([journalled_in(5, 1), DocumentRecord("a", b"1")])
    assert [entry.sequence for entry in store.snapshot().journal] == [5]
    assert store.snapshot().documents == {"a": b"1"}
    store.close()


#: The tables of schema 1, in SQLite's words.
FIRST_SCHEMA = """
CREATE TABLE fedbus_meta (key TEXT NOT NULL, value TEXT NOT NULL, PRIMARY KEY (key));
CREATE TABLE fedbus_device (
    device TEXT NOT NULL, install_id BLOB NOT NULL, PRIMARY KEY (device));
CREATE TABLE fedbus_lease (
    lease_id BLOB NOT NULL, device TEXT NOT NULL, version INTEGER NOT NULL, codec TEXT NOT NULL,
    counted_in INTEGER, refused TEXT, PRIMARY KEY (lease_id));
CREATE INDEX fedbus_lease_unsettled ON fedbus_lease (version)
    WHERE counted_in IS NULL AND refused IS NULL;
CREATE TABLE fedbus_journal (
    sequence INTEGER NOT NULL, lease_id BLOB NOT NULL, segment INTEGER NOT NULL,
    "offset" INTEGER NOT NULL, length INTEGER NOT NULL, PRIMARY KEY (sequence), UNIQUE (lease_id),
    FOREIGN KEY(lease_id) REFERENCES fedbus_lease (lease_id));
CREATE TABLE fedbus_version (
    version INTEGER NOT NULL, model_hash BLOB NOT NULL, counted BLOB NOT NULL,
    PRIMARY KEY (version));
CREATE TABLE fedbus_params (version INTEGER NOT NULL, params BLOB NOT NULL, PRIMARY KEY (version));
CREATE TABLE fedbus_strategy_state (
    version INTEGER NOT NULL, state BLOB NOT NULL, PRIMARY KEY (version));
CREATE TABLE fedbus_counter (name TEXT NOT NULL, total INTEGER NOT NULL, PRIMARY KEY (name));
INSERT INTO fedbus_meta VALUES
    ('schema', '1'), ('task', 'digits'), ('model', ''), ('next_sequence', '5');
INSERT INTO fedbus_device VALUES ('ada', CAST('install' AS BLOB));
INSERT INTO fedbus_lease VALUES
    (x'00000000000000000000000000000001', 'ada', 0, 'topk-0.1/int8', NULL, NULL);
INSERT INTO fedbus_version VALUES (0, x'00', x'90');
INSERT INTO fedbus_params VALUES (0, CAST('params' AS BLOB));
INSERT INTO fedbus_strategy_state VALUES (0, x'80');
INSERT INTO fedbus_counter VALUES ('starts', 2);
"""


def test_a_lease_is_found_in_every_state(opened: Open) -> None:
    store = opened()
    store.commit([version(0), *map(lease, range(4))])
    store.commit([journalled(1), journalled(2), RefusalRecord(key(3), "too_stale"), version(1, 2)])
    states = [(LeaseState.OPEN, ""), (LeaseState.JOURNALLED, "")]
    states += [(LeaseState.COUNTED, "1"), (LeaseState.REFUSED, "too_stale")]
    for number, (state, outcome) in enumerate(states):
        expected = LeaseRecord(key(number), f"device-{number}", 0, "topk-0.1/int8", state, outcome)
        assert store.lease(key(number)) == expected
    assert store.lease(key(4)) is None


def test_the_journal_is_in_order_of_sequence_whatever_the_order_of_commits(opened: Open) -> None:
    store = opened()
    store.commit([lease(5), lease(6), lease(7)])
    store.commit([JournalRecord(0, key(7), b"a"), JournalRecord(1, key(5), b"b")])
    store.commit([JournalRecord(2, key(6), b"c")])
    assert [record.update for record in opened().snapshot().journal] == [b"a", b"b", b"c"]


def test_a_sequence_is_never_given_again_even_if_the_journal_is_empty(opened: Open) -> None:
    store = opened()
    store.commit([lease(0), lease(1), journalled(0), journalled(1)])
    store.commit([version(1, 0, 1)])
    snapshot = opened().snapshot()
    assert snapshot.journal == ()
    assert snapshot.next_sequence == 2


def test_one_commit_may_hold_a_whole_life(opened: Open, tmp_path: Path) -> None:
    store = opened()
    store.commit([version(1, 0), RefusalRecord(key(1), "stale"), journalled(0), lease(0), lease(1)])
    assert store.counted_ids() == [(1, key(0))]
    assert opened().snapshot().next_sequence == 1
    assert not list(tmp_path.glob("digits.journal/*.seg"))  # nobody would ever replay it


@pytest.mark.parametrize(
    "bad",
    [
        [lease(0)],  # given twice
        [lease(9), lease(9)],
        [JournalRecord(0, key(1), b"")],  # a sequence twice
        [JournalRecord(5, key(0), b"")],  # a lease journalled twice
        [JournalRecord(5, key(9), b"")],  # never given
        [version(2, 2)],  # counted already
        [version(2, 3)],  # refused already
        [version(2, 9)],  # never given
        [version(2, 1, 1)],
        [version(1)],
        [LeaseRecord(key(9), "a", 0, "c", LeaseState.COUNTED, "1")],
    ],
)
def test_what_only_a_bug_asks_for_is_refused_and_leaves_no_trace(
    opened: Open, bad: list[LeaseRecord | JournalRecord | VersionRecord | RefusalRecord]
) -> None:
    store = opened()
    store.commit([version(0), *map(lease, range(4)), journalled(0)])
    store.commit([version(1, 2), RefusalRecord(key(3), "too_stale")])
    before = store.snapshot()
    with pytest.raises(LocalProtocolError):
        store.commit([DeviceRecord("b", b"i"), lease(8), CounterRecord({"accepted": 9}), *bad])
    store = opened()
    assert store.snapshot() == before
    assert store.counted_ids() == [(1, key(2))]


def test_a_refusal_changes_no_settled_lease(opened: Open) -> None:
    store = opened()
    store.commit([lease(0), lease(1), version(1, 0), RefusalRecord(key(1), "first")])
    store.commit([RefusalRecord(key(number), "late") for number in (0, 1, 1, 9)])
    outcomes = [found.outcome for number in range(2) if (found := store.lease(key(number)))]
    assert outcomes == ["1", "first"]
    assert store.lease(key(9)) is None


def test_after_an_error_a_store_must_be_opened_again(opened: Open) -> None:
    store = opened()
    with pytest.raises(LocalProtocolError):
        store.commit([version(1, 9)])
    with pytest.raises(StoreError, match="open it again"):
        store.snapshot()
    assert opened().snapshot().version is None


def test_old_params_go_unless_a_lease_still_names_them(opened: Open) -> None:
    store = opened(keep_versions=2)
    store.commit([version(0), lease(0, 0), lease(1, 1), lease(2, 1)])
    for number in range(1, 6):
        store.commit([version(number)])
    assert set(store.snapshot().live_params) == {0, 1, 4, 5}
    store.commit([RefusalRecord(key(0), "too_stale"), journalled(1), version(6, 2)])
    assert set(store.snapshot().live_params) == {1, 5, 6}
    store.commit([version(7, 1)])
    assert set(store.snapshot().live_params) == {6, 7}
    assert store.params(6) == b"params 6"
    assert store.params(5) is None
    assert store.counted_ids() == [(6, key(2)), (7, key(1))]


def test_a_device_may_be_bound_again(opened: Open) -> None:
    store = opened()
    store.commit([DeviceRecord("a", b"old"), DeviceRecord("b", b"other")])
    store.commit([DeviceRecord("a", b"new"), DeviceRecord("c", b"1"), DeviceRecord("c", b"2")])
    bound = {record.device: record.install_id for record in opened().snapshot().devices}
    assert bound == {"a": b"new", "b": b"other", "c": b"2"}


def test_segments_go_once_everything_in_them_is_settled(opened: Open, tmp_path: Path) -> None:
    store = opened(segment_bytes=1)
    store.commit([version(0), *map(lease, range(4))])
    for number in range(4):
        store.commit([journalled(number)])
    store.commit([version(1, 0, 2)])
    files = tmp_path / "digits.journal"
    assert sorted(path.name for path in files.iterdir()) == ["2.seg", "4.seg"]
    store = opened(segment_bytes=1)
    store.commit([RefusalRecord(key(1), "x"), RefusalRecord(key(3), "x")])
    assert not list(files.iterdir())


def test_a_damaged_payload_is_reported_with_file_and_offset(opened: Open, tmp_path: Path) -> None:
    store = opened()
    store.commit([lease(0), lease(1)])
    store.commit([journalled(0), journalled(1)])
    segment = tmp_path / "digits.journal" / "1.seg"
    segment.write_bytes(segment.read_bytes()[:-1] + b"?")
    with pytest.raises(StoreError, match=r"1\.seg: the entry at offset 23 \(sequence 1\) is damag"):
        opened().snapshot()


def test_a_second_aggregator_is_told_so(opened: Open, tmp_path: Path, url: str | None) -> None:
    opened()
    with pytest.raises(StoreError, match="another aggregator runs this task here; stop it first"):
        open_store(tmp_path, "digits", url)
    opened()  # the first may of course come back


def test_a_database_in_use_is_refused_from_another_folder(
    opened: Open, tmp_path: Path, url: str | None
) -> None:
    if url is None:
        pytest.skip("only a server's database can be reached from two folders")
    opened()
    with pytest.raises(StoreError, match="another aggregator uses it"):
        open_store(tmp_path / "elsewhere", "digits", url)


def test_the_store_of_another_task_is_refused(
    opened: Open, tmp_path: Path, url: str | None
) -> None:
    opened().close()
    if url is None:
        (tmp_path / "digits.sqlite").rename(tmp_path / "gait.sqlite")
    with pytest.raises(StoreError, match="it belongs to task 'digits', not 'gait'"):
        open_store(tmp_path, "gait", url)


def test_a_newer_schema_is_refused(opened: Open, tmp_path: Path, url: str | None) -> None:
    opened().close()
    engine = schema.open_engine(tmp_path / "digits.sqlite", url)
    with engine.begin() as connection:
        newer = update(schema.meta).where(schema.meta.c.key == "schema").values(value="99")
        connection.execute(newer)
    engine.dispose()
    with pytest.raises(StoreError, match=r"schema 99 .* install the fedbus that wrote it"):
        opened()


def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    (tmp_path / "digits.sqlite").write_bytes(b"not a database, but long enough to be one" * 100)
    with pytest.raises(StoreError, match="no SQLite database"):
        open_store(tmp_path, "digits")


def test_a_database_locked_by_a_sql_shell_is_reported(tmp_path: Path) -> None:
    store = open_store(tmp_path, "digits")
    shell = create_engine(f"sqlite:///{tmp_path / 'digits.sqlite'}")
    with shell.connect() as connection:
        connection.exec_driver_sql("BEGIN IMMEDIATE")
        with pytest.raises(StoreError, match="another program holds the database locked"):
            store.commit([version(0)])
    shell.dispose()
    store.close()


def test_two_tasks_may_share_a_folder(tmp_path: Path) -> None:
    one = open_store(tmp_path, "one")
    one.commit([lease(0), journalled(0)])
    two = open_store(tmp_path, "two")
    assert two.snapshot().journal == ()
    assert one.snapshot().journal == (journalled(0),)
    one.close()
    two.close()


@pytest.mark.parametrize("bad", ["mysql://host/db", "nonsense", "sqlite:///elsewhere"])
def test_only_postgresql_may_be_given_by_url(tmp_path: Path, bad: str) -> None:
    with pytest.raises(ConfigError, match="store url"):
        open_store(tmp_path, "digits", bad)


def test_the_task_must_be_a_topic_level(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="task"):
        open_store(tmp_path, "../digits")


def test_closing_twice_does_no_harm(opened: Open) -> None:
    store = opened()
    store.close()
    store.close()
