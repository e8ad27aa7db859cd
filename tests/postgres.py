"""A real PostgreSQL on loopback, with a password, for the tests of a session."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from shutil import chown, rmtree
from signal import SIGQUIT
from tempfile import mkdtemp

import psycopg
import pytest

from tests.processes import Server, owner_of, program
from tests.serving import free_port

USER, PASSWORD = "tandem", "p@ss/word: 100%"  # what must be encoded in an address
ENCODED = "p%40ss%2Fword%3A%20100%25"
DEBIAN = "/usr/lib/postgresql/*/bin"


@dataclass
class Postgres:
    """A running server, and new databases in it."""

    server: Server
    port: int
    made: int = 0

    def new_database(self) -> str:
        """Make an empty database; return its SQLAlchemy address, password included."""
        self.made += 1
        with psycopg.connect(conninfo(self.port), autocommit=True) as connection:
            connection.execute(f"create database lake_{self.made}")
        return f"postgresql+psycopg://{USER}:{ENCODED}@127.0.0.1:{self.port}/lake_{self.made}"


@contextmanager
def postgres() -> Iterator[Postgres]:
    """Run a PostgreSQL in a folder of its own; skip where it is not installed."""
    binary, initdb = program("postgres", DEBIAN), program("initdb", DEBIAN)
    if not binary or not initdb:
        pytest.skip("PostgreSQL is not installed: apt-get install postgresql")
    folder, port = Path(mkdtemp(prefix="tandem-postgres-")), free_port()
    try:
        data = _initialized(folder, initdb)
        options = ["listen_addresses=127.0.0.1", f"port={port}", "unix_socket_directories=", "fsync=off"]
        command = [binary, "-D", str(data), *(part for option in options for part in ("-c", option))]
        with Server(command, folder, lambda: _answers(port), ended_by=SIGQUIT) as server:
            yield Postgres(server, port)
    finally:
        rmtree(folder, ignore_errors=True)


def conninfo(port: int) -> str:
    """Return libpq's words for the server."""
    return psycopg.conninfo.make_conninfo(
        host="127.0.0.1", port=port, user=USER, password=PASSWORD, dbname="postgres", connect_timeout=10
    )


def _answers(port: int) -> bool:
    try:
        psycopg.connect(conninfo(port)).close()
    except psycopg.OperationalError:
        return False
    return True


def _initialized(folder: Path, initdb: str) -> Path:
    data, password = folder / "data", folder / "password"
    password.write_text(PASSWORD)
    if not os.geteuid():  # PostgreSQL refuses to be run by root
        for path in (folder, password):
            chown(path, "nobody")
    command = [initdb, "-D", str(data), "-U", USER, "-A", "scram-sha-256", "--pwfile", str(password), "-N"]
    command += ["-E", "UTF8", "--locale", "C"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, **owner_of(folder))
    assert done.returncode == 0, done.stderr
    return data
