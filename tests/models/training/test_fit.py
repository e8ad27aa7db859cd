import numpy as np
import pyarrow as pa
import pytest

from models.encoding import encode_arrow
from models.errors import ColumnError, TrainingDataError
from models.scoring import Scorer
from models.training.fit import train
from models.training.quantization import quantize

RUN = {"entity_key_type": "integer", "training_snapshot": "1"}
STRATIFIED = {"table": "silver.leaver_examples", "label": "left", "split": {"method": "stratified"}}
LEAST = {"teacher_folds": 2, "teacher_iterations": 10, "synthetic_rows": 0, "row_presentations": 1000}


def test_it_learns_the_pattern(trained):
    assert trained.metrics["network"]["auc"] > 0.7
    assert trained.metrics["network"]["auc"] > trained.metrics["boosted_trees"]["auc"] - 0.02
    assert trained.metrics["network"]["calibration_error"] < 0.08
    assert set(trained.metrics) == {"network", "teacher", "boosted_trees"}


def test_what_it_reports_belongs_to_the_bytes(trained):
    scorer = Scorer(trained.onnx)
    assert scorer.contract == trained.contract
    assert trained.contract.precision == "float32"
    assert np.array_equal(scorer.score(trained.test_rows), trained.scores_test)
    assert trained.graph_difference < 1e-6
    assert len(trained.test_rows) == len(trained.y_test) == len(trained.split.test)
    assert list(trained.seconds) == ["rows", "teacher", "boosted_trees", "network", "evaluation", "profile"]


def test_the_same_examples_give_the_same_bytes(trained, declaration, examples):
    again = train(declaration(), examples(4000), **RUN)
    assert again.onnx == trained.onnx
    assert again.metrics == trained.metrics


def test_test_and_calibration_rows_do_not_shape_the_network(trained, declaration, examples):
    table = examples(4000)
    left = table["left"].to_numpy().copy()
    left[trained.split.test] = ~left[trained.split.test]
    changed = train(declaration(), table.set_column(table.num_columns - 1, "left", pa.array(left)), **RUN)
    assert changed.onnx == trained.onnx
    assert changed.metrics["network"]["auc"] == pytest.approx(1 - trained.metrics["network"]["auc"])


@pytest.mark.parametrize("kind", ["number", "category"])
def test_a_model_may_have_one_kind_of_feature_only(declaration, examples, kind):
    features = {name: f for name, f in declaration().model_dump()["features"].items() if f["kind"] == kind}
    table, declared = examples(1500), declaration(features=features, training=LEAST)
    trained = train(declared, table, **RUN)
    rows = encode_arrow(trained.contract, table.take(trained.split.test))
    assert np.array_equal(Scorer(trained.onnx).score(rows), trained.scores_test)


def test_rare_outcomes_can_be_learnt(declaration, examples):
    declared = declaration(examples=STRATIFIED, training=LEAST | {"row_presentations": 20_000})
    trained = train(declared, examples(3000, shift=-7.0), **RUN)
    assert trained.split.description["train_positive_rate"] < 0.02
    assert np.isfinite(list(trained.metrics["network"].values())).all()
    assert trained.scores_test.mean() < 0.03


def test_progress_is_told(declaration, examples):
    told = []
    train(declaration(training=LEAST), examples(600), **RUN, progress=told.append)
    assert any("teacher" in line for line in told)
    assert any("network" in line for line in told)


def test_examples_that_do_not_fit_are_refused(declaration, examples):
    with pytest.raises(ColumnError, match="'tenure' is missing"):
        train(declaration(), examples(600).drop_columns("tenure"), **RUN)
    with pytest.raises(TrainingDataError, match="no rows"):
        train(declaration(), examples(600).slice(0, 0), **RUN)


SHOPS = [f"shop {i}" for i in range(300)]


def shop_examples(effect):
    """300 shops with effects of their own, some of which come a few times only."""
    rng = np.random.default_rng(0)
    shop = rng.choice(300, 4000, p=np.arange(300, 0, -1) / np.arange(301).sum())
    x = rng.normal(size=4000)
    y = rng.random(4000) < 1 / (1 + np.exp(1 - x - effect * rng.normal(size=300)[shop]))
    return pa.table({"x": x, "shop": np.array(SHOPS)[shop], "left": y})


def train_on_shops(declaration, effect):
    features = {"x": {"kind": "number"}, "shop": {"kind": "category", "values": SHOPS}}
    budget = {**LEAST, "teacher_iterations": 40, "synthetic_rows": 2000, "row_presentations": 40_000}
    declared = declaration(features=features, training=budget, examples=STRATIFIED)
    return train(declared, shop_examples(effect), **RUN)


def test_a_category_of_many_values_is_learnt_and_survives_int8(declaration):
    trained = train_on_shops(declaration, effect=1.5)
    assert trained.metrics["network"]["auc"] > trained.metrics["boosted_trees"]["auc"] + 0.01
    int8 = Scorer(quantize(trained.onnx, trained.calibration_rows)).score(trained.test_rows)
    assert np.abs(int8 - trained.scores_test).mean() < 0.01


def test_a_category_of_many_values_that_mean_nothing_does_no_harm(declaration):
    trained = train_on_shops(declaration, effect=0)
    assert trained.metrics["network"]["auc"] > trained.metrics["boosted_trees"]["auc"]
    assert trained.metrics["network"]["calibration_error"] < 0.06
