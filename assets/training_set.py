"""`<model>/training_set`: which labelled rows the next model learns from."""

import dagster as dg

from assets.columns import feature_texts, same_columns
from assets.manifests import TrainingSet
from assets.metadata import column_schema, common, table_key
from assets.resources import Backends
from models.declaration import Declaration


def training_set(declaration: Declaration) -> dg.AssetsDefinition:
    """Make the asset that pins the examples."""

    @dg.asset(
        key=[declaration.name, "training_set"],
        deps=[table_key(declaration.examples.table)],
        description=f"A pinned snapshot of `{declaration.examples.table}`, split into training, calibration and test.",
        io_manager_key="manifests",
        **common(declaration, "iceberg"),
    )
    def _training_set(backends: dg.ResourceParam[Backends]) -> dg.MaterializeResult[TrainingSet]:
        from assets.examples import read_examples
        from models.encoding import entity_key_type
        from models.training.split import split_examples

        with backends.lakehouse() as lake:
            snapshot = lake.snapshot(declaration.examples.table)
            table = read_examples(lake, declaration, snapshot.id)
            scored = lake.schema(declaration.scored_table)
            key_type = entity_key_type(scored, declaration.entity_key)
            event_key = declaration.events.key if declaration.events else None
            event_key_type = entity_key_type(scored, event_key, "events.key") if event_key else ""
            population = lake.snapshot(declaration.scored_table)
            location = lake.location(snapshot.table)
        split = split_examples(declaration, table)
        manifest = TrainingSet(
            table=snapshot.table,
            snapshot_id=snapshot.id,
            rows=table.num_rows,
            entity_key_type=key_type,
            event_key_type=event_key_type,
            population_snapshot=str(population.id),
        )
        return dg.MaterializeResult(
            value=manifest,
            data_version=dg.DataVersion(f"iceberg:{snapshot.id}"),
            metadata={
                "dagster/row_count": table.num_rows,
                "training_rows": len(split.train),
                "test_rows": len(split.test),
                "iceberg_snapshot": str(snapshot.id),
                "calibration_rows": len(split.calibration),
                **split.description,
                **({"left_out_rows": snapshot.rows - table.num_rows} if declaration.events else {}),
                "dagster/table_name": snapshot.table,
                "dagster/uri": location,
                "dagster/column_schema": column_schema(table.schema, _columns(declaration)),
                "dagster/column_lineage": same_columns(table_key(snapshot.table), table.schema.names),
            },
        )

    return _training_set


def _columns(declaration: Declaration) -> dict[str, str]:
    examples, texts = declaration.examples, {declaration.examples.label: "What came of it: what is to be predicted."}
    if examples.time:
        texts[examples.time] = "When the features were observed; the newest months are the test set."
    return texts | feature_texts(declaration)
