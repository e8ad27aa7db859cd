"""What a source holds: its key, time and label, its columns over all rows, and what is wrong with them."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import pyarrow as pa

from models.declaration import RESERVED
from models.errors import OnboardingError
from onboarding.columns import Column, column_of
from onboarding.findings import Finding, findings_of
from onboarding.outcomes import Outcome, outcome_of
from onboarding.readings import Reading, key_reading, reading_of, settled
from onboarding.rows import Label, Mask, Rows, kept_rows, label_of
from onboarding.sources import named, positions
from onboarding.staging import Frequencies, Staged


@dataclass(frozen=True)
class Request:
    """What a person asks for."""

    name: str
    source: str
    key: str
    label: str
    time: str | None = None
    positive: str | None = None
    missing: tuple[str, ...] = ()
    replace: bool = False


@dataclass(frozen=True)
class Profiled:
    """The source as it was found."""

    staged: Staged
    key: Column
    time: Column | None
    columns: Sequence[Column]  # candidates for features, in the order of the source
    outcome: Outcome
    label: Label
    population: Mask | None
    findings: Sequence[Finding]

    @property
    def rows(self) -> Rows:
        """The rows as they are loaded."""
        columns = [*self.columns, self.key, *([self.time] if self.time else [])]
        columns.sort(key=lambda column: column.position)
        return Rows(self.staged, columns, self.label, self.staged.position(self.outcome.column))

    @property
    def scored(self) -> int:
        """How many rows the population has."""
        return self.staged.rows if self.population is None else int(self.population.sum())


def profile(staged: Staged, request: Request) -> Profiled:
    """Look at every column, over all rows."""
    key, label = named(staged, "--key", request.key), named(staged, "--label", request.label)
    time = named(staged, "--time", request.time) if request.time else None
    _different(key, label, time)
    if key in RESERVED:
        staged, key = _renamed(staged, key)
    if time is None:
        staged = staged.without_repeated_rows(staged.position(key))
    label_position = staged.position(label)
    _no_dates(label, staged.types[label_position])
    words = staged.words(label_position)
    outcome = outcome_of(label, words, request.positive, request.missing)
    columns = _columns(staged, staged.position(key), label_position, outcome, request.missing)
    staged = _without_effect(staged, request.missing, columns, outcome, words)
    by_name = {column.name: column for column in columns}
    key_column, time_column = _key(by_name[key]), _time(by_name[time]) if time else None
    candidates = [column for column in columns if column.name not in (key, time)]
    return Profiled(
        staged,
        key_column,
        time_column,
        candidates,
        outcome,
        label_of(outcome),
        kept_rows(staged, key_column, time_column),
        findings_of(candidates, outcome, staged),
    )


def _renamed(staged: Staged, key: str) -> tuple[Staged, str]:
    """Give a key another name that requests and answers use themselves."""
    other = f"{key}_key"
    if other in staged.names:
        raise OnboardingError(f"--key {key!r} is a name that answers use themselves. Rename the column.")
    names = [other if name == key else name for name in staged.names]
    return staged.with_names(names, f"column {key!r} is {other!r}: answers use that name themselves"), other


def _different(key: str, label: str, time: str | None) -> None:
    if len({key, label, time}) < 3:
        raise OnboardingError(
            f"--key {key!r}, --label {label!r} and --time {time!r} name one column twice. Each has a column of its own."
        )


def _no_dates(label: str, dtype: pa.DataType) -> None:
    if pa.types.is_temporal(dtype):
        raise OnboardingError(
            f"--label {label!r} holds {dtype} values: an outcome is yes or no, 0 or 1, or one of two texts. Make a "
            "column like that of it, and name that one."
        )


def _columns(staged: Staged, key: int, label: int, outcome: Outcome, missing: Sequence[str]) -> list[Column]:
    """Count and read column by column; those whose numbers could be two wait until all others are known."""
    readings: dict[int, Reading] = {}
    columns: dict[int, Column] = {}

    def counted(position: int) -> Frequencies:
        return staged.frequencies(position, label, outcome.positive, outcome.negative)

    for position in (position for position in positions(staged) if position != label):
        found = counted(position)
        reading = key_reading(found.values, missing) if position == key else reading_of(found.values, missing)
        readings[position] = reading
        if not reading.open_to:
            columns[position] = column_of(staged.names[position], position, reading, found)
    for position, reading in zip(readings, settled(list(readings.values()), staged.delimiter), strict=True):
        if position not in columns:
            columns[position] = column_of(staged.names[position], position, reading, counted(position))
    return [columns[position] for position in readings]


def _without_effect(
    staged: Staged, missing: Sequence[str], columns: Sequence[Column], outcome: Outcome, words: Iterable[str | None]
) -> Staged:
    """Note the words that were said to mean missing, and make nothing so."""
    outcomes = {*outcome.positive, *outcome.negative}
    found = {word for column in columns for word in column.reading.found}
    found |= _spelled(word for word in words if word and word not in outcomes)
    notes = []
    for word in (word for word in missing if word.lower() not in found):
        is_outcome = word.lower() in _spelled(outcomes)
        where = f" but {outcome.column!r}, where it is an outcome" if is_outcome else ": it is written otherwise there"
        notes.append(f"--missing {word!r} stands in no column{where}")
    return replace(staged, notes=(*staged.notes, *notes)) if notes else staged


def _spelled(words: Iterable[str]) -> set[str]:
    """Return how a person may write such values of the label."""
    return {spelled for word in words for spelled in (word.lower(), word.lower().removesuffix(".0"))}


def _key(column: Column) -> Column:
    """Keep whole numbers and texts: what a contract can be asked for."""
    if column.is_text or (column.is_number and pa.types.is_integer(column.type)):
        return column
    raise OnboardingError(
        f"--key {column.name!r} holds {column.type} values, like {column.values[0].as_py()!r}: a key is a whole number "
        "or a text. Name another column, or write it as text."
    )


def _time(column: Column) -> Column:
    if column.reading.kind != "date":
        shown = ", ".join(repr(value) for value in column.values[:3].to_pylist())
        raise OnboardingError(
            f"--time {column.name!r} holds {shown}: no dates that are understood. Write them like 2026-11-28 or "
            "2026-11-28 10:30:00, or leave --time out."
        )
    if column.reading.form and column.reading.other_form:
        forms = f"{column.reading.form.name} and {column.reading.other_form.name}"
        raise OnboardingError(
            f"--time {column.name!r} holds dates that {forms} both fit, like {column.values[0].as_py()}. Write them "
            "like 2026-11-28."
        )
    if column.absent.rows:
        raise OnboardingError(
            f"--time {column.name!r} is missing in {column.absent.rows:,} rows. Fill it in, or leave those rows out."
        )
    return column
