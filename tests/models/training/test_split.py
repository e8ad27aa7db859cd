import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from models.errors import ColumnError, TrainingDataError
from models.training.split import labels, split_examples

TEXT = {"table": "silver.leaver_examples", "label": "left", "time": "observed_on", "positive": "yes"}
STRATIFIED = {"table": "silver.leaver_examples", "label": "left", "split": {"method": "stratified", "seed": 3}}


def with_label(table, values):
    return table.set_column(table.column_names.index("left"), "left", pa.array(values))


@pytest.mark.parametrize(
    "values",
    [
        [True, False, True],
        [1, 0, 1],
        [1.0, 0.0, 1.0],
    ],
)
def test_labels_are_read_from_booleans_and_numbers(declaration, values):
    y = labels(declaration(), pa.table({"left": values}))
    assert y.dtype == np.float32
    assert y.tolist() == [1, 0, 1]


@pytest.mark.parametrize("dictionary", [False, True])
def test_labels_are_read_from_texts(declaration, dictionary):
    column = pa.array(["yes", "no", "yes"])
    y = labels(declaration(examples=TEXT), pa.table({"left": column.dictionary_encode() if dictionary else column}))
    assert y.tolist() == [1, 0, 1]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([True, None, False], "missing in 1 of 3"),
        ([0.0, float("nan"), 1.0], "missing in 1 of 3"),
        ([0, 1, 2], "value 2: only 0 and 1"),
        ([1, 1], "1 in every row"),
        (["yes", "no"], "say which means yes"),
        (pa.array([], pa.bool_()), "no rows"),
        (pa.array([1, 2], pa.date32()), "type date32"),
    ],
)
def test_labels_that_cannot_be_learnt_are_refused(declaration, values, message):
    with pytest.raises(TrainingDataError, match=message):
        labels(declaration(), pa.table({"left": values}))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (["Yes", "no"], "never 'yes', only 'Yes', 'no'"),
        (["yes", "no", "maybe"], "3 values"),
        (["yes", "yes"], "'yes' in every row"),
        ([True, False], "for texts only"),
    ],
)
def test_texts_must_be_two_and_one_of_them_positive(declaration, values, message):
    with pytest.raises(TrainingDataError, match=message):
        labels(declaration(examples=TEXT), pa.table({"left": values}))


def test_missing_columns_are_named(declaration, examples):
    table = examples(200)
    with pytest.raises(ColumnError, match="no label column 'left'"):
        labels(declaration(), table.drop_columns("left"))
    with pytest.raises(ColumnError, match="no time column 'observed_on'"):
        split_examples(declaration(), table.drop_columns("observed_on"))


@pytest.mark.parametrize("method", ["time", "stratified"])
def test_every_row_is_in_exactly_one_part(declaration, examples, method):
    declared = declaration() if method == "time" else declaration(examples=STRATIFIED)
    split = split_examples(declared, examples(3000))
    together = np.concatenate([split.train, split.calibration, split.test])
    assert sorted(together) == list(range(3000))
    assert len(split.calibration) == pytest.approx(0.1 * (3000 - len(split.test)), abs=2)


@pytest.mark.parametrize("kind", [pa.date32(), pa.timestamp("us"), pa.timestamp("ns", "Europe/Berlin")])
def test_the_test_set_is_the_latest_months(declaration, examples, kind):
    table = examples(3000)
    times = table["observed_on"].cast(pa.timestamp("us")).cast(kind)
    split = split_examples(
        declaration(), table.set_column(table.column_names.index("observed_on"), "observed_on", times)
    )
    months = pc.month(times).to_numpy()
    assert set(months[split.test]) == {11, 12}
    assert set(months[split.train]) == set(months[split.calibration]) == set(range(1, 11))
    assert split.description["test_months"] == "2026-11 to 2026-12"


