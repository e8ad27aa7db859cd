"""One commit: what it is made with, how often it is tried, and what is said when it fails.

What is committed, and why, is in `publishing`, `night_tags` and `maintenance`.
"""

import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import pyarrow as pa
from pyiceberg.exceptions import CommitFailedException, ValidationException
from pyiceberg.table import Table, TableProperties, Transaction
from pyiceberg.table.metadata import TableMetadata
from pyiceberg.table.update import AssertRefSnapshotId, _apply_table_update, _TableMetadataUpdateContext

from models.errors import LakehouseError, PublishConflictError

ATTEMPTS = 10  # of a commit that others come before
LONGEST_WAIT = 2.0  # seconds between two of them
RACES = (CommitFailedException, ValidationException, ValueError)

Result = TypeVar("Result")


class Change(Transaction):  # type: ignore[misc]
    """A transaction that works its metadata out once a step; pyiceberg copies all of it each time that it looks.

    After a year of nights that is nearly the whole time of a commit.
    """

    _worked_out: tuple[object, object, TableMetadata] | None = None

    @property
    def table_metadata(self) -> TableMetadata:
        """The table's metadata with all that was changed so far; not to be changed itself."""
        base, updates = self._table.metadata, self._updates
        if self._worked_out is None or self._worked_out[0] is not base or self._worked_out[1] is not updates:
            context, metadata = _TableMetadataUpdateContext(), base
            for update in updates:
                metadata = _apply_table_update(update, metadata, context)
            self._worked_out = (base, updates, metadata)
        return self._worked_out[2]


def commit_once(loaded: Table) -> Table:
    """Let a table's next commit fail when another one comes before it.

    pyiceberg would try again by itself, but then it deletes what it planned to delete before, and adds its files to
    those of the other writer. To be called for each commit: the metadata that comes back knows nothing of it.
    """
    loaded.metadata.properties[TableProperties.COMMIT_NUM_RETRIES] = "0"  # in memory only
    return loaded


def assert_references(change: Transaction, loaded: Table) -> None:
    """Let the commit fail when any branch or tag has moved meanwhile.

    To be called first: pyiceberg keeps the assertions of the first step of a transaction, and drops later ones.
    """
    refs = loaded.metadata.refs.items()
    change._stage((), tuple(AssertRefSnapshotId(ref=name, snapshot_id=ref.snapshot_id) for name, ref in refs))


def retried(commit: Callable[[], Result]) -> Result:
    """Try again what another commit came before."""
    for attempt in range(ATTEMPTS - 1):
        try:
            return commit()
        except RACES as error:
            if not _is_race(error):
                raise
        give_way(attempt)
    return commit()


def give_way(attempt: int) -> None:
    """Wait a while, longer each time and by chance, so that writers do not meet again and again."""
    time.sleep(random.uniform(0, min(LONGEST_WAIT, 0.05 * 2**attempt)))  # noqa: S311  # no secret


@contextmanager
def failures_named(table: str) -> Iterator[None]:
    """Turn the commit that came second into `PublishConflictError`, and files that fail into `LakehouseError`."""
    try:
        yield
    except pa.ArrowException as error:
        raise LakehouseError(
            f"Table {table!r} cannot be changed: a part was damaged after it was written ({error}). Nothing was "
            "published: run again."
        ) from error
    except RACES as error:
        if not _is_race(error):
            raise
        raise conflict(table, str(error)) from error
    except OSError as error:  # all files are written before the commit, and the catalog names its own errors
        raise LakehouseError(
            f"Table {table!r} cannot be changed: {error}. Nothing was published: make room for it, and run again."
        ) from error


def conflict(table: str, what: str) -> PublishConflictError:
    """Say that somebody else was faster."""
    return PublishConflictError(
        f"Table {table!r} was changed by somebody else while its new rows were written or audited ({what}). "
        "Nothing was published: run again, on top of that change."
    )


def _is_race(error: Exception) -> bool:
    # pyiceberg's SQL catalog reports one of the races as a ValueError about sequence numbers.
    return not isinstance(error, ValueError) or "sequence number" in str(error)
