"""Reasons against exact Shapley values, and what must hold of them whatever the model is."""

import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.encoding import Encoded
from models.errors import ModelFileError
from models.reasons import STEP, UNSEEN, Explainer, Reasons, log_odds_of
from models.reference import Reference, reference_in
from models.scoring import Scorer
from models.training.graph import with_metadata
from tests.models.interacting_model import contract_of, exact_values, interacting_onnx, random_rows, with_reference
from tests.tiny_model import tiny_contract, tiny_onnx, tiny_onnx_with_reference

NEAR = 2e-5  # what float32 probabilities of a few log-odds leave of them
SIZES = [(1, 0), (0, 1), (2, 0), (1, 1), (3, 2), (0, 4), (6, 3)]


def model_of(numbers: int, categories: int, seed: int = 0, bend: float = 0.0) -> Scorer:
    """Return a random model; its log-odds stay within a few."""
    contract, rng = contract_of(numbers, categories), np.random.default_rng(seed)
    features = numbers + categories
    linear = rng.uniform(-1, 1, features) / features
    onnx = interacting_onnx(contract, linear, rng.uniform(-1, 1, (features, features)) / features, bend)
    return Scorer(with_reference(onnx, random_rows(contract, 300, seed), seed))


def reasons_of(scorer: Scorer, rows: Encoded) -> list[Reasons]:
    return Explainer(scorer).explain(rows, scorer.score(rows))


def by_name(reasons: Reasons) -> dict[str, float]:
    return dict(zip(reasons.features, reasons.contributions.tolist(), strict=True))


@pytest.mark.parametrize("size", SIZES)
def test_where_features_interact_in_pairs_they_are_the_exact_shapley_values(size):
    scorer = model_of(*size)
    reference, rows = reference_in(scorer.metadata, scorer.contract), random_rows(scorer.contract, 4, seed=9)
    for i, found in enumerate(reasons_of(scorer, rows)):
        assert by_name(found) == pytest.approx(exact_values(scorer, reference, rows[i : i + 1]), abs=NEAR)


def test_where_more_features_interact_they_are_near_the_exact_ones():
    scorer = model_of(6, 3, bend=8.0)
    reference, rows = reference_in(scorer.metadata, scorer.contract), random_rows(scorer.contract, 8, seed=9)
    errors, interacting = [], []
    for i, found in enumerate(reasons_of(scorer, rows)):
        exact = exact_values(scorer, reference, rows[i : i + 1])
        largest = max(map(abs, exact.values()))
        errors.append(np.mean([abs(by_name(found)[name] - value) for name, value in exact.items()]) / largest)
        interacting.append(by_name(found) != pytest.approx(exact, abs=10 * NEAR))
    assert np.mean(errors) < 0.02  # docs/reasons.md promises this
    assert all(interacting)  # or the case would be too easy


@settings(max_examples=30, deadline=None)
@given(st.sampled_from(SIZES), st.integers(0, 10_000), st.sampled_from([0.0, 5.0]))
def test_they_sum_to_the_log_odds_exactly(size, seed, bend):
    scorer = model_of(*size, seed, bend)
    rows = random_rows(scorer.contract, 3, seed + 1)
    for found, score in zip(reasons_of(scorer, rows), scorer.score(rows), strict=True):
        assert found.base + found.contributions.astype(np.float64).sum() == found.log_odds
        assert found.log_odds == pytest.approx(log_odds_of(score), abs=STEP)
        assert 1 / (1 + np.exp(-found.base)) == found.base_probability
        assert np.all(np.diff(np.abs(found.contributions)) <= 0)
        assert sorted(found.features) == sorted(scorer.contract.features)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000), st.integers(0, 4))
