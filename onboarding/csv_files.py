"""CSV files as they come: which delimiter, which header, and their rows as texts.

How bytes become letters is in `text_files`; what the texts mean is decided in `readings`. Parsing is pyarrow's.
"""

import csv
import io
import re
import string
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv as arrow_csv

from models.errors import OnboardingError
from onboarding.text_files import encoding_of, failures_named, opened

DELIMITERS = {",": "comma", ";": "semicolon", "\t": "tab", "|": "pipe"}
SEPARATOR = re.compile(r"^\"?sep=(?P<mark>.)\"?[ ,;\t]*$", re.IGNORECASE)  # a line that Excel writes and reads
MARKS = frozenset(string.punctuation + "\t") - {'"', "'"}  # that it may name
SAMPLE = 1 << 16  # characters that tell the delimiter
BLOCK = 1 << 23  # bytes that are parsed at a time; no row can be longer
BLANK = " \r\n" + "".join(DELIMITERS)
UNCLOSED = "A quotation mark that is never closed is the usual cause: mend that row, or export the file again."
SHOWN = 3  # ragged rows that an error shows


@dataclass(frozen=True)
class CsvFormat:
    """How a file is written."""

    encoding: str
    delimiter: str
    header: tuple[str, ...]
    odd_quotes: bool = False  # as many quotation marks as cannot be pairs
    lines_above: int = 0  # the header: blank ones, and the one that names the separator

    @property
    def described(self) -> str:
        """The format in words."""
        encoding = {"utf-8": "UTF-8", "utf-8-sig": "UTF-8 with BOM", "utf-16": "UTF-16"}.get(self.encoding)
        return f"{encoding or self.encoding}, separated by {DELIMITERS.get(self.delimiter, repr(self.delimiter))}"


@dataclass
class CsvRows:
    """The rows of a file: record batches of texts, columns named by position (`c0`, ...). Read once.

    The last column, `number`, is what a spreadsheet numbers the row: header and blank lines count.
    """

    path: Path
    format: CsvFormat
    _ragged: list[arrow_csv.InvalidRow] = field(default_factory=list)
    _ragged_rows: int = 0
    _skipped: list[int] = field(default_factory=list)  # numbers of the rows that were not parsed

    def batches(self) -> Iterator[pa.RecordBatch]:
        """Stream the rows; `OnboardingError`, with row numbers, for rows that have not as many fields as the header."""
        names = [f"c{position}" for position in range(len(self.format.header))]
        last, parsed = None, 0
        with opened(self.path) as raw:
            try:
                for last in self._reader(raw, names):
                    numbered = last.append_column("number", self._numbers(parsed, len(last)))
                    parsed += len(last)
                    yield numbered.filter(_have_a_value(last))
            except (pa.ArrowInvalid, UnicodeError) as error:
                raise OnboardingError(f"{self._unreadable()}: {error}. {UNCLOSED}") from error
        if self._ragged:
            raise OnboardingError(self._about_ragged())
        if self.format.odd_quotes and last is not None and _ends_within_quotes(last):
            raise OnboardingError(f"{self._unreadable()}: its last row spans several lines to the end. {UNCLOSED}")

    def _unreadable(self) -> str:
        return f"{self.path.name} cannot be read as {self.format.described}"

    def _reader(self, raw: IO[bytes], names: list[str]) -> Any:
        encoding = "utf-8" if self.format.encoding == "utf-8-sig" else self.format.encoding
        return arrow_csv.open_csv(
            raw,
            arrow_csv.ReadOptions(
                use_threads=False,  # else ragged rows have no number
                block_size=BLOCK,
                skip_rows=self.format.lines_above,
                column_names=names,
                skip_rows_after_names=1,
                encoding=encoding,
            ),
            arrow_csv.ParseOptions(
                delimiter=self.format.delimiter,
                newlines_in_values=True,
                ignore_empty_lines=False,  # or they would not be counted
                invalid_row_handler=self._remember,
            ),
            arrow_csv.ConvertOptions(column_types=dict.fromkeys(names, pa.string()), strings_can_be_null=False),
        )

    def _numbers(self, parsed: int, rows: int) -> pa.Array:
        """Return the numbers of `rows` after `parsed` others: what was skipped before them counts too."""
        first, skipped = self.format.lines_above + 2, np.array(self._skipped, np.int64)
        places = np.arange(parsed, parsed + rows)
        before = np.searchsorted(skipped - first - np.arange(len(skipped)), places, side="right")
        return pa.array(first + places + before)

    def _remember(self, row: arrow_csv.InvalidRow) -> str:
        self._skipped.append(row.number)
        if not row.text.strip():
            return "skip"  # a line of blanks
        self._ragged_rows += 1
        if len(self._ragged) < SHOWN:
            self._ragged.append(row)
        return "skip"

    def _about_ragged(self) -> str:
        expected = len(self.format.header)
        header = f"the header is row {1 + self.format.lines_above}"
        if expected == 1:
            return (
                f"{self.path.name} has one field in row {1 + self.format.lines_above}, {self.format.header[0]!r}, and "
                "more below. If that is a title, delete the lines above the header."
            )
        shown = "; ".join(f"row {row.number} has {row.actual_columns}: {row.text[:60]!r}" for row in self._ragged)
        return (
            f"{self.path.name} has {self._ragged_rows:,} rows without {expected} fields, as the header has "
            f"({self.format.described}; {header}): {shown}. Mend them: put quotation marks around values "
            "that contain the separator, and give every row as many fields."
        )


