"""CSV files as they come: which encoding, which delimiter, and their rows as texts.

What the texts mean is not decided here (`readings`). Parsing is pyarrow's.
"""

import codecs
import csv
import gzip
import io
import zlib
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, cast

import pyarrow as pa
import pyarrow.csv as pc

from models.errors import OnboardingError

DELIMITERS = {",": "comma", ";": "semicolon", "\t": "tab", "|": "pipe"}
BOMS = {codecs.BOM_UTF8: "utf-8-sig", codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}
SAMPLE = 1 << 16  # characters that tell the delimiter
BLOCK = 1 << 23  # bytes that are parsed at a time; no row can be longer
UNCLOSED = "A quotation mark that is never closed is the usual cause: mend that row, or export the file again."
SHOWN = 3  # ragged rows that an error shows


@dataclass(frozen=True)
class CsvFormat:
    """How a file is written."""

    encoding: str
    delimiter: str
    header: tuple[str, ...]
    odd_quotes: bool = False  # as many quotation marks as cannot be pairs

    @property
    def described(self) -> str:
        """The format in words."""
        encoding = {"utf-8": "UTF-8", "utf-8-sig": "UTF-8 with BOM", "utf-16": "UTF-16"}.get(self.encoding)
        return f"{encoding or self.encoding}, separated by {DELIMITERS[self.delimiter]}"


@dataclass
class CsvRows:
    """The rows of a file: record batches of texts, columns named by position (`c0`, ...). Read once."""

    path: Path
    format: CsvFormat
    _ragged: list[pc.InvalidRow] = field(default_factory=list)
    _ragged_rows: int = 0

    def batches(self) -> Iterator[pa.RecordBatch]:
        """Stream the rows; `OnboardingError`, with row numbers, for rows that have not as many fields as the header."""
        names = [f"c{position}" for position in range(len(self.format.header))]
        last = None
        with opened(self.path) as raw:
            try:
                for last in self._reader(raw, names):
                    yield last
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
        return pc.open_csv(
            raw,
            pc.ReadOptions(
                use_threads=False,  # else ragged rows have no number
                block_size=BLOCK,
                column_names=names,
                skip_rows_after_names=1,
                encoding=encoding,
            ),
            pc.ParseOptions(
                delimiter=self.format.delimiter, newlines_in_values=True, invalid_row_handler=self._remember
            ),
            pc.ConvertOptions(column_types=dict.fromkeys(names, pa.string()), strings_can_be_null=False),
        )

    def _remember(self, row: pc.InvalidRow) -> str:
        self._ragged_rows += 1
        if len(self._ragged) < SHOWN:
            self._ragged.append(row)
        return "skip"

    def _about_ragged(self) -> str:
        expected = len(self.format.header)
        shown = "; ".join(f"row {row.number} has {row.actual_columns}: {row.text[:60]!r}" for row in self._ragged)
        return (
            f"{self.path.name} has {self._ragged_rows:,} rows without {expected} fields, as the header has "
            f"({self.format.described}; the header is row 1): {shown}. Mend them: put quotation marks around values "
            "that contain the separator, and give every row as many fields."
        )


def _ends_within_quotes(batch: pa.RecordBatch) -> bool:
    return any("\n" in value for column in batch.slice(len(batch) - 1) for value in column.to_pylist())


def sniff(path: Path) -> CsvFormat:
    """Find out how a file is written; all of it is decoded once, so that nothing breaks later."""
    encoding, quotes = _encoding(path)
    with opened(path) as raw, io.TextIOWrapper(cast(Any, raw), encoding, newline="") as text:
        sample = text.read(SAMPLE)
    if not sample.strip():
        raise OnboardingError(f"{path.name} is empty. Export it again, with a header and rows.")
    delimiter = _delimiter(sample)
    header = next(record for record in csv.reader(io.StringIO(sample), delimiter=delimiter) if record)
    return CsvFormat(encoding, delimiter, tuple(" ".join(name.split()) for name in header), quotes % 2 == 1)


def opened(path: Path) -> IO[bytes]:
    """Open a file's bytes, unpacked where it is gzipped; `OnboardingError` when it cannot be read."""
    try:
        return cast(IO[bytes], gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb"))
    except OSError as error:
        raise OnboardingError(f"{path} cannot be read: {error}. Mend its path or its rights.") from error


def _encoding(path: Path) -> tuple[str, int]:
    """Return the encoding, UTF-8 if all bytes are, else Windows' or Latin-1, and how many quotation marks there are."""
    try:
        with opened(path) as raw:
            head = raw.read(len(codecs.BOM_UTF8))
        named = [name for bom, name in BOMS.items() if head.startswith(bom)]
        return _decodes(path, named or ["utf-8", "cp1252", "latin-1"])
    except (OSError, EOFError, zlib.error) as error:
        raise OnboardingError(f"{path.name} cannot be unpacked: {error}. Pack it again, or give the CSV.") from error


def _decodes(path: Path, encodings: Sequence[str]) -> tuple[str, int]:
    """Return the first encoding in which all bytes are letters, and how many of them are quotation marks."""
    for encoding in encodings:
        decoder, quotes = codecs.getincrementaldecoder(encoding)(), 0
        with suppress(UnicodeDecodeError), opened(path) as raw:
            while block := raw.read(1 << 22):
                text = decoder.decode(block)
                quotes += text.count('"')
                if "\0" in text:
                    raise OnboardingError(f"{path.name} is no text: it has zero bytes. Export it as CSV or Parquet.")
            decoder.decode(b"", final=True)
            return encoding, quotes
    raise OnboardingError(f"{path.name} is no {encodings[0]}, as its first bytes say. Export it again as UTF-8.")


def _delimiter(sample: str) -> str:
    """Return the delimiter by which most of the first records have as many fields, and more than one."""

    def fit(delimiter: str) -> tuple[float, int]:
        records = list(csv.reader(io.StringIO(sample), delimiter=delimiter))
        counts = [len(record) for record in (records[:-1] or records) if record]
        if not counts or counts[0] < 2:
            return 0.0, 0
        return round(sum(count == counts[0] for count in counts) / len(counts), 2), counts[0]

    try:
        return max(DELIMITERS, key=fit)
    except csv.Error as error:
        raise OnboardingError(f"The file is no CSV: {error}. Export it as CSV or Parquet.") from error
