"""`<model>/api`: the running service, observed, and the proof that it answers what the Gold table says."""

import dagster as dg

from assets.metadata import common, table_key
from assets.resources import Backends
from models.declaration import Declaration
from models.errors import LakehouseError, ServiceUnreachableError


def api(declaration: Declaration) -> dg.AssetSpec:
    """Describe the running service; Dagster does not start it, and only observes it."""
    name = declaration.name
    return dg.AssetSpec(
        [name, "api"],
        deps=[
            dg.AssetKey([name, "bento"]),
            dg.AssetKey([name, "online_features"]),
            table_key(declaration.predictions_table),
        ],
        description=f"The running service of {name}: POST /predict answers in milliseconds.",
        metadata={"start_it": dg.MetadataValue.md(f"`tandem serve {name}`"), "ask_it": _example(declaration)},
        **common(declaration, "bentoml"),
    )


def _example(declaration: Declaration) -> dg.MetadataValue:
    """Show how to ask a service that runs on this machine."""
    url = f"http://127.0.0.1:{declaration.api.port}/predict"
    body = f'{{"{declaration.entity_key}": 1}}'
    return dg.MetadataValue.md(f"```sh\ncurl {url} -H 'content-type: application/json' -d '{body}'\n```")


def api_agrees_with_gold(declaration: Declaration) -> dg.AssetChecksDefinition:
    """Make the check that replays published customers over every protocol and compares float32 with float32."""
    key = dg.AssetKey([declaration.name, "api"])
    asked = "customers of the newest Gold partition, by key and by features,"
    if declaration.events:
        asked = "events of the newest Gold partition, each with the history as of its time,"

    @dg.asset_check(
        asset=key,
        name="api_agrees_with_gold",
        additional_deps=[dg.AssetKey([declaration.name, "online_features"])],  # replay what was loaded last
        description=(
            f"1,000 {asked} get the same float32 from the running service: over /predict, /predict_many, and the Open "
            "Inference Protocol by REST and gRPC."
        ),
    )
    def _check(context: dg.AssetCheckExecutionContext, backends: dg.ResourceParam[Backends]) -> dg.AssetCheckResult:
        from assets.parity.replay import replay

        with backends.lakehouse() as lake:
            try:
                report = replay(lake, declaration, backends.settings)
            except (LakehouseError, ServiceUnreachableError) as error:
                url = backends.settings.url_of_api(declaration.name, declaration.api.port)
                metadata = {"reason": str(error), "url": url, "replayed": 0}
                return dg.AssetCheckResult(passed=False, metadata=metadata)
        context.op_execution_context.log_event(
            dg.AssetObservation(key, metadata=report.observation, tags={"dagster/data_version": report.served_sha256})
        )
        return dg.AssetCheckResult(passed=not report.problems, metadata=report.metadata)

    return _check
