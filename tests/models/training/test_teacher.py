import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from models.contract import CategoryFeature, NumberFeature
from models.declaration import Training
from models.encoding import Encoded
from models.errors import TrainingDataError
from models.training.budget import MANY_ROWS
from models.training.distillation import lesson, recombine
from models.training.teacher import fit_teacher
from models.training.trees import fit_plain_trees

BUDGET = Training(teacher_folds=3, teacher_iterations=20, row_presentations=20_000)
CODES = 400  # more than the trees can tell apart
NUMBERS = {f"x{j}": NumberFeature(kind="number", missing=True) for j in range(5)}
PLACE = CategoryFeature(kind="category", values=tuple(f"place {i}" for i in range(CODES)))


@pytest.fixture(scope="module")
def taught(contract_of):
    rng = np.random.default_rng(0)
    numbers = rng.normal(size=(1500, 2)).astype(np.float32)
    numbers[rng.random(1500) < 0.1, 1] = np.nan
    codes = rng.integers(0, CODES, (1500, 1)).astype(np.int32)
    y = (rng.random(1500) < 1 / (1 + np.exp(-2 * numbers[:, 0]))).astype(np.float32)
    rows = Encoded(numbers, codes)
    contract = contract_of({"x0": NUMBERS["x0"], "x1": NUMBERS["x1"], "place": PLACE})
    return rows, y, fit_teacher(contract, rows, y, BUDGET)


def test_every_row_has_a_score_of_trees_that_have_not_seen_it(taught):
    rows, y, teacher = taught
    assert 0.75 < roc_auc_score(y, teacher.out_of_fold) < roc_auc_score(y, teacher.score(rows))
    assert len(teacher.pupils) == len(teacher.folds) == 3
    assert sorted(np.concatenate(teacher.folds)) == list(range(1500))
    for outside, scores in zip(teacher.folds, teacher.scores_by_fold(rows), strict=True):
        np.testing.assert_allclose(teacher.out_of_fold[outside], scores[outside], rtol=1e-5)


def test_noise_cannot_be_learnt_out_of_fold(contract_of):
    rng = np.random.default_rng(1)
    rows = Encoded(rng.normal(size=(2000, 5)).astype(np.float32), np.empty((2000, 0), np.int32))
    y = (rng.random(2000) < 0.3).astype(np.float32)
    assert roc_auc_score(y, fit_teacher(contract_of(NUMBERS), rows, y, BUDGET).out_of_fold) < 0.56


def test_a_category_that_is_nearly_an_identifier_does_not_give_the_outcome_away(contract_of):
    rng = np.random.default_rng(3)
    codes = rng.integers(0, CODES, (1200, 1)).astype(np.int32)  # three rows each
    rows = Encoded(rng.normal(size=(1200, 1)).astype(np.float32), codes)
    y = (rng.random(1200) < 0.3).astype(np.float32)
    teacher = fit_teacher(contract_of({"x0": NUMBERS["x0"], "place": PLACE}), rows, y, BUDGET)
    assert 0.42 < roc_auc_score(y, teacher.out_of_fold) < 0.58


def test_what_many_values_mean_is_learnt_from_other_rows(contract_of):
    rng = np.random.default_rng(4)
    codes = rng.integers(0, 100, (2000, 1)).astype(np.int32)
    rows = Encoded(rng.normal(size=(2000, 1)).astype(np.float32), codes)
    y = (rng.random(2000) < 1 / (1 + np.exp(-rng.normal(0, 1.5, 100)[codes[:, 0]]))).astype(np.float32)
    teacher = fit_teacher(contract_of({"x0": NUMBERS["x0"], "place": PLACE}), rows, y, BUDGET)
    assert roc_auc_score(y, teacher.out_of_fold) > 0.7


