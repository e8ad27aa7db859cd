"""How facts look in Dagster's UI: pictures, table schemas, names and addresses."""

import base64
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import dagster as dg

from models.declaration import Declaration

if TYPE_CHECKING:
    import pyarrow as pa

    from backends.lakehouse.reading import Snapshot


def picture(title: str, image: bytes, kind: str = "png") -> dg.MetadataValue:
    """Show a PNG, or an image of another kind (`svg+xml`), where the metadata is shown."""
    return dg.MetadataValue.md(f"![{title}](data:image/{kind};base64,{base64.b64encode(image).decode()})")


def pictures(named: Mapping[str, bytes]) -> dict[str, dg.MetadataValue]:
    """Show PNGs, each under its name."""
    return {name: picture(name.replace("_", " "), png) for name, png in named.items()}


def column_schema(schema: "pa.Schema", descriptions: Mapping[str, str] | None = None) -> dg.TableSchema:
    """Show an Arrow schema as a table's columns."""
    texts = descriptions or {}
    columns = [dg.TableColumn(f.name, str(f.type).removeprefix("large_"), texts.get(f.name) or None) for f in schema]
    return dg.TableSchema(columns)


def table_facts(
    snapshot: "Snapshot", schema: "pa.Schema", location: str, descriptions: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """Describe one state of an Iceberg table."""
    return {
        "dagster/table_name": snapshot.table,
        "dagster/uri": location,
        "dagster/row_count": snapshot.rows,
        "dagster/column_schema": column_schema(schema, descriptions),
        "iceberg_snapshot": str(snapshot.id),
        "committed_at": dg.MetadataValue.timestamp(snapshot.committed_at),
    }


def comparison(rows: Mapping[str, Mapping[str, float]], digits: int = 4) -> dg.MetadataValue:
    """Show models side by side, a row each."""
    records = [
        dg.TableRecord({"model": name, **{key: round(float(value), digits) for key, value in metrics.items()}})
        for name, metrics in rows.items()
    ]
    return dg.MetadataValue.table(records)


def common(declaration: Declaration, *kinds: str) -> dict[str, Any]:
    """Return the arguments that every asset of a model shares: its group, its owners, its technology."""
    owners = [declaration.owner] if declaration.owner else []
    return {"group_name": declaration.name, "owners": owners, "kinds": set(kinds)}


def tier(table: str) -> dict[str, str]:
    """Return the tag that says how refined a table is, for selections: `tag:tier=gold`."""
    return {"tier": table.split(".")[0]}


def table_key(table: str) -> dg.AssetKey:
    """Return the asset key of a table: its address, `silver.active_customers` -> `silver/active_customers`."""
    return dg.AssetKey(table.split("."))
