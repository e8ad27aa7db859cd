"""What a score is explained against: rows of nobody, which travel inside the ONNX file beside the contract.

Each feature of them is drawn by itself from what the training set had, so that a row is like a customer's only by
chance. Beside the rows stand the orders in which features are exchanged (`models.reasons`), so that reasons follow from
the file alone. It is no part of the contract: nothing that scores a row reads it, and a file without one scores too.
"""

import math
from collections.abc import Mapping
from typing import Literal, Self

import numpy as np
from pydantic import ValidationError, model_validator

from models.contract import Contract, Frozen
from models.encoding import Encoded
from models.errors import ModelFileError

METADATA_KEY = "tandem.reference"


class Reference(Frozen):
    """Rows by column, by the contract's names, and orders of its features."""

    format: Literal[1] = 1
    numbers: dict[str, tuple[float | None, ...]]  # float32, in decimal digits; None is missing
    categories: dict[str, tuple[int, ...]]  # codes of the vocabulary
    orders: tuple[
        tuple[int, ...], ...
    ]  # positions of `numbers` and then `categories`; order i is walked from row i % rows

    @model_validator(mode="after")
    def _parts_agree(self) -> Self:
        columns = [*self.numbers.values(), *self.categories.values()]
        whole = list(range(len(columns)))
        if not columns or not self.orders or not self.rows or len({len(column) for column in columns}) > 1:
            raise ValueError("it has no rows, no orders, or columns of several lengths")
        if any(sorted(order) != whole for order in self.orders):
            raise ValueError("an order does not have each feature once")
        return self

    @property
    def rows(self) -> int:
        """How many rows it has."""
        return len(next(iter([*self.numbers.values(), *self.categories.values()])))

    @property
    def encoded(self) -> Encoded:
        """The rows, ready for the graph."""
        numbers = np.full((self.rows, len(self.numbers)), math.nan, np.float32)
        for j, column in enumerate(self.numbers.values()):
            numbers[:, j] = [math.nan if value is None else value for value in column]
        categories = np.empty((self.rows, len(self.categories)), np.int32)
        for j, codes in enumerate(self.categories.values()):
            categories[:, j] = codes
        return Encoded(numbers, categories)

    def to_metadata(self) -> dict[str, str]:
        """Return the entry for the ONNX file's `metadata_props`."""
        return {METADATA_KEY: self.model_dump_json()}


def reference_in(metadata: Mapping[str, str], contract: Contract) -> Reference:
    """Read the reference out of an ONNX file's metadata; `ModelFileError` when it has none that fits the contract."""
    if METADATA_KEY not in metadata:
        raise ModelFileError(
            f"This version of {contract.model} gives no reasons: its ONNX file has no metadata entry {METADATA_KEY!r}, "
            "since it was trained before there were any. Train again, and promote the new version."
        )
    try:
        reference = Reference.model_validate_json(metadata[METADATA_KEY])
    except ValidationError as error:
        raise ModelFileError(
            f"The reference rows inside the ONNX file of {contract.model} cannot be read: {error}. Train again with "
            "this version of Tandem."
        ) from error
    if [*reference.numbers, *reference.categories] != [*contract.numbers, *contract.categories]:
        raise ModelFileError(
            f"The reference rows inside the ONNX file are not those of {contract.model}: they have other features "
            f"({', '.join([*reference.numbers, *reference.categories])}). Train again."
        )
    return reference
