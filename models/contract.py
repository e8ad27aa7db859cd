"""What travels inside the ONNX file: everything that a reader of the bytes needs to score a row, and nothing else.

The contract is one JSON text in the graph's `metadata_props`. Batch, the API, the online store and evaluation all take
their features, bounds and vocabularies from it, never from the declaration, so that the bytes alone say what they mean.
"""

import hashlib
import json
from collections.abc import Mapping
from functools import cached_property
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from models.errors import ModelFileError

METADATA_KEY = "tandem.contract"
NUMBERS = "numbers"  # graph input, float32 [rows, numbers]; NaN is missing
CATEGORIES = "categories"  # graph input, int32 [rows, categories]; codes of `CategoryFeature`


class Frozen(BaseModel):
    """A value object: unknown keys are refused, fields do not change."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def _text(value: Any) -> Any:
    """Write `1` and `true` of a YAML file as the text that a category column holds."""
    if isinstance(value, bool):
        return str(value).lower()
    return str(value) if isinstance(value, int) else value


class NumberFeature(Frozen):
    """A number, read as float32."""

    kind: Literal["number"]
    min: float | None = Field(None, allow_inf_nan=False, description="Smallest value allowed, itself included.")
    max: float | None = Field(None, allow_inf_nan=False, description="Largest value allowed, itself included.")
    missing: bool = Field(False, description="Whether the value may be missing (null or NaN).")
    description: str = ""

    @model_validator(mode="after")
    def _bounds_are_ordered(self) -> Self:
        if self.min is not None and self.max is not None and self.min > self.max:
            raise ValueError(f"min {self.min:g} is above max {self.max:g}")
        return self


class CategoryFeature(Frozen):
    """A text from a vocabulary. Codes: 0.. the values in order, then `other` (unseen values), then missing."""

    kind: Literal["category"]
    values: tuple[Annotated[str, BeforeValidator(_text, json_schema_input_type=str | int | bool)], ...] = Field(
        min_length=1, max_length=1000, description="The known values; any other text falls into the bucket `other`."
    )
    missing: bool = Field(False, description="Whether the value may be missing (null).")
    description: str = ""

    @model_validator(mode="after")
    def _values_are_distinct(self) -> Self:
        twice = sorted({value for value in self.values if self.values.count(value) > 1})
        if twice:
            raise ValueError(f"values stand twice: {', '.join(twice)}")
        return self

    @cached_property
    def codes(self) -> dict[str, int]:
        """The code of each known value."""
        return {value: code for code, value in enumerate(self.values)}

    @property
    def other_code(self) -> int:
        """The code of every unseen value."""
        return len(self.values)

    @property
    def missing_code(self) -> int:
        """The code of a missing value (only where `missing` is allowed)."""
        return len(self.values) + 1

    @property
    def width(self) -> int:
        """How many codes there are."""
        return len(self.values) + (2 if self.missing else 1)


Measure = Literal["count", "sum", "mean", "distinct", "same", "ratio", "since_last"]
Window = Annotated[str, Field(pattern=r"^[1-9]\d{0,5}(s|min|h|d)$", examples=["1h", "30d"])]
MICROSECONDS = {"s": 1_000_000, "min": 60_000_000, "h": 3_600_000_000, "d": 86_400_000_000}
LONGEST_WINDOW = 3650 * MICROSECONDS["d"]


class HistoryFeature(NumberFeature):
    """A number that is counted from the entity's earlier events, in a window of time that ends before this one.

    It is never asked for: each lane makes it (`models/history.py`). Without earlier events `count`, `sum`, `distinct`
    and `same` are 0, the others missing.
    """

    model_config = ConfigDict(json_schema_extra=lambda schema: _leave_out(schema, "min", "max", "missing"))

    kind: Literal["history"]  # type: ignore[assignment]  # a number to every reader, told apart in a declaration
    measure: Measure = Field(
        description="`count` of events; `sum`, `mean` of a number, or `ratio` of this event's to that mean; `distinct` "
        "values of a category, or how many events have the `same` as this one; seconds `since_last`."
    )
    of: str | None = Field(None, description="The feature that is measured; none for `count` and `since_last`.")
    window: Window = Field(description="How far back, up to 3650d: a number and `s`, `min`, `h` or `d`.")
    min: None = None  # what was counted is not refused
    max: None = None
    missing: Literal[True] = True

    @model_validator(mode="after")
    def _window_is_within_reach(self) -> Self:
        if self.microseconds > LONGEST_WINDOW:
            raise ValueError(f"window {self.window} is longer than 3650d")
        return self

    @cached_property
    def microseconds(self) -> int:
        """The window's length."""
        digits = self.window.rstrip("smhdin")
        return int(digits) * MICROSECONDS[self.window[len(digits) :]]


def _leave_out(schema: dict[str, Any], *names: str) -> None:
    for name in names:
        del schema["properties"][name]


Feature = Annotated[NumberFeature | CategoryFeature | HistoryFeature, Field(discriminator="kind")]