def test_pairs_of_values_have_a_learner_where_there_are_pairs_and_many_values(taught, contract_of):
    rng = np.random.default_rng(5)
    codes = np.stack([rng.integers(0, 60, 3000), rng.integers(0, 8, 3000)], axis=1).astype(np.int32)
    effect = rng.normal(0, 2, 60)[codes[:, 0]] * rng.normal(0, 1, 8)[codes[:, 1]]
    rows = Encoded(rng.normal(size=(3000, 1)).astype(np.float32), codes)
    y = (rng.random(3000) < 1 / (1 + np.exp(-effect))).astype(np.float32)
    kind = CategoryFeature(kind="category", values=tuple("abcdefgh"))
    teacher = fit_teacher(contract_of({"x0": NUMBERS["x0"], "place": PLACE, "kind": kind}), rows, y, BUDGET)
    weights = dict(zip(teacher.chosen, teacher.blend.weights, strict=True))
    assert weights["pairs of values"] > 0.3
    assert "pairs of values" not in taught[2].chosen  # one category alone


def test_rare_outcomes_get_fewer_folds_and_one_alone_is_refused(taught, contract_of):
    rows, contract = taught[0], contract_of({"x0": NUMBERS["x0"], "x1": NUMBERS["x1"], "place": PLACE})
    y = np.zeros(len(rows), np.float32)
    y[:2] = 1
    assert len(fit_teacher(contract, rows, y, BUDGET).pupils) == 2
    y[1] = 0
    with pytest.raises(TrainingDataError, match="1 training rows"):
        fit_teacher(contract, rows, y, BUDGET)


def test_many_rows_are_fitted_in_parallel_with_the_same_result_every_time(contract_of):
    rng = np.random.default_rng(2)
    rows = Encoded(rng.normal(size=(MANY_ROWS, 2)).astype(np.float32), np.empty((MANY_ROWS, 0), np.int32))
    y = (rng.random(MANY_ROWS) < 1 / (1 + np.exp(-rows.numbers[:, 0]))).astype(np.float32)
    budget, contract = BUDGET.model_copy(update={"teacher_iterations": 3}), contract_of(dict(list(NUMBERS.items())[:2]))
    once, again = fit_teacher(contract, rows, y, budget), fit_teacher(contract, rows, y, budget)
    assert np.array_equal(once.out_of_fold, again.out_of_fold)


def test_plain_trees_learn(taught):
    rows, y, _ = taught
    assert roc_auc_score(y, fit_plain_trees(rows, y, 0)(rows)) > 0.8


def test_recombined_rows_are_made_of_values_of_the_same_feature():
    rng = np.random.default_rng(0)
    rows = Encoded(rng.normal(size=(50, 3)).astype(np.float32), rng.integers(0, 5, (50, 2)).astype(np.int32))
    made = recombine(rows, 1000, 0)
    for j in range(3):
        assert set(made.numbers[:, j]) <= set(rows.numbers[:, j])
    origin = [int(np.argmax((rows.numbers == row).sum(1))) for row in made.numbers]
    kept = (made.numbers == rows.numbers[origin]).mean()
    assert 0.75 < kept < 0.95  # a fifth is replaced on average
    assert np.array_equal(recombine(rows, 1000, 0).numbers, made.numbers)


def test_the_lesson_is_the_softened_truth_and_the_teachers_word(taught):
    rows, y, teacher = taught
    shown, targets = lesson(rows, y, teacher, [], 300, 0)
    assert len(shown) == len(targets) == 1800
    np.testing.assert_allclose(targets[:1500], 0.1 * y + 0.9 * teacher.out_of_fold, rtol=1e-5)
    np.testing.assert_array_equal(targets[1500:], teacher.score(shown[1500:]))
    assert len(lesson(rows, y, teacher, [], 0, 0)[0]) == 1500


def test_a_number_that_never_had_a_value_is_no_matter(contract_of, taught):
    rows, y, _ = taught
    numbers = np.column_stack([rows.numbers[:, 0], np.full(len(rows), np.nan, np.float32)])
    contract = contract_of({"x0": NUMBERS["x0"], "x1": NUMBERS["x1"]})
    without = Encoded(numbers, np.empty((len(rows), 0), np.int32))
    teacher, plain = fit_teacher(contract, without, y, BUDGET), fit_plain_trees(without, y, 0)
    later = Encoded(np.column_stack([numbers[:, 0], np.full(len(rows), 7, np.float32)]), without.categories)
    for score in (teacher.score, plain):
        assert roc_auc_score(y, score(without)) > 0.75
        assert np.array_equal(score(later), score(without))
