"""A PostgreSQL of the tests' own: in a temporary folder, on a free loopback port."""

import os
import pwd
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from sqlalchemy import create_engine

from broker_config.running import free_port

_START_S = 60


@dataclass
class PostgresServer:
    """A running server; ``port`` is on 127.0.0.1, its user is ``fedbus`` without a password."""

    port: int
    _numbers: Iterator[int] = field(default_factory=count)

    def url(self, database: str) -> str:
        """Return the URL of a database."""
        return f"postgresql://fedbus@127.0.0.1:{self.port}/{database}"

    def new_database(self) -> str:
        """Make an empty database and return its URL."""
        name = f"fedbus_{next(self._numbers)}"
        address = self.url("postgres").replace("postgresql", "postgresql+psycopg", 1)
        engine = create_engine(address, isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            connection.exec_driver_sql(f"CREATE DATABASE {name}")
        engine.dispose()
        return self.url(name)


@contextmanager
def running_postgres() -> Iterator[PostgresServer]:
    """Start a server and stop it; skip the test, saying why, where none can be started."""
    pytest.importorskip(
        "psycopg", reason="psycopg is not installed: pip install 'fedbus[postgres]'"
    )
    binaries = _binaries()
    if binaries is None:
        pytest.skip("PostgreSQL is not installed: apt-get install postgresql")
    user = _unprivileged_user()
    with TemporaryDirectory(prefix="fedbus-postgres-") as folder:
        if user is not None:
            shutil.chown(folder, user)
        data = Path(folder) / "data"

        def run(*command: str | Path) -> None:
            subprocess.run(
                command,
                check=True,
                cwd=folder,
                user=user,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                timeout=_START_S,
            )

        run(binaries / "initdb", "-D", data, "-U", "fedbus", "-A", "trust", "--no-sync")
        server = PostgresServer(free_port())
        options = f"-p {server.port} -c listen_addresses=127.0.0.1 -c unix_socket_directories=''"
        pg_ctl = (binaries / "pg_ctl", "-D", data, "-w", "-l", Path(folder) / "log")
        run(*pg_ctl, "-o", options, "start")
        try:
            yield server
        finally:
            run(*pg_ctl, "-m", "immediate", "stop")


def _binaries() -> Path | None:
    """Where initdb and pg_ctl are: on the PATH, or where Debian keeps them."""
    found = shutil.which("pg_ctl")
    if found is not None:
        return Path(found).resolve().parent
    return max(Path("/usr/lib/postgresql").glob("*/bin"), default=None)


def _unprivileged_user() -> str | None:
    """PostgreSQL refuses to run as root: return whom to run it as, None for ourselves."""
    if os.geteuid() != 0:
        return None
    names = {entry.pw_name for entry in pwd.getpwall()}
    return "postgres" if "postgres" in names else "nobody"
