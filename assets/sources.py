"""The tables that models read. Others write them: here they are external assets, each in the group of its namespace."""

from collections.abc import Iterable, Sequence

import dagster as dg

from assets.metadata import table_facts, table_key, tier
from assets.resources import Backends
from models.declaration import Declaration


def source_tables(declarations: Sequence[Declaration]) -> list[dg.AssetSpec]:
    """Return one asset for each table that a declaration names, however many models share it."""
    described: dict[str, str] = {}
    for declaration in declarations:
        described[declaration.source_table] = (
            f"What happens to every {declaration.entity_key}: each row is scored."
            if declaration.events
            else f"Today's state of every {declaration.entity_key}: what is scored each night."
        )
        described[declaration.examples.table] = (
            f"Past rows with their outcome `{declaration.examples.label}`: what {declaration.name} learns from."
        )
    for declaration in declarations:
        text = f"Outcomes as they become known, `{declaration.examples.label}`: what {declaration.name} is measured by."
        described.setdefault(declaration.outcomes_table, text)
    return [_table(table, described[table]) for table in tables_of_others(declarations)]


def tables_of_others(declarations: Sequence[Declaration]) -> list[str]:
    """Return each table that models read and others write, sorted; that of outcomes may come later than the rest."""
    tables = {
        table
        for declaration in declarations
        for table in (declaration.source_table, declaration.examples.table, declaration.outcomes_table)
    }
    made = {declaration.features_table for declaration in declarations if declaration.events}
    return sorted(tables - made)


def report_tables(backends: Backends, instance: dg.DagsterInstance, tables: Iterable[str]) -> None:
    """Tell Dagster the current state of tables that were written elsewhere; `TableNotFoundError` for one not there."""
    with backends.lakehouse() as lake:
        for table in tables:
            snapshot = lake.snapshot(table)
            facts = table_facts(snapshot, lake.schema(table), lake.location(table))
            tags = {"dagster/data_version": f"iceberg:{snapshot.id}"}
            event = dg.AssetMaterialization(table_key(table), metadata=facts, tags=tags)
            instance.report_runless_asset_event(event)


def _table(table: str, description: str) -> dg.AssetSpec:
    return dg.AssetSpec(
        table_key(table),
        description=description,
        group_name=table.split(".")[0],
        kinds={"iceberg"},
        metadata={"dagster/table_name": table},
        tags=tier(table),
    )
