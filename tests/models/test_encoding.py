import json
import math
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from models.contract import CategoryFeature, Contract, Feature, NumberFeature
from models.encoding import Encoded, encode_arrow, encode_rows, entity_key_type
from models.errors import ColumnError, ValueRejectedError
from tests.tiny_model import tiny_contract, tiny_rows

NUMBER = NumberFeature(kind="number", missing=True)
PLAN = CategoryFeature(kind="category", values=("basic", "plus", "pro"), missing=True)


def contract_of(**features: Feature) -> Contract:
    return tiny_contract(features=features)


def bits(encoded: Encoded) -> tuple[Any, ...]:
    return (*encoded.numbers.shape, encoded.numbers.tobytes(), *encoded.categories.shape, encoded.categories.tobytes())


def through_json(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows as a client sends them: what the lake's reader gives, written and read as JSON."""
    return json.loads(json.dumps(rows, default=float))


def assert_both_paths_agree(contract: Contract, table: pa.Table) -> Encoded:
    encoded = encode_arrow(contract, table)
    requests = through_json(table.select(list(contract.features)).to_pylist())
    assert bits(encode_rows(contract, requests)) == bits(encoded)
    single = [encode_rows(contract, [row]) for row in requests]
    assert [bits(row) for row in single] == [bits(encoded[i : i + 1]) for i in range(len(encoded))]
    return encoded


# --- Arrow and JSON mean the same -------------------------------------------------------------------------------------

FLOATS = {"allow_nan": False, "allow_infinity": False}
LARGEST = float(np.finfo(np.float32).max)
NUMBER_COLUMNS = {
    "int32": (pa.int32(), st.integers(-(2**31), 2**31 - 1)),
    "int64": (pa.int64(), st.integers(-(2**63), 2**63 - 1)),
    "float32": (pa.float32(), st.floats(width=32, **FLOATS)),
    "float64": (pa.float64(), st.floats(-LARGEST, LARGEST, **FLOATS)),
    "decimal": (pa.decimal128(12, 4), st.decimals(-(10**8) + 1, 10**8 - 1, places=4)),
    "wide_decimal": (pa.decimal128(38, 18), st.decimals(-(10**20) + 1, 10**20 - 1, places=18)),
    "boolean": (pa.bool_(), st.booleans()),
    "dictionary": (pa.dictionary(pa.int32(), pa.int64()), st.integers(-50, 50)),
}
WORDS = st.sampled_from([*PLAN.values, "unseen", "Basic", "basic ", "", "ünïcode"])
CATEGORY_COLUMNS = {
    "string": (pa.string(), WORDS),
    "large_string": (pa.large_string(), WORDS),
    "int8_dictionary": (pa.dictionary(pa.int8(), pa.string()), WORDS),
    "int32_dictionary": (pa.dictionary(pa.int32(), pa.large_string()), WORDS),
}


@pytest.mark.parametrize("kind", NUMBER_COLUMNS)
def test_numbers_agree_bit_for_bit(kind: str):
    dtype, values = NUMBER_COLUMNS[kind]

    @given(st.lists(st.none() | values, max_size=20))
    def agree(column: list[Any]) -> None:
        encoded = assert_both_paths_agree(contract_of(x=NUMBER), pa.table({"x": pa.array(column, dtype)}))
        assert np.isnan(encoded.numbers[:, 0]).tolist() == [value is None for value in column]

    agree()


@pytest.mark.parametrize("kind", CATEGORY_COLUMNS)
def test_texts_agree_bit_for_bit(kind: str):
    dtype, values = CATEGORY_COLUMNS[kind]

    @given(st.lists(st.none() | values, max_size=20))
    def agree(column: list[str | None]) -> None:
        encoded = assert_both_paths_agree(contract_of(plan=PLAN), pa.table({"plan": pa.array(column, dtype)}))
        codes = [4 if word is None else PLAN.values.index(word) if word in PLAN.values else 3 for word in column]
        assert encoded.categories[:, 0].tolist() == codes

    agree()


@given(st.lists(st.none() | st.integers(-3, 12), max_size=20), st.lists(st.none() | st.booleans(), min_size=20))
def test_integers_and_booleans_are_categories_too(whole: list[int | None], flags: list[bool | None]):
    contract = contract_of(
        grade=CategoryFeature(kind="category", values=("1", "2", "10"), missing=True),
        vip=CategoryFeature(kind="category", values=("true",), missing=True),
    )
    table = pa.table({"grade": pa.array(whole, pa.int32()), "vip": pa.array(flags[: len(whole)], pa.bool_())})
    encoded = assert_both_paths_agree(contract, table)
    of_grade, of_vip = {1: 0, 2: 1, 10: 2, None: 4}, {True: 0, False: 1, None: 2}
    assert encoded.categories.tolist() == [
        [of_grade.get(grade, 3), of_vip[vip]] for grade, vip in zip(whole, flags, strict=False)
    ]


@settings(deadline=None)  # of hypothesis, which a busy machine misses
@given(st.integers(0, 2**32), st.integers(0, 30))
@example(0, 0)
def test_whole_rows_agree_whatever_else_the_table_holds(seed: int, rows: int):
    contract = tiny_contract()
    requests = tiny_rows(contract, rows, seed)
    columns = {name: pa.array([row[name] for row in requests], TYPES[name]) for name in reversed(contract.features)}
    table = pa.table({"customer_id": np.arange(rows), **columns, "note": pa.array(["?"] * rows, pa.string())})
    assert_both_paths_agree(contract, table)


TYPES = {
    "tenure_months": pa.float64(),
    "age_years": pa.float32(),
    "balance": pa.float64(),
    "plan": pa.string(),
    "channel": pa.dictionary(pa.int8(), pa.string()),
}


@pytest.mark.parametrize("value", [16777217, 2**24 + 3, 2**53 + 1, 2**63 - 1, -(2**63), 9007199791611905])
def test_large_integers_are_rounded_once(value: int):
    # 9007199791611905 becomes another float32 when it goes through float64
    table = pa.table({"x": pa.array([value], pa.int64())})
    encoded = assert_both_paths_agree(contract_of(x=NUMBER), table)
    assert encoded.numbers[0, 0] == np.array(value, np.int64).astype(np.float32)


@pytest.mark.parametrize("value", [1e20, 2.0**70, -9.3e18, 123456789.0])
def test_a_float_written_without_its_point_is_the_same_number(value: float):
    # JavaScript writes 1e20 as 100000000000000000000
    arrow = encode_arrow(contract_of(x=NUMBER), pa.table({"x": [value]}))
    assert bits(encode_rows(contract_of(x=NUMBER), [{"x": int(value)}])) == bits(arrow)


def test_nan_and_null_and_an_absent_key_are_all_missing():
    contract = contract_of(x=NUMBER, plan=PLAN)
    arrow = encode_arrow(contract, pa.table({"x": [math.nan, None], "plan": pa.array([None, None], pa.string())}))
    rows = encode_rows(contract, [{"x": math.nan, "plan": None}, {}])
    for encoded in (arrow, rows):
        assert np.isnan(encoded.numbers).all()
        assert (encoded.categories == PLAN.missing_code).all()


def test_true_is_one_and_zero_keeps_its_sign():
    contract = contract_of(x=NUMBER)
    assert encode_rows(contract, [{"x": True}]).numbers.tolist() == [[1.0]]
    assert_both_paths_agree(contract, pa.table({"x": [-0.0, 0.0, 1e-50, -1e-45]}))


# --- the shapes that Arrow data come in -------------------------------------------------------------------------------


def test_chunks_with_dictionaries_of_their_own():
    first = pa.DictionaryArray.from_arrays(pa.array([0, 1, None], pa.int8()), pa.array(["pro", "basic"]))
    second = pa.DictionaryArray.from_arrays(pa.array([0, 1, 2], pa.int8()), pa.array(["basic", "unseen", "pro"]))
    column = pa.chunked_array([first, second, first.slice(1, 1)])
    assert column.num_chunks == 3
    encoded = encode_arrow(contract_of(plan=PLAN), pa.table({"plan": column}))
    assert encoded.categories[:, 0].tolist() == [2, 0, 4, 0, 3, 2, 0]


def test_chunked_numbers():
    column = pa.chunked_array([[1, None], [], [3]], pa.int32())
    encoded = encode_arrow(contract_of(x=NUMBER), pa.table({"x": column}))
    assert encoded.numbers[:, 0].tolist() == pytest.approx([1, math.nan, 3], nan_ok=True)


def test_a_null_inside_the_dictionary_is_missing():
    column = pa.DictionaryArray.from_arrays(pa.array([0, 1, 2], pa.int8()), pa.array(["plus", None, "new"]))
    assert encode_arrow(contract_of(plan=PLAN), pa.table({"plan": column})).categories[:, 0].tolist() == [1, 4, 3]


@pytest.mark.parametrize(("indices", "words"), [(pa.int8(), 128), (pa.uint8(), 256), (pa.int16(), 300)])
def test_a_dictionary_as_large_as_its_indices_reach(indices: pa.DataType, words: int):
    values = tuple(f"word {i}" for i in range(words))
    column = pa.DictionaryArray.from_arrays(pa.array([0, None, words - 1], indices), pa.array(values))
    contract = contract_of(word=CategoryFeature(kind="category", values=values, missing=True))
    encoded = encode_arrow(contract, pa.table({"word": column}))
    assert encoded.categories[:, 0].tolist() == [0, words + 1, words - 1]


@pytest.mark.parametrize("start", [0, 1, 7, 8, 9, 64])
@pytest.mark.parametrize("rows", [0, 1, 30])
def test_slices_read_their_own_rows(start: int, rows: int):
    contract = tiny_contract()
    requests = tiny_rows(contract, 100, seed=3)
    columns = {name: pa.array([row[name] for row in requests], TYPES[name]) for name in contract.features}
    whole = encode_arrow(contract, pa.table(columns))
    for data in (pa.table(columns), pa.record_batch(columns)):
        assert bits(encode_arrow(contract, data.slice(start, rows))) == bits(whole[start : start + rows])


def test_no_rows_have_the_right_shape():
    contract = tiny_contract()
    empty = pa.schema(list(TYPES.items())).empty_table()
    for data in (empty, empty.select([]).from_batches([], empty.schema), pa.RecordBatch.from_pylist([], empty.schema)):
        encoded = encode_arrow(contract, data)
        assert (encoded.numbers.shape, encoded.numbers.dtype) == ((0, 3), np.float32)
        assert (encoded.categories.shape, encoded.categories.dtype) == ((0, 2), np.int32)
        assert len(encoded) == 0
    assert bits(encode_rows(contract, [])) == bits(encoded)


def test_a_contract_without_categories_or_without_numbers():
    table = pa.table({"x": [1.0, 2.0], "plan": ["pro", "basic"]})
    assert encode_arrow(contract_of(x=NUMBER), table).categories.shape == (2, 0)
    assert encode_arrow(contract_of(plan=PLAN), table).numbers.shape == (2, 0)


def test_encoded_rows_are_picked_by_slice_mask_and_position():
    contract = contract_of(x=NUMBER, plan=PLAN)
    rows = encode_arrow(contract, pa.table({"x": [1.0, 2.0, 3.0], "plan": ["basic", "plus", "pro"]}))
    for pick in (slice(1, 3), np.array([False, True, True]), np.array([1, 2])):
        assert rows[pick].numbers.tolist() == [[2.0], [3.0]]
        assert rows[pick].categories.tolist() == [[1], [2]]


# --- what is refused --------------------------------------------------------------------------------------------------


def test_every_wrong_column_is_named_at_once():
    table = pa.table({"age_years": ["44"], "balance": [b"1"], "plan": [1.5], "channel": ["web"]})
    with pytest.raises(ColumnError) as caught:
        encode_arrow(tiny_contract(), table)
    message = str(caught.value)
    assert "model 'tiny'" in message
    assert "'tenure_months' is missing" in message
    assert "'age_years' has type string" in message
    assert "'balance' has type binary" in message
    assert "'plan' has type double" in message
    assert "'channel'" not in message


@pytest.mark.parametrize("values", [pa.array([1], pa.timestamp("us")), pa.array([[1.0]]), pa.array([{"a": 1}])])
def test_columns_of_no_plain_type_are_refused(values: pa.Array):
    for feature in (NUMBER, PLAN):
        with pytest.raises(ColumnError, match="'x' has type"):
            encode_arrow(contract_of(x=feature), pa.table({"x": values}))


def test_a_column_that_stands_twice_is_refused():
    table = pa.Table.from_arrays([pa.array([1.0]), pa.array([2.0])], names=["x", "x"])
    with pytest.raises(ColumnError, match="'x' stands twice"):
        encode_arrow(contract_of(x=NUMBER), table)


BOUNDED = NumberFeature(kind="number", min=-1.5, max=0.1)


@pytest.mark.parametrize("value", [-1.5, 0.1, 0, np.nextafter(0.1, 0)])
def test_bounds_include_themselves(value: float):
    # 0.1 as float32 is above 0.1: bounds are compared in float32, as the values are
    assert_both_paths_agree(contract_of(x=BOUNDED), pa.table({"x": [float(value)]}))


@pytest.mark.parametrize("value", [-1.5001, 0.1001, 1e39, -1e39, math.inf, -math.inf])
def test_values_out_of_bounds_are_refused_in_both_paths(value: float):
    table = pa.table({"x": [0.0, value, 0.05]})
    with pytest.raises(ValueRejectedError, match=r"x: is out of bounds in 1 rows .* from -1.5 to 0.1"):
        encode_arrow(contract_of(x=BOUNDED), table)
    with pytest.raises(ValueRejectedError, match=r"x\[1\]: is out of bounds"):
        encode_rows(contract_of(x=BOUNDED), table.to_pylist())


@pytest.mark.parametrize("feature", [NUMBER, NumberFeature(kind="number", min=-1e300, max=1e300)])
@pytest.mark.parametrize("value", [math.inf, -math.inf, 1e39, 2**200])
def test_what_float32_cannot_hold_never_fits(feature: NumberFeature, value: float):
    with pytest.raises(ValueRejectedError, match="out of bounds"):
        encode_rows(contract_of(x=feature), [{"x": value}])
    with pytest.raises(ValueRejectedError, match="out of bounds"):
        encode_arrow(contract_of(x=feature), pa.table({"x": [float(value)]}))


@pytest.mark.parametrize("value", [10**400, -(10**400)])
def test_integers_beyond_float64_are_refused_and_no_crash(value: int):
    with pytest.raises(ValueRejectedError, match="out of bounds"):
        encode_rows(contract_of(x=NUMBER), [{"x": value}])


def test_missing_values_are_refused_where_they_may_not_be():
    contract = contract_of(
        x=NumberFeature(kind="number", min=0), plan=CategoryFeature(kind="category", values=("basic",))
    )
    table = pa.table({"x": [1.0, None, None, math.nan], "plan": ["basic", None, "basic", "new"]})
    with pytest.raises(ValueRejectedError) as caught:
        encode_arrow(contract, table)
    assert [(p.field, p.message) for p in caught.value.problems] == [
        ("x", "is missing in 3 rows"),
        ("plan", "is missing in 1 rows"),
    ]
    with pytest.raises(ValueRejectedError) as caught:
        encode_rows(contract, [{"x": 1.0, "plan": "basic"}, {"x": None}])
    assert [p.field for p in caught.value.problems] == ["x[1]", "plan[1]"]
    assert "one of: basic." in caught.value.problems[1].remedy


def test_a_request_shows_all_of_its_problems_with_field_value_and_remedy():
    with pytest.raises(ValueRejectedError) as caught:
        encode_rows(
            tiny_contract(),
            [{"tenure_months": "12", "age_years": 300, "balance": [1], "plan": 1.5, "channel": {}, "plann": "pro"}],
        )
    assert {p.field: p.message for p in caught.value.problems} == {
        "plann": "is not a feature",
        "tenure_months": "is not a number",
        "age_years": "is out of bounds",
        "balance": "is not a number",
        "plan": "is not a text",
        "channel": "is not a text",
    }
    found = {p.field: p for p in caught.value.problems}
    assert found["age_years"].value == 300
    assert found["age_years"].remedy == "Give a finite number from 16 to 110, or null."
    assert "tenure_months, age_years" in found["plann"].remedy


def test_rows_of_a_batch_are_named_by_their_position():
    good = tiny_rows(tiny_contract(), 3)
    with pytest.raises(ValueRejectedError) as caught:
        encode_rows(tiny_contract(), [good[0], good[1] | {"balance": None}, good[2] | {"typo": 1}])
    assert [p.field for p in caught.value.problems] == ["balance[1]", "typo[2]"]


# --- the entity key ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dtype", "kind"),
    [(pa.int64(), "integer"), (pa.int32(), "integer"), (pa.string(), "string"), (pa.large_string(), "string")],
)
def test_entity_keys_are_integers_or_texts(dtype: pa.DataType, kind: str):
    assert entity_key_type(pa.schema([("id", dtype)]), "id") == kind


@pytest.mark.parametrize("dtype", [pa.float64(), pa.date32(), pa.bool_(), pa.decimal128(10, 0)])
def test_other_types_are_no_entity_key(dtype: pa.DataType):
    with pytest.raises(ColumnError, match="'id' must be a column of integers or texts, but it has type"):
        entity_key_type(pa.schema([("id", dtype)]), "id")


def test_a_missing_entity_key_names_the_columns_there_are():
    with pytest.raises(ColumnError, match=r"no such column.*customer, age"):
        entity_key_type(pa.schema([("customer", pa.int64()), ("age", pa.int32())]), "id")
