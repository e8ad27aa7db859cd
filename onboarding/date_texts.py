"""Dates and timestamps written by people."""

import re
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

# Times of day that there are: 25:61 is none. Groups: h, min, s, half, sign, zh and zm.
TIME = r"[ T](?P<h>[01]?\d|2[0-3]):(?P<min>[0-5]\d)(?::(?P<s>[0-5]\d(?:[.,]\d+)?))?"
TIME_OF_HALF = r" (?P<h>0?[1-9]|1[0-2]):(?P<min>[0-5]\d)(?::(?P<s>[0-5]\d))? ?(?P<half>[AaPp])[Mm]"
ZONE = r"(?: ?(?:Z|UTC)| ?(?P<sign>[+-])(?P<zh>0\d|1[0-4])(?::?(?P<zm>[0-5]\d))?)?"
CLOCK = re.sub(r"\?P<\w+>", "?:", rf"(?:{TIME}{ZONE}|{TIME_OF_HALF})")


@dataclass(frozen=True)
class DateForm:
    """How a column's dates are written."""

    name: str  # as people write it
    pattern: str  # a regular expression with the groups y, m and d
    least: int = 1  # distinct values, below which it may be chance

    def fields(self, values: pa.Array) -> dict[str, pa.Array]:
        """Return the texts of y, m, d and clock of each value; null where it is not written so."""
        found = pc.extract_regex(values, rf"^{self.pattern}(?P<clock>{CLOCK})?$")
        return {name: pc.struct_field(found, name) for name in ("y", "m", "d", "clock")}


FORMS = (
    DateForm("Y-m-d", r"(?P<y>\d{4})-(?P<m>\d{1,2})-(?P<d>\d{1,2})"),
    DateForm("Y/m/d", r"(?P<y>\d{4})/(?P<m>\d{1,2})/(?P<d>\d{1,2})"),
    DateForm("d.m.Y", r"(?P<d>\d{1,2})\.(?P<m>\d{1,2})\.(?P<y>\d{4})"),
    DateForm("d/m/Y", r"(?P<d>\d{1,2})/(?P<m>\d{1,2})/(?P<y>\d{4})"),
    DateForm("m/d/Y", r"(?P<m>\d{1,2})/(?P<d>\d{1,2})/(?P<y>\d{4})"),
    DateForm("d-m-Y", r"(?P<d>\d{1,2})-(?P<m>\d{1,2})-(?P<y>\d{4})"),
    DateForm("m-d-Y", r"(?P<m>\d{1,2})-(?P<d>\d{1,2})-(?P<y>\d{4})"),
    DateForm("Ymd", r"(?P<y>(?:19|20)\d{2})(?P<m>0[1-9]|1[0-2])(?P<d>0[1-9]|[12]\d|3[01])", least=10),
)


def forms_of(values: pa.Array) -> list[DateForm]:
    """Return every form in which all values are days of the calendar; two where day and month could be swapped."""
    return [form for form in FORMS if len(values) >= form.least and not read_dates(values, form, True).null_count]


def has_clock(values: pa.Array, form: DateForm) -> bool:
    """Whether any value has a time of day."""
    return bool(pc.any(pc.not_equal(form.fields(values)["clock"], "")).as_py())


def read_dates(values: pa.Array, form: DateForm, has_clock: bool) -> pa.Array:
    """Read dates, or timestamps in UTC (which a time without a zone is taken to be); null for what is none."""
    parts = form.fields(values)
    day = pc.binary_join_element_wise(
        parts["y"],
        pc.utf8_lpad(parts["m"], 2, "0"),
        pc.utf8_lpad(parts["d"], 2, "0"),
        "-",
    )
    days = pc.strptime(day, format="%Y-%m-%d", unit="us", error_is_null=True)
    days = pc.if_else(pc.equal(pc.strftime(days, format="%Y-%m-%d"), day), days, pa.scalar(None, days.type))
    if not has_clock:
        return days.cast(pa.date32())
    return pc.add(days, _since_midnight(parts["clock"]))


def _since_midnight(clock: pa.Array) -> pa.Array:
    """Return durations in microseconds; the offset of a time zone is taken off. Nothing is midnight."""
    of_day, of_half = (pc.extract_regex(clock, f"^(?:{form})?$") for form in (TIME + ZONE, TIME_OF_HALF))
    zone = _seconds(of_day, "zh", "zm")
    signed = pc.if_else(pc.equal(pc.struct_field(of_day, "sign"), "-"), pc.negate(zone), zone)
    since = pc.subtract(_seconds(of_day, "h", "min", "s"), signed)
    micros = pc.round(pc.multiply(pc.coalesce(since, _since_midnight_of_half(of_half)), 1e6)).cast(pa.int64())
    return micros.cast(pa.duration("us"))


def _since_midnight_of_half(found: pa.Array) -> pa.Array:
    """Return seconds; 12 AM is midnight, and 12 PM noon."""
    seconds = _seconds(found, "h", "min", "s")
    seconds = pc.if_else(pc.greater_equal(seconds, 43200.0), pc.subtract(seconds, 43200.0), seconds)
    after = pc.is_in(pc.struct_field(found, "half"), pa.array(["P", "p"]))
    return pc.if_else(after, pc.add(seconds, 43200.0), seconds)


def _seconds(found: pa.Array, hours: str, minutes: str, seconds: str = "") -> pa.Array:
    """Return float64 seconds of groups of digits, an empty one counting nothing; null where nothing was found."""

    def number(name: str) -> pa.Array:
        text = pc.replace_substring(pc.struct_field(found, name), ",", ".")
        return pc.if_else(pc.equal(text, ""), "0", text).cast(pa.float64())

    whole = pc.add(pc.multiply(number(hours), 3600.0), pc.multiply(number(minutes), 60.0))
    return pc.add(whole, number(seconds)) if seconds else whole
