"""The types of requests and answers, made from a contract, for whoever reads the OpenAPI page.

They describe and do not check: what a value may be is decided by the one encoder, `models.encoding`, whose rules these
types repeat. Fields have made-up names and the contract's names as aliases, so a feature may be called anything.
"""

from datetime import datetime
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, create_model

from models.contract import CategoryFeature, Contract, Feature, NumberFeature

Described = dict[str, tuple[Any, str, bool]]  # name -> (type, description, whether it may be left out)


def request_model(contract: Contract) -> type[BaseModel]:
    """Return the type of one request: an entity key, features, or both."""
    known = "With a key, those left out come from the online store; without one, they are missing."
    features = {name: (_type(feature), _text(feature), True) for name, feature in contract.features.items()}
    described = {
        contract.entity_key: (_key_type(contract) | None, "Whom to score.", True),
        "features": (_model("Features", known, features) | None, f"Features to score. {known}", True),
    }
    return _model("PredictRequest", f"What {contract.model} is to score.", described)


def answer_model(contract: Contract) -> type[BaseModel]:
    """Return the type of one answer."""
    limit = f"{contract.api.max_feature_age_hours:g} hours"
    described: Described = {
        contract.entity_key: (_key_type(contract), "The key of the request, if it had one.", True),
        "probability": (float, "The score. Read as float32 it has exactly the bits of the nightly score.", False),
        "decision": (bool, "Whether the probability reaches the threshold.", False),
        "threshold": (float, "The decision threshold of this version.", False),
        "model": (str, "Name of the model.", False),
        "model_version": (str, "Its version in the registry.", False),
        "model_sha256": (str, "Digest of the ONNX file that scored.", False),
        "features_as_of": (datetime | None, "Event time of the features from the online store.", False),
        "features_stale": (bool, f"Whether those are older than {limit}.", False),
    }
    return _model("Prediction", f"A score of {contract.model}.", described)


def _model(title: str, text: str, described: Described) -> type[BaseModel]:
    fields: dict[str, Any] = {}
    for i, (name, (kind, description, optional)) in enumerate(described.items()):
        default: dict[str, Any] = {"default_factory": _absent} if optional else {}
        fields[f"field_{i}"] = (kind, Field(alias=name, description=description or None, **default))
    return create_model(title, __config__=ConfigDict(extra="forbid"), __doc__=text, **fields)


def _absent() -> None:
    """Make a field optional without a default that the page would show."""


def _type(feature: Feature) -> Any:
    kind = Annotated[float, Field(ge=feature.min, le=feature.max)] if isinstance(feature, NumberFeature) else str
    return kind | None if feature.missing else kind


def _text(feature: Feature) -> str:
    known = (
        f"Known values: {', '.join(feature.values)}; others count as unseen."
        if isinstance(feature, CategoryFeature)
        else ""
    )
    return " ".join(filter(None, (feature.description, known, "" if feature.missing else "Needed without a key.")))


def _key_type(contract: Contract) -> Any:
    return int if contract.entity_key_type == "integer" else str
