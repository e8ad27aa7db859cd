"""Text files as they come: whether they can be read, packed or not, and in which encoding.

What their lines mean is not known here (`csv_files`).
"""

import codecs
import gzip
import io
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, cast

from models.errors import OnboardingError

BOMS = {codecs.BOM_UTF8: "utf-8-sig", codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}
GZIP = b"\x1f\x8b"
ZIP = b"PK\x03\x04"


def opened(path: Path) -> IO[bytes]:
    """Open a file's bytes, unpacked where it is gzipped, whatever it is called; an `OSError` when it cannot be read."""
    with path.open("rb") as file:
        is_packed = file.read(2) == GZIP
    return cast(IO[bytes], gzip.open(path, "rb") if is_packed or path.suffix == ".gz" else path.open("rb"))


@contextmanager
def failures_named(path: Path) -> Iterator[None]:
    """Turn what the file system, or a packed file that is damaged, says into `OnboardingError`."""
    try:
        yield
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise OnboardingError(f"{path.name} cannot be unpacked: {error}. Pack it again, or give the CSV.") from error
    except OSError as error:
        why = error.strerror or error
        raise OnboardingError(f"{path} cannot be read: {why}. Mend its path or its rights.") from error


def encoding_of(path: Path) -> tuple[str, int]:
    """Return the encoding, UTF-8 if all bytes are, else Windows' or Latin-1, and how many quotation marks there are.

    `OnboardingError` for what is no text, or UTF-8 that is damaged.
    """
    with opened(path) as raw:
        head = raw.read(len(ZIP))
    if head == ZIP:
        raise OnboardingError(f"{path.name} is a ZIP archive, as workbooks are too. Export it as CSV or Parquet.")
    named = [name for bom, name in BOMS.items() if head.startswith(bom)]
    return _decodes(path, named or ["utf-8", "cp1252", "latin-1"])


def _decodes(path: Path, encodings: Sequence[str]) -> tuple[str, int]:
    """Return the first encoding in which all bytes are letters, and how many of them are quotation marks."""
    for encoding in encodings:
        if encoding == "cp1252":
            _refuse_damaged(path)
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


def _refuse_damaged(path: Path) -> None:
    """Refuse UTF-8 with a few other bytes in it: as Windows' it would be read, but every umlaut of it wrongly."""
    odd = others = first = 0
    with opened(path) as raw, io.TextIOWrapper(cast(Any, raw), "utf-8", errors="replace", newline="") as text:
        for number, line in enumerate(text, start=1):
            if not line.isascii():
                here = line.count("\N{REPLACEMENT CHARACTER}")
                odd, others = odd + here, others + sum(letter > "\x7f" for letter in line) - here
                first = first or (number if here else 0)
    if odd < others:
        raise OnboardingError(
            f"{path.name} is UTF-8 but for {odd:,} bytes, the first in line {first:,}. Mend them, or export it again."
        )
