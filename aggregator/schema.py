"""The store's tables, and how its database is opened: SQLite by default, PostgreSQL by URL."""

from pathlib import Path
from typing import Final

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Connection,
    Engine,
    Float,
    ForeignKey,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    Text,
    and_,
    create_engine,
    event,
    func,
    insert,
    inspect,
    literal,
    select,
    update,
)
from sqlalchemy.engine import URL, make_url
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.exc import ArgumentError

from aggregator.store_errors import StoreError
from protocol.errors import ConfigError

#: Grows with every change of the tables that an older program could not read.
SCHEMA_VERSION: Final = 5
#: The schema with which versions began to be published as differences.
_PUBLISHED_SINCE: Final = 3
#: The schema with which the counters of check-ins began to be kept.
_COUNTERS_SINCE: Final = 5
#: The key in `meta` of the digest of the model; the text is empty if nobody named one.
MODEL: Final = "model"
#: The key in `meta` of the sequence that the next admitted update gets.
NEXT_SEQUENCE: Final = "next_sequence"

_BUSY_S: Final = 2  # only a person with a SQL shell can be in the way: the store has one owner
_LOCK_KEY: Final = int.from_bytes(b"fedbus")
#: SQLite turns only this spelling into the table's own b-tree key.
_BIG = BigInteger().with_variant(Integer, "sqlite")

metadata = MetaData()

