"""Dates and timestamps written by people."""

from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

ZONE = r"(?:Z|(?P<sign>[+-])(?P<zh>\d{2}):?(?P<zm>\d{2}))?"
TIME = r"[ T](?P<h>\d{1,2}):(?P<min>\d{2})(?::(?P<s>\d{2}(?:\.\d+)?))?"
CLOCK = r"[ T]\d{1,2}:\d{2}(?::\d{2}(?:\.\d+)?)?(?:Z|[+-]\d{2}:?\d{2})?"


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
    found = pc.extract_regex(clock, f"^(?:{TIME}{ZONE})?$")

    def number(name: str) -> pa.Array:
        text = pc.struct_field(found, name)
        return pc.if_else(pc.equal(text, ""), "0", text).cast(pa.float64())

    seconds = pc.add(pc.multiply(number("h"), 3600.0), pc.add(pc.multiply(number("min"), 60.0), number("s")))
    zone = pc.add(pc.multiply(number("zh"), 3600.0), pc.multiply(number("zm"), 60.0))
    signed = pc.if_else(pc.equal(pc.struct_field(found, "sign"), "-"), pc.negate(zone), zone)
    micros = pc.round(pc.multiply(pc.subtract(seconds, signed), 1e6)).cast(pa.int64())
    return micros.cast(pa.duration("us"))
