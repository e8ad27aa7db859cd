"""The types of requests and answers, made from a contract, for whoever reads the OpenAPI page.

They describe and do not check: what a value may be is decided by the one encoder, `models.encoding`, whose rules these
types repeat. Fields have made-up names and the contract's names as aliases, so a feature may be called anything.
"""

from datetime import datetime
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, create_model

from backends.vectors import MAX_KEY_BYTES
from models.contract import CategoryFeature, Contract, Events, Feature, NumberFeature

FEATURES = "features"  # in a request: values by feature name
RECORD = "record"  # and whether the event is to be recorded
REASONS = "reasons"  # and how many features are to be named that moved the score; in an answer, those

Described = dict[str, tuple[Any, str, bool]]  # name -> (type, description, whether it may be left out)


def request_model(contract: Contract) -> type[BaseModel]:
    """Return the type of one request: an entity key, features, or both; for a model of events, an event."""
    if contract.events:
        return _event_model(contract)
    known = "With a key, those left out come from the online store; without one, they are missing."
    features = {name: (_type(feature), _text(feature), True) for name, feature in contract.features.items()}
    described = {
        contract.entity_key: (_key_type(contract.entity_key_type) | None, "Whom to score.", True),
        FEATURES: (_model("Features", known, features) | None, f"Features to score. {known}", True),
        **_asked_reasons(),
    }
    return _model("PredictRequest", f"What {contract.model} is to score.", described)


def _event_model(contract: Contract) -> type[BaseModel]:
    events, asked = contract.events, contract.asked.features
    assert events is not None
    features = {name: (_type(f), _text(f, "Needed."), f.missing) for name, f in asked.items()}
    again = "The same key again is the same event: it gets the same answer, and is recorded once."
    now = "When it happened; without a zone, UTC. Now, if it is left out."
    described: Described = {
        contract.entity_key: (_key_type(contract.entity_key_type), "Who did it: whose history counts.", False),
        events.key: (_key_type(events.key_type) | None, f"Which event it is. {again}", True),
        events.time: (datetime | int | None, f"{now} A number is in microseconds since 1970.", True),
        FEATURES: (_model("Features", "What the event is.", features), "Its features.", _all_may_be_missing(features)),
        RECORD: (bool, "False only asks: nothing is added to the history. True, if it is left out.", True),
        **_asked_reasons(),
    }
    return _model("PredictRequest", f"What {contract.model} is to score.", described)


def _asked_reasons() -> Described:
    text = "How many features to name that moved the score most; true is 3. None, if it is left out."
    return {REASONS: (Annotated[int, Field(ge=1)] | bool | None, text, True)}


def _all_may_be_missing(features: Described) -> bool:
    return all(optional for _, _, optional in features.values())


def requests_model(contract: Contract) -> type[BaseModel]:
    """Return the type of a request with many rows."""
    limit = contract.api.batch_limit
    row: Any = request_model(contract)
    rows = Annotated[list[row], Field(min_length=1, max_length=limit)]
    described = {"rows": (rows, f"1 to {limit} rows, each like a request of `/predict`.", False)}
    return _model("PredictManyRequest", f"What {contract.model} is to score in one go.", described)


def answer_model(contract: Contract) -> type[BaseModel]:
    """Return the type of one answer."""
    return _model("Prediction", f"A score of {contract.model}.", _scored(contract) | _facts() | _request_id())


def answers_model(contract: Contract) -> type[BaseModel]:
    """Return the type of the answer to many rows."""
    row: Any = _model("Row", "The score of one row.", _scored(contract))
    failed: Any = _model("FailedRow", "Why one row has no score.", {"error": (_failure(), "What is wrong.", False)})
    return _answers_model(contract, row | failed)


def untyped_answers_model(contract: Contract) -> type[BaseModel]:
    """Return the same with rows of any kind: BentoML's clients take of a union only its first member."""
    return _answers_model(contract, dict[str, Any])


def _answers_model(contract: Contract, row: Any) -> type[BaseModel]:
    described = {
        "predictions": (list[row], "One for each row, in the order of the rows.", False),
        "errors": (int, "How many of them are errors.", False),
    }
    return _model("Predictions", f"Scores of {contract.model}.", described | _facts() | _request_id())


def failure_model() -> type[BaseModel]:
    """Return the type of every answer that is no score."""
    described = {"error": (_failure(), "What is wrong, and what to do.", False)} | _request_id(optional=True)
    return _model("Failure", "Why there is no score.", described)