def test_a_feature_that_the_model_ignores_has_none(seed, ignored):
    contract, rng = contract_of(3, 2), np.random.default_rng(seed)
    linear, pairs = rng.uniform(-0.3, 0.3, 5), rng.uniform(-0.1, 0.1, (5, 5))
    linear[ignored] = pairs[ignored] = pairs[:, ignored] = 0
    rows = random_rows(contract, 200, seed)
    scorer = Scorer(with_reference(interacting_onnx(contract, linear, pairs, bend=0.5), rows, seed))
    name = [*contract.numbers, *contract.categories][ignored]
    assert [by_name(found)[name] for found in reasons_of(scorer, rows[:5])] == [0.0] * 5


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000))
def test_features_that_do_the_same_have_the_same(seed):
    contract, rng = contract_of(3, 0), np.random.default_rng(seed)
    linear, pairs = rng.uniform(-0.5, 0.5, 3), rng.uniform(-0.3, 0.3, (3, 3))
    linear[1], pairs[1], pairs[:, 1], pairs[1, 1] = linear[0], pairs[0], pairs[:, 0], pairs[0, 0]
    rows = random_rows(contract, 200, seed)
    twins = Encoded(rows.numbers[:, [0, 0, 2]], rows.categories)
    onnx = interacting_onnx(contract, linear, pairs)
    learnt = reference_in(Scorer(with_reference(onnx, twins, seed)).metadata, contract)
    same = learnt.model_copy(update={"numbers": learnt.numbers | {"number_1": learnt.numbers["number_0"]}})
    scorer = Scorer(with_metadata(onnx, same.to_metadata()))
    for found in reasons_of(scorer, twins[:5]):
        assert by_name(found)["number_0"] == pytest.approx(by_name(found)["number_1"], abs=NEAR)


def test_the_other_rows_of_a_batch_make_no_difference():
    scorer = model_of(6, 3, bend=2.0)
    rows = random_rows(scorer.contract, 7, seed=4)
    together = reasons_of(scorer, rows)
    alone = [reasons_of(scorer, rows[i : i + 1])[0] for i in range(7)]
    for one, other in zip(together, alone, strict=True):
        assert (one.features, one.base) == (other.features, other.base)
        assert one.contributions.tobytes() == other.contributions.tobytes()


def test_another_process_gives_the_same():
    scorer = model_of(3, 2, bend=2.0)
    rows = random_rows(scorer.contract, 3, seed=4)
    sent: Explainer = pickle.loads(pickle.dumps(Explainer(scorer)))
    received = sent.explain(rows, scorer.score(rows))
    assert [one.contributions.tolist() for one in received] == [
        one.contributions.tolist() for one in reasons_of(scorer, rows)
    ]


def test_a_row_that_is_like_every_reference_row_has_no_reasons():
    scorer = model_of(2, 1)
    reference = Reference(
        numbers={"number_0": (None,), "number_1": (0.5,)}, categories={"category_0": (2,)}, orders=((2, 0, 1),)
    )
    alike = Scorer(with_metadata(scorer._onnx, reference.to_metadata()))
    (found,) = reasons_of(alike, reference.encoded)
    assert found.contributions.tolist() == [0, 0, 0]
    assert found.base == found.log_odds


def test_scores_of_0_and_1_have_finite_reasons():
    contract = contract_of(2, 0)
    onnx = interacting_onnx(contract, np.array([80.0, 90.0]), np.zeros((2, 2)))
    rows = random_rows(contract, 100)
    scorer = Scorer(with_reference(onnx, rows))
    extremes = Encoded(np.array([[1, 1], [-1, -1]], np.float32), np.empty((2, 0), np.int32))
    high, low = reasons_of(scorer, extremes)
    assert scorer.score(extremes)[0] == 1
    assert np.isfinite([*high.contributions, *low.contributions]).all()
    assert min(high.contributions) > 0 > max(low.contributions)


def test_a_file_without_reference_rows_says_what_to_do():
    with pytest.raises(ModelFileError, match=r"tiny gives no reasons.*tandem\.reference.*Train again"):
        Explainer(Scorer(tiny_onnx(tiny_contract())))


def test_values_are_shown_as_they_were_scored():
    contract = tiny_contract()
    row = Encoded(np.array([[0.1, np.nan, -5]], np.float32), np.array([[3, 3]], np.int32))
    shown = {"tenure_months": 0.1, "age_years": None, "balance": -5, "plan": UNSEEN, "channel": None}
    explainer = Explainer(Scorer(tiny_onnx_with_reference(contract)))
    assert explainer.values(row) == shown
    known = Encoded(row.numbers, np.array([[2, 2]], np.int32))
    assert [explainer.values(known)[name] for name in ("plan", "channel")] == ["pro", UNSEEN]
