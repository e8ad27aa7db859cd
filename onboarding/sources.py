"""What `--from` names, a file or a table of the catalog, brought into scratch as it stands."""

import difflib
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq

from models.errors import OnboardingError, TableNotFoundError
from onboarding.csv_files import CsvRows, sniff
from onboarding.staging import Staged, stage
from onboarding.text_files import failures_named

if TYPE_CHECKING:
    from backends.lakehouse.catalog import Lakehouse

TABLE = re.compile(r"^[A-Za-z_]\w*(\.[A-Za-z_]\w*)+$")
STAGED = "staged.parquet"
NUMBERS = (pa.types.is_boolean, pa.types.is_integer, pa.types.is_floating, pa.types.is_decimal)
TIMES = (pa.types.is_date, pa.types.is_timestamp, pa.types.is_time)
TEXTS = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view)


def bring(given: str, lake: "Lakehouse", scratch: Path) -> Staged:
    """Stage a file, if there is one of that name, or else a table; `OnboardingError` when it has no rows."""
    path = Path(os.path.expanduser(given))  # noqa: PTH111  # pathlib's fails for users that there are not
    with failures_named(path):
        kind = _kind(path)
    if kind in BRINGERS:
        staged = BRINGERS[kind](path, scratch)
    elif kind == "not there" and TABLE.match(given):
        staged = _table(given, lake, scratch)
    else:
        raise OnboardingError(
            f"--from is {given!r}, which is {kind}. Name a CSV or Parquet file, or a table of the catalog like "
            "silver.orders."
        )
    if not staged.rows:
        raise OnboardingError(f"{given} has a header but no rows. Fill it, or name another file.")
    return _without_blank_columns(staged)


def named(staged: Staged, option: str, column: str) -> str:
    """Return the column's name as it stands; `OnboardingError`, with those that there are, if it is not there."""
    for name in (column, _name(0, column)):  # as it stands in the file, or as it was renamed
        if name in staged.names:
            return name
    folded = [name for name in staged.names if name.casefold() == column.casefold()]
    close = folded or difflib.get_close_matches(column, staged.names, n=1)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    hint += "".join(f" Of it: {note}." for note in staged.notes if repr(column) in note)
    raise OnboardingError(
        f"{option} is {column!r}, but {staged.origin} has no such column.{hint} Its columns: {', '.join(staged.names)}."
    )


# --- kinds of sources -----------------------------------------------------------------------------------------------


def _kind(path: Path) -> str:
    if not path.exists():
        return "not there"
    if not path.is_file():
        return "a folder" if path.is_dir() else "no file but a pipe or a device"
    with path.open("rb") as file:
        return "Parquet" if file.read(4) == b"PAR1" else "CSV"


def _csv(path: Path, scratch: Path) -> Staged:
    form = sniff(path)
    rows = CsvRows(path, form)
    names, notes = _usable(form.header)
    types = (pa.string(),) * len(names)
    count = _staged(scratch, types, rows.batches())
    return Staged(scratch / STAGED, names, types, count, f"{path.name} ({form.described})", notes, form.delimiter)


def _parquet(path: Path, scratch: Path) -> Staged:
    try:
        with pq.ParquetFile(path) as file:
            schema = file.schema_arrow
            return _typed(path.name, schema, file.iter_batches(), scratch)
    except (pa.ArrowException, OSError) as error:
        raise OnboardingError(f"{path.name} cannot be read as Parquet: {error}. Write it again.") from error


BRINGERS = {"Parquet": _parquet, "CSV": _csv}


def _table(table: str, lake: "Lakehouse", scratch: Path) -> Staged:
    try:
        plan = lake.plan(table)
    except TableNotFoundError as error:
        raise OnboardingError(
            f"--from is {table!r}, which is no file and no table of the catalog. Mend its path, or its name."
        ) from error
    return replace(_typed(table, plan.schema, plan.stream(), scratch, trim=False), table=table)