def _scored(contract: Contract) -> Described:
    limit = f"{contract.api.max_feature_age_hours:g} hours"
    if contract.events:
        return _scored_event(contract.events, contract.entity_key, _key_type(contract.entity_key_type), limit)
    return {
        contract.entity_key: (_key_type(contract.entity_key_type), "The key of the request, if it had one.", True),
        **_score(),
        "features_as_of": (datetime | None, "Event time of the features from the online store.", False),
        "features_stale": (bool, f"Whether those are older than {limit}.", False),
        **_reasons(),
    }


def _scored_event(events: Events, entity: str, entity_type: Any, limit: str) -> Described:
    return {
        entity: (entity_type, "Who did it.", False),
        events.key: (_key_type(events.key_type), "The key of the event, if the request had one.", True),
        events.time: (datetime, "When it happened.", False),
        **_score(),
        "features_as_of": (datetime, "Up to when all events of the lake are in the histories.", False),
        "features_stale": (bool, f"Whether that is longer ago than {limit}.", False),
        "history_events": (int, "How many earlier events of the longest window the score is from.", False),
        "history_complete": (bool, "Whether all that the score looks at was still remembered.", False),
        "known_entity": (
            bool,
            "Whether an earlier event is known; without one the features have their defaults.",
            False,
        ),
        **_reasons(),
    }


def _score() -> Described:
    return {
        "probability": (float, "The score. Read as float32 it has exactly the bits of the nightly score.", False),
        "decision": (bool, "Whether the probability reaches the threshold.", False),
    }


def _reasons() -> Described:
    one: Described = {
        "feature": (str, "Its name.", False),
        "value": (float | str | None, "The value that was scored.", False),
        "contribution": (float, "What it adds to the log-odds; below 0 it takes away from them.", False),
    }
    reason: Any = _model("Reason", "A feature that moved the score.", one)
    base = "What reference rows have on average, on the scale of log-odds: contributions are counted from there."
    return {
        "base_probability": (float, f"With `reasons`: {base}", True),
        REASONS: (list[reason], "With `reasons`: the features that moved the score most, the first the most.", True),
    }


def _facts() -> Described:
    return {
        "threshold": (float, "The decision threshold of this version.", False),
        "model": (str, "Name of the model.", False),
        "model_version": (str, "Its version in the registry.", False),
        "model_sha256": (str, "Digest of the ONNX file that scored.", False),
    }


def _request_id(optional: bool = False) -> Described:
    return {"request_id": (str, "The request's `X-Request-ID`, or one made for it; in the headers too.", optional)}


def _failure() -> type[BaseModel]:
    problem: Described = {
        "field": (str, "Which field; in `/predict_many` with the row's number, like `plan[3]`.", False),
        "value": (Any, "Its value.", False),
        "message": (str, "What is wrong with it.", False),
        "remedy": (str, "What to do.", False),
    }
    one: Any = _model("Problem", "One thing that is wrong.", problem)
    error: Described = {
        "status": (int, "HTTP status of the answer, or the one that a row would have had alone.", False),
        "type": (str, "Kind of the error.", False),
        "message": (str, "All of it in one text.", False),
        "fields": (list[one], "Each problem.", False),
    }
    return _model("Error", "What is wrong.", error)


def _model(title: str, text: str, described: Described) -> type[BaseModel]:
    fields: dict[str, Any] = {}
    for i, (name, (kind, description, optional)) in enumerate(described.items()):
        default: dict[str, Any] = {"default_factory": _absent} if optional else {}
        fields[f"field_{i}"] = (kind, Field(alias=name, description=description or None, **default))
    return create_model(title, __config__=ConfigDict(extra="forbid"), __doc__=text, **fields)


def _absent() -> None:
    """Make a field optional without a default that the page would show."""


def _type(feature: Feature) -> Any:
    """Return what JSON may carry: a category's whole numbers and truth values read as the declaration writes them."""
    kind: Any = str | int | bool
    if isinstance(feature, NumberFeature):
        kind = Annotated[float, Field(ge=feature.min, le=feature.max)]
    return kind | None if feature.missing else kind


def _text(feature: Feature, needed: str = "Needed without a key.") -> str:
    known = (
        f"Known values: {', '.join(feature.values)}; others count as unseen."
        if isinstance(feature, CategoryFeature)
        else ""
    )
    return " ".join(filter(None, (feature.description, known, "" if feature.missing else needed)))


def _key_type(kind: str) -> Any:
    if kind == "integer":
        return Annotated[int, Field(ge=-(2**63), le=2**63 - 1)]
    return Annotated[str, Field(min_length=1, max_length=MAX_KEY_BYTES)]
