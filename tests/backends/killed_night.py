"""Nights in processes of their own, forked off a server that has imported everything: to run at once, or to be killed.

`MOMENTS` has the exact moments at which such a process can be told to die, as by `kill -9`.
"""

import inspect
import multiprocessing
import os
import signal
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from pyiceberg.catalog.sql import SqlCatalog
from pyiceberg.table import Transaction
from pyiceberg.table.update.snapshot import ManageSnapshots

from backends.engines import LocalEngine
from backends.lakehouse.catalog import Lakehouse
from backends.settings import Settings
from models.errors import LakehouseError
from models.scoring import Scorer
from tests.backends.nights import LAX, PREDICTIONS, REJECTS, publish
from tests.tiny_model import tiny_contract, tiny_onnx

PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload([__name__])


def scorer_of(version: int) -> Scorer:
    """Return the scorer of a version; each has scores of its own."""
    return Scorer(tiny_onnx(tiny_contract(), seed=version))


class NightProcess:
    """A process that scores a night of some version, once it is let go."""

    def __init__(self, home: Path, version: int, moment: str = "", **changes: Any) -> None:
        self._ours, theirs = PROCESSES.Pipe()
        self.process: ForkServerProcess = PROCESSES.Process(
            target=_score, args=(theirs, home, version, moment, changes), daemon=True
        )
        self.process.start()
        theirs.close()
        self._ours.recv()  # it is ready

    def go(self) -> None:
        """Let it score."""
        self._ours.send(None)

    def outcome(self) -> str:
        """Wait for its end; return `published`, the name of its error, or `killed`."""
        try:
            return str(self._ours.recv())
        except EOFError:
            self.process.join()
            assert self.process.exitcode == -signal.SIGKILL
            return "killed"
        finally:
            self.process.join()

    def kill(self) -> None:
        """Kill it."""
        self.process.kill()


def outcomes(processes: Sequence[NightProcess]) -> list[str]:
    """Let processes that are ready score at once; return what came of each."""
    for process in processes:
        process.go()
    return [process.outcome() for process in processes]


def _score(pipe: Connection, home: Path, version: int, moment: str, changes: dict[str, Any]) -> None:
    with Lakehouse.open(Settings(home=home, threads=2)) as lake:
        engine = MortalEngine(2) if moment == AUDITED else LocalEngine(2)
        fields = {"scorer": scorer_of(version), "version": version, "limits": LAX, **changes}
        pipe.send(None)
        pipe.recv()
        if moment in MOMENTS:
            MOMENTS[moment]()
        try:
            publish(lake, engine, **fields)
        except LakehouseError as error:
            pipe.send(type(error).__name__)
        else:
            pipe.send("published")


# --- exact moments --------------------------------------------------------------------------------------------------

AUDITED = "the audit has begun"


class MortalEngine(LocalEngine):
    """An engine that dies when it is to read rows that are staged."""

    def map(self, function: Any, tasks: Any) -> list[Any]:
        tasks = list(tasks)
        table = PREDICTIONS.replace(".", "/")
        if any(table in file.address for task in tasks for file in task.files):
            _die()
        return super().map(function, tasks)


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _dies(owner: type, step: str, when: Callable[..., bool], after: bool = False) -> None:
    """Die before or after a step of a library, when its arguments are the ones that are waited for."""
    original = getattr(owner, step)

    def deadly(*arguments: Any, **named: Any) -> Any:
        meant = when(*arguments, **named)
        if meant and not after:
            _die()
        result = original(*arguments, **named)
        if meant and after:
            _die()
        return result

    static = isinstance(inspect.getattr_static(owner, step), staticmethod)
    setattr(owner, step, staticmethod(deadly) if static else deadly)


def _is(table: str) -> Callable[..., bool]:
    return lambda change, *_, **__: ".".join(change._table.name()) == table


def _dies_when_main_moves(step: str, after: bool) -> None:
    moving: list[bool] = []
    original = ManageSnapshots.set_current_snapshot

    def noticed(*arguments: Any, **named: Any) -> Any:
        moving.append(True)
        return original(*arguments, **named)

    ManageSnapshots.set_current_snapshot = noticed
    _dies(SqlCatalog, step, lambda *_, **__: bool(moving), after)


MOMENTS: dict[str, Callable[[], None]] = {
    "a part is written": lambda: _dies(pq.ParquetWriter, "close", lambda *_: True, after=True),
    "the rejects are about to be committed": lambda: _dies(Transaction, "commit_transaction", _is(REJECTS)),
    "the rejects are committed": lambda: _dies(Transaction, "commit_transaction", _is(REJECTS), after=True),
    "the branch has no rows yet": lambda: _dies(Transaction, "add_files", _is(PREDICTIONS)),
    AUDITED: lambda: None,  # see MortalEngine
    "the audit is over": lambda: _dies(ManageSnapshots, "set_current_snapshot", lambda *_, **__: True),
    "the metadata of the new main is written": lambda: _dies_when_main_moves("_write_metadata", after=True),
    "main has moved": lambda: _dies_when_main_moves("commit_table", after=True),
}