def _have_a_value(batch: pa.RecordBatch) -> pa.Array:
    """Return which rows have anything but blanks in any field."""
    found = pa.repeat(pa.scalar(False), len(batch))
    for column in batch.columns:
        found = pc.or_(found, pc.greater(pc.binary_length(pc.utf8_trim_whitespace(column)), 0))
        if pc.all(found).as_py():
            break  # in the first column, mostly
    return found


def _ends_within_quotes(batch: pa.RecordBatch) -> bool:
    return any("\n" in value for column in batch.slice(len(batch) - 1) for value in column.to_pylist())


def sniff(path: Path) -> CsvFormat:
    """Find out how a file is written; all of it is decoded once, so that nothing breaks later.

    `OnboardingError` when it cannot be read, or is no CSV.
    """
    with failures_named(path):
        encoding, quotes = encoding_of(path)
        with opened(path) as raw, io.TextIOWrapper(cast(Any, raw), encoding, newline="") as text:
            sample = text.read(SAMPLE)
    if not sample.strip():
        raise OnboardingError(f"{path.name} is empty. Export it again, with a header and rows.")
    lines = list(io.StringIO(sample, newline=""))
    named = SEPARATOR.match(lines[0].rstrip("\r\n"))
    above = next((i for i, line in enumerate(lines) if i >= bool(named) and line.strip(BLANK)), None)
    if above is None:
        raise OnboardingError(f"{path.name} has no header. Export it again, with a header and rows.")
    sample = "".join(lines[above:])
    try:
        delimiter = _named(path, named["mark"]) if named else _delimiter(sample)
        header = next(csv.reader(io.StringIO(sample, newline=""), delimiter=delimiter))
    except csv.Error as error:
        raise OnboardingError(f"{path.name} is no CSV: {error}. Export it as CSV or Parquet.") from error
    return CsvFormat(encoding, delimiter, tuple(" ".join(name.split()) for name in header), quotes % 2 == 1, above)


def _named(path: Path, mark: str) -> str:
    """Return the separator that the first line names; `OnboardingError` for one that fields could not be told by."""
    if mark not in MARKS:
        raise OnboardingError(
            f"{path.name} says in its first line that its separator is {mark!r}, by which fields cannot be told apart. "
            "Save it with comma, semicolon or tab."
        )
    return mark


def _delimiter(sample: str) -> str:
    """Return the delimiter by which most of the first records have as many fields, and more than one."""

    def fit(delimiter: str) -> tuple[float, int]:
        records = list(csv.reader(io.StringIO(sample, newline=""), delimiter=delimiter))
        counts = [len(record) for record in (records[:-1] or records) if record]
        if not counts or counts[0] < 2:
            return 0.0, 0
        return round(sum(count == counts[0] for count in counts) / len(counts), 2), counts[0]

    return max(DELIMITERS, key=fit)
