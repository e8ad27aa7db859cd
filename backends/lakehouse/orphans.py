"""Files below a table's location that the table names no longer, or never did. Nothing is deleted here.

Only kinds of file that Iceberg writes are looked at. A file is known by its name, which has an identifier that is its
own, so that another spelling of the same folder never makes a live file look abandoned.
"""

import gzip
import json
import posixpath
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime

from pyiceberg.manifest import ManifestFile
from pyiceberg.table import Table
from pyiceberg.table.snapshots import Snapshot as IcebergSnapshot

from backends.lakehouse.files import FoundFile
from models.errors import LakehouseError

DATA, MANIFEST, MANIFEST_LIST, METADATA = "data file", "manifest", "manifest list", "metadata file"
KINDS = {
    DATA: re.compile(r"data/.+\.(parquet|orc|avro)"),
    MANIFEST_LIST: re.compile(r"metadata/snap-[^/]+\.avro"),
    MANIFEST: re.compile(r"metadata/[^/]+\.avro"),
    METADATA: re.compile(r"(data/.+/)?metadata/[^/]+\.metadata\.json(\.gz)?"),
}
SAME_STORAGE = {"s3a": "s3", "s3n": "s3", "abfs": "abfss", "wasb": "wasbs"}
SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):(?=/)")
GZIP = b"\x1f\x8b"


@dataclass(frozen=True)
class Orphan:
    """A file of one of Iceberg's kinds that nothing names."""

    kind: str
    file: FoundFile


def plain(address: str) -> str:
    """Return one spelling for all those of an address: `file:///a//b`, `file:/a/b` and `/a/b` are the same file."""
    found = SCHEME.match(address)
    scheme, rest = (found[1].lower(), address[found.end() :]) if found else ("file", address)
    if scheme == "file":
        return posixpath.normpath("/" + rest.lstrip("/"))
    return f"{SAME_STORAGE.get(scheme, scheme)}://{rest.lstrip('/')}"


def orphans(
    table: str, loaded: Table, snapshots: Sequence[IcebergSnapshot], found: Sequence[FoundFile], before: datetime
) -> list[Orphan]:
    """Return those of `found` that are older than `before` and that neither the table nor `snapshots` name.

    `found` must have been listed before `loaded` was. `LakehouseError`, and no answer, where it cannot be told for
    sure: a manifest cannot be read, another table lives in the same place, or no listed file is one that is named.
    """
    candidates = defaultdict(list)
    for orphan in _of_our_kinds(loaded.location(), found):
        candidates[_name(orphan.file.address)].append(orphan)
    recognized = not found
    with all_or_nothing(table):
        for address in _named(loaded, snapshots):
            there = candidates.pop(_name(address), ())
            recognized |= any(plain(orphan.file.address) == plain(address) for orphan in there)
        if not recognized:
            raise LakehouseError(
                f"No file that table {table!r} names is among those below {loaded.location()}: there is, for one, "
                f"{found[0].address}, and the table names {loaded.metadata_location}. No file was removed: give the "
                "table's location as its files are named."
            )
        left = [orphan for group in candidates.values() for orphan in group]
        _check_no_other_table(table, loaded, left)
    old = [orphan for orphan in left if orphan.file.modified < before]
    return sorted(old, key=lambda orphan: (list(KINDS).index(orphan.kind), orphan.file.address))


@contextmanager
def all_or_nothing(table: str) -> Iterator[None]:
    """Turn whatever keeps the table's references from being read into `LakehouseError`: half of them is not enough."""
    try:
        yield
    except LakehouseError:
        raise
    except Exception as error:
        raise LakehouseError(
            f"It cannot be told which files table {table!r} needs: {error or type(error).__name__}. None was removed. "
            "Restore the file that cannot be read, or roll back to a snapshot without it, and try again."
        ) from error


# --- what is named --------------------------------------------------------------------------------------------------


def _named(loaded: Table, snapshots: Sequence[IcebergSnapshot]) -> Iterator[str]:
    """Read the addresses of all files that the table and these snapshots name, some of them more than once."""
    metadata = loaded.metadata
    yield loaded.metadata_location
    yield from (entry.metadata_file for entry in metadata.metadata_log)
    yield from (file.statistics_path for file in (*metadata.statistics, *metadata.partition_statistics))
    manifests: dict[str, ManifestFile] = {}
    for snapshot in snapshots:
        yield snapshot.manifest_list
        manifests |= {manifest.manifest_path: manifest for manifest in snapshot.manifests(loaded.io)}
    for path, manifest in manifests.items():
        yield path
        yield from (entry.data_file.file_path for entry in manifest.fetch_manifest_entry(loaded.io))


# --- what is there --------------------------------------------------------------------------------------------------


def _of_our_kinds(location: str, found: Iterable[FoundFile]) -> Iterator[Orphan]:
    base = plain(location).rstrip("/") + "/"
    for file in found:
        below = plain(file.address).removeprefix(base)
        kind = next((kind for kind, pattern in KINDS.items() if pattern.fullmatch(below)), None)
        if kind:
            yield Orphan(kind, file)


def _name(address: str) -> str:
    return address.rpartition("/")[2]


def _check_no_other_table(table: str, loaded: Table, unnamed: Sequence[Orphan]) -> None:
    """Raise where a metadata file is of another table: what looks abandoned may be its."""
    for orphan in unnamed:
        if orphan.kind == METADATA:
            owner = _owner(loaded, orphan.file)
            if owner not in (None, str(loaded.metadata.table_uuid)):
                raise LakehouseError(
                    f"{orphan.file.address} is of table {owner}, but {table!r} is {loaded.metadata.table_uuid}. "
                    "No file was removed: move one of them, or delete what is left of a table that was dropped."
                )


def _owner(loaded: Table, file: FoundFile) -> str | None:
    """Return the identifier of the table that a metadata file describes; None for one that was never finished."""
    with loaded.io.new_input(file.address).open() as stream:
        content = stream.read()
    try:
        return str(json.loads(gzip.decompress(content) if content.startswith(GZIP) else content)["table-uuid"])
    except (ValueError, KeyError, TypeError, EOFError, gzip.BadGzipFile):
        return None