def test_the_stratified_split_keeps_the_share_of_each_class(declaration, examples):
    table = examples(3000)
    y = labels(declaration(), table)
    split = split_examples(declaration(examples=STRATIFIED), table)
    assert len(split.test) == 750
    for part in (split.train, split.calibration, split.test):
        assert y[part].mean() == pytest.approx(y.mean(), abs=0.01)


def test_rows_of_a_stratified_test_set_stay_there_when_others_are_added(declaration, examples):
    declared, table = declaration(examples=STRATIFIED), examples(3000)
    before, after = split_examples(declared, table.slice(500)), split_examples(declared, table)
    then, now = set(before.test + 500), set(after.test)
    assert len(then & now) > 0.97 * len(then)
    shuffled = np.random.default_rng(0).permutation(3000)
    assert set(shuffled[split_examples(declared, table.take(pa.array(shuffled))).test]) == now


def test_rows_that_are_alike_are_on_both_sides_of_a_stratified_split(declaration, examples):
    declared, few = declaration(examples=STRATIFIED), examples(40)
    many = pa.concat_tables([few] * 50)
    in_test = np.zeros(len(many), np.bool_)
    in_test[split_examples(declared, many).test] = True
    shares = in_test.reshape(50, 40).mean(0)  # of the copies of each row
    assert shares.min() > 0.05
    assert shares.max() < 0.5
    more = pa.concat_tables([few] * 60)  # with more copies of each, those of before are where they were
    again = split_examples(declared, more).test
    assert np.isin(np.flatnonzero(in_test), again).mean() > 0.8


def test_a_value_that_goes_missing_moves_no_other_row_out_of_a_stratified_test_set(declaration, examples):
    declared, table = declaration(examples=STRATIFIED), examples(3000)
    before = split_examples(declared, table).test
    for name in ("installed_at", "same_for_all", "plan"):
        i, column = table.column_names.index(name), table[name]
        gone = pa.chunked_array([pa.nulls(1, column.type), *column.slice(1).chunks])
        after = split_examples(declared, table.set_column(i, name, gone)).test
        assert len(set(before) ^ set(after)) <= 2, name


def test_a_missing_feature_is_told_by_who_encodes_and_not_by_the_split(declaration, examples):
    table = examples(500).drop_columns(["plan"])
    assert len(split_examples(declaration(examples=STRATIFIED), table).test)


def test_the_split_depends_on_the_seed_alone(declaration, examples):
    table, other = examples(500), STRATIFIED | {"split": {"method": "stratified", "seed": 4}}
    once, again = (split_examples(declaration(examples=STRATIFIED), table) for _ in range(2))
    assert np.array_equal(once.test, again.test)
    assert np.array_equal(once.calibration, again.calibration)
    assert not np.array_equal(once.test, split_examples(declaration(examples=other), table).test)


def test_too_few_months_are_reported_with_what_was_found(declaration, examples):
    table = examples(500)
    short = table.filter(pc.greater(pc.month(table["observed_on"]), 10))
    with pytest.raises(TrainingDataError, match="spans 2026-11 to 2026-12, but the latest 2 calendar months"):
        split_examples(declaration(), short)


def test_times_must_be_known_and_be_times(declaration, examples):
    table = examples(50)
    position = table.column_names.index("observed_on")
    with pytest.raises(TrainingDataError, match="type int64"):
        split_examples(declaration(), table.set_column(position, "observed_on", pa.array(range(50))))
    holes = pc.if_else(pc.equal(table["customer_id"], 3), None, table["observed_on"])
    with pytest.raises(TrainingDataError, match="missing in 1 of 50"):
        split_examples(declaration(), table.set_column(position, "observed_on", holes))


def test_a_part_with_one_outcome_is_refused(declaration, examples):
    table = examples(500)
    early = pc.less(pc.month(table["observed_on"]), 11)
    with pytest.raises(TrainingDataError, match=r"test part .* 0 of them positive"):
        split_examples(declaration(), with_label(table, pc.and_(table["left"], early).to_pylist()))
