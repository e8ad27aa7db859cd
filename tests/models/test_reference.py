"""Reference rows on their way through a file's metadata."""

import numpy as np
import pytest

from models.errors import ModelFileError
from models.reference import METADATA_KEY, Reference, reference_in
from tests.models.interacting_model import contract_of

REFERENCE = Reference(
    numbers={"number_0": (0.1, None)}, categories={"category_0": (2, 4)}, orders=((0, 1), (1, 0), (0, 1))
)


def changed(old: str, new: str) -> dict[str, str]:
    text = REFERENCE.to_metadata()[METADATA_KEY]
    assert old in text
    return {METADATA_KEY: text.replace(old, new)}


def test_it_is_read_as_it_was_written():
    read = reference_in({"other": "entry", **REFERENCE.to_metadata()}, contract_of(1, 1))
    assert read == REFERENCE
    assert read.rows == 2
    assert np.array_equal(read.encoded.numbers, np.array([[0.1], [np.nan]], np.float32), equal_nan=True)
    assert read.encoded.categories.tolist() == [[2], [4]]


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({}, "no metadata entry 'tandem.reference'"),
        ({METADATA_KEY: "{not json"}, "cannot be read"),
        (changed('"format":1', '"format":2'), "cannot be read"),
        (changed("[0.1,null]", "[0.1]"), "several lengths"),
        (changed("[1,0]", "[1,1]"), "each feature once"),
        (changed("[[0,1],[1,0],[0,1]]", "[]"), "no orders"),
        (changed("number_0", "another"), r"other features \(another, category_0\)"),
    ],
)
def test_what_cannot_be_used_is_an_error_with_a_remedy(metadata, message):
    with pytest.raises(ModelFileError, match=rf"{message}(.|\n)*Train again"):
        reference_in(metadata, contract_of(1, 1))
