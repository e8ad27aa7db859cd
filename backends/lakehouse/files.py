"""The files below an address, on whatever storage a table is."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

from pyarrow.fs import FileSelector, FileType
from pyiceberg.io import FileIO
from pyiceberg.io.pyarrow import PyArrowFileIO

from backends.lakehouse.connection import storage_named
from models.errors import LakehouseError


@dataclass(frozen=True)
class FoundFile:
    """One file, with the address that the table would name it by."""

    address: str
    size: int
    modified: datetime


def files_below(io: FileIO, folder: str) -> Iterator[FoundFile]:
    """List all files below a folder, in no order; none where there is no such folder.

    `LakehouseError` for a storage that does not answer, or cannot be listed through pyarrow.
    """
    if not isinstance(io, PyArrowFileIO):
        raise LakehouseError(
            f"The files below {folder} cannot be listed through {type(io).__name__}. Let pyiceberg use pyarrow: remove "
            "`py-io-impl` from the catalog's properties."
        )
    scheme, netloc, path = io.parse_location(folder)
    before = folder.rstrip("/").removesuffix(path.rstrip("/"))  # "file://", "s3://", or nothing
    with storage_named(io, folder):
        found = io.fs_by_scheme(scheme, netloc).get_file_info(FileSelector(path, allow_not_found=True, recursive=True))
    for info in found:
        if info.type == FileType.File:
            modified = info.mtime or datetime.now(UTC)
            yield FoundFile(before + info.path, info.size, modified.astimezone(UTC))
