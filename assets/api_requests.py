"""`silver/<model>_requests`: the requests that the running service has logged, for drift and for audits."""

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import dagster as dg

from assets.columns import feature_texts, lineage_of_requests
from assets.metadata import common, table_facts, table_key, tier
from assets.resources import Backends
from models.declaration import Declaration

if TYPE_CHECKING:
    from backends.lakehouse.catalog import Lakehouse
    from backends.request_logs import Carried

CHECK = "every_logged_line_is_read"


def api_requests(declaration: Declaration) -> dg.AssetsDefinition:
    """Make the asset that carries the finished files of the request log into Iceberg, each of them once."""
    table = declaration.requests_table
    key = table_key(table)
    check = dg.AssetCheckSpec(CHECK, asset=key, description="No line of a log file had to be set aside.")

    @dg.asset(
        key=key,
        deps=[dg.AssetKey([declaration.name, "api"])],
        check_specs=[check],
        pool=table.replace(".", "_"),  # one writer per table
        description=f"What the service of {declaration.name} was asked and has answered: a declared sample.",
        metadata={"dagster/table_name": table},
        tags=tier(table),
        **common(declaration, "iceberg"),
    )
    def _api_requests(backends: dg.ResourceParam[Backends]) -> dg.MaterializeResult:
        from backends.request_logs import carry_requests, forget_requests

        oldest = datetime.now(UTC).date() - timedelta(days=declaration.api.log_days)
        with backends.lakehouse() as lake:
            carried = carry_requests(lake, table, backends.settings.request_log_of(declaration.name))
            forgotten = forget_requests(lake, table, oldest)
            about = _about(lake, declaration, carried)
        facts = {"lines_set_aside": carried.bad_lines, "reasons": "\n".join(carried.problems) or "none"}
        return dg.MaterializeResult(
            check_results=[dg.AssetCheckResult(check_name=CHECK, passed=not carried.problems, metadata=facts)],
            metadata={
                "rows_added": carried.rows,
                "files": carried.files,
                "lines_set_aside": carried.bad_lines,
                "rows_forgotten": forgotten,
                **about,
            },
        )

    return _api_requests


def _about(lake: "Lakehouse", declaration: Declaration, carried: "Carried") -> dict[str, Any]:
    if carried.snapshot is None:  # nothing was ever logged
        return {}
    table = declaration.requests_table
    facts = table_facts(lake.snapshot(table), lake.schema(table), lake.location(table), _columns(declaration))
    return {**facts, "dagster/column_lineage": lineage_of_requests(declaration)}


def _columns(declaration: Declaration) -> dict[str, str]:
    return {
        declaration.entity_key: "Whom the request named, if it named anybody.",
        "requested_at": "When it was answered, UTC.",
        "request_id": "The caller's X-Request-ID, or a new one; it is in the answer.",
        "position": "Of the row in its request, from 0.",
        "protocol": "How the service was asked: rest, oip_rest or oip_grpc.",
        f"{declaration.name}_probability": "The answer; scoring the features again gives the same bits.",
        f"{declaration.name}_predicted": "Whether it reached the threshold.",
        "features_as_of": "Event time of the features from the online store; null when they were sent.",
        "features_stale": "Whether those were older than declared.",
        "model_version": "MLflow version of the model that answered.",
        "model_sha256": "Digest of its ONNX file.",
        "requested_on": "The day, UTC, and the partition.",
        **{name: f"As it was scored. {text}" for name, text in feature_texts(declaration).items()},
        **_of_events(declaration),
    }


def _of_events(declaration: Declaration) -> dict[str, str]:
    events = declaration.events
    return {events.key: "The event, if the request named it.", events.time: "When it happened, UTC."} if events else {}
