"""Where a load's vectors wait on disk until all keys are known: what every store's loader begins with."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from backends.online_store import Batch
from backends.vectors import pack, sortable_keys, vector_dtype
from models.contract import Contract
from models.errors import OnlineStoreError


@dataclass(frozen=True)
class Spooled:
    """All keys of a load, sortable, and the vectors of the same rows, mapped from a file."""

    keys: npt.NDArray[Any]
    vectors: npt.NDArray[np.void]


@contextmanager
def spooled(contract: Contract, batches: Iterable[Batch], folder: Path | None = None) -> Iterator[Spooled]:
    """Append all vectors to a file as they come. `OnlineStoreError` when there are none.

    The file is in `folder`, or in TMPDIR, and has no name: the kernel removes it with the process, however that ends.
    """
    with TemporaryFile(dir=folder) as file:
        keys = _appended(file, contract, batches)
        yield Spooled(keys, np.memmap(file, f"V{vector_dtype(contract).itemsize}", "r", shape=len(keys)))


def _appended(file: IO[bytes], contract: Contract, batches: Iterable[Batch]) -> npt.NDArray[Any]:
    """Write all vectors; return their keys."""
    all_keys = []
    for keys, rows, event_times in batches:
        if not len(keys) == len(rows) == len(event_times):
            raise ValueError(f"A batch has {len(keys)} keys, {len(rows)} rows and {len(event_times)} event times.")
        if len(keys):
            all_keys.append(sortable_keys(contract, keys))
        file.write(pack(contract, rows, event_times).tobytes())
    if not all_keys:
        raise OnlineStoreError(f"There are no rows to load for {contract.model}. Check the population's table.")
    file.flush()
    return np.concatenate(all_keys)


def refuse_repeated(contract: Contract, keys: npt.NDArray[Any]) -> None:
    """Raise `OnlineStoreError` when a key of the sorted `keys` stands twice."""
    twice = keys[1:][keys[1:] == keys[:-1]]
    if len(twice):
        example = twice[0].decode(errors="replace") if contract.entity_key_type == "string" else int(twice[0])
        raise OnlineStoreError(
            f"{len(twice)} of {len(keys)} rows repeat a {contract.entity_key}, {example!r} for example. "
            "Keep one row per entity in the population's table."
        )
