"""What the values of a column mean: a number, a yes or no, a date, a text. Decided over all of them, and said.

A reading is made from a column's distinct values, and reads any batch of them. Texts alone are interpreted: what has a
type already keeps it, and only what is said to mean nothing is taken out.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import pyarrow as pa
import pyarrow.compute as pc

from onboarding.date_texts import DateForm, forms_of, has_clock, read_dates
from onboarding.number_texts import (
    BARE,
    PLAIN,
    Signs,
    Style,
    ambiguous,
    are_codes,
    are_whole,
    digits_of,
    has_brackets,
    parsed,
    signs_of,
    styles_of,
)
from onboarding.typed_values import Kind, kind_of, without
from onboarding.words import EMPTY, FALSE, NO_NUMBER, TRUE

MOST_SPELLINGS = 100  # of yes and no
FEW = 100  # distinct values that are looked at first
NEARLY = 0.9  # of the distinct values of a text are numbers


@dataclass(frozen=True)
class Reading:
    """How a column's values are read."""

    kind: Kind
    comment: str = ""  # what was decided, where there was something to decide
    missing: frozenset[str] = frozenset()  # words, in lower case, that mean there is no value
    found: frozenset[str] = frozenset()  # those of them that stand in the column
    whole: bool = False
    style: Style = PLAIN
    signs: Signs = BARE
    form: DateForm | None = None
    other_form: DateForm | None = None  # in which the dates could be as well
    clock: bool = False
    has_point: bool = False  # some number has one
    open_to: tuple[Style, ...] = ()  # other styles that the numbers could be in

    def read(self, values: pa.Array) -> pa.Array:
        """Read values: float64 or int64, boolean, date32 or timestamp, or text; null where there is none."""
        if not pa.types.is_string(values.type):
            return without(values, self.missing)
        encoded = values.dictionary_encode()
        return self._read(encoded.dictionary).take(encoded.indices)

    def _read(self, words: pa.Array) -> pa.Array:
        low = pc.utf8_lower(words)
        if self.missing:
            none = pc.is_in(low, pa.array(sorted(self.missing), pa.string()))
            words = pc.if_else(none, pa.scalar(None, pa.string()), words)
        if self.kind == "number":
            numbers = without(parsed(digits_of(words, self.signs), self.style), self.missing)
            return numbers.cast(pa.int64()) if self.whole else numbers
        if self.kind == "boolean":
            yes = pc.is_in(low, pa.array(sorted(TRUE)))
            return pc.if_else(pc.is_valid(words), yes, pa.scalar(None, pa.bool_()))
        if self.kind == "date" and self.form:
            return read_dates(words, self.form, self.clock)
        return words


def reading_of(values: pa.Array, also_missing: Sequence[str] = ()) -> Reading:
    """Find out how a column's distinct values are to be read."""
    words = frozenset(word.lower() for word in also_missing)
    if not pa.types.is_string(values.type):
        return _typed(values, words)
    few = values.slice(0, FEW)  # what these are not, all of them are not
    for find in (_boolean, _date, _number):
        if (len(few) == len(values) or find(few, words) or not _tells(few, words)) and (found := find(values, words)):
            return found
    return _text(values, words)


def _tells(few: pa.Array, words: frozenset[str]) -> bool:
    """Whether there are values among the few that tell what all are: not if they only say that there is none."""
    return len(_present(few, NO_NUMBER | words)[0]) >= FEW // 2


def key_reading(values: pa.Array, also_missing: Sequence[str] = ()) -> Reading:
    """Read a key: whole numbers where all are written so and none begins with a zero, else texts."""
    words = frozenset(word.lower() for word in also_missing)
    if not pa.types.is_string(values.type):
        return _typed(values, words)
    there, none = _present(values, EMPTY | words)
    plain = len(there) and are_whole(there) and not are_codes(there)
    return Reading("number" if plain else "text", missing=EMPTY | words, found=_lower(none), whole=bool(plain))


def settled(readings: Sequence[Reading], delimiter: str) -> list[Reading]:
    """Decide how numbers like 1,234 are read: as the other columns of the file are, or else by its separator."""
    others = [r for r in readings if r.kind == "number" and not r.open_to and (r.style != PLAIN or r.has_point)]
    commas = sum(reading.style.decimal == "," for reading in others)
    comma = commas > len(others) / 2 if others else delimiter == ";"
    why = "as in the file's other columns" if others else "as is usual in files separated like this one"
    return [_settle(reading, comma, bool(others), why) if reading.open_to else reading for reading in readings]


def _settle(reading: Reading, comma: bool, is_known: bool, why: str) -> Reading:
    fitting = [style for style in reading.open_to if (style.decimal == ",") == comma]
    style = fitting[0] if fitting else reading.style
    if reading.style == PLAIN and not is_known:
        style, why = PLAIN, "as programs write them"
    comment = f"numbers like {style.example} were assumed, {why}"
    return replace(reading, style=style, open_to=(), comment="; ".join(filter(None, (reading.comment, comment))))


