import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from models.declaration import Training
from models.encoding import Encoded
from models.errors import TrainingDataError
from models.training.distillation import lesson, recombine
from models.training.teacher import MANY_ROWS, fit_plain_trees, fit_teacher

BUDGET = Training(teacher_folds=3, teacher_iterations=20)


@pytest.fixture(scope="module")
def taught():
    rng = np.random.default_rng(0)
    numbers = rng.normal(size=(1500, 2)).astype(np.float32)
    numbers[rng.random(1500) < 0.1, 1] = np.nan
    codes = rng.integers(0, 400, (1500, 1)).astype(np.int32)  # more than the trees can tell apart
    y = (rng.random(1500) < 1 / (1 + np.exp(-2 * numbers[:, 0]))).astype(np.float32)
    rows = Encoded(numbers, codes)
    return rows, y, fit_teacher(rows, y, BUDGET)


def test_every_row_has_a_score_of_trees_that_have_not_seen_it(taught):
    rows, y, teacher = taught
    assert 0.75 < roc_auc_score(y, teacher.out_of_fold) < roc_auc_score(y, teacher.score(rows))
    assert len(teacher.iterations) == 3


def test_noise_cannot_be_learnt_out_of_fold():
    rng = np.random.default_rng(1)
    rows = Encoded(rng.normal(size=(2000, 5)).astype(np.float32), np.empty((2000, 0), np.int32))
    y = (rng.random(2000) < 0.3).astype(np.float32)
    assert roc_auc_score(y, fit_teacher(rows, y, BUDGET).out_of_fold) < 0.56


def test_rare_outcomes_get_fewer_folds_and_one_alone_is_refused(taught):
    rows, _, _ = taught
    y = np.zeros(len(rows), np.float32)
    y[:2] = 1
    assert len(fit_teacher(rows, y, BUDGET).iterations) == 2
    y[1] = 0
    with pytest.raises(TrainingDataError, match="1 training rows"):
        fit_teacher(rows, y, BUDGET)


def test_many_rows_are_fitted_in_parallel_with_the_same_result_every_time():
    rng = np.random.default_rng(2)
    rows = Encoded(rng.normal(size=(MANY_ROWS, 2)).astype(np.float32), np.empty((MANY_ROWS, 0), np.int32))
    y = (rng.random(MANY_ROWS) < 1 / (1 + np.exp(-rows.numbers[:, 0]))).astype(np.float32)
    budget = Training(teacher_folds=3, teacher_iterations=3)
    once, again = fit_teacher(rows, y, budget), fit_teacher(rows, y, budget)
    assert np.array_equal(once.out_of_fold, again.out_of_fold)


def test_plain_trees_learn(taught):
    rows, y, _ = taught
    assert roc_auc_score(y, fit_plain_trees(rows, y, 0).score(rows)) > 0.8


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
    shown, targets = lesson(rows, y, teacher, 300, 0)
    assert len(shown) == len(targets) == 1800
    np.testing.assert_allclose(targets[:1500], 0.3 * y + 0.7 * teacher.out_of_fold, rtol=1e-5)
    np.testing.assert_array_equal(targets[1500:], teacher.score(shown[1500:]))
    assert len(lesson(rows, y, teacher, 0, 0)[0]) == 1500
