"""The columns of the tables that a night writes: predictions, and rejects."""

import pyarrow as pa

from models.contract import Contract

PARTITION = "scored_on"
KEY_TYPES = {"integer": pa.int64(), "string": pa.string()}
REASONS = "reasons"
_REASON = pa.struct([("feature", pa.string()), ("contribution", pa.float32())])
REASONS_TYPE = pa.list_(pa.field("element", _REASON))


def predictions_schema(contract: Contract) -> pa.Schema:
    """Return the Gold table's columns."""
    return pa.schema(
        [
            (contract.row_key, KEY_TYPES[contract.row_key_type]),
            (contract.output, pa.float32()),
            (f"{contract.model}_predicted", pa.bool_()),
            ("model_version", pa.int32()),
            ("model_sha256", pa.string()),
            ("scored_at", pa.timestamp("us", tz="UTC")),
            (PARTITION, pa.date32()),
        ]
    )


def reasons_schema() -> pa.Schema:
    """Return the column that a table has beside them once reasons were declared; null in nights without them."""
    return pa.schema([(REASONS, REASONS_TYPE)])


def part_schema(contract: Contract, reasons: bool = False) -> pa.Schema:
    """Return the columns of a part, the digest as a dictionary of one value. None has nulls."""
    digest = pa.dictionary(pa.int8(), pa.string())
    types = {field.name: field.type for field in predictions_schema(contract)} | {"model_sha256": digest}
    types |= {REASONS: REASONS_TYPE} if reasons else {}
    return pa.schema([pa.field(name, dtype, nullable=False) for name, dtype in types.items()])


def rejects_schema(contract: Contract) -> pa.Schema:
    """Return the columns of the table of rejects: one row for each value that was refused."""
    return pa.schema(
        [
            (contract.row_key, KEY_TYPES[contract.row_key_type]),
            ("column", pa.string()),
            ("reason", pa.string()),
            ("value", pa.string()),
            ("source_table", pa.string()),
            ("source_snapshot", pa.int64()),
            ("source_file", pa.string()),
            ("model_version", pa.int32()),
            ("rejected_at", pa.timestamp("us", tz="UTC")),
            (PARTITION, pa.date32()),
        ]
    )
