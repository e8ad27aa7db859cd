"""The whole life on real customers, through a declaration of its own and the same code.

The data are not ours to ship: the tests run where `TANDEM_TELCO_CSV` names the file, or it lies beside the repository.
"""

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import dagster as dg
import numpy as np
import pyarrow as pa
import pyarrow.csv as pc
import pytest

from assets.resources import Backends
from backends.settings import ROOT, Settings
from bento.building.build import find_bento
from models.declaration import Declaration, load_declaration
from models.encoding import encode_arrow
from models.scoring import Scorer
from tests.lives import TODAY, checks, reason_of, run_job, silent_instance, write_table
from tests.serving import free_port, running

CSV = Path(os.environ.get("TANDEM_TELCO_CSV", ROOT.parent / "shared" / "data" / "telco_churn.csv"))
CUSTOMERS = 7043

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not CSV.is_file(), reason=f"there is no {CSV}; name the file by TANDEM_TELCO_CSV"),
]


@dataclass(frozen=True)
class Telco:
    settings: Settings
    declaration: Declaration
    customers: pa.Table
    training: dg.ExecuteInProcessResult
    night: dg.ExecuteInProcessResult


@pytest.fixture(scope="module")
def telco(tmp_path_factory, empty_mlflow) -> Iterator[Telco]:
    """Train, promote, serve, score and prove."""
    port, home = free_port(), tmp_path_factory.mktemp("telco")
    settings = Settings(home=home, models=ROOT / "tests" / "declarations", api_url=f"http://127.0.0.1:{port}")
    shutil.copyfile(empty_mlflow, home / "mlflow.db")
    customers = read_customers()
    write_table(settings, "silver.telco_customers", customers.drop_columns(["Churn"]))
    write_table(settings, "silver.telco_examples", customers)
    with silent_instance() as instance:
        training = run_job(settings, instance, "telco_training")
        assert training.success, reason_of(training)
        with running(find_bento(settings.bentoml_home, "telco"), settings, port):
            night = run_job(settings, instance, "telco_nightly", TODAY)
            declaration = load_declaration(settings.models / "telco.yaml")
            yield Telco(settings, declaration, customers, training, night)


def read_customers() -> pa.Table:
    """Read the file; the total charges of customers in their first month are blank, which is null."""
    options = pc.ConvertOptions(null_values=["", " "], column_types={"TotalCharges": pa.float64()})
    return pc.read_csv(CSV, convert_options=options)


def metrics(telco: Telco, stage: str) -> dict[str, dict[str, float]]:
    (event,) = telco.training.asset_materializations_for_node(f"telco__{stage}")
    return {row.data["model"]: row.data for row in event.metadata["test_metrics"].records}


def test_the_network_reaches_what_is_published_for_these_customers(telco):
    found = metrics(telco, "trained_model")["network"]
    assert 0.838 <= found["auc"] < 0.88  # above .88 there is a leak


def test_int8_keeps_the_auc(telco):
    found = metrics(telco, "quantized_model")
    assert abs(found["float32"]["auc"] - found["int8"]["auc"]) <= 0.002


def test_the_key_is_no_feature(telco):
    assert "customerID" not in telco.declaration.features
    assert len(telco.declaration.features) == 19


def test_every_customer_has_a_prediction(telco):
    assert telco.night.success, reason_of(telco.night)
    with Backends(telco.settings).lakehouse() as lake:
        gold = lake.read("gold.telco_predictions").sort_by("customerID")
    assert len(gold) == CUSTOMERS
    customers = telco.customers.sort_by("customerID")
    assert gold["customerID"].to_pylist() == customers["customerID"].to_pylist()
    registry = Backends(telco.settings).registry()
    version = registry.champion("telco")
    scorer = Scorer(registry.read_version(version), version.sha256)
    expected = scorer.score(encode_arrow(scorer.contract, customers))
    assert np.array_equal(gold["telco_probability"].to_numpy(), expected)


def test_the_api_agrees_with_gold(telco):
    proof = checks(telco.night)["api_agrees_with_gold"]
    assert proof.passed, proof.metadata["reason"].value
    assert (proof.metadata["replayed"].value, proof.metadata["disagreements"].value) == (1000, 0)
