"""What the columns of a model's tables mean, and which columns they are made of: for Dagster's UI and OpenLineage."""

from collections.abc import Iterable, Mapping

import dagster as dg

from assets.metadata import table_key
from models.contract import CategoryFeature, Feature
from models.declaration import Declaration

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
    """Say that a score and its decision are made of all features."""
    name, population = declaration.name, table_key(declaration.population.table)
    features = [(population, feature) for feature in declaration.features]
    return column_lineage(
        {
            declaration.entity_key: [(population, declaration.entity_key)],
            f"{name}_probability": features,
            f"{name}_predicted": features,
        }
    )


def lineage_of_requests(declaration: Declaration) -> dg.TableColumnLineage:
    """Say that features come from the online store, where a request does not send them, and an answer from them all."""
    name, store = declaration.name, dg.AssetKey([declaration.name, "online_features"])
    features = [(store, feature) for feature in declaration.features]
    answers = {f"{name}_probability": features, f"{name}_predicted": features}
    return column_lineage({**answers, **{feature: [(store, feature)] for feature in declaration.features}})


def feature_texts(declaration: Declaration) -> dict[str, str]:
    """Return what each feature is: what the declaration says of it, and which values it may have."""
    return {name: _text(feature) for name, feature in declaration.features.items()}


def _text(feature: Feature) -> str:
    may_miss = " May be missing." if feature.missing else ""
    return f"{feature.description} {_values(feature)}.{may_miss}".strip()


def _values(feature: Feature) -> str:
    if isinstance(feature, CategoryFeature):
        shown, more = feature.values[:SHOWN], len(feature.values) - SHOWN
        return f"One of {', '.join(shown)}" + (f" and {more} more" if more > 0 else "")
    bounds = {"from": feature.min, "to": feature.max}
    return " ".join(["A number", *(f"{word} {bound:g}" for word, bound in bounds.items() if bound is not None)])
