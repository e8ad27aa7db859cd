"""Reference rows as they are learnt: the marginals of the training rows, and nobody's row."""

import numpy as np
import pytest

from models.encoding import Encoded
from models.reference import METADATA_KEY, reference_in
from models.scoring import Scorer
from models.training.reference_rows import MOST_ROWS, learn_reference, reference_rows
from tests.models.interacting_model import contract_of, random_rows

CONTRACT = contract_of(2, 1)


def test_each_feature_is_as_often_each_value_as_in_training():
    rows = random_rows(CONTRACT, 4000)
    learnt = learn_reference(CONTRACT, rows, seed=0).encoded
    for own, found in zip(rows.numbers.T, learnt.numbers.T, strict=True):
        assert np.isnan(found).mean() == pytest.approx(np.isnan(own).mean(), abs=1 / MOST_ROWS)
        tenths = np.arange(1, 10) / 10
        assert np.nanquantile(found, tenths) == pytest.approx(np.nanquantile(own, tenths), abs=0.03)
        assert np.isin(found[~np.isnan(found)], own).all()
    shares = [np.bincount(codes.categories[:, 0], minlength=5) / len(codes) for codes in (rows, learnt)]
    assert shares[1] == pytest.approx(shares[0], abs=1 / MOST_ROWS)


def test_no_reference_row_is_a_training_row():
    rows = random_rows(contract_of(6, 0), 3000)
    learnt = learn_reference(contract_of(6, 0), rows, seed=0).encoded
    training = {tuple(row) for row in np.nan_to_num(rows.numbers, nan=9).tolist()}
    assert not training & {tuple(row) for row in np.nan_to_num(learnt.numbers, nan=9).tolist()}


def test_features_are_drawn_independently_of_each_other():
    same = np.random.default_rng(0).normal(size=(3000, 1)).astype(np.float32)
    learnt = learn_reference(contract_of(2, 0), Encoded(np.hstack([same, same]), np.empty((3000, 0), np.int32)), seed=0)
    assert abs(np.corrcoef(learnt.encoded.numbers.T)[0, 1]) < 0.3


def test_the_same_rows_and_seed_give_the_same_reference_and_another_seed_another():
    rows = random_rows(CONTRACT, 500)
    first = learn_reference(CONTRACT, rows, seed=1)
    assert learn_reference(CONTRACT, rows, seed=1) == first
    assert learn_reference(CONTRACT, rows, seed=2) != first


def test_each_row_has_an_order_of_its_own():
    learnt = learn_reference(contract_of(6, 3), random_rows(contract_of(6, 3), 500), seed=0)
    assert len(learnt.orders) == learnt.rows == MOST_ROWS
    assert len(set(learnt.orders)) > 0.9 * MOST_ROWS


@pytest.mark.parametrize("features", [1, 2, 10, 20, 40, 80, 100])
def test_a_reason_costs_so_many_rows_at_most(features):
    rows = reference_rows(features)
    assert 4 <= rows <= MOST_ROWS
    assert 2 * rows * (features - 1) <= 64_000 / features or rows == 4


@pytest.mark.parametrize("size", [(1, 0), (0, 1)])
def test_few_training_rows_and_one_feature_will_do(size):
    contract = contract_of(*size)
    assert learn_reference(contract, random_rows(contract, 3), seed=0).rows == MOST_ROWS


def test_a_trained_file_carries_it(trained):
    scorer = Scorer(trained.onnx)
    assert METADATA_KEY not in trained.contract.to_metadata()
    assert reference_in(scorer.metadata, scorer.contract).rows == MOST_ROWS
