"""Where a source waits while it is looked at: a Parquet file in the scratch folder, its columns named by position.

Positions, not names: DuckDB does not tell `Age` from `age`, and a header may hold anything.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from models.errors import OnboardingError

BATCH_ROWS = 65_536


@dataclass(frozen=True)
class Counts:
    """How many rows, how many of them with an outcome, and how many of those positive."""

    rows: int
    labelled: int
    positives: int


@dataclass(frozen=True)
class Frequencies:
    """A column by its distinct values: how often each stands, int64 [values]; nulls are counted apart."""

    values: pa.Array
    rows: npt.NDArray[np.int64]
    labelled: npt.NDArray[np.int64]
    positives: npt.NDArray[np.int64]
    absent: Counts


@dataclass(frozen=True)
class Staged:
    """A source's rows in scratch. Column `i` is `c<i>` there, and `names[i]` outside.

    Beside the columns stands `number`, what people number the row: from 1, or as a spreadsheet does.
    """

    path: Path
    names: tuple[str, ...]
    types: tuple[pa.DataType, ...]
    rows: int
    origin: str  # what it was read from, in words
    notes: tuple[str, ...] = ()
    delimiter: str = ","
    table: str = ""  # of the catalog, where it is one
    is_changed: bool = False
    blank: frozenset[int] = frozenset()  # columns that are forgotten
    connection: duckdb.DuckDBPyConnection = field(default_factory=duckdb.connect, repr=False)

    def __post_init__(self) -> None:
        self.connection.execute("SET TimeZone = 'UTC'")  # or times come back in the machine's
        self.connection.execute(f"SET temp_directory = '{_quoted(self.path.parent)}'")

    @property
    def relation(self) -> str:
        """The rows, to be written behind FROM."""
        return f"read_parquet('{_quoted(self.path)}')"

    def position(self, name: str) -> int:
        """Return where a column stands."""
        return self.names.index(name)

    def query(self, sql: str, parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """Run SQL in which `$rows` is the staged rows."""
        return self.connection.execute(sql.replace("$rows", self.relation), list(parameters)).fetchall()

    def with_names(self, names: Sequence[str], *notes: str) -> "Staged":
        """Return the same rows under other names."""
        return replace(self, names=tuple(names), notes=(*self.notes, *notes), is_changed=True)

    def without_repeated_rows(self, key: int) -> "Staged":
        """Leave out rows that are equal to an earlier one, where that is why keys stand twice; else change nothing."""
        column, every = f"c{key}", ", ".join(f"c{position}" for position in range(len(self.names)))
        often = f"SELECT {column} FROM $rows GROUP BY ALL HAVING count(*) > 1"  # noqa: S608
        kinds = (
            f"SELECT count(DISTINCT ({every})) AS kinds FROM $rows "  # noqa: S608
            f"WHERE {column} IN ({often}) GROUP BY {column}"
        )
        ((equal, repeated),) = self.query(f"SELECT count(*) FILTER (WHERE kinds = 1), count(*) FROM ({kinds})")  # noqa: S608
        if not repeated or equal < repeated:
            return self
        first = f"row_number() OVER (PARTITION BY {column} ORDER BY number) = 1"
        path = self.path.with_name("each_once.parquet")
        self.connection.execute(
            f"COPY (SELECT {every}, number FROM {self.relation} QUALIFY {column} IS NULL OR {first} ORDER BY number) "  # noqa: S608
            f"TO '{_quoted(path)}' (FORMAT parquet)"
        )
        ((rows,),) = self.connection.execute(f"SELECT count(*) FROM read_parquet('{_quoted(path)}')").fetchall()  # noqa: S608
        note = f"{self.rows - rows:,} rows are left out: they repeat an earlier one in every column"
        return replace(self, path=path, rows=rows, notes=(*self.notes, note), is_changed=True)

    def words(self, column: int) -> dict[str | None, int]:
        """Count a column's distinct values as texts."""
        found = self.query(f"SELECT CAST(c{column} AS VARCHAR) AS word, count(*) FROM $rows GROUP BY ALL")  # noqa: S608
        return dict(found)

    def frequencies(self, column: int, label: int, positive: Sequence[str], negative: Sequence[str]) -> Frequencies:
        """Count a column's distinct values, with the outcomes of their rows."""
        outcome = f"CAST(c{label} AS VARCHAR)"
        both = [*positive, *negative]
        sql = f"""
            SELECT c{column} AS value, count(*) AS rows,
                   count(*) FILTER (WHERE list_contains(?::VARCHAR[], {outcome})) AS labelled,
                   count(*) FILTER (WHERE list_contains(?::VARCHAR[], {outcome})) AS positives
            FROM {self.relation} GROUP BY ALL ORDER BY value NULLS LAST"""  # noqa: S608
        counted = self.connection.execute(sql, [both, list(positive)]).to_arrow_table()
        null = pc.is_null(counted.column("value"))
        there, absent = counted.filter(pc.invert(null)), counted.filter(null).to_pylist()
        sums = Counts(absent[0]["rows"], absent[0]["labelled"], absent[0]["positives"]) if absent else Counts(0, 0, 0)
        rows, labelled, positives = (there.column(n).to_numpy().astype(np.int64) for n in counted.column_names[1:])
        return Frequencies(there.column("value").combine_chunks(), rows, labelled, positives, sums)

    def batches(self, columns: Sequence[int]) -> Iterator[pa.RecordBatch]:
        """Stream columns, in the order of the rows."""
        with pq.ParquetFile(self.path) as file:
            yield from file.iter_batches(BATCH_ROWS, columns=[f"c{column}" for column in columns])

    def numbered(self, column: int) -> Iterator[tuple[pa.Array, pa.Array]]:
        """Stream a column and the numbers of its rows."""
        with pq.ParquetFile(self.path) as file:
            for batch in file.iter_batches(BATCH_ROWS, columns=[f"c{column}", "number"]):
                yield batch.column(f"c{column}"), batch.column("number")


def stage(path: Path, schema: pa.Schema, batches: Iterable[pa.RecordBatch], trim: bool = True) -> int:
    """Write batches to a Parquet file, texts trimmed and empty ones null unless told otherwise; return the rows."""
    rows = 0
    with pq.ParquetWriter(path, schema, compression="zstd", compression_level=1) as out:
        for batch in batches:
            columns = [_trimmed(column) for column in batch.columns] if trim else batch.columns
            try:
                out.write_batch(pa.record_batch(columns, schema=schema))
            except OSError as error:
                raise OnboardingError(f"{path} cannot be written: {error}. Make room for it, and run again.") from error
            rows += len(batch)
    return rows


def _trimmed(column: pa.Array) -> pa.Array:
    if not pa.types.is_string(column.type):
        return column
    trimmed = pc.utf8_trim_whitespace(column)
    return pc.if_else(pc.equal(pc.binary_length(trimmed), 0), pa.scalar(None, pa.string()), trimmed)


def _quoted(path: Path) -> str:
    return str(path).replace("'", "''")
