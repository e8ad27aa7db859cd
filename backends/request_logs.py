"""From the files of the services' request logs to rows of `silver.<model>_requests`: each file once.

The snapshot that adds a file's rows names the file; only then is it deleted. After a crash in between, the next run
finds the name in the table and deletes the file unread. Who writes the files is `bento.observing.request_files`.
"""

import fcntl
import json
import time
from collections.abc import Iterable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from backends.lakehouse.appending import add_columns, append, drop_days, newest_with
from backends.lakehouse.catalog import Lakehouse
from backends.lakehouse.parts import Part, Parts
from backends.lakehouse.reading import Snapshot
from backends.request_lines import LogFile
from models.errors import TableNotFoundError
from models.request_record import DAY, FINISHED, OPEN

FILES = "request_files"  # property of a snapshot: the names of the files whose rows it added, as JSON
MOST_FILES = 200  # in one commit
CRASHED_SECONDS = 60.0  # a younger file may be about to be locked by its writer


@dataclass
class Carried:
    """What one run did. `snapshot` is the table's newest, None where there is no table yet."""

    snapshot: Snapshot | None = None
    files: int = 0
    rows: int = 0
    bad_lines: int = 0
    problems: list[str] = field(default_factory=list)  # one for each file with lines that were set aside


def waiting_files(folder: Path) -> list[Path]:
    """Return the complete files of a folder, oldest first; none where there is no folder."""
    return sorted(folder.glob(f"*{FINISHED}"))


def carry_requests(lake: Lakehouse, table: str, folder: Path) -> Carried:
    """Add the rows of all complete files to the table, and delete the files.

    Files whose writer has crashed are taken too. `PublishConflictError` when another run was faster: nothing is lost
    or doubled then.
    """
    _complete_crashed(folder)
    carried = Carried()
    with suppress(TableNotFoundError):
        carried.snapshot = lake.snapshot(table)
        last = newest_with(lake, table, FILES)
        _delete(folder / name for name in (json.loads(last.properties[FILES]) if last else []))
    while paths := waiting_files(folder)[:MOST_FILES]:
        files = [LogFile(path) for path in paths]
        carried.snapshot = _carry(lake, table, files) or carried.snapshot
        _delete(paths)
        carried.files += len(files)
        carried.rows += sum(file.rows for file in files)
        carried.bad_lines += sum(file.bad_lines for file in files)
        carried.problems += [
            f"{file.bad_lines} lines of {file.path.name} are set aside: {file.reason}." for file in files if file.reason
        ]
    return carried


def forget_requests(lake: Lakehouse, table: str, before: date) -> int:
    """Delete the requests of the days before one; return how many rows that were."""
    try:
        return drop_days(lake, table, DAY, before)
    except TableNotFoundError:
        return 0


def _carry(lake: Lakehouse, table: str, files: Sequence[LogFile]) -> Snapshot | None:
    """Add the rows of some files in one commit; None when there are no rows."""
    readable = [file for file in files if _has_room(lake, table, file)]
    if not readable:
        return None
    base, schema = lake.snapshot(table), lake.schema(table)
    with lake.parts(table, "", schema) as parts:
        addresses = _write(parts, schema, readable)
        names = json.dumps([file.path.name for file in files])
        return append(lake, table, addresses, {FILES: names}, base) if addresses else None


def _has_room(lake: Lakehouse, table: str, file: LogFile) -> bool:
    """Make the table, or the columns that it has not; a file that does not fit is set aside, and said."""
    if not file.schema:
        file.refuse("its first line names no columns")
        return False
    there = lake.ensure_table(table, file.schema, DAY)
    for column in file.schema:
        if column.name in there.names and _plain(there.field(column.name).type) != column.type:
            kinds = f"is {column.type}, but {_plain(there.field(column.name).type)} in {table}"
            file.refuse(f"its column {column.name!r} {kinds}. Give the feature another name")
            return False
    add_columns(lake, table, file.schema)
    return True


def _write(parts: Parts, schema: pa.Schema, files: Sequence[LogFile]) -> list[str]:
    """Write the rows, a part for each day."""
    days: dict[date, Part] = {}
    with ExitStack() as open_parts:
        for batch in (batch for file in files for batch in file.batches()):
            rows = _widened(batch, schema)
            for day in pc.unique(batch.column(DAY)).to_pylist():
                if day not in days:
                    days[day] = open_parts.enter_context(parts.begin(len(days)))
                days[day].write(rows.filter(pc.equal(rows.column(DAY), pa.scalar(day))))
    return [address for part in days.values() for address in part.addresses]


def _widened(batch: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
    """Put the columns into the table's order; those that a file has not are null."""
    has, rows = set(batch.schema.names), batch.num_rows
    columns = [batch.column(f.name).cast(f.type) if f.name in has else pa.nulls(rows, f.type) for f in schema]
    return pa.RecordBatch.from_arrays(columns, schema=schema)


def _plain(dtype: pa.DataType) -> pa.DataType:
    """Return what a file calls a type that the table reads as large text."""
    return pa.string() if pa.types.is_large_string(dtype) else dtype


def _complete_crashed(folder: Path) -> None:
    """Give their final names to the files whose writers are gone: they hold no lock any more."""
    for path in folder.glob(f"*{OPEN}"):
        with suppress(FileNotFoundError), path.open("rb") as file:
            if time.time() - path.stat().st_mtime >= CRASHED_SECONDS and _lock_is_free(file.fileno()):
                path.rename(path.with_suffix(FINISHED))


def _lock_is_free(file: int) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _delete(paths: Iterable[Path]) -> None:
    for path in paths:
        path.unlink(missing_ok=True)
