"""From records of single splits to means and spreads by table, and to the bars of `benchmarks/quality.py`."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

MOST_BEHIND, MOST_INT8, MOST_SECONDS, MANY_ROWS = 0.002, 0.001, 60.0, 200_000
JUDGES = ("boosted_trees", "lightgbm")
Record = Mapping[str, Any]


@dataclass(frozen=True)
class Figures:
    """One system on one table: mean and standard deviation over the splits."""

    auc: float
    auc_spread: float
    log_loss: float
    log_loss_spread: float
    calibration_error: float
    seconds: float


@dataclass(frozen=True)
class Row:
    """One table: each system's figures, and by how much the float network leads it in AUC, split by split."""

    name: str
    splits: int
    systems: dict[str, Figures]
    leads: dict[str, tuple[float, float]]  # mean and standard deviation over the splits
    p99_change: float  # of int8, the largest of the splits


def rows_of(records: Sequence[Record]) -> list[Row]:
    """Return a row for each table, in the order of the records."""
    return [_row(name, [r for r in records if r["set"] == name]) for name in dict.fromkeys(r["set"] for r in records)]


def bars(rows: Sequence[Row], records: Iterable[Record]) -> dict[str, tuple[float, bool]]:
    """Return, for each bar, the figure and whether it is reached."""
    found: dict[str, tuple[float, bool]] = {}
    for rival in JUDGES:
        leads = [row.leads[rival][0] for row in rows if rival in row.leads]
        if leads:
            found[f"mean AUC above that of {rival}"] = float(np.mean(leads)), float(np.mean(leads)) > 0
            found[f"least lead over {rival}, at least -{MOST_BEHIND}"] = min(leads), min(leads) >= -MOST_BEHIND
    int8 = [abs(row.leads["int8"][0]) for row in rows if "int8" in row.leads]
    if int8:
        found[f"largest mean AUC difference of int8, at most {MOST_INT8}"] = max(int8), max(int8) <= MOST_INT8
    seconds = [r["seconds"] for r in records if r["system"] == "float" and r["rows"] >= MANY_ROWS * 0.95]
    if seconds:
        most = f"seconds of a training of {MANY_ROWS:,} rows, below {MOST_SECONDS:g}"
        found[most] = max(seconds), max(seconds) < MOST_SECONDS
    return found


def _row(name: str, records: Sequence[Record]) -> Row:
    by_system: dict[str, dict[int, Record]] = {}
    for record in records:
        by_system.setdefault(record["system"], {})[record["seed"]] = record
    ours = by_system["float"]
    leads = {}
    for system, found in by_system.items():
        if shared := sorted(found.keys() & ours.keys()):
            differences = [ours[seed]["auc"] - found[seed]["auc"] for seed in shared]
            leads[system] = float(np.mean(differences)), float(np.std(differences))
    changes = [record["p99_change"] for record in by_system.get("int8", {}).values()]
    systems = {system: _figures(list(found.values())) for system, found in by_system.items()}
    return Row(name, len(ours), systems, leads, max(changes, default=0.0))


def _figures(records: Sequence[Record]) -> Figures:
    def mean(metric: str) -> float:
        return float(np.mean([record.get(metric, 0.0) for record in records]))

    def spread(metric: str) -> float:
        return float(np.std([record[metric] for record in records]))

    auc, loss = (mean("auc"), spread("auc")), (mean("log_loss"), spread("log_loss"))
    return Figures(*auc, *loss, mean("calibration_error"), mean("seconds"))
