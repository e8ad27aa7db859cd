"""`gold/<model>_predictions`: every entity's score of the day, audited before anybody can read it."""

from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING

import dagster as dg

from assets.columns import lineage_of_predictions
from assets.metadata import common, picture, table_facts, table_key, tier
from assets.resources import Backends
from models.declaration import Declaration
from models.errors import AuditError, Problem
from models.event_rules import EVENT_DAY

if TYPE_CHECKING:
    from backends.lakehouse.reading import Snapshot
    from backends.nights import Night, Published

AUDITS = {
    "every_entity_is_scored_once": (
        {"rows", "entity key"},
        "As many rows as the population, rejects taken off; each key once, none null.",
    ),
    "few_rows_are_rejected": (
        {"rejected rows"},
        "The contract refuses hardly any row of the population; those that it does are in the table of rejects.",
    ),
    "scores_are_probabilities": ({"score"}, "Every score is a number from 0 to 1, and reads back as it was written."),
    "scores_resemble_last_night": ({"score shift"}, "The score distribution is near the last published night's."),
}


def partitions(declaration: Declaration) -> dg.DailyPartitionsDefinition:
    """Return the days that can be scored: from the first declared one up to today."""
    schedule = declaration.predictions
    today = 0 if declaration.scored_after else 1
    return dg.DailyPartitionsDefinition(schedule.first_day.isoformat(), timezone=schedule.timezone, end_offset=today)


def predictions(declaration: Declaration) -> dg.AssetsDefinition:
    """Make the asset of the Gold table, with a check for each part of the audit."""
    key, name = table_key(declaration.predictions_table), declaration.name
    specs = [dg.AssetCheckSpec(check, asset=key, blocking=True, description=d) for check, (_, d) in AUDITS.items()]

    @dg.asset(
        key=key,
        deps=[dg.AssetKey([name, "champion"]), table_key(declaration.scored_table)],
        partitions_def=partitions(declaration),
        check_specs=specs,
        freshness_policy=ready_by(declaration),
        pool=declaration.predictions_table.replace(".", "_"),  # one writer per table
        description=f"{_title(declaration)}. One row for each `{declaration.row_key}` and day.",
        metadata={"dagster/table_name": declaration.predictions_table},
        tags=tier(declaration.predictions_table),
        **common(declaration, "iceberg", "onnx"),
    )
    def _predictions(
        context: dg.AssetExecutionContext, backends: dg.ResourceParam[Backends]
    ) -> Iterator[dg.AssetCheckResult | dg.MaterializeResult]:
        from backends.batch_scoring import score_and_publish
        from backends.nights import Night, population_of_day
        from models.audit import Limits
        from models.scoring import Scorer

        registry = backends.registry()
        version = registry.champion(name)
        population, day = declaration.scored_table, date.fromisoformat(context.partition_key)
        timezone = declaration.predictions.timezone
        with backends.lakehouse() as lake:
            past = None if declaration.events else population_of_day(lake, population, day, timezone)
            night = Night(
                population=population,
                predictions=declaration.predictions_table,
                rejects=declaration.rejects_table,
                scorer=Scorer(registry.read_version(version), version.sha256),
                version=version.version,
                scored_on=day,
                scored_at=datetime.now(UTC),
                limits=Limits(declaration.gates.max_score_shift, declaration.gates.max_rejected_share),
                dagster_run_id=context.op_execution_context.run_id,
                population_snapshot=past.id if past else None,
                reasons=declaration.predictions.reasons,
                reasons_for=declaration.predictions.reasons_for,
                day_column=EVENT_DAY if declaration.events else None,
            )
            try:
                published = score_and_publish(lake, backends.engine(), night)
            except AuditError as error:
                yield from _check_results(error.problems, {})
                raise dg.Failure(str(error), allow_retries=False) from error
            yield from _check_results([], _evidence(published))
            table, threshold = declaration.predictions_table, night.scorer.contract.decision_threshold
            columns = _columns(declaration, threshold)
            about = table_facts(published.snapshot, lake.schema(table), lake.location(table), columns)
        yield dg.MaterializeResult(
            data_version=dg.DataVersion(f"{version.sha256[:16]}:{published.source.id}"),
            metadata=_facts(published, declaration, night) | about,
        )

    return _predictions


def _title(declaration: Declaration) -> str:
    return declaration.description.strip().rstrip(".") or f"Scores of {declaration.name}"


