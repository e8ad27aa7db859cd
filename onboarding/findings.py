"""What is wrong with a column as a feature: it names rows, never changes, repeats another, or knows the outcome."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from onboarding.columns import Column, words_of
from onboarding.outcomes import Outcome
from onboarding.staging import Staged

What = Literal["identifier", "constant", "duplicate", "leak", "date", "free text", "empty", "unreadable", "warning"]

LEAK_AUC = 0.98  # of a column alone
SUSPICIOUS_AUC, SUSPICIOUS_LEAD = 0.95, 0.1  # a column alone, and how far it is ahead of the next
WARNED_AUC = 0.9
NEARLY_ALL = 0.95  # distinct values of the rows, of what names rows
MOST_VALUES = 1000  # of a category
LEAST_ROWS = 10  # of a value that a network can learn something about
FEW_COUNTED, MANY_COUNTED = 100, 1000  # rows, from which numbers without a gap, or with some, are counted ones
LONG = 200  # characters of a text that nobody takes for a category, on average
COVERED = 0.3  # share of rows with such values, below which a text is no category
MOSTLY = 0.9  # missing values of the rows, to be warned of
LARGEST = float(np.finfo(np.float32).max)
PURE_ROWS, PURE = 20, 0.98  # rows that have a value, and the share of one outcome among them
NAMES = {"id", "uuid", "guid", "nr", "no", "number", "index", "idx", "hash", "token", "unnamed"}
NAMES |= {"email", "iban", "ssn", "msisdn", "imei"}
PHONES, LEAST_PHONE = {"phone", "telephone", "tel", "mobile", "fax", "handy"}, 1e6  # not phone_minutes


@dataclass(frozen=True)
class Finding:
    """Something to know of a column; `left_out` of the features because of it, or not."""

    column: str
    what: What
    evidence: str
    left_out: bool


def findings_of(columns: Sequence[Column], outcome: Outcome, staged: Staged) -> list[Finding]:
    """Look at the columns that could be features; at most one reason to leave one out."""
    found: dict[str, Finding] = {}
    for column in columns:
        if finding := _by_itself(column, outcome):
            found[column.name] = finding
    for finding in _duplicates([c for c in columns if c.name not in found], staged):
        found[finding.column] = finding
    left = [column for column in columns if column.name not in found]
    for finding in _leaks(left):
        found[finding.column] = finding
    for column in left:
        if column.name not in found and column.absent.rows >= MOSTLY * column.all_rows:
            share = column.absent.rows / column.all_rows
            found[column.name] = Finding(column.name, "warning", f"{share:.1%} of the rows have no value", False)
    return [found[column.name] for column in columns if column.name in found]


def looks_like_a_name(column: str) -> bool:
    """Whether a column is called like what names rows: `customer_id`, `OrderNr`."""
    return not NAMES.isdisjoint(words_of(column))


def _by_itself(column: Column, outcome: Outcome) -> Finding | None:
    for find in (_useless, _identifier, _filled_for_one_outcome, _text):
        if finding := find(column, outcome):
            return finding
    return None


def _useless(column: Column, _: Outcome) -> Finding | None:
    if column.is_number and column.present and np.abs(column.numbers).max() > LARGEST:
        return Finding(column.name, "unreadable", f"numbers beyond {LARGEST:.1e}, which float32 cannot hold", True)
    if not column.present:
        return Finding(column.name, "empty", "no row has a value", True)
    if (few := int(column.labelled.sum())) < LEAST_ROWS:
        return Finding(column.name, "empty", f"only {few} labelled rows have a value, too few to learn from", True)
    if column.distinct == 1 and not column.absent.rows:
        value = column.values[0].as_py()
        shown = str(value) if column.reading.kind == "date" else repr(value)
        return Finding(column.name, "constant", f"every row has {shown}", True)
    return None


def _identifier(column: Column, _: Outcome) -> Finding | None:
    if _are_phones(column):
        return Finding(column.name, "identifier", "phone numbers, by name and length", True)
    share = column.distinct / column.present
    text = f"{column.distinct:,} distinct values in {column.present:,} rows"
    if share < NEARLY_ALL or column.present < PURE_ROWS:
        if looks_like_a_name(column.name) and column.distinct > MOST_VALUES and not _is_fraction(column):
            return Finding(column.name, "identifier", f"named like one, {text}", True)
        return None
    if column.is_text:
        spaces = np.mean([" " in word for word in column.values[:200].to_pylist()])
        what: What = "free text" if spaces > 0.5 else "identifier"
        return Finding(column.name, what, _with_reading(column, text), True)
    if column.is_number and column.is_whole and (looks_like_a_name(column.name) or _is_a_sequence(column)):
        return Finding(column.name, "identifier", text, True)
    return None


def _are_phones(column: Column) -> bool:
    named = not PHONES.isdisjoint(words_of(column.name))
    return named and column.is_number and column.is_whole and bool(np.median(column.numbers) >= LEAST_PHONE)


def _is_fraction(column: Column) -> bool:
    return column.is_number and not column.is_whole


def _is_a_sequence(column: Column) -> bool:
    """Whether whole numbers stand close together, each once, as counted ones do; of a few, without a gap."""
    reach = (column.numbers[-1] - column.numbers[0] + 1) / column.present
    close = 1.5 if column.distinct > MANY_COUNTED else 1
    return bool(column.distinct == column.present >= FEW_COUNTED and reach <= close)


def _filled_for_one_outcome(column: Column, outcome: Outcome) -> Finding | None:
    """Find columns that have a value only where the outcome is known to be the one, or the other."""
    filled, positives = int(column.labelled.sum()), int(column.positives.sum())
    if not column.absent.labelled or filled < PURE_ROWS:
        return None
    for hits, share, word in (
        (positives, outcome.share, "positive"),
        (filled - positives, 1 - outcome.share, "negative"),
    ):
        rest = filled - hits
        expected = filled * (1 - share)
        if hits >= PURE * filled and expected >= PURE_ROWS and rest <= 0.1 * expected:
            evidence = f"filled in for {filled:,} rows, {hits:,} of them {word} ({share:.1%} of all rows are)"
            return Finding(column.name, "leak", evidence, True)
    return None


def _text(column: Column, _: Outcome) -> Finding | None:
    if column.reading.kind == "date":
        return Finding(column.name, "date", "dates are no features: add one like days_since_it to the table", True)
    if not column.is_text:
        return None
    if (length := np.mean([len(word) for word in column.values[:200].to_pylist()])) > LONG:
        return Finding(column.name, "free text", f"texts of {length:,.0f} characters on average", True)
    often = np.sort(column.rows)[::-1][:MOST_VALUES]
    covered = often[often >= LEAST_ROWS].sum() / column.present
    if covered < COVERED and column.distinct > 50:
        words = np.mean([len(word.split()) for word in column.values[:200].to_pylist()])
        evidence = (
            f"{column.distinct:,} distinct values, only {covered:.0%} of the rows have one that {LEAST_ROWS} rows share"
        )
        return Finding(column.name, "free text" if words > 2 else "identifier", _with_reading(column, evidence), True)
    return None


def _with_reading(column: Column, evidence: str) -> str:
    return "; ".join(filter(None, (evidence, column.reading.comment)))


# --- pairs ----------------------------------------------------------------------------------------------------------


def _duplicates(columns: Sequence[Column], staged: Staged) -> list[Finding]:
    """Find columns that say the same as an earlier one: equal, or each value always beside the same other."""
    seen: dict[tuple[bytes, ...], list[Column]] = {}
    found = []
    for column in columns:
        like = seen.setdefault(_signature(column), [])
        twin = next((other for other in like if _say_the_same(staged, other, column)), None)
        if twin is None:
            like.append(column)
        else:
            same = "equal to" if _are_equal(column, twin) else "the same under other values as"
            found.append(Finding(column.name, "duplicate", f"{same} {twin.name!r} in every row", True))
    return found


def _signature(column: Column) -> tuple[bytes, ...]:
    """Return what columns that say the same have in common."""
    counts = np.stack([column.rows, column.labelled, column.positives])
    sorted_counts = counts[:, np.lexsort(counts)]
    absent = np.array([column.absent.rows, column.absent.positives])
    return (sorted_counts.tobytes(), absent.tobytes())


def _are_equal(column: Column, other: Column) -> bool:
    return column.values.equals(other.values) and bool(np.array_equal(column.rows, other.rows))


def _say_the_same(staged: Staged, first: Column, second: Column) -> bool:
    a, b = f"c{first.position}", f"c{second.position}"
    if first.distinct > first.present / 2:  # nearly every pair of such columns is one to one
        if not _are_equal(first, second):
            return False
        ((differ,),) = staged.query(f"SELECT count(*) FILTER (WHERE {a} IS DISTINCT FROM {b}) FROM $rows")  # noqa: S608
        return bool(differ == 0)
    pairs = f"SELECT count(*) FROM (SELECT DISTINCT {a}, {b} FROM $rows)"  # noqa: S608
    ones, others = (f"SELECT count(*) FROM (SELECT DISTINCT {c} FROM $rows)" for c in (a, b))  # noqa: S608
    counts = {staged.query(sql)[0][0] for sql in (pairs, ones, others)}
    return len(counts) == 1


def _leaks(columns: Sequence[Column]) -> list[Finding]:
    """Find columns that alone tell the outcome, as what was written down after it does."""
    by_auc = sorted(columns, key=lambda column: -column.auc)
    found = []
    for place, column in enumerate(by_auc):
        after = by_auc[place + 1].auc if place + 1 < len(by_auc) else 0.5
        evidence = f"alone it ranks the rows with an AUC of {column.auc:.3f}"
        if column.auc >= LEAK_AUC:
            found.append(Finding(column.name, "leak", evidence, True))
        elif place == 0 and column.auc >= SUSPICIOUS_AUC and column.auc - after >= SUSPICIOUS_LEAD:
            found.append(Finding(column.name, "leak", f"{evidence}, the next best {after:.3f}", True))
        elif column.auc >= WARNED_AUC:
            text = f"{evidence}: is it known when the prediction is made?"
            found.append(Finding(column.name, "warning", text, False))
    return found