meta = Table(
    "fedbus_meta",
    metadata,
    Column("key", Text, primary_key=True),
    Column("value", Text, nullable=False),
)
device = Table(
    "fedbus_device",
    metadata,
    Column("device", Text, primary_key=True),
    Column("install_id", LargeBinary, nullable=False),
    Column("counter", _BIG, nullable=False),
)
_ADD_COUNTER: Final = "ALTER TABLE fedbus_device ADD COLUMN counter BIGINT DEFAULT 0 NOT NULL"
# A row per lease, for good: it is the record by which an update counts once. Its state is not
# kept but follows: counted, refused, else journalled if the journal has it, else open. So the
# hottest commit, many updates into the journal, touches no lease.
lease = Table(
    "fedbus_lease",
    metadata,
    Column("lease_id", LargeBinary, primary_key=True),
    Column("device", Text, nullable=False),
    Column("version", _BIG, nullable=False),
    Column("codec", Text, nullable=False),
    Column("counted_in", _BIG),
    Column("refused", Text),
)
unsettled = and_(lease.c.counted_in.is_(None), lease.c.refused.is_(None))
# In words: an `Index` with a condition makes every process load the dialect of each database.
_UNSETTLED_INDEX: Final = (
    "CREATE INDEX fedbus_lease_unsettled ON fedbus_lease (version)"
    " WHERE counted_in IS NULL AND refused IS NULL"
)
journal = Table(
    "fedbus_journal",
    metadata,
    Column("sequence", _BIG, primary_key=True, autoincrement=False),
    Column("lease_id", LargeBinary, ForeignKey(lease.c.lease_id), nullable=False, unique=True),
    Column("segment", _BIG, nullable=False),
    Column("offset", _BIG, nullable=False),
    Column("length", _BIG, nullable=False),
)
# counted: the ids, in their order, as one msgpack list.
version = Table(
    "fedbus_version",
    metadata,
    Column("version", _BIG, primary_key=True, autoincrement=False),
    Column("model_hash", LargeBinary, nullable=False),
    Column("counted", LargeBinary, nullable=False),
)
# What is large has tables of its own, so that dropping it rewrites no row.
params = Table(
    "fedbus_params",
    metadata,
    Column("version", _BIG, primary_key=True, autoincrement=False),
    Column("params", LargeBinary, nullable=False),
)
strategy_state = Table(
    "fedbus_strategy_state",
    metadata,
    Column("version", _BIG, primary_key=True, autoincrement=False),
    Column("state", LargeBinary, nullable=False),
)
counter = Table(
    "fedbus_counter",
    metadata,
    Column("name", Text, primary_key=True),
    Column("total", _BIG, nullable=False),
)
# Since schema 2.
document = Table(
    "fedbus_document",
    metadata,
    Column("key", Text, primary_key=True),
    Column("data", LargeBinary, nullable=False),
)
# Since schema 3. What devices can fetch; as in `aggregator.records.Published`.
published = Table(
    "fedbus_published",
    metadata,
    Column("version", _BIG, primary_key=True, autoincrement=False),
    Column("model", Text, nullable=False),
    Column("full", LargeBinary, nullable=False),
    Column("difference", LargeBinary, nullable=False),
)
# Since schema 4. Devices that are quarantined or revoked; those that are not listed are admitted.
# `fedbus devices` writes here too, beside the aggregator that runs.
standing = Table(
    "fedbus_standing",
    metadata,
    Column("device", Text, primary_key=True),
    Column("standing", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("is_cut", Boolean, nullable=False),
)
evidence = Table(
    "fedbus_evidence",
    metadata,
    Column("device", Text, primary_key=True),
    Column("kind", Text, primary_key=True),
    Column("count", _BIG, nullable=False),
    Column("points", Float, nullable=False),
)


def open_engine(path: Path, url: str | None) -> Engine:
    """Return an engine for the SQLite file ``path``, or for ``url`` where one is given.

    Raises ConfigError for a URL that is not PostgreSQL's, or if its driver is not installed.
    """
    if url is None:
        address = URL.create("sqlite+pysqlite", database=str(path))
        engine = create_engine(
            address,
            hide_parameters=True,
            connect_args={"timeout": _BUSY_S, "check_same_thread": False},
        )
        event.listen(engine, "connect", _configure_sqlite)
        event.listen(engine, "begin", _begin_sqlite)
        return engine
    try:
        address = make_url(url)
    except ArgumentError as error:
        raise ConfigError("store url: expected postgresql://USER@HOST/DATABASE") from error
    if address.get_backend_name() != "postgresql":
        raise ConfigError(f"store url: {address.drivername} is not supported, use postgresql://")
    try:
        # "format": parameters by position, so that the two hot statements take plain tuples.
        return create_engine(
            address.set(drivername="postgresql+psycopg"), hide_parameters=True, paramstyle="format"
        )
    except ModuleNotFoundError as error:
        raise ConfigError("store url: PostgreSQL needs `pip install 'fedbus[postgres]'`") from error


@event.listens_for(lease, "after_create")
def _index_unsettled(_table: Table, connection: Connection, **_how: object) -> None:
    connection.exec_driver_sql(_UNSETTLED_INDEX)


def _configure_sqlite(connection: DBAPIConnection, _record: object) -> None:
    """Durable at every commit, readers welcome, and pages large enough for params."""
    connection.isolation_level = None  # the driver begins nothing by itself: see _begin_sqlite
    cursor = connection.cursor()
    for pragma in (
        "page_size = 8192",
        "journal_mode = WAL",
        "synchronous = FULL",
        "foreign_keys = ON",
        "secure_delete = OFF",
        "cache_size = -2048",  # what is hot is new: more would only grow with the history
    ):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _begin_sqlite(connection: Connection) -> None:
    """Begin for real, so that making the tables is one transaction too."""
    connection.exec_driver_sql("BEGIN IMMEDIATE")


def claim(connection: Connection, task: str, where: str, model: str) -> None:
    """Make the tables in an empty database, or check that they are this task's and ours to read.

    To be called within a transaction. Raises StoreError, its message beginning with ``where``, if
    another aggregator holds the database, or it is of another task or of a newer program.
    """
    if connection.dialect.name == "postgresql":
        # Held until this connection ends, however it ends.
        lock = select(func.pg_try_advisory_lock(_LOCK_KEY))
        if not connection.execute(lock).scalar_one():
            raise StoreError(
                f"{where}: another aggregator uses it: stop it first, or give this one its own"
            )
    if not inspect(connection).has_table(meta.name):
        metadata.create_all(connection)
        facts = {"schema": str(SCHEMA_VERSION), "task": task, MODEL: model, NEXT_SEQUENCE: "0"}
        connection.execute(insert(meta), [{"key": key, "value": facts[key]} for key in facts])
        return
    found = {row.key: row.value for row in connection.execute(select(meta))}
    if int(found["schema"]) > SCHEMA_VERSION:
        raise StoreError(
            f"{where}: it has schema {found['schema']} and this program knows {SCHEMA_VERSION}: "
            "install the fedbus that wrote it, or a newer one"
        )
    if int(found["schema"]) < SCHEMA_VERSION:
        _upgrade(connection, int(found["schema"]))
    if found["task"] != task:
        raise StoreError(
            f"{where}: it belongs to task {found['task']!r}, not {task!r}: give each task its own"
        )
    if model and found[MODEL] and found[MODEL] != model:
        raise StoreError(
            f"{where}: it holds versions of another model: give a changed model a new task name"
        )


def _upgrade(connection: Connection, found: int) -> None:
    """Tables were added, and a column. Before 3 versions were published whole, as they are."""
    metadata.create_all(connection)
    if found < _COUNTERS_SINCE:
        connection.exec_driver_sql(_ADD_COUNTER)
    if found < _PUBLISHED_SINCE:
        empty = literal(b"", LargeBinary)
        as_it_is = select(params.c.version, literal("float32"), empty, empty)
        connection.execute(insert(published).from_select(list(published.c), as_it_is))
    newer = update(meta).where(meta.c.key == "schema").values(value=str(SCHEMA_VERSION))
    connection.execute(newer)
