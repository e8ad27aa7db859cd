"""What a person types: keys are read strictly, by the type that the model's keys have, and features as JSON."""

import pytest

from backends.explanations import json_object, key_of
from models.errors import ContractError, ValueRejectedError


@pytest.mark.parametrize(("text", "key"), [("17", 17), ("-3", -3), ("007", 7), (str(2**63 - 1), 2**63 - 1)])
def test_a_whole_number_is_a_key(text, key):
    assert key_of("customer_id", text, integer=True) == key
    assert key_of("customer_id", text, integer=False) == text


@pytest.mark.parametrize("text", ["", "1_7", " 17", "17\n", "+17", "1e3", "1.0", "٣", "0x1", str(2**63), "9" * 20])
def test_what_only_python_takes_for_a_number_is_no_key(text):
    with pytest.raises(ContractError, match=r"is no key: give a whole number.*in digits alone"):
        key_of("customer_id", text, integer=True)


def test_a_text_that_is_not_utf_8_is_no_key():
    assert key_of("customer_id", "Zoë \N{FAMILY}", integer=False) == "Zoë \N{FAMILY}"
    with pytest.raises(ContractError, match="give a text in UTF-8"):
        key_of("customer_id", "a\udcff", integer=False)


@pytest.mark.parametrize(
    "text", ["", "{", "[1]", '{"a":"\udcff"}', '{"a":"' + chr(0xD800) + '"}', '{"a":1e999}', '{"a":[-1e999]}', "NaN"]
)
def test_what_is_no_json_object_is_refused_in_our_words(text):
    with pytest.raises(ValueRejectedError, match=r"features: is not .*JSON.*Give values by feature name"):
        json_object(text)


def test_features_are_read_as_the_service_reads_them():
    assert json_object('{"a": 3, "b": 0.1, "é": null, "c": "Zoë"}') == {"a": 3, "b": 0.1, "é": None, "c": "Zoë"}