class HistoryLimits(Frozen):
    """How much is remembered of an entity's events, and how exactly."""

    resolution: float = Field(
        0.01, gt=0, allow_inf_nan=False, description="Numbers are remembered as whole multiples of this."
    )
    max_events: int = Field(
        512, ge=1, le=100_000, description="Only so many of the newest events of one entity are looked at."
    )


class Events(HistoryLimits):
    """What a row is, for a model of events: which columns name it and say when it happened."""

    key: str  # unique; names the row in Gold, in requests and in answers
    key_type: Literal["integer", "string"]
    time: str  # when it happened, UTC


class Api(Frozen):
    """How the model's service behaves."""

    port: int = Field(3001, ge=1, le=65535, description="Port that `make serve` and `make dev` listen on.")
    grpc_port: int = Field(
        0, ge=0, le=65535, description="Port of the Open Inference Protocol over gRPC, in the same service; 0 is off."
    )
    max_feature_age_hours: float = Field(48.0, gt=0, description="Older features from the online store are stale.")
    stale_features: Literal["flag", "refuse"] = Field("flag", description="Say so in the answer, or answer 503.")
    batch_limit: int = Field(1000, ge=1, le=100_000, description="Most rows in one request.")
    log_sample: float = Field(
        0.0, ge=0, le=1, description="Share of the requests that are logged with their features, for drift and audits."
    )
    log_days: int = Field(90, ge=1, description="How many days logged requests are kept.")


class Contract(Frozen):
    """The meaning of one ONNX file: inputs in order, output, threshold, and where it was trained."""

    format: Literal[1] = 1
    model: str
    entity_key: str
    entity_key_type: Literal["integer", "string"]
    events: Events | None = None  # none: a row is an entity
    features: dict[str, Feature]  # the order is part of the contract
    decision_threshold: float
    precision: Literal["float32", "int8"]
    examples_table: str
    training_snapshot: str  # Iceberg snapshot id of the examples; text, since it is beyond JavaScript's integers
    dagster_run_id: str = ""
    api: Api = Api()

    @cached_property
    def numbers(self) -> dict[str, NumberFeature]:
        """The columns of the graph's input `numbers`, in order."""
        return {name: f for name, f in self.features.items() if isinstance(f, NumberFeature)}

    @cached_property
    def categories(self) -> dict[str, CategoryFeature]:
        """The columns of the graph's input `categories`, in order."""
        return {name: f for name, f in self.features.items() if isinstance(f, CategoryFeature)}

    @cached_property
    def code_counts(self) -> list[int]:
        """How many codes each category has, that of a missing value always among them."""
        return [category.missing_code + 1 for category in self.categories.values()]

    @cached_property
    def history(self) -> dict[str, HistoryFeature]:
        """Those of the numbers that are counted from earlier events."""
        return {name: f for name, f in self.features.items() if isinstance(f, HistoryFeature)}

    @cached_property
    def asked(self) -> "Contract":
        """The contract of what a row carries itself: without the features that are counted from earlier events."""
        if not self.history:
            return self
        fields = {name: getattr(self, name) for name in type(self).model_fields}
        features = {name: feature for name, feature in self.features.items() if name not in self.history}
        return type(self)(**fields | {"features": features})

    @property
    def row_key(self) -> str:
        """The column that names a row: the event, or else the entity."""
        return self.events.key if self.events else self.entity_key

    @property
    def row_key_type(self) -> Literal["integer", "string"]:
        """What kind of key a row has."""
        return self.events.key_type if self.events else self.entity_key_type

    @property
    def output(self) -> str:
        """Name of the graph's output: float32 [rows], a probability."""
        return f"{self.model}_probability"

    @cached_property
    def fingerprint(self) -> bytes:
        """8 bytes that change with anything that a packed vector depends on: the key and the encoded features."""
        encoded = {name: f.model_dump(exclude={"description"}) for name, f in self.features.items()}
        parts: list[Any] = [self.entity_key, self.entity_key_type, list(encoded.items())]
        parts += [self.events.model_dump()] if self.events else []
        text = json.dumps(parts, sort_keys=True)
        return hashlib.sha256(text.encode()).digest()[:8]

    def to_metadata(self) -> dict[str, str]:
        """Return the entries for the ONNX file's `metadata_props`."""
        return {METADATA_KEY: self.model_dump_json()}

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, str]) -> Self:
        """Read the contract out of an ONNX file's metadata; `ModelFileError` when it has none that we can read."""
        if METADATA_KEY not in metadata:
            raise ModelFileError(
                f"The ONNX file has no metadata entry {METADATA_KEY!r} (it has: {sorted(metadata) or 'none'}). "
                "It was not made by Tandem: take the file from the registry's champion version."
            )
        try:
            return cls.model_validate_json(metadata[METADATA_KEY])
        except ValidationError as error:
            raise ModelFileError(
                f"The contract inside the ONNX file cannot be read: {error}. Train again with this version of Tandem."
            ) from error
