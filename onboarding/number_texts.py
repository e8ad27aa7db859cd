"""Numbers written by people: decimal commas, thousands separators, percent and currency signs.

Which way of writing is meant is decided over all values of a column, and, where several would do, over the whole file.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

APOSTROPHES = "'\N{RIGHT SINGLE QUOTATION MARK}"
SPACES = " \N{NO-BREAK SPACE}\N{NARROW NO-BREAK SPACE}"
BLANK = f"[\\s{SPACES}]*"
BRACKETS = r"^\(([^()+-]+)\)$"
MINUS = "\N{MINUS SIGN}"
CURRENCIES = r"(?:[$€£¥]|USD|EUR|GBP|CHF|JPY)"
MOST_DIGITS = 15  # of a whole number that a float64 holds exactly; longer ones are names


@dataclass(frozen=True)
class Style:
    """How the digits of a number are set."""

    decimal: str
    thousands: str = ""

    @property
    def example(self) -> str:
        """A number in this style."""
        return f"1{self.thousands[:1]}234{self.decimal}5"

    @property
    def pattern(self) -> str:
        """A regular expression of a number in this style."""
        mark = re.escape(self.decimal)
        if not self.thousands:
            return rf"[+-]?(?:\d+(?:{mark}\d*)?|{mark}\d+)(?:[eE][+-]?\d+)?"
        return rf"[+-]?\d{{1,3}}(?:[{re.escape(self.thousands)}]\d{{3}})*(?:{mark}\d+)?"


PLAIN = Style(".")
STYLES = (
    PLAIN,
    Style(","),
    Style(".", ","),
    Style(",", "."),
    Style(".", SPACES),
    Style(",", SPACES),
    Style(".", APOSTROPHES),
    Style(",", APOSTROPHES),
)


@dataclass(frozen=True)
class Signs:
    """What stands around the digits of every number of a column."""

    percent: bool = False
    currency: str = ""  # as it is written


BARE = Signs()


def signs_of(values: pa.Array) -> Signs | None:
    """Return what stands around all numbers; None where currencies, or percent and plain numbers, are mixed."""
    percent = pc.match_substring_regex(values, rf"\d{BLANK}%$")
    signs = pc.struct_field(pc.extract_regex(values, rf"(?P<sign>{CURRENCIES})"), "sign")
    found = pc.unique(signs.drop_null()).to_pylist()
    share = pc.sum(percent).as_py() or 0
    if share not in (0, len(values)) or len(found) > 1 or (found and share):
        return None
    return Signs(percent=bool(share), currency=found[0] if found else "")


def digits_of(values: pa.Array, signs: Signs) -> pa.Array:
    """Return the numbers without their signs, and the negative ones, however that is written, behind a hyphen."""
    values = pc.replace_substring_regex(pc.replace_substring(values, MINUS, "-"), BRACKETS, r"-\1")
    if signs.percent:
        values = pc.replace_substring_regex(values, rf"{BLANK}%$", "")
    if signs.currency:
        mark = re.escape(signs.currency)
        values = pc.replace_substring_regex(values, rf"^([+-]?){BLANK}{mark}{BLANK}|{BLANK}{mark}$", r"\1")
    return values


def has_brackets(values: pa.Array) -> bool:
    """Whether any stands in brackets, as accountants write negative numbers."""
    return bool(pc.any(pc.match_substring_regex(values, BRACKETS)).as_py())


def styles_of(digits: pa.Array) -> list[Style]:
    """Return every style that all numbers can be read in; several where they leave it open."""
    return [style for style in STYLES if _all_match(digits, style.pattern)]


def ambiguous(digits: pa.Array, styles: Sequence[Style]) -> bool:
    """Whether two styles read the numbers as different ones, like 1,234."""
    first = parsed(digits, styles[0])
    return any(not parsed(digits, style).equals(first) for style in styles[1:])


def parsed(digits: pa.Array, style: Style) -> pa.Array:
    """Read numbers as float64."""
    if style.thousands:
        digits = pc.replace_substring_regex(digits, f"[{re.escape(style.thousands)}]", "")
    if style.decimal != ".":
        digits = pc.replace_substring(digits, style.decimal, ".")
    return digits.cast(pa.float64())


def are_whole(digits: pa.Array) -> bool:
    """Whether all are written as whole numbers, or as such with a .0 behind, as pandas does."""
    return _all_match(digits, r"[+-]?\d+(?:\.0)?")


def are_codes(digits: pa.Array) -> bool:
    """Whether some begin with zeros, like 007, have more digits than a number can hold, or are phone numbers."""
    odd = pc.match_substring_regex(digits, rf"^[+-]?0\d|^[+-]?\d{{{MOST_DIGITS + 1},}}(?:\.0)?$|^\+\d{{8,}}$")
    return bool(pc.any(odd).as_py())


def _all_match(values: pa.Array, pattern: str) -> bool:
    return bool(len(values)) and bool(pc.all(pc.match_substring_regex(values, f"^(?:{pattern})$")).as_py())
