"""The measurement of reasons: what it calls exact is exact, and its figures are those of the shipped explainer."""

import numpy as np
import pytest

from benchmarks import reasons
from benchmarks.reasons import exact_values, measure
from models.reference import reference_in
from models.scoring import Scorer
from tests.models.interacting_model import contract_of, interacting_onnx, random_rows, with_reference
from tests.models.interacting_model import exact_values as enumerated


def model_of(numbers: int, categories: int, bend: float) -> bytes:
    contract, rng = contract_of(numbers, categories), np.random.default_rng(0)
    features = numbers + categories
    linear, pairs = rng.uniform(-1, 1, features) / features, rng.uniform(-1, 1, (features, features)) / features
    return with_reference(interacting_onnx(contract, linear, pairs, bend), random_rows(contract, 300))


@pytest.mark.parametrize("most", [reasons.ENUMERATED, 0])  # all sets of features, or many orders
def test_what_is_called_exact_is(most, monkeypatch):
    monkeypatch.setattr(reasons, "ENUMERATED", most)
    onnx = model_of(3, 2, bend=8.0)
    scorer, rows = Scorer(onnx), random_rows(contract_of(3, 2), 2, seed=9)
    reference = reference_in(scorer.metadata, scorer.contract)
    for i, found in enumerate(exact_values(onnx, reference, rows)):
        assert found == pytest.approx(list(enumerated(scorer, reference, rows[i : i + 1]).values()), abs=2e-3)


def test_there_is_no_error_where_features_interact_in_pairs_and_some_where_more_do():
    rows = random_rows(contract_of(4, 2), 12, seed=9)
    pairs, bent = measure(model_of(4, 2, 0.0), rows, 6), measure(model_of(4, 2, 8.0), rows, 6)
    assert pairs.largest_error < 1e-3
    assert (pairs.same_first, pairs.same_three) == (1, 1)
    assert 1e-3 < bent.mean_error < bent.largest_error < 0.2
    assert (bent.features, bent.reference_rows) == (6, 128)
    assert "6 features, 128 reference rows" in str(bent)
    assert 0 < bent.milliseconds <= bent.slowest
