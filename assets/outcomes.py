"""`<model>/outcomes`: how good the predictions were that people had, now that it is known what came of them."""

from datetime import date, datetime
from zoneinfo import ZoneInfo

import dagster as dg
from pydantic import Field

from assets.metadata import common, table_key
from assets.outcomes_report import CHECKS, check_results, not_possible, outcome_facts
from assets.resources import Backends
from models.declaration import Declaration
from models.errors import ColumnError, TableNotFoundError, TrainingDataError
from models.training.realised import limits_of, quality_of


class OutcomesConfig(dg.Config):
    """On which day the outcomes are looked at."""

    as_of: str = Field(default="", description="Judge what had matured on this day, as 2026-11-20. Default: today.")


def outcomes(declaration: Declaration) -> dg.AssetsDefinition:
    """Make the asset that reports realised quality. Its checks warn, and block nothing."""
    key = dg.AssetKey([declaration.name, "outcomes"])
    limits = limits_of(declaration)
    specs = [
        dg.AssetCheckSpec(check, asset=key, description=text.format(limits[figure]))
        for check, (figure, text) in CHECKS.items()
    ]

    @dg.asset(
        key=key,
        deps=[table_key(declaration.predictions_table), table_key(declaration.outcomes_table)],
        check_specs=specs,
        description="How good the predictions turned out to be, each held as it was published against what came of it.",
        **common(declaration, "iceberg"),
    )
    def _outcomes(config: OutcomesConfig, backends: dg.ResourceParam[Backends]) -> dg.MaterializeResult:
        from backends.outcomes import realised_outcomes, version_in_service

        today = _today(declaration, config.as_of)
        with backends.lakehouse() as lake:
            try:
                found = realised_outcomes(lake, backends.engine(), declaration, today)
                serving = version_in_service(lake, declaration, today)
            except (ColumnError, TableNotFoundError, TrainingDataError) as error:
                return not_possible(str(error), today)
        judged = quality_of(*found.pooled(serving or 0))
        return dg.MaterializeResult(
            metadata=outcome_facts(declaration, found, today),
            check_results=check_results(declaration, judged, serving),
        )

    return _outcomes


def _today(declaration: Declaration, as_of: str) -> date:
    if not as_of:
        return datetime.now(ZoneInfo(declaration.predictions.timezone)).date()
    try:
        return date.fromisoformat(as_of)
    except ValueError as error:
        raise dg.Failure(
            f"as_of is {as_of!r}, which is no day. Write one as 2026-11-20.", allow_retries=False
        ) from error
