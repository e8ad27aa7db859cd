"""What must agree in the declaration of a model of events, beyond what each field says by itself.

Works on raw, unvalidated mappings, so that all errors of a file show at once: whatever has a wrong form is passed over
here, since its own field complains of it.
"""

from collections.abc import Iterator
from typing import Any

from models.contract import HistoryLimits
from models.errors import Problem

EVENT_DAY = "event_day"  # column of the feature table: the day an event belongs to, and the partition
EXACT = 2**53  # up to here a float64 holds every integer
_OF = {"sum": "number", "mean": "number", "ratio": "number", "distinct": "category", "same": "category"}
_EXAMPLES = {"number": "`of: amount`", "category": "`of: country`"}


def event_disagreements(raw: dict[str, Any]) -> list[Problem]:
    """Find what is wrong between the fields of events, history and costs."""
    return [*_rows(raw), *_columns(raw), *_threshold(raw), *_histories(raw)]


def _rows(raw: dict[str, Any]) -> Iterator[Problem]:
    """Check that the declaration says, once, what is scored, and names its examples."""
    population, events, examples = raw.get("population"), raw.get("events"), raw.get("examples")
    if population is None and events is None:
        remedy = (
            "Name the table of the entities that are scored every night, or `events` that are scored as they happen."
        )
        yield Problem("population", None, "is missing, and `events` too", remedy)
    if population is not None and events is not None:
        remedy = "Keep `population` if each row is an entity, `events` if each row is something that happened to one."
        yield Problem("events", events, "stands beside `population`", remedy)
    if events is None and isinstance(examples, dict) and not examples.get("table"):
        yield Problem("examples.table", None, "is missing", "Add this field.")


def _columns(raw: dict[str, Any]) -> Iterator[Problem]:
    """Check that entity, event and time are three columns, with names of their own."""
    events = _part(raw, "events")
    roles = {"entity_key": raw.get("entity_key"), "events.key": events.get("key"), "events.time": events.get("time")}
    seen: dict[str, str] = {}
    for role, column in roles.items():
        if not isinstance(column, str) or not events:
            continue
        if column in seen:
            yield Problem(role, column, f"is also the {seen[column]}", "Name three columns: entity, event and time.")
        seen.setdefault(column, role)
    examples = _part(raw, "examples")
    named = [*roles.items(), ("examples.label", examples.get("label")), *((f"features.{f}", f) for f in _features(raw))]
    if events:
        remedy = "Rename the column: the feature table has one of this name."
        yield from (Problem(role, name, "is a name that is taken", remedy) for role, name in named if name == EVENT_DAY)


def _threshold(raw: dict[str, Any]) -> Iterator[Problem]:
    if raw.get("decision_costs") is not None and raw.get("decision_threshold") is not None:
        remedy = "Keep one: costs find the threshold in training, a threshold fixes it."
        yield Problem("decision_threshold", raw["decision_threshold"], "stands beside `decision_costs`", remedy)


def _histories(raw: dict[str, Any]) -> Iterator[Problem]:
    features, events = _features(raw), raw.get("events")
    histories = {name: f for name, f in features.items() if _kind(f) == "history"}
    if raw.get("history") is not None and events is None:
        yield Problem("history", raw["history"], "is of no use without `events`", "Declare `events`, or remove it.")
    for name, feature in histories.items():
        if events is None:
            remedy = "Declare `events` (table, key and time) instead of `population`, or remove the feature."
            yield Problem(
                f"features.{name}", feature.get("measure"), "counts earlier events, and there are none", remedy
            )
        yield from _measured(name, feature, features)
    for name in dict.fromkeys(_summed(histories)):
        yield from _exact(name, features.get(name), _part(raw, "history"))


def _measured(name: str, feature: dict[str, Any], features: dict[str, Any]) -> Iterator[Problem]:
    """Check that a history is of a feature of the right kind, or of none."""
    measure, of, field = feature.get("measure"), feature.get("of"), f"features.{name}.of"
    wanted = _OF.get(measure) if isinstance(measure, str) else None
    if measure in ("count", "since_last") and of is not None:
        yield Problem(field, of, f"is of no use to the measure {measure!r}", "Remove it: whole events are counted.")
    if wanted is None:
        return
    known = ", ".join(other for other, f in features.items() if _kind(f) == wanted) or "none yet"
    remedy = f"Name a {wanted} of `features` (there are: {known})."
    if of is None:
        yield Problem(field, None, "is missing", f"Say what is measured, like {_EXAMPLES[wanted]}. {remedy}")
    elif isinstance(of, str) and of not in features:
        yield Problem(field, of, "is not one of the features", f"{remedy} What is measured is a feature too.")
    elif isinstance(of, str) and (kind := _kind(features[of])) in ("number", "category", "history") and kind != wanted:
        yield Problem(field, of, f"is a {kind}, and {measure!r} measures a {wanted}", remedy)


def _summed(histories: dict[str, Any]) -> Iterator[str]:
    for feature in histories.values():
        if feature.get("measure") in ("sum", "mean", "ratio") and isinstance(feature.get("of"), str):
            yield feature["of"]


def _exact(name: str, feature: Any, history: dict[str, Any]) -> Iterator[Problem]:
    """Check that no sum can leave the integers that a float64 holds: then the order of a sum does not matter."""
    if _kind(feature) != "number":
        return
    low, high = feature.get("min"), feature.get("max")
    if not (_is_number(low) and _is_number(high)):
        if low is None or high is None:
            remedy = "Give it a `min` and a `max`: sums are kept exactly, which needs to know how large they can be."
            yield Problem(f"features.{name}", None, "is summed in a history, and has not both bounds", remedy)
        return
    default = HistoryLimits()
    resolution, events = history.get("resolution", default.resolution), history.get("max_events", default.max_events)
    if not (_is_number(resolution) and resolution > 0 and _is_number(events)):
        return
    largest = max(abs(low), abs(high)) / resolution * events
    if largest > EXACT:
        remedy = "Narrow its bounds, or write a coarser `history.resolution` or a smaller `history.max_events`."
        message = f"can add up to {largest:.1e} times the resolution, beyond the {EXACT:.1e} that are exact"
        yield Problem(f"features.{name}", max(abs(low), abs(high)), message, remedy)


def _part(raw: dict[str, Any], name: str) -> dict[str, Any]:
    value = raw.get(name)
    return value if isinstance(value, dict) else {}


def _features(raw: dict[str, Any]) -> dict[str, Any]:
    return _part(raw, "features")


def _kind(feature: Any) -> Any:
    return feature.get("kind") if isinstance(feature, dict) else None


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
