"""Values that have a type: what they are, and which of them a person's word names."""

import re
from collections.abc import Sequence
from typing import Literal

import pyarrow as pa
import pyarrow.compute as pc

from onboarding.date_texts import forms_of, read_dates
from onboarding.number_texts import PLAIN

Kind = Literal["number", "boolean", "date", "text", "other"]
PLAIN_NUMBER = re.compile(PLAIN.pattern)


def kind_of(dtype: pa.DataType) -> Kind:
    """Return what the values of a type are."""
    if pa.types.is_boolean(dtype):
        return "boolean"
    if pa.types.is_integer(dtype) or pa.types.is_floating(dtype) or pa.types.is_decimal(dtype):
        return "number"
    return "date" if pa.types.is_temporal(dtype) else "other"


def without(values: pa.Array, words: frozenset[str]) -> pa.Array:
    """Make values null that such a word, in lower case, names: -999 a number, 1900-01-01 a day or its midnight."""
    named = _named(values.type, sorted(words))
    if not len(named):
        return values
    return pc.if_else(pc.is_in(_comparable(values), named), pa.scalar(None, values.type), values)


def _comparable(values: pa.Array) -> pa.Array:
    """Return numbers as float64, times as microseconds in UTC, and yes and no as they are."""
    kind = kind_of(values.type)
    if kind == "number":
        return values.cast(pa.float64(), safe=False)
    return values.cast(pa.timestamp("us"), safe=False) if kind == "date" else values


def _named(dtype: pa.DataType, words: Sequence[str]) -> pa.Array:
    """Return what words name of a type, as `_comparable` has it."""
    kind = kind_of(dtype)
    if kind == "number":
        numbers = [word for word in words if PLAIN_NUMBER.fullmatch(word)]
        return pa.array(map(float, numbers), pa.float64())
    if kind == "date":
        texts = [pa.array([word.upper()]) for word in words]
        days = [read_dates(text, form, True) for text in texts for form in forms_of(text)[:1]]
        return pa.concat_arrays([pa.array([], pa.timestamp("us")), *days])
    return pa.array([word == "true" for word in words if word in ("true", "false")], pa.bool_())
