"""`<model>/bento`: the service that answers with the champion's bytes, built but not running."""

import dagster as dg

from assets.metadata import common
from assets.resources import Backends
from models.declaration import Declaration


def bento(declaration: Declaration) -> dg.AssetsDefinition:
    """Make the asset that builds the model's Bento."""

    @dg.asset(
        key=[declaration.name, "bento"],
        deps=[dg.AssetKey([declaration.name, "champion"])],
        description="A Bento around the champion's ONNX file: the service and its image definition, ready to run.",
        **common(declaration, "bentoml", "docker"),
    )
    def _bento(context: dg.AssetExecutionContext, backends: dg.ResourceParam[Backends]) -> dg.MaterializeResult:
        from bento.build import build_bento

        registry = backends.registry()
        version = registry.champion(declaration.name)
        lineage = {
            "model": declaration.name,
            "version": version.version,
            "sha256": version.sha256,
            "mlflow_run_id": version.mlflow_run_id,
            "bento_dagster_run_id": context.run_id,
            **{key: value for key, value in version.tags.items() if key not in {"sha256", "artifact"}},
        }
        built = build_bento(registry.read_version(version), lineage, backends.settings)
        return dg.MaterializeResult(
            data_version=dg.DataVersion(version.sha256),
            metadata={
                "bento": built.tag,
                "model_version": version.version,
                "model_sha256": version.sha256,
                "megabytes": round(built.bytes / 1e6, 3),
                "dagster/uri": str(built.path),
                "serve": dg.MetadataValue.md(f"`tandem serve {declaration.name}`"),
                "lineage": dg.MetadataValue.json(lineage),
            },
        )

    return _bento
