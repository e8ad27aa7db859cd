"""Why a published row has its score, or a row that stands nowhere would have one: from the bytes that scored it."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from typing import Any

import numpy as np
from pydantic_core import from_json

from backends.gold_tables import PARTITION
from backends.lakehouse.catalog import Lakehouse
from backends.lakehouse.reading import is_one_of, partition_is
from backends.nights import newest_night, night_of
from backends.registry import Registry
from models.declaration import Declaration
from models.encoding import Encoded, encode_arrow, encode_rows
from models.errors import ContractError, EntityNotFoundError, Problem, ValueRejectedError
from models.event_rules import EVENT_DAY
from models.reasons import Explainer
from models.scoring import Scorer

WHOLE_NUMBER = re.compile(r"-?[0-9]{1,19}")


@dataclass(frozen=True)
class Explanation:
    """One score and its reasons, for a person."""

    what: str  # which row of which model
    probability: float
    decision: bool
    threshold: float
    base_probability: float
    reasons: list[tuple[str, Any, float]]  # feature, value, contribution in log-odds; the largest first
    published: float | None = None  # the score in the Gold table

    @property
    def agrees(self) -> bool:
        """Whether the score is the published one, bit for bit; True where none was published."""
        return self.published is None or np.float32(self.published) == np.float32(self.probability)


def explain_published(
    lake: Lakehouse, registry: Registry, declaration: Declaration, key: str, day: date | None = None
) -> Explanation:
    """Explain what stands in the Gold table for a key: by the version that scored it, from the rows that it read.

    `day` is a published day, the newest by default. Raises `SnapshotNotFoundError` for a day that was not published,
    `EntityNotFoundError` for a key without a row, `ContractError` for what is no key.
    """
    table = declaration.predictions_table
    night = night_of(lake, table, day.isoformat()) if day else newest_night(lake, table)
    version = registry.version(declaration.name, int(night.properties["model_version"]))
    scorer = Scorer(registry.read_version(version), night.properties["model_sha256"])
    contract, scored_on = scorer.contract, date.fromisoformat(night.properties["scored_on"])
    keys: list[Any] = [key_of(contract.row_key, key, integer=contract.row_key_type == "integer")]
    where = is_one_of(contract.row_key, keys)
    gold = lake.read(
        declaration.predictions_table, [contract.output], night.id, partition_is(PARTITION, scored_on) & where
    )
    if not len(gold):
        raise EntityNotFoundError(
            f"{declaration.predictions_table} has no row of {scored_on} for {contract.row_key} {key}. Check the key; "
            f"rows that were refused are in {declaration.rejects_table}."
        )
    if declaration.events:
        where = partition_is(EVENT_DAY, scored_on) & where
    source, snapshot = night.properties["source_table"], int(night.properties["source_snapshot"])
    rows = lake.read(source, list(contract.features), snapshot, where)
    what = f"{contract.model} version {version.version}: {contract.row_key} {key} on {scored_on}"
    return _explained(scorer, encode_arrow(contract, rows), what, gold[contract.output][0].as_py())


def explain_features(registry: Registry, model: str, features: str) -> Explanation:
    """Explain the champion's score of a JSON object by feature name; `ValueRejectedError` for what does not fit."""
    version = registry.champion(model)
    scorer = Scorer(registry.read_version(version), version.sha256)
    rows = encode_rows(scorer.contract, [json_object(features)])
    return _explained(scorer, rows, f"{model} version {version.version}: the given features")


def explanation_of(answer: Mapping[str, Any], what: str) -> Explanation:
    """Read what a service has answered to a request that asks for reasons."""
    return Explanation(
        what,
        answer["probability"],
        answer["decision"],
        answer["threshold"],
        answer["base_probability"],
        [(reason["feature"], reason["value"], reason["contribution"]) for reason in answer["reasons"]],
    )


def _explained(scorer: Scorer, row: Encoded, what: str, published: float | None = None) -> Explanation:
    scores, explainer = scorer.score(row), Explainer(scorer)
    (reasons,), values = explainer.explain(row[:1], scores[:1]), explainer.values(row)
    return Explanation(
        what,
        float(scores[0]),
        bool(scorer.decide(scores)[0]),
        scorer.contract.decision_threshold,
        reasons.base_probability,
        [(name, values[name], contribution) for name, contribution in reasons.most(len(values))],
        published,
    )


def key_of(name: str, text: str, *, integer: bool) -> int | str:
    """Read a row's key as it was typed, which a shell does not tell a number from a text; `ContractError` for none."""
    if not integer and text.encode(errors="ignore").decode() == text:
        return text
    if integer and WHOLE_NUMBER.fullmatch(text) and -(2**63) <= int(text) < 2**63:
        return int(text)
    remedy = "a whole number of at most 64 bits, in digits alone" if integer else "a text in UTF-8"
    raise ContractError(f"{name} {text!r} is no key: give {remedy}.")


def json_object(text: str) -> dict[str, Any]:
    """Read values by feature name; `ValueRejectedError` for what is no JSON object."""
    remedy = 'Give values by feature name, like {"tenure_months": 3}.'
    try:
        read = from_json(text.encode(errors="surrogateescape"), allow_inf_nan=False)  # as the service reads it
        json.dumps(read, allow_nan=False)  # 1e999 is read as infinity, which JSON has not
    except ValueError as error:
        raise ValueRejectedError([Problem("features", text, f"is not JSON: {error}", remedy)]) from error
    if not isinstance(read, dict):
        raise ValueRejectedError([Problem("features", read, "is not a JSON object", remedy)])
    return read
