"""Read the pinned examples: the rows that training, quantization and promotion all see the same way."""

from collections.abc import Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from models.contract import Contract
from models.declaration import Declaration
from models.encoding import Encoded, check_columns, encode_arrow, screen_arrow
from models.errors import ColumnError

if TYPE_CHECKING:
    from backends.lakehouse.catalog import Lakehouse


@dataclass(frozen=True)
class Rows:
    """Labelled rows as a model reads them."""

    encoded: Encoded
    labels: npt.NDArray[np.float32]


def read_examples(
    lake: "Lakehouse", declaration: Declaration, snapshot_id: int, if_there: Collection[str] = ()
) -> pa.Table:
    """Read the columns that the declaration names, and of others those that exist.

    `ColumnError` names every declared one that is missing.
    """
    examples, there = declaration.examples, lake.schema(declaration.examples.table).names
    columns = [*declaration.features, examples.label, *([examples.time] if examples.time else [])]
    missing = [column for column in columns if column not in there]
    if missing:
        raise ColumnError(
            f"Table {examples.table!r} has no column {', '.join(map(repr, missing))}, which the declaration of "
            f"{declaration.name!r} names. Its columns: {', '.join(there)}."
        )
    others = [column for column in there if column in if_there and column not in columns]
    return _learnable(declaration, lake.read(examples.table, [*columns, *others], snapshot_id))


def _learnable(declaration: Declaration, table: pa.Table) -> pa.Table:
    """Leave out events that the contract refuses, which are never scored, and those whose outcome is not known yet."""
    if not declaration.events:
        return table
    from models.training.fit import contract_of

    kept = table.column(declaration.examples.label).is_valid().to_numpy()
    for violation in screen_arrow(contract_of(declaration, "integer", ""), table).violations:
        kept[violation.rows] = False
    return table.filter(pa.array(kept))


def held_out(
    declaration: Declaration, contract: Contract, table: pa.Table, part: Literal["test", "calibration"]
) -> Rows:
    """Encode one part of the split by a model's own contract."""
    from models.training.split import labels, split_examples

    check_columns(contract, table.schema)
    rows = getattr(split_examples(declaration, table), part)
    picked = table.take(pa.array(rows))
    return Rows(encode_arrow(contract, picked), labels(declaration, picked))


def training_rows(declaration: Declaration, contract: Contract, table: pa.Table) -> Encoded:
    """Encode the rows that the network learned from."""
    from models.training.split import split_examples

    return encode_arrow(contract, table.take(pa.array(split_examples(declaration, table).train)))
