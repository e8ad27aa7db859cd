"""The tables of `benchmarks/quality.py`, each with a declaration: real ones, the demo's, scikit-learn's, made ones."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv as pc
import yaml

from backends.settings import ROOT
from benchmarks import quality_generated as generated
from models.declaration import Declaration, load_declaration

SEED = 20
Make = Callable[[np.random.Generator, int], generated.Columns]
LAST_DAY = date(2026, 10, 31)
CHURN_ROWS, FRAUD_ROWS = 60_000, 150_000


@dataclass(frozen=True)
class QualitySet:
    """A table, and the model that is declared on it; `declared(seed)` splits it in another way for each seed."""

    table: pa.Table
    fields: dict[str, Any]

    def declared(self, seed: int) -> Declaration:
        """Return the declaration whose split has that seed."""
        split = {**self.fields["examples"]["split"], "seed": seed}
        return Declaration.model_validate(self.fields | {"examples": self.fields["examples"] | {"split": split}})


def set_of(columns: generated.Columns, test_share: float) -> QualitySet:
    """Declare a table by its columns: texts are categories, all else numbers, `label` is the outcome."""
    features: dict[str, Any] = {}
    for name, column in columns.items():
        if column.dtype.kind == "U":
            features[name] = {"kind": "category", "values": sorted(set(column.tolist()))}
        elif name != "label":
            features[name] = {"kind": "number", "missing": bool(np.isnan(column.astype(float)).any())}
    table = pa.table({name: pa.array(column, from_pandas=True) for name, column in columns.items()})
    return QualitySet(table, _fields(features, {"label": "label"}, test_share))


def telco() -> QualitySet | None:
    """IBM's telco customers, where the file is: 7,043 rows, categories mostly."""
    csv = Path(os.environ.get("TANDEM_TELCO_CSV", ROOT.parent / "shared" / "data" / "telco_churn.csv"))
    if not csv.is_file():
        return None
    types = {"TotalCharges": pa.float64()}
    table = pc.read_csv(csv, convert_options=pc.ConvertOptions(null_values=["", " "], column_types=types))
    fields = yaml.safe_load((ROOT / "tests" / "declarations" / "telco.yaml").read_text())
    return QualitySet(table, fields)


def churn() -> QualitySet:
    """Make the demo's customers: 14 numbers and 6 categories, with the declaration's own budget and bins."""
    from demo.population import Chunk, churn_examples

    declaration = load_declaration(ROOT / "models" / "churn.yaml")
    table = churn_examples(Chunk(0, CHURN_ROWS), seed=SEED, last_month=date(2026, 9, 1))
    fields = _fields(declaration.model_dump(mode="json", exclude_unset=True)["features"], {"label": "churned"}, 0.25)
    return QualitySet(table, fields | _shape(declaration))


def fraud() -> QualitySet:
    """Make the demo's card swipes, histories counted: half a percent of positives; the declaration's own budget."""
    from backends.history_windows import Windows, counted
    from demo.transactions import Stream
    from models.history import history_of
    from models.training.fit import contract_of

    declaration, stream = load_declaration(ROOT / "models" / "fraud.yaml"), Stream(FRAUD_ROWS, LAST_DAY, SEED)
    table = pa.concat_tables([stream.table(day) for day in stream.known_days])
    plain = pa.schema([f.with_type(pa.string()) if pa.types.is_dictionary(f.type) else f for f in table.schema])
    contract, table = contract_of(declaration, "integer", "1"), table.cast(plain)
    columns = ("transaction_id", "card_id", "is_fraud", *contract.asked.features)
    windows = Windows(history_of(declaration.features, declaration.history), contract, columns, 0, 2**60)
    names = [name for name, feature in declaration.features.items() if feature.kind == "history"]
    with TemporaryDirectory() as scratch:
        parts = list(counted(windows, table.schema, table.to_batches(), Path(scratch), 2))
    rows = pa.Table.from_batches([part.rows for part in parts])
    values = np.concatenate([part.values for part in parts])
    for j, name in enumerate(names):
        rows = rows.append_column(name, pa.array(values[:, j], from_pandas=True))
    features = {
        name: feature.model_dump(mode="json", exclude_unset=True) for name, feature in declaration.features.items()
    }
    features |= {name: {"kind": "number", "missing": True} for name in names}
    return QualitySet(rows, _fields(features, {"label": "is_fraud"}, 0.25) | _shape(declaration))


def breast_cancer() -> QualitySet:
    """scikit-learn's: 569 rows, 30 measurements, nearly separable."""
    from sklearn.datasets import load_breast_cancer

    x, y = load_breast_cancer(return_X_y=True)
    return set_of({**_named(x), "label": y == 0}, 0.3)


def digits() -> QualitySet:
    """scikit-learn's: 1,797 pictures of 8 by 8 points, and whether the digit is odd."""
    from sklearn.datasets import load_digits

    x, y = load_digits(return_X_y=True)
    return set_of({**_named(x), "label": y % 2 == 1}, 0.3)


def diabetes() -> QualitySet:
    """scikit-learn's: 442 rows, 10 measurements, and whether the progress is above the median."""
    from sklearn.datasets import load_diabetes

    x, y = load_diabetes(return_X_y=True)
    return set_of({**_named(x), "label": y > np.median(y)}, 0.3)


def _named(x: np.ndarray[Any, Any]) -> generated.Columns:
    return {f"x{j}": x[:, j] for j in range(x.shape[1])}


def _shape(declaration: Declaration) -> dict[str, Any]:
    return declaration.model_dump(mode="json", include={"network", "training"})


def _fields(features: dict[str, Any], examples: dict[str, Any], test_share: float) -> dict[str, Any]:
    return {
        "name": "quality",
        "entity_key": "id",
        "population": {"table": "silver.quality"},
        "examples": {
            **examples,
            "table": "silver.quality_examples",
            "split": {"method": "stratified", "test_share": test_share},
        },
        "features": features,
    }


def _made(
    make: Callable[[np.random.Generator, int], generated.Columns], rows: int, test: int
) -> Callable[[], QualitySet]:
    """Return a set with so many rows for training and calibration, and for the test."""
    return lambda: set_of(make(np.random.default_rng([SEED, rows]), rows + test), test / (rows + test))


# By name: how each is made. A set that cannot be made here is None.
SETS: dict[str, Callable[[], QualitySet | None]] = {
    "telco": telco,
    "churn": churn,
    "fraud": fraud,
    "breast_cancer": breast_cancer,
    "digits": digits,
    "diabetes": diabetes,
    "few_rows": _made(generated.few_rows, 3_000, 20_000),
    "thresholds": _made(generated.thresholds, 12_000, 20_000),
    "smooth": _made(generated.smooth, 8_000, 20_000),
    "interactions": _made(generated.interactions, 12_000, 20_000),
    "periodic": _made(generated.periodic, 12_000, 20_000),
    "skewed": _made(generated.skewed, 10_000, 20_000),
    "blanks": _made(generated.blanks, 10_000, 20_000),
    "correlated": _made(generated.correlated, 8_000, 20_000),
    "wide": _made(generated.wide, 8_000, 20_000),
    "flags": _made(generated.flags, 10_000, 20_000),
    "many_values": _made(generated.many_values, 20_000, 20_000),
    "crossed_values": _made(generated.crossed_values, 40_000, 20_000),
    "noise_values": _made(generated.noise_values, 10_000, 20_000),
    "rare": _made(generated.rare, 100_000, 50_000),
    "mixed": _made(generated.mixed, 222_000, 50_000),
}