def _typed(values: pa.Array, words: frozenset[str]) -> Reading:
    alone = [word for word in words if without(values, frozenset({word})).null_count > values.null_count]
    return Reading(kind_of(values.type), _said_missing(alone), words, frozenset(alone))


def _present(values: pa.Array, missing: frozenset[str]) -> tuple[pa.Array, list[str]]:
    """Return the values that are some, and the words that stand for none, as they are written."""
    none = pc.is_in(pc.utf8_lower(values), pa.array(sorted(missing), pa.string()))
    return values.filter(pc.invert(none)), values.filter(none).to_pylist()


def _lower(words: Sequence[str]) -> frozenset[str]:
    return frozenset(word.lower() for word in words)


def _said_missing(words: Sequence[str]) -> str:
    return f"{', '.join(map(repr, sorted(words)))} {'means' if len(words) == 1 else 'mean'} missing" if words else ""


def _boolean(values: pa.Array, also: frozenset[str]) -> Reading | None:
    """Several spellings of yes and no; one of each is left as the two texts that it is."""
    there, none = _present(values, NO_NUMBER | also)
    low = pc.utf8_lower(there).to_pylist() if len(there) <= MOST_SPELLINGS else []
    if len(low) < 3 or not set(low) <= TRUE | FALSE or not (set(low) & TRUE and set(low) & FALSE):
        return None
    spelled = ", ".join(map(repr, there.to_pylist()))
    comment = "; ".join(filter(None, (f"yes or no, spelled {spelled}", _said_missing(none))))
    return Reading("boolean", comment, NO_NUMBER | also, _lower(none))


def _date(values: pa.Array, also: frozenset[str]) -> Reading | None:
    there, none = _present(values, NO_NUMBER | also)
    forms = forms_of(there)
    if not forms:
        return None
    form, clock = forms[0], has_clock(there, forms[0])
    comment = f"dates like {form.name}"
    if len(forms) > 1:
        comment += f" were assumed ({forms[1].name} would fit too)"
    comment = "; ".join(filter(None, (comment, _said_missing(none))))
    other = forms[1] if len(forms) > 1 else None
    return Reading("date", comment, NO_NUMBER | also, _lower(none), form=form, clock=clock, other_form=other)


def _number(values: pa.Array, also: frozenset[str]) -> Reading | None:
    there, none = _present(values, NO_NUMBER | also)
    signs = signs_of(there)
    if signs is None or not len(there):
        return None
    digits = digits_of(there, signs)
    if are_codes(digits):
        return None
    styles = styles_of(digits)
    if not styles:
        return None
    open_to = tuple(styles) if len(styles) > 1 and ambiguous(digits, styles) else ()
    if styles[0] == PLAIN:
        open_to = open_to if any(style.thousands == "." for style in styles) else ()  # as 1.234 may be
    whole = are_whole(digits) and styles[0] == PLAIN and not open_to
    numbers = parsed(digits, styles[0])
    none += there.filter(pc.is_null(without(numbers, also))).to_pylist()
    said = [_said_missing(none)]
    said += [f"numbers like {styles[0].example}"] if styles[0] != PLAIN and not open_to else []
    said += ["the percent sign is left out: 5 % is 5"] if signs.percent else []
    said += [f"in {signs.currency}"] if signs.currency else []
    said += ["those in brackets are negative"] if has_brackets(there) else []
    return Reading(
        "number",
        "; ".join(filter(None, said)),
        NO_NUMBER | also,
        frozenset(word for word in also if _stands(word, none, numbers)),
        whole=whole,
        style=styles[0],
        signs=signs,
        has_point=bool(pc.any(pc.match_substring(digits, ".")).as_py()),
        open_to=open_to,
    )


def _stands(word: str, none: Sequence[str], numbers: pa.Array) -> bool:
    return word in _lower(none) or without(numbers, frozenset({word})).null_count > 0


def _text(values: pa.Array, also: frozenset[str]) -> Reading:
    there, none = _present(values, EMPTY | also)
    missing = EMPTY | also
    said = [_nearly_numbers(there)]
    if "NA" in none or ("NA" in there.to_pylist() and not _are_country_codes(there)):
        missing, none = missing | {"na"}, [*none, "NA"]
    return Reading("text", "; ".join(filter(None, (*said, _said_missing(none)))), missing, _lower(none))


def _nearly_numbers(values: pa.Array) -> str:
    """Say what keeps a column from being a number, where little does."""
    number = pc.match_substring_regex(values, f"^(?:{PLAIN.pattern})$")
    share = (pc.sum(number).as_py() or 0) / max(len(values), 1)
    others = values.filter(pc.invert(number)).to_pylist()
    if share < NEARLY or not others or are_codes(values.filter(number)):
        return ""
    shown = ", ".join(map(repr, others[:3])) + (", ..." if len(others) > 3 else "")
    return f"numbers but for {shown}: with --missing for such words it is read as a number"


def _are_country_codes(values: pa.Array) -> bool:
    codes = pc.sum(pc.match_substring_regex(values, "^[A-Z]{2}$")).as_py() or 0
    return bool(codes > len(values) / 2 and codes > 2)
