from itertools import pairwise

import numpy as np
import onnx
import pytest

from models.contract import CategoryFeature, NumberFeature
from models.encoding import Encoded
from models.errors import TrainingDataError
from models.scoring import Scorer
from models.training.graph import build_graph, dense_encoder, with_metadata
from models.training.layout import learn_layout
from models.training.network import logits, sigmoid


def random_layers(width, seed=0):
    rng = np.random.default_rng(seed)
    shapes = [(width, 16), (16, 8), (8, 1)]
    return [(rng.normal(0, 0.5, s).astype(np.float32), rng.normal(0, 0.5, s[1]).astype(np.float32)) for s in shapes]


def slow_columns(contract, layout, rows, i):
    """The dense columns of row i by the definition, in float64; the spare one left out."""
    columns = []
    for j, cuts in enumerate(layout.edges):
        value = float(rows.numbers[i, j])
        if np.isnan(value) and j not in layout.indicators:
            value = float(layout.medians[j])
        exact = cuts.astype(float)
        columns += [0.0 if np.isnan(value) else min(max((value - a) / (b - a), 0), 1) for a, b in pairwise(exact)]
    columns += [float(np.isnan(rows.numbers[i, j])) for j in layout.indicators]
    for j, grouping in enumerate(layout.groupings):
        columns += [float(grouping.columns[rows.categories[i, j]] == column) for column in range(grouping.width)]
    return columns


def test_the_encoder_computes_its_definition(drawn, rows_of):
    layout = learn_layout(drawn, rows_of(drawn, 500), 8)
    rows = rows_of(drawn, 60, seed=1)
    dense = dense_encoder(drawn, layout)(rows)
    assert dense.shape == (60, layout.width)
    np.testing.assert_allclose(dense, [slow_columns(drawn, layout, rows, i) for i in range(60)], atol=2e-3)


@pytest.mark.parametrize("offset", [-2.0, 1.0, 1000.0])
@pytest.mark.parametrize("magnitude", [1e-30, 1e-20, 1e-6, 1.0, 1e6, 1e12, 1e20, 1e30, 1e34])
def test_numbers_of_any_magnitude_are_read_as_what_they_are(contract_of, magnitude, offset):
    contract = contract_of({"x": NumberFeature(kind="number", missing=True)})
    values = np.append((np.linspace(0, 4, 400) + offset) * magnitude, [np.nan] * 20).astype(np.float32)
    rows = Encoded(values[:, None], np.empty((420, 0), np.int32))
    layout = learn_layout(contract, rows, 8)
    assert len(layout.edges[0]) == 9
    dense = dense_encoder(contract, layout)(rows)
    np.testing.assert_allclose(dense, [slow_columns(contract, layout, rows, i) for i in range(420)], atol=2e-3)


def test_the_graph_agrees_with_the_trainers_forward_pass(drawn, rows_of):
    layout = learn_layout(drawn, rows_of(drawn, 500), 8)
    layers, rows = random_layers(layout.width), rows_of(drawn, 1500, seed=1)
    scores = Scorer(build_graph(drawn, layout, layers)).score(rows)
    assert scores.shape == (1500,)
    assert len(np.unique(scores)) > 3
    np.testing.assert_allclose(scores, sigmoid(logits(layers, dense_encoder(drawn, layout), rows)), atol=1e-6)


def test_the_graph_is_valid_reproducible_and_carries_the_contract(drawn, rows_of):
    layout = learn_layout(drawn, rows_of(drawn, 500), 8)
    file = build_graph(drawn, layout, random_layers(layout.width))
    onnx.checker.check_model(onnx.load_from_string(file), full_check=True)
    assert file == build_graph(drawn, layout, random_layers(layout.width))
    int8 = drawn.model_copy(update={"precision": "int8"})
    changed = with_metadata(file, int8.to_metadata() | {"beside": "it"})
    assert Scorer(changed).contract == int8
    assert Scorer(changed).metadata["beside"] == "it"
    assert with_metadata(changed, drawn.to_metadata()) == with_metadata(file, {"beside": "it"})


def test_what_training_had_too_few_rows_of_has_no_influence(contract_of):
    plan = CategoryFeature(kind="category", values=("often", "too", "rare", "never"), missing=True)
    contract = contract_of({"plan": plan, "x": NumberFeature(kind="number", missing=True)})
    codes = np.array([0] * 50 + [1] * 50 + [2] * 9, np.int32)[:, None]
    numbers = np.append(np.arange(108), np.nan).astype(np.float32)[:, None]
    layout = learn_layout(contract, Encoded(numbers, codes), 8)
    scorer = Scorer(build_graph(contract, layout, random_layers(layout.width)))
    asked = np.arange(plan.width, dtype=np.int32)[:, None]
    often, too, *others = scorer.score(Encoded(np.full((len(asked), 1), 5, np.float32), asked))
    assert len({often, too, *others}) == 3  # rare, never, other and missing: all the same
    asked_numbers = np.array([[layout.medians[0]], [np.nan]], np.float32)
    middle, missing = scorer.score(Encoded(asked_numbers, np.zeros((2, 1), np.int32)))
    assert middle == missing


def test_other_and_missing_count_where_training_had_them(contract_of):
    plan = CategoryFeature(kind="category", values=("one", "two"), missing=True)
    contract = contract_of({"plan": plan, "x": NumberFeature(kind="number", missing=True)})
    numbers = np.append(np.arange(30), np.full(10, np.nan)).astype(np.float32)[:, None]
    layout = learn_layout(contract, Encoded(numbers, np.repeat(np.arange(4, dtype=np.int32), 10)[:, None]), 8)
    scorer = Scorer(build_graph(contract, layout, random_layers(layout.width)))
    asked = np.arange(4, dtype=np.int32)[:, None]
    assert len(set(scorer.score(Encoded(np.full((4, 1), 5, np.float32), asked)))) == 4
    zero = Encoded(np.array([[-1e30], [np.nan]], np.float32), asked[:2] * 0)
    assert len(set(scorer.score(zero))) == 2  # far below all edges is not missing


@pytest.mark.parametrize("value", [np.nan, 3.0])
def test_features_that_never_vary_are_refused(contract_of, value):
    contract = contract_of({"x": NumberFeature(kind="number", missing=True)})
    rows = Encoded(np.full((50, 1), value, np.float32), np.empty((50, 0), np.int32))
    with pytest.raises(TrainingDataError, match="None of the features"):
        learn_layout(contract, rows, 8)
