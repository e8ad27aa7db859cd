"""Values that have a type: what they are, and which of them a person's word names."""

import re
from collections.abc import Sequence
from typing import Literal

import pyarrow as pa
import pyarrow.compute as pc

from models.errors import OnboardingError
from onboarding.date_texts import forms_of, read_dates
from onboarding.number_texts import PLAIN

Kind = Literal["number", "boolean", "date", "text"]
PLAIN_NUMBER = re.compile(PLAIN.pattern)
WHOLE = re.compile(r"([+-]?\d{1,19})(?:\.0*)?")
INT64 = range(-(2**63), 2**63)


def kind_of(dtype: pa.DataType) -> Kind:
    """Return what the values of a type are, of those that `sources` lets in."""
    if pa.types.is_boolean(dtype):
        return "boolean"
    if pa.types.is_integer(dtype) or pa.types.is_floating(dtype):
        return "number"
    return "date" if pa.types.is_temporal(dtype) else "text"


def without(values: pa.Array, words: frozenset[str]) -> pa.Array:
    """Make values null that such a word, in lower case, names: -999 a number, 1900-01-01 a day or its midnight.

    `OnboardingError` for a word that could be two days.
    """
    comparable = _comparable(values)
    named = _named(comparable.type, sorted(words))
    if not len(named):
        return values
    return pc.if_else(pc.is_in(comparable, named), pa.scalar(None, values.type), values)


def _comparable(values: pa.Array) -> pa.Array:
    """Return whole numbers as int64, times as microseconds in UTC, and other values as they are."""
    if pa.types.is_integer(values.type):
        return values.cast(pa.int64())
    return values.cast(pa.timestamp("us"), safe=False) if kind_of(values.type) == "date" else values


def _named(dtype: pa.DataType, words: Sequence[str]) -> pa.Array:
    """Return what words name of a type, exactly as its values are: -999.9 is another number in float32."""
    kind = kind_of(dtype)
    if pa.types.is_integer(dtype):
        whole = [int(found[1]) for word in words if (found := WHOLE.fullmatch(word))]
        return pa.array([number for number in whole if number in INT64], dtype)
    if kind == "number":
        return pa.array([float(word) for word in words if PLAIN_NUMBER.fullmatch(word)], pa.float64()).cast(dtype)
    if kind == "date":
        return pa.concat_arrays([pa.array([], dtype), *map(_days, words)])
    return pa.array([word == "true" for word in words if word in ("true", "false")], pa.bool_())


def _days(word: str) -> pa.Array:
    text, nothing = pa.array([word.upper()]), pa.array([], pa.timestamp("us"))
    days = pc.unique(pa.concat_arrays([nothing, *(read_dates(text, form, True) for form in forms_of(text))]))
    if len(days) > 1:
        both = " or ".join(sorted(pc.strftime(days, format="%Y-%m-%d").to_pylist()))
        raise OnboardingError(f"--missing {word!r} could be {both}. Write it like one of them.")
    return days
