"""`<model>/bento`: the service that answers with the champion's bytes, built but not running."""

from typing import TYPE_CHECKING

import dagster as dg

from assets.metadata import common
from assets.resources import Backends
from models.declaration import Declaration

if TYPE_CHECKING:
    from backends.registry import Version
    from bento.lineage import Lineage


def bento(declaration: Declaration) -> dg.AssetsDefinition:
    """Make the asset that builds the model's Bento."""

    @dg.asset(
        key=[declaration.name, "bento"],
        deps=[dg.AssetKey([declaration.name, "champion"])],
        description="A Bento around the champion's ONNX file: the service and its image definition, ready to run.",
        **common(declaration, "bentoml", "docker"),
    )
    def _bento(backends: dg.ResourceParam[Backends]) -> dg.MaterializeResult:
        from bento.building.build import build_bento

        registry = backends.registry()
        version = registry.champion(declaration.name)
        lineage = lineage_of(version)
        labels = {
            "model_version": lineage.version,
            "model_sha256": lineage.sha256,
            "training_snapshot": lineage.training_snapshot,
            "population_snapshot": lineage.population_snapshot,
            "trained_by_dagster_run": lineage.dagster_run_id,
            "mlflow_run": lineage.mlflow_run_id,
        }
        built = build_bento(registry.read_version(version), lineage, backends.settings.bentoml_home, labels)
        return dg.MaterializeResult(
            data_version=dg.DataVersion(version.sha256),
            metadata={
                "model_version": version.version,
                "serve": dg.MetadataValue.md(f"`tandem serve {declaration.name}`"),
                "api": dg.MetadataValue.url(backends.settings.url_of_api(declaration.name, declaration.api.port)),
                "bento": built.tag,
                "megabytes": round(built.bytes / 1e6, 3),
                "dagster/uri": str(built.path),
                "mlflow_run": dg.MetadataValue.url(registry.url(version.mlflow_run_id)),
                "model_sha256": version.sha256,
                "lineage": dg.MetadataValue.json(lineage.model_dump()),
            },
        )

    return _bento


def lineage_of(version: "Version") -> "Lineage":
    """Return what the service tells of its origin: the registered version's facts."""
    from bento.lineage import Lineage

    prefix, tags = "metric.", version.tags
    return Lineage(
        model=version.model,
        version=str(version.version),
        sha256=version.sha256,
        dagster_run_id=tags.get("dagster_run_id", ""),
        mlflow_run_id=version.mlflow_run_id,
        training_snapshot=tags.get("training_snapshot", ""),
        population_snapshot=tags.get("population_snapshot", ""),
        metrics={key.removeprefix(prefix): float(value) for key, value in tags.items() if key.startswith(prefix)},
    )