def ready_by(declaration: Declaration) -> dg.FreshnessPolicy:
    """Fresh means: made between the hour of scoring and the hour that readers count on.

    Dagster counts back from the latter in hours that pass, of which a night has one more when the clock goes back.
    """
    schedule = declaration.predictions
    hour, minute = map(int, schedule.ready_by.split(":"))
    begin, end = (timedelta(hours=int(t[:2]), minutes=int(t[3:])) for t in (schedule.score_at, schedule.ready_by))
    window = min(end - begin + timedelta(hours=1), timedelta(days=1))
    return dg.FreshnessPolicy.cron(f"{minute} {hour} * * *", lower_bound_delta=window, timezone=schedule.timezone)


def rows_scored(night: "Snapshot") -> int:
    """Return how many rows a published night has scored, by the histogram that it keeps of them."""
    from models.audit import histogram_from_text

    return int(histogram_from_text(night.properties["score_histogram"]).sum())


def _check_results(problems: list[Problem], evidence: dict[str, dict[str, float]]) -> Iterator[dg.AssetCheckResult]:
    for check, (fields, _) in AUDITS.items():
        found = [str(problem) for problem in problems if problem.field in fields]
        facts = {"reason": "; ".join(found) or "holds", **evidence.get(check, {})}
        yield dg.AssetCheckResult(check_name=check, passed=not found, metadata=facts)


def _evidence(published: "Published") -> dict[str, dict[str, float]]:
    """Return the figures that each check looked at, for Dagster to plot over time."""
    report = published.report
    return {
        "every_entity_is_scored_once": {"rows": report.rows, "population_rows": published.source.rows},
        "few_rows_are_rejected": {"rejected_rows": report.rejected, "rejected_share": report.rejected_share},
        "scores_are_probabilities": {
            "minimum": report.tally.minimum,
            "mean": report.mean,
            "maximum": report.tally.maximum,
        },
        "scores_resemble_last_night": {} if report.shift is None else {"score_shift": report.shift},
    }


def _columns(declaration: Declaration, threshold: float) -> dict[str, str]:
    name, reasons = declaration.name, declaration.predictions.reasons
    moved = {"reasons": f"The {reasons} features that moved the score most, in log-odds."} if reasons else {}
    return {
        declaration.row_key: "The event." if declaration.events else "The entity, once in each partition.",
        f"{name}_probability": declaration.description or f"The score of {name}, from 0 to 1.",
        f"{name}_predicted": f"Whether the score reaches the threshold {threshold:g}.",
        "model_version": "MLflow version of the champion that scored the row.",
        "model_sha256": "Digest of that version's ONNX file; the API answers with the same.",
        "scored_at": "When the run began, UTC.",
        "scored_on": "The day, and the partition.",
        **moved,
    }


def _facts(published: "Published", declaration: Declaration, night: "Night") -> dict[str, object]:
    from models.audit import EDGES
    from models.training.score_chart import score_chart

    report = published.report
    seconds = published.scoring_seconds + published.audit_seconds
    chart = score_chart(report.tally.histogram, EDGES, night.scorer.contract.decision_threshold)
    return {
        "dagster/partition_row_count": report.rows,
        "model_version": night.version,
        "predicted_positive": published.positives,
        "scores": picture("scores", chart, "svg+xml"),
        "mean_score": report.mean,
        "score_shift": report.shift if report.shift is not None else "first night",
        "rows_per_second": round(report.rows / seconds),
        "seconds": round(seconds, 3),
        "audit_seconds": round(published.audit_seconds, 3),
        "files": published.parts,
        "cpu_seconds": round(published.cpu_seconds, 3),
        "bytes_read": published.bytes_read,
        "bytes_written": published.snapshot.bytes_added,
        "rejected_rows": report.rejected,
        **_oddities(published, declaration),
        "population_as_of": _as_of(published, night),
        "population_snapshot": str(published.source.id),
        "model_sha256": night.scorer.sha256,
        "dagster/column_lineage": lineage_of_predictions(declaration),
    }


def _as_of(published: "Published", night: "Night") -> str:
    """Say which state of the population was read."""
    committed = f"{published.source.committed_at:%Y-%m-%d %H:%M:%S} UTC"
    if night.population_snapshot is not None:
        return f"as it stood at the end of {night.scored_on}, committed {committed}"
    return f"the current one, committed {committed}"


def _oddities(published: "Published", declaration: Declaration) -> dict[str, dg.MetadataValue]:
    """Show what was refused, by column and reason, and the values that no vocabulary has, by column."""
    tables = {
        f"rejects_in_{declaration.rejects_table}": [
            {"column": column, "reason": reason, "values": count}
            for (column, reason), count in sorted(published.reasons.items())
        ],
        "unseen_categories": [{"column": column, "rows": rows} for column, rows in sorted(published.unseen.items())],
    }
    return {
        name: dg.MetadataValue.table([dg.TableRecord(row) for row in rows]) for name, rows in tables.items() if rows
    }
