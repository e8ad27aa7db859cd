"""What a life came to, on one screen: the models side by side, the night, the proof, one entity in both lanes."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dagster as dg
from rich.table import Table

from assets.metadata import table_key
from assets.resources import Backends
from backends.nights import newest_night
from backends.settings import without_secrets
from bento.client import ApiClient
from models.declaration import Declaration


@dataclass(frozen=True)
class Facts:
    """Where the summary finds its figures: in the assets' newest metadata, the lake and the running API."""

    declaration: Declaration
    backends: Backends
    instance: dg.DagsterInstance
    url: str
    seconds: float

    def of(self, key: dg.AssetKey) -> dict[str, Any]:
        """Return an asset's newest metadata."""
        event = self.instance.get_latest_materialization_event(key)
        assert event is not None  # the demo has just materialized it
        assert event.asset_materialization is not None
        facts = event.asset_materialization.metadata.items()
        return {name: fact.records if isinstance(fact, dg.TableMetadataValue) else fact.value for name, fact in facts}

    def stage(self, name: str) -> dict[str, Any]:
        """Return the newest metadata of one stage of the model's life."""
        return self.of(dg.AssetKey([self.declaration.name, name]))


def models_table(facts: Facts, best_possible_auc: float | None = None) -> Table:
    """Return the network beside trees, and which file is served."""
    trained, quantized = facts.stage("trained_model"), facts.stage("quantized_model")
    rows = {row["model"]: row for row in (r.data for r in trained["test_metrics"])}
    rows |= {row["model"]: row for row in (r.data for r in quantized["test_metrics"])}
    shown = {
        "network, int8": ("int8", quantized["kilobytes_int8"], quantized["rows_per_second_int8"]),
        "network, float32": ("float32", quantized["kilobytes_float32"], quantized["rows_per_second_float32"]),
        "its teacher": ("teacher", None, None),
        "boosted trees": ("boosted_trees", None, None),
    }
    table = Table(box=None, header_style="bold", pad_edge=False)
    for heading in ("model", "AUC", "PR-AUC", "log-loss", "calibration error", "kB", "rows/s, one thread"):
        table.add_column(heading, justify="left" if heading == "model" else "right")
    for title, (name, size, speed) in shown.items():
        row = rows[name]
        figures = [f"{row[key]:.4f}" for key in ("auc", "pr_auc", "log_loss", "calibration_error")]
        served = " [green]served[/green]" if quantized["precision"] == name else ""
        table.add_row(title + served, *figures, f"{size:.0f}" if size else "", f"{speed:,}" if speed else "")
    if best_possible_auc is not None:
        table.add_row("best possible", f"{best_possible_auc:.4f}")
    table.caption = f"int8 is {quantized['speedup']:.2f} x as fast as float32 and {_smaller(quantized):.1f} x smaller"
    table.caption_justify = "left"
    return table


def _smaller(quantized: dict[str, Any]) -> float:
    return float(quantized["kilobytes_float32"] / quantized["kilobytes_int8"])


def night_table(facts: Facts, noun: str) -> Table:
    """Return what the night did; `noun` is what its rows are called."""
    gold, online = facts.of(table_key(facts.declaration.predictions_table)), facts.stage("online_features")
    settings, table = facts.backends.settings, Table(box=None, show_header=False, pad_edge=False)
    gold_table = facts.declaration.predictions_table
    rows, speed = gold["dagster/partition_row_count"], gold["rows_per_second"]
    table.add_row("scored", f"{rows:,} {noun} in {gold['seconds']:.1f} s: {speed:,} rows/s, audited and published")
    of = f"{noun} of {online['entities']:,} entities" if "entities" in online else "vectors"
    table.add_row("online", f"{online['dagster/row_count']:,} {of} in {online['seconds']:.1f} s")
    table.add_row("drift", _drift(facts.stage("drift")))
    table.add_row("costs", _costs(facts.stage("costs"), facts.declaration.costs.currency))
    table.add_row("Gold", f"Iceberg table {gold_table}: {_near(gold['dagster/uri'])}")
    table.add_row("catalog", _near(without_secrets(settings.catalog)))
    return table


def _drift(found: dict[str, Any]) -> str:
    largest, feature = found["largest_feature_psi"], found["most_shifted_feature"]
    return f"PSI against the training set: at most {largest:.3f} ({feature}), score {found['score_psi']:.3f}"


def _costs(found: dict[str, Any], currency: str) -> str:
    """Say what a billion predictions cost: a million in batch is next to nothing."""
    batch, api = (found.get(name) for name in ("money_per_million", "api_money_per_million"))
    beside = f", {1000 * api:.2g} by the API" if api is not None else ""
    return f"{1000 * batch:.2g} {currency} for a billion predictions in batch{beside} ({found['prices']})"


def _near(address: str) -> str:
    """Write an address below the current folder without that folder."""
    return address.removeprefix("file://").replace(f"{Path.cwd()}/", "")


def parity(facts: Facts) -> str:
    """Return a line about the proof that the API agrees with Gold."""
    evaluation = _proof(facts)
    if evaluation is None:
        return "[red]✗[/red] parity was not checked"
    found = {name: value.value for name, value in evaluation.metadata.items()}
    mark = "[green]✓[/green]" if evaluation.passed else "[red]✗[/red]"
    text = f"{mark} parity of {found.get('answers_compared', 0):,} answers: {found['reason']}"
    if "latency_p50_ms" in found:
        text += f" (p50 {found['latency_p50_ms']:.1f} ms, p99 {found['latency_p99_ms']:.1f} ms)"
    return text


def agrees(facts: Facts) -> bool:
    """Whether the proof was made, and the API agrees with Gold."""
    evaluation = _proof(facts)
    return evaluation is not None and bool(evaluation.passed)


def _proof(facts: Facts) -> Any:
    key = dg.AssetCheckKey(dg.AssetKey([facts.declaration.name, "api"]), "api_agrees_with_gold")
    record = facts.instance.get_latest_asset_check_evaluation_record(key)
    return record.event.dagster_event.event_specific_data if record else None


def one_entity(facts: Facts) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the first Gold row of the newest night, and what the API answers for the same key."""
    declaration = facts.declaration
    with facts.backends.lakehouse() as lake:
        night = newest_night(lake, declaration.predictions_table)
        plan = lake.plan(declaration.predictions_table, snapshot_id=night.id)
        gold = next(plan.batches(plan.files[0])).slice(0, 1).to_pylist()[0]
    with ApiClient(facts.url) as client:
        return gold, client.predict({declaration.entity_key: gold[declaration.entity_key]})


def side_by_side(facts: Facts, gold: dict[str, Any], answer: dict[str, Any]) -> Table:
    """Return both lanes' scores of one entity."""
    name, key = facts.declaration.name, facts.declaration.entity_key
    table = Table(box=None, header_style="bold", pad_edge=False)
    for heading in (f"{key} {gold[key]}", "probability", "predicted", "version", "sha256"):
        table.add_column(heading)
    columns = (f"{name}_probability", f"{name}_predicted", "model_version")
    table.add_row("in the Gold table", *(str(gold[column]) for column in columns), gold["model_sha256"][:12])
    fields = ("probability", "decision", "model_version")
    table.add_row("from the API", *(str(answer[field]) for field in fields), answer["model_sha256"][:12])
    return table
