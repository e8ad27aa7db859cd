"""What the columns of a model's tables mean, and which columns they are made of: for Dagster's UI and OpenLineage."""

from collections.abc import Iterable, Mapping

import dagster as dg

from assets.metadata import table_key
from models.contract import CategoryFeature, Feature, HistoryFeature
from models.declaration import Declaration
from models.event_rules import EVENT_DAY

SHOWN = 8  # values of a vocabulary


def column_lineage(sources: Mapping[str, Iterable[tuple[dg.AssetKey, str]]]) -> dg.TableColumnLineage:
    """Say which columns of which assets each column is made of."""
    return dg.TableColumnLineage(
        {column: [dg.TableColumnDep(key, name) for key, name in made_of] for column, made_of in sources.items()}
    )


def same_columns(key: dg.AssetKey, columns: Iterable[str]) -> dg.TableColumnLineage:
    """Say that each column is one of another asset, as it is there."""
    return column_lineage({column: [(key, column)] for column in columns})


def lineage_of_predictions(declaration: Declaration) -> dg.TableColumnLineage:
    """Say that a score, its decision and its reasons are made of all features."""
    name, population = declaration.name, table_key(declaration.scored_table)
    features = [(population, feature) for feature in declaration.features]
    return column_lineage(
        {
            declaration.row_key: [(population, declaration.row_key)],
            f"{name}_probability": features,
            f"{name}_predicted": features,
            **({"reasons": features} if declaration.predictions.reasons else {}),
        }
    )


def lineage_of_event_features(declaration: Declaration) -> dg.TableColumnLineage:
    """Say that a history is made of whose it is, of when, and of what is measured; all else is as in the events."""
    table = table_key(declaration.source_table)
    names = [*event_keys(declaration), declaration.examples.label, *declaration.features]
    made_of = {name: _counted_from(declaration, name) or [name] for name in names} | {EVENT_DAY: [_time(declaration)]}
    return column_lineage({name: [(table, column) for column in columns] for name, columns in made_of.items()})


def lineage_of_requests(declaration: Declaration) -> dg.TableColumnLineage:
    """Say that features come from the online store, where a request does not send them, and an answer from them all."""
    name, store = declaration.name, dg.AssetKey([declaration.name, "online_features"])
    if declaration.events:
        stored = {feature: _counted_from(declaration, feature) for feature in declaration.features}
        stored = {feature: columns for feature, columns in stored.items() if columns}
    else:
        stored = {feature: [feature] for feature in declaration.features}
    all_of_them = list(dict.fromkeys(column for columns in stored.values() for column in columns))
    made_of = {f"{name}_probability": all_of_them, f"{name}_predicted": all_of_them, **stored}
    return column_lineage({name: [(store, column) for column in columns] for name, columns in made_of.items()})


def event_keys(declaration: Declaration) -> list[str]:
    """Return the columns that say of an event whose it is, which it is and when it happened; none without events."""
    events = declaration.events
    return [events.key, declaration.entity_key, events.time] if events else []


def remembered_columns(declaration: Declaration) -> list[str]:
    """Return what is remembered of an event, for the histories of later ones."""
    measured = (column for name in declaration.features for column in _counted_from(declaration, name))
    return list(dict.fromkeys([*event_keys(declaration), *measured]))


def _counted_from(declaration: Declaration, name: str) -> list[str]:
    """Return the columns of the events that a history is counted from; none for another feature."""
    feature = declaration.features.get(name)
    if not isinstance(feature, HistoryFeature):
        return []
    return [declaration.entity_key, _time(declaration), *([feature.of] if feature.of else [])]


def _time(declaration: Declaration) -> str:
    assert declaration.events is not None  # or there were no histories
    return declaration.events.time


def feature_texts(declaration: Declaration) -> dict[str, str]:
    """Return what each feature is: what the declaration says of it, and which values it may have."""
    return {name: _text(feature) for name, feature in declaration.features.items()}


def _text(feature: Feature) -> str:
    if isinstance(feature, HistoryFeature):
        return f"{feature.description} {_measured(feature)}".strip()
    may_miss = " May be missing." if feature.missing else ""
    return f"{feature.description} {_values(feature)}.{may_miss}".strip()


def _measured(feature: HistoryFeature) -> str:
    measured = f" of {feature.of}" if feature.of else ""
    return f"{feature.measure.replace('_', ' ').capitalize()}{measured} in the {feature.window} before."


def _values(feature: Feature) -> str:
    if isinstance(feature, CategoryFeature):
        shown, more = feature.values[:SHOWN], len(feature.values) - SHOWN
        return f"One of {', '.join(shown)}" + (f" and {more} more" if more > 0 else "")
    bounds = {"from": feature.min, "to": feature.max}
    return " ".join(["A number", *(f"{word} {bound:g}" for word, bound in bounds.items() if bound is not None)])
