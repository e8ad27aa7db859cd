"""The whole life on real customers: from their file through `tandem new`, with nothing edited, to Gold and the API.

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
import pytest

from assets.resources import Backends
from backends.settings import ROOT, Settings
from bento.building.build import find_bento
from models.contract import CategoryFeature, NumberFeature
from models.declaration import Declaration
from models.encoding import encode_arrow
from models.scoring import Scorer
from onboarding.new_model import Made, new_model
from onboarding.profiling import Request
from tests.lives import TODAY, checks, reason_of, run_job, silent_instance
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
    made: Made
    customers: pa.Table
    training: dg.ExecuteInProcessResult
    night: dg.ExecuteInProcessResult

    @property
    def declaration(self) -> Declaration:
        """What was written."""
        return self.made.declaration


@pytest.fixture(scope="module")
def telco(tmp_path_factory, empty_mlflow) -> Iterator[Telco]:
    """Declare, train, promote, serve, score and prove."""
    port, home = free_port(), tmp_path_factory.mktemp("telco")
    settings = Settings(home=home, models=home / "models", api_url=f"http://127.0.0.1:{port}")
    shutil.copyfile(empty_mlflow, home / "mlflow.db")
    made = new_model(settings, Request("telco", str(CSV), "customerID", "Churn"))
    with Backends(settings).lakehouse() as lake:
        customers = lake.read(made.declaration.scored_table)
    with silent_instance() as instance:
        training = run_job(settings, instance, "telco_training")
        assert training.success, reason_of(training)
        with running(find_bento(settings.bentoml_home, "telco"), settings, port):
            night = run_job(settings, instance, "telco_nightly", TODAY)
            yield Telco(settings, made, customers, training, night)


def metrics(telco: Telco, stage: str) -> dict[str, dict[str, float]]:
    (event,) = telco.training.asset_materializations_for_node(f"telco__{stage}")
    return {row.data["model"]: row.data for row in event.metadata["test_metrics"].records}


def test_the_network_reaches_what_is_published_for_these_customers(telco):
    found = metrics(telco, "trained_model")["network"]
    assert 0.838 <= found["auc"] < 0.88  # above .88 there is a leak


def test_int8_keeps_the_auc(telco):
    found = metrics(telco, "quantized_model")
    assert abs(found["float32"]["auc"] - found["int8"]["auc"]) <= 0.002


def test_every_column_but_the_key_and_the_label_is_a_feature_as_what_it_is(telco):
    features = telco.declaration.features
    assert len(features) == 19
    assert "customerID" not in features
    assert {name for name, feature in features.items() if isinstance(feature, NumberFeature)} == {
        "tenure",
        "MonthlyCharges",
        "TotalCharges",
    }
    assert isinstance(features["SeniorCitizen"], CategoryFeature)
    assert features["SeniorCitizen"].values == ("0", "1")
    assert features["TotalCharges"].missing
    assert telco.customers["TotalCharges"].null_count == 11  # customers in their first month
    assert [finding for finding in telco.made.profiled.findings if finding.left_out] == []


def test_the_report_says_in_words_what_was_found(telco):
    (event,) = telco.training.asset_materializations_for_node("telco__trained_model")
    assert next(iter(event.metadata)) == "in_words"
    words = event.metadata["in_words"].value
    for said in ("Of the 100 test rows with the highest scores", "Churn = Yes", "What matters most", "Contract"):
        assert said in words
    assert "Warning" not in words


def test_the_gates_that_were_written_are_reached_and_ask_for_something(telco):
    assert 0.75 <= telco.declaration.gates.min_auc <= metrics(telco, "trained_model")["network"]["auc"]


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
