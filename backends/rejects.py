"""Rows that cannot be scored: what is written of them, so that they are neither scored silently nor lost."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from models.contract import Contract
from models.encoding import Encoded, Violation, screen_arrow, unseen_values

REASON_MISSING = "is missing"
REASON_REPEATED = "stands in more than one row; none of them is scored"


@dataclass(frozen=True)
class Accepted:
    """The rows of a batch that can be scored, with their keys and as encoded, and what is wrong with the others."""

    keys: pa.Array
    encoded: Encoded
    violations: list[Violation]
    unseen: dict[str, int]  # rows by category, for values that the vocabulary has not
    kept: pa.Array | None = None  # bool [rows of the batch]; None keeps all

    def of(self, column: pa.Array) -> pa.Array:
        """Pick the accepted rows of a column of the batch."""
        return column if self.kept is None else column.filter(self.kept)


def accept(contract: Contract, batch: pa.RecordBatch, repeated: pa.Array) -> Accepted:
    """Encode a batch and take out the rows that the contract refuses, and those whose key is null or in `repeated`."""
    screened, keys = screen_arrow(contract, batch), batch.column(contract.row_key)
    violations = [*key_violations(contract.row_key, keys, repeated), *screened.violations]
    if contract.events:  # whose it is says whose history counts
        violations += key_violations(contract.entity_key, batch.column(contract.entity_key), repeated[:0])
    if not violations:
        return Accepted(keys, screened.encoded, [], screened.unseen)
    kept = np.ones(batch.num_rows, np.bool_)
    for violation in violations:
        kept[violation.rows] = False
    mask, encoded = pa.array(kept), screened.encoded[kept]
    return Accepted(keys.filter(mask), encoded, violations, unseen_values(contract, encoded), mask)


def key_violations(key: str, keys: pa.Array, repeated: pa.Array) -> list[Violation]:
    """Find the keys of a batch that are null, or that `repeated` has."""
    found = [(REASON_MISSING, pc.is_null(keys))] if keys.null_count else []
    if len(repeated):
        found.append((REASON_REPEATED, pc.is_in(keys, value_set=repeated.cast(keys.type), skip_nulls=True)))
    rows = [(reason, pc.indices_nonzero(mask).to_numpy().astype("int64")) for reason, mask in found]
    return [Violation(key, reason, positions) for reason, positions in rows if len(positions)]


def rejects_of(
    batch: pa.RecordBatch, violations: Sequence[Violation], constants: dict[str, pa.Scalar], schema: pa.Schema
) -> pa.RecordBatch:
    """Describe each refused value; `constants` are the columns that are the same for all of them."""
    key = schema.names[0]
    batches = []
    for violation in violations:
        rows = pa.array(violation.rows)
        texts = {"column": pa.scalar(violation.column), "reason": pa.scalar(violation.reason), **constants}
        arrays = {
            key: batch.column(key).take(rows).cast(schema.field(key).type),
            "value": _as_text(batch.column(violation.column).take(rows)),
            **{name: pa.repeat(value.cast(schema.field(name).type), len(rows)) for name, value in texts.items()},
        }
        batches.append(pa.RecordBatch.from_arrays([arrays[name] for name in schema.names], schema=schema))
    return pa.Table.from_batches(batches, schema).combine_chunks().to_batches()[0]


def _as_text(values: pa.Array) -> pa.Array:
    plain = values.cast(values.type.value_type) if pa.types.is_dictionary(values.type) else values
    return plain.cast(pa.string())
