"""Keys as a person types them: read strictly, by the type that the model's keys have."""

import pytest

from backends.explanations import key_of
from models.errors import ContractError


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