def _typed(
    origin: str, schema: pa.Schema, batches: Iterable[pa.RecordBatch], scratch: Path, trim: bool = True
) -> Staged:
    kept = [i for i, field in enumerate(schema) if _plain(field.type)]
    dropped = [f"{schema[i].name!r} ({schema[i].type})" for i in range(len(schema)) if i not in kept]
    types = [_simple(schema[i].type) for i in kept]
    rows = _staged(scratch, types, _numbered(_picked(batch, kept, types) for batch in batches), trim)
    names, notes = _usable([schema[i].name for i in kept])
    more = (f"not read, since their types fit no table of features: {', '.join(dropped)}",) if dropped else ()
    renamed = bool(notes)
    return Staged(scratch / STAGED, names, tuple(types), rows, origin, (*notes, *more), is_changed=renamed)


def _staged(scratch: Path, types: Sequence[pa.DataType], batches: Iterable[pa.RecordBatch], trim: bool = True) -> int:
    schema = pa.schema([*((f"c{position}", dtype) for position, dtype in enumerate(types)), ("number", pa.int64())])
    return stage(scratch / STAGED, schema, batches, trim)


def _picked(batch: pa.RecordBatch, kept: Sequence[int], types: Sequence[pa.DataType]) -> pa.RecordBatch:
    columns = [batch.column(i).cast(dtype, safe=False) for i, dtype in zip(kept, types, strict=True)]
    return pa.record_batch(columns, [f"c{position}" for position in range(len(kept))])


def _numbered(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    number = 1
    for batch in batches:
        yield batch.append_column("number", pa.array(range(number, number + len(batch)), pa.int64()))
        number += len(batch)


def _plain(dtype: pa.DataType) -> bool:
    dtype = dtype.value_type if pa.types.is_dictionary(dtype) else dtype
    return any(is_one(dtype) for is_one in (*NUMBERS, *TIMES, *TEXTS))


def _simple(dtype: pa.DataType) -> pa.DataType:
    """Return the type, of those that an Iceberg table and the encoder know, that holds the same values."""
    if pa.types.is_dictionary(dtype):
        return _simple(dtype.value_type)
    if pa.types.is_uint64(dtype):
        return pa.string()  # the larger half fits no integer of Iceberg
    if pa.types.is_large_string(dtype) or pa.types.is_string_view(dtype) or pa.types.is_time(dtype):
        return pa.string()
    if pa.types.is_integer(dtype):
        return pa.int64()
    if pa.types.is_float16(dtype):
        return pa.float32()
    if pa.types.is_decimal(dtype):
        return pa.float64()
    if pa.types.is_timestamp(dtype):
        return pa.timestamp("us", "UTC" if dtype.tz else None)
    return pa.date32() if pa.types.is_date64(dtype) else dtype


# --- names ----------------------------------------------------------------------------------------------------------


def _usable(header: Sequence[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return names that every reader of a table takes, and what was changed."""
    names = [_name(position, name) for position, name in enumerate(header)]
    twice = sorted({name for name in names if [other.casefold() for other in names].count(name.casefold()) > 1})
    if twice:
        raise OnboardingError(
            f"Column names stand twice (capitals do not count): {', '.join(map(repr, twice))}. Rename them in the file."
        )
    changed = [f"{old!r} is {new!r}" for old, new in zip(header, names, strict=True) if old != new]
    return tuple(names), (f"columns renamed: {', '.join(changed)}",) if changed else ()


def _name(position: int, name: str) -> str:
    if not name.strip():
        return f"column_{position + 1}"
    return re.sub(r"[\x00-\x1f.`]", "_", name.strip())


def _without_blank_columns(staged: Staged) -> Staged:
    """Forget columns without a name in which nothing stands, like those that a separator at each row's end makes."""
    unnamed = [i for i, name in enumerate(staged.names) if name == f"column_{i + 1}"]
    return replace(staged, blank=frozenset(i for i in unnamed if set(staged.words(i)) == {None}))


def positions(staged: Staged) -> Iterator[int]:
    """Return the columns that are looked at."""
    return (i for i in range(len(staged.names)) if i not in staged.blank)
