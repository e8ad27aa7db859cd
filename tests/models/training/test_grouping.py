import numpy as np
import pytest

from models.contract import CategoryFeature, NumberFeature
from models.encoding import Encoded
from models.scoring import Scorer
from models.training.graph import build_graph, dense_encoder
from models.training.grouping import MOST_VALUES, Grouping, ungrouped, unknowing
from models.training.layout import learn_layout
from models.training.quantization import quantize
from models.training.rising_columns import rising_columns
from models.training.shared_columns import MOST_SHARED, learn_groupings
from tests.models.training.test_rising_columns import constants_of

PLACES = 300


class Oracle:
    """Answers as the code says: three kinds of places, of which two differ for rows with x > 0 only."""

    def scores_by_fold(self, rows):
        kind, positive = rows.categories[:, 0] % 3, rows.numbers[:, 0] > 0
        logit = np.where(kind == 0, -2.0, np.where(positive & (kind == 2), 2.0, 0.0))
        other_fold = np.where(rows.categories[:, 0] == 5, -2.0, logit)  # has seen place 5 with negative outcomes
        return [(1 / (1 + np.exp(-one))).astype(np.float32) for one in (logit, other_fold)]


@pytest.fixture(scope="module")
def contract(contract_of):
    place = CategoryFeature(kind="category", values=tuple(f"place {i}" for i in range(PLACES)))
    kind = CategoryFeature(kind="category", values=("a", "b"))
    return contract_of({"x": NumberFeature(kind="number"), "place": place, "kind": kind})


@pytest.fixture(scope="module")
def rows():
    rng = np.random.default_rng(0)
    codes = np.stack([rng.integers(0, PLACES, 3000), rng.integers(0, 2, 3000)], axis=1)
    return Encoded(rng.normal(size=(3000, 1)).astype(np.float32), codes.astype(np.int32))


def test_of_few_values_each_has_a_column_if_it_has_rows_enough():
    grouping = ungrouped(np.array([0] * 20 + [2] * 10 + [3] * 9, np.int32), 5)
    assert grouping.columns.tolist() == [0, -1, 1, -1, -1]
    assert grouping.width == 2
    assert ungrouped(np.arange(2000, dtype=np.int32) % 100, 100).width == MOST_VALUES


def test_values_share_a_column_if_the_teacher_answers_alike_in_every_context(contract, rows):
    place, kind = learn_groupings(contract, rows, Oracle(), 0)
    columns = place.columns[:PLACES]
    kinds = np.arange(PLACES) % 3
    usual = np.arange(PLACES) != 5  # on which the folds disagree
    for column in np.unique(columns[usual]):
        assert len(set(kinds[usual & (columns == column)])) == 1
    assert place.width <= 5
    assert kind.columns.tolist() == [0, 1, -1, -1]
    assert kind.unknowing is None


class Meanings:
    """Answers with so many things that a place means, each by itself; which of them counts depends on x."""

    def __init__(self, things):
        self.meaning = np.random.default_rng(0).normal(size=(PLACES + 2, things))

    def scores_by_fold(self, rows):
        things = self.meaning.shape[1]
        counts = np.cos(rows.numbers * np.arange(things))
        logit = (counts * self.meaning[rows.categories[:, 0]]).sum(1)
        return [(1 / (1 + np.exp(-logit))).astype(np.float32)] * 2


@pytest.mark.parametrize(("things", "least", "most"), [(1, 1, MOST_VALUES), (6, MOST_VALUES + 1, MOST_SHARED)])
def test_values_that_mean_several_things_get_more_columns(contract, rows, things, least, most):
    place, _ = learn_groupings(contract, rows, Meanings(things), 0)
    assert least <= place.width <= most


def test_every_value_has_a_column_the_unseen_too(contract, rows):
    place, _ = learn_groupings(contract, rows, Oracle(), 0)
    assert len(place.columns) == PLACES + 2  # other and missing
    assert (place.columns >= 0).all()


def test_a_row_does_not_know_from_its_column_how_it_came_out(contract, rows):
    groupings = learn_groupings(contract, rows, Oracle(), 0)
    folds = [np.arange(0, 1500), np.arange(1500, 3000)]
    blind = unknowing(rows, groupings, folds)
    columns = groupings[0].columns[blind.categories[:, 0]]
    for fold, outside in enumerate(folds):
        expected = groupings[0].unknowing[fold][rows.categories[outside, 0]]
        assert np.array_equal(columns[outside], expected)
    fives = np.flatnonzero(rows.categories[:, 0] == 5)
    assert len(set(columns[fives])) == 2  # each fold has its own opinion
    assert np.array_equal(blind.categories[:, 1], rows.categories[:, 1])
    assert np.array_equal(blind.numbers, rows.numbers)


def test_shared_columns_are_the_same_in_float_and_int8_and_cost_int8_no_steps(contract, rows):
    rng = np.random.default_rng(1)
    shared = Grouping(rng.integers(0, 12, PLACES + 2).astype(np.int32))
    layout = learn_layout(contract, rows, 8, (), [shared, ungrouped(rows.categories[:, 1], 4)])
    shapes = [(layout.width, 16), (16, 8), (8, 1)]
    layers = [(rng.normal(0, 0.5, s).astype(np.float32), rng.normal(0, 0.5, s[1]).astype(np.float32)) for s in shapes]
    dense = dense_encoder(contract, layout)(rows)
    assert np.array_equal(dense[:, 8:20].argmax(1), shared.columns[rows.categories[:, 0]])
    columns = rising_columns(constants_of(contract, layout, *layers[0]))
    assert columns.places is not None
    assert len(columns.starts) <= 8 + 12 + 4
    file = build_graph(contract, layout, layers)
    floating, int8 = Scorer(file).score(rows), Scorer(quantize(file, rows)).score(rows)
    assert np.abs(floating - int8).mean() < 0.01
    assert np.corrcoef(floating, int8)[0, 1] > 0.999
