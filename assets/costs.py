"""`<model>/costs`: what a night took and what it cost, beside the same for the running service."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import dagster as dg

from assets.metadata import common, table_key
from assets.predictions import partitions, rows_scored
from assets.resources import Backends
from models.costs import Usage
from models.declaration import Costs, Declaration
from models.errors import ServiceUnreachableError

if TYPE_CHECKING:
    from backends.lakehouse.reading import Snapshot

ALONE = "the scoring alone: Dagster has no record of the run that published it"
# What the service had counted when it was last asked; the next report goes on from there.
COUNTED_CPU, COUNTED_PREDICTIONS = "api_cpu_seconds_so_far", "api_predictions_so_far"


@dataclass(frozen=True)
class Measured:
    """What one night took: all of it, or the scoring alone where Dagster does not know that run."""

    usage: Usage
    bytes_read: int
    bytes_written: int
    seconds: float | None  # of the clock
    what: str


def costs(declaration: Declaration) -> dg.AssetsDefinition:
    """Make the asset of the cost report."""
    key = dg.AssetKey([declaration.name, "costs"])

    @dg.asset(
        key=key,
        deps=[table_key(declaration.predictions_table)],
        partitions_def=partitions(declaration),
        description=f"What a night of {declaration.name} took and cost, with its running API beside it.",
        **common(declaration, "python"),
    )
    def _costs(context: dg.AssetExecutionContext, backends: dg.ResourceParam[Backends]) -> dg.MaterializeResult:
        night = _night(context, backends, declaration)
        counted, said = _api(backends, declaration)
        before = _counted_before(context.instance, key)
        api, since = counted.since(before) if counted else None, "the last report" if before else "it was started"
        if api and api.predictions:
            said = f"All that its workers did since {since}."
        elif api:
            api, said = None, f"It answered no request since {since}."
        return dg.MaterializeResult(metadata=_report(declaration.costs, night, api, counted or before, said))

    return _costs


def _report(prices: Costs, night: Measured, api: Usage | None, counted: Usage | None, said: str) -> dict[str, Any]:
    batch = night.usage
    lanes = {"batch": batch} | ({"API": api} if api else {})
    return {
        "money_per_million": _rounded(batch.money_per_million(prices.cpu_hour)),
        "lanes": dg.MetadataValue.table([_lane(lane, usage, prices) for lane, usage in lanes.items()]),
        "api": said,
        "prices": f"{prices.cpu_hour:g} {prices.currency} for an hour of one core",
        "money": _rounded(batch.money(prices.cpu_hour)),
        "microseconds_per_prediction": _rounded(batch.microseconds_each),
        "cpu_seconds": batch.cpu_seconds,
        "measured": night.what,
        **({"seconds": night.seconds} if night.seconds is not None else {}),
        "rows": batch.predictions,
        "bytes_read": night.bytes_read,
        "bytes_written": night.bytes_written,
        **({"api_money_per_million": _rounded(api.money_per_million(prices.cpu_hour))} if api else {}),
        **({COUNTED_CPU: counted.cpu_seconds, COUNTED_PREDICTIONS: counted.predictions} if counted else {}),
    }


def _lane(lane: str, usage: Usage, prices: Costs) -> dg.TableRecord:
    return dg.TableRecord(
        {
            "lane": lane,
            "predictions": usage.predictions,
            "CPU s": round(usage.cpu_seconds, 3),
            "CPU µs each": _rounded(usage.microseconds_each),
            f"{prices.currency} / million": _rounded(usage.money_per_million(prices.cpu_hour)),
        }
    )


def _rounded(figure: float) -> float:
    """Keep four digits: more are not measured."""
    return float(f"{figure:.4g}")


# --- the night ------------------------------------------------------------------------------------------------------


def _night(context: dg.AssetExecutionContext, backends: Backends, declaration: Declaration) -> Measured:
    """Read what the published night says of itself, and what Dagster knows of its run."""
    from backends.nights import night_of

    table, day = declaration.predictions_table, context.partition_key
    with backends.lakehouse() as lake:
        snapshot = night_of(lake, table, day)
    if "scoring_cpu_seconds" not in snapshot.properties:
        raise dg.Failure(f"When {day} of {table} was scored, its costs were not measured yet. Score it again.")
    return _measured(declaration, snapshot, _facts_of_run(context.instance, declaration, day, snapshot))


def _measured(declaration: Declaration, snapshot: "Snapshot", facts: dict[str, Any]) -> Measured:
    without = f", without counting {declaration.features_table}" if declaration.events else ""
    said = snapshot.properties
    return Measured(
        Usage(rows_scored(snapshot), float(facts.get("cpu_seconds", said["scoring_cpu_seconds"]))),
        int(said["bytes_read"]),
        snapshot.bytes_added,
        facts.get("seconds"),
        f"the whole night{without}" if facts else ALONE,
    )


def _facts_of_run(
    instance: dg.DagsterInstance, declaration: Declaration, day: str, snapshot: "Snapshot"
) -> dict[str, Any]:
    """Return the metadata of the run that published the night; nothing when the newest of the day is another one."""
    wanted = dg.AssetRecordsFilter(asset_key=table_key(declaration.predictions_table), asset_partitions=[day])
    records = instance.fetch_materializations(wanted, limit=1).records
    event = records[0].asset_materialization if records else None
    facts = {name: value.value for name, value in event.metadata.items()} if event else {}
    return facts if facts.get("iceberg_snapshot") == str(snapshot.id) and "cpu_seconds" in facts else {}


# --- the service ----------------------------------------------------------------------------------------------------


def _api(backends: Backends, declaration: Declaration) -> tuple[Usage | None, str]:
    """Ask the running service what it has counted, from its start; None with the reason where it does not answer."""
    from bento.client import ApiClient

    settings = backends.settings
    try:
        with ApiClient(settings.url_of_api(declaration.name, declaration.api.port), key=settings.api_key) as client:
            counters = client.counters()
    except ServiceUnreachableError as error:
        return None, f"Not measured. {error}"
    usage = Usage(int(counters.get("tandem_score_count", 0)), counters["tandem_cpu_seconds_total"])
    return usage, ""


def _counted_before(instance: dg.DagsterInstance, key: dg.AssetKey) -> Usage | None:
    event = instance.get_latest_materialization_event(key)
    facts = event.asset_materialization.metadata if event and event.asset_materialization else {}
    if COUNTED_CPU not in facts:
        return None
    return Usage(int(facts[COUNTED_PREDICTIONS].value), float(facts[COUNTED_CPU].value))
