"""The language of the files in `models/*.yaml`: what may be written in them, what the defaults are, and the errors.

A model is one YAML file; everything that Dagster shows of it is derived from the `Declaration` read here. The JSON
Schema for editors is made from the same classes (`declaration.schema.json`, `make schema`).
"""

import difflib
import hashlib
import json
import re
from dataclasses import replace
from datetime import date, timedelta
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from zoneinfo import ZoneInfo

import yaml
from pydantic import Field, ValidationError, model_validator
from pydantic_core import ErrorDetails

from models import contract
from models.contract import Api, Feature, Frozen, HistoryLimits
from models.errors import DeclarationError, Problem
from models.event_rules import event_disagreements

Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,62}$")]
TableName = Annotated[str, Field(pattern=r"^[A-Za-z_]\w*(\.[A-Za-z_]\w*)+$", examples=["silver.active_customers"])]
TimeOfDay = Annotated[str, Field(pattern=r"^([01]\d|2[0-3]):[0-5]\d$", examples=["08:00"])]
Column = Annotated[str, Field(min_length=1)]


# What stands beside the entity key in requests, answers and the Gold table.
RESERVED = (
    *("base_probability", "decision", "features", "features_as_of", "features_stale", "model", "model_sha256"),
    *("model_version", "probability", "reasons", "scored_at", "scored_on", "threshold"),
)


class Population(Frozen):
    """The table that is scored every night: one row for each entity."""

    table: TableName
    time: Column | None = Field(None, description="Column with the time the features were true; else the snapshot's.")


class Events(Frozen):
    """The table of what happens to entities, like card swipes: each row is scored as it happens, and again at night.

    Features of kind `history` look at the entity's earlier rows.
    """

    table: TableName
    key: Column = Field(description="Column that names the event, unique in the table.")
    time: Column = Field(description="Timestamp column: when it happened, in UTC.")


class TimeSplit(Frozen):
    """The latest months are the test set, so that evaluation looks into the future, as production does."""

    method: Literal["time"] = "time"
    test_months: int = Field(2, ge=1, description="How many of the latest calendar months are the test set.")
    calibration_share: float = Field(0.1, gt=0, lt=0.5, description="Share of the earlier rows kept for calibration.")
    seed: int = 0


class StratifiedSplit(Frozen):
    """A share of each class is the test set, for examples that carry no time; a row that is in it stays there."""

    method: Literal["stratified"]
    test_share: float = Field(0.25, gt=0, lt=1, description="Share of all rows that is the test set.")
    calibration_share: float = Field(0.1, gt=0, lt=0.5, description="Share of the other rows kept for calibration.")
    seed: int = 0


class Examples(Frozen):
    """The table of labelled rows, each with its features as they stood when the outcome was still open."""

    table: TableName = Field(
        default_factory=str, description="**Required** beside `population`; of events it is their feature table."
    )
    label: Column = Field(description="Column with the outcome: boolean, 0/1, or two texts (then name `positive`).")
    positive: str | None = Field(None, description="The text that means yes, where the label is a text.")
    time: Column | None = Field(
        None, description="Date or timestamp column: when the features were observed; of events `events.time`."
    )
    split: Annotated[TimeSplit | StratifiedSplit, Field(discriminator="method")] = TimeSplit()


class DecisionCosts(Frozen):
    """What a wrong decision costs, in one currency; the threshold is the one that costs least on calibration rows."""

    missed: float = Field(gt=0, allow_inf_nan=False, description="Price of a positive that is let through.")
    false_alarm: float = Field(gt=0, allow_inf_nan=False, description="Price of a negative that is stopped.")


class Network(Frozen):
    """The network's shape."""

    hidden: tuple[Annotated[int, Field(ge=4, le=1024)], ...] = Field((128, 32), min_length=1, max_length=4)
    bins: int | None = Field(
        None,
        ge=2,
        le=256,
        description="Pieces that a number's range is cut into (piecewise linear). Default: by need.",
    )


class Training(Frozen):
    """The training budget."""

    seed: int = 0
    teacher_folds: int | None = Field(
        None,
        ge=2,
        le=10,
        description="Default: 5; 3 from 50,000 training rows (of the rarer outcome, 5,000), and from 150,000 of any.",
    )
    teacher_iterations: int = Field(1000, ge=1, le=10_000, description="Most boosting rounds for each teacher.")
    synthetic_rows: int | None = Field(
        None,
        ge=0,
        le=10_000_000,
        description="Recombined rows that the teacher labels. Default: 60,000; 150,000 from 30,000 training rows "
        "(counted as for `teacher_folds`).",
    )
    row_presentations: int | None = Field(
        None,
        ge=1000,
        description="Rows shown to the network, at least 4 epochs. Default: 1,500,000, or twice as many from 30,000 "
        "training rows on (counted as for `teacher_folds`).",
    )


class Int8Limits(Frozen):
    """How far int8 scores may be from the float ones; beyond, the float graph is served, and everything says so."""

    max_auc_drop: float = Field(0.002, ge=0)
    max_log_loss_rise: float = Field(0.005, ge=0)
    max_mean_change: float = Field(0.01, ge=0, le=1, description="Mean absolute change of a score.")
    max_p99_change: float = Field(0.05, ge=0, le=1, description="99th percentile of the absolute change of a score.")
    max_calibration_error_rise: float = Field(0.01, ge=0, le=1)
    max_decision_flips: float = Field(0.02, ge=0, le=1, description="Share of rows whose decision changes.")


class Comparison(Frozen):
    """Candidate against champion on the same fresh rows: a paired bootstrap of the differences; ties keep the champion.

    A gain is how much higher the candidate's ROC-AUC is, or how much lower its log-loss.
    """

    resamples: int = Field(1000, ge=100, le=100_000, description="How often the rows are drawn again.")
    confidence: float = Field(0.95, gt=0.5, lt=1, description="Share of the resamples inside the interval of a gain.")
    min_auc_gain: float = Field(0, ge=0, le=0.5, description="The candidate wins when the AUC's interval is above it.")
    min_log_loss_gain: float = Field(0, ge=0, description="Or when the log-loss's interval is above this, in nats.")
    seed: int = 0


class Gates(Frozen):
    """What a candidate must reach to become champion, and a night's predictions to be published."""

    min_auc: float = Field(0.7, ge=0.5, le=1, description="Least ROC-AUC on the test set.")
    max_auc_behind_champion: float = Field(0.002, ge=0, description="How far behind the champion on the same rows.")
    max_log_loss_behind_champion: float = Field(0.005, ge=0, description="The same for the log-loss, in nats.")
    max_calibration_error: float = Field(0.05, gt=0, le=1, description="Most expected calibration error, 10 bins.")
    comparison: Comparison = Comparison()
    max_score_shift: float = Field(0.25, gt=0, description="Most population stability index against the last night.")
    max_rejected_share: float = Field(
        0.001,
        ge=0,
        lt=1,
        description="Most rows of the population, as a share, that may be rejected in a night.",
    )
    int8: Int8Limits = Int8Limits()


class Predictions(Frozen):
    """The Gold table, and when it is made."""

    table: TableName | None = Field(None, description="Default: gold.<name>_predictions.")
    rejects: TableName | None = Field(None, description="Rows that were refused, and why: gold.<name>_rejects.")
    reasons: int = Field(
        0, ge=0, le=100, description="How many features to name in each row that moved its score most; 0 is no column."
    )
    reasons_for: Literal["positives", "all"] = Field(
        "positives", description="Which rows get reasons; each takes as long as some thousand scores."
    )
    score_at: TimeOfDay = Field("02:00", description="When the day's partition is requested.")
    ready_by: TimeOfDay = Field("08:00", description="When readers count on it.")
    timezone: str = "UTC"
    first_day: date = Field(date(2026, 1, 1), description="First daily partition.")

    @model_validator(mode="after")
    def _timezone_exists(self) -> Self:
        try:
            ZoneInfo(self.timezone)
        except (KeyError, ValueError, OSError) as error:
            raise ValueError(f"timezone {self.timezone!r} is unknown; write one like Europe/Berlin or UTC") from error
        return self


class Drift(Frozen):
    """How far a night's rows, or a week's requests, may be from the training set: population stability indices."""

    max_feature_shift: float = Field(0.25, gt=0, description="Most PSI of any feature.")
    max_score_shift: float = Field(0.25, gt=0, description="Most PSI of the score.")
    min_rows: int = Field(1000, ge=1, description="Fewer rows, or requests, are reported and not judged.")


class Outcomes(Frozen):
    """Realised quality: what was predicted on a day against what came of it, once that is known."""

    table: TableName | None = Field(
        None,
        description="Table with key, time and label of past rows, the columns named as in `examples`. Default: it; of "
        "events their table.",
    )
    after_days: int = Field(30, ge=0, le=3650, description="Days until the outcome of a prediction is known.")
    window_days: int = Field(28, ge=1, le=3650, description="How many days of matured predictions are judged together.")
    min_rows: int = Field(500, ge=10, description="With fewer matured predictions, quality is reported and not judged.")
    min_auc: float | None = Field(None, ge=0, le=1, description="Least realised ROC-AUC. Default: gates.min_auc.")
    max_calibration_error: float | None = Field(
        None, gt=0, le=1, description="Most realised calibration error. Default: twice gates.max_calibration_error."
    )


class Retraining(Frozen):
    """When a new candidate is trained; it becomes champion only through the gates."""

    day: Literal["monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday", "never"] = Field(
        "sunday", description="Weekday of the regular training; never trains on demand only."
    )
    at: TimeOfDay = Field("05:00", description="Hour of the regular training, in the time zone of `predictions`.")
    on_drift: bool = Field(True, description="Train when the drift check fails.")
    on_outcomes: bool = Field(True, description="Train when the check of realised quality fails.")
    cooldown_days: float = Field(
        7, ge=0, description="Least time between two trainings that drift or outcomes ask for."
    )


class Costs(Frozen):
    """Prices, for the report of what a night and a request cost."""

    cpu_hour: float = Field(0.05, ge=0, description="Price of one hour of one core.")
    currency: str = Field("USD", min_length=1, max_length=8)


class Declaration(Frozen):
    """One model, from its tables to its API."""

    name: Name = Field(description="The model's name, and the file's: models/<name>.yaml.")
    description: str = ""
    owner: str | None = Field(None, description="A team (`team:growth`) or a mail address.", examples=["team:growth"])
    entity_key: Column = Field(description="Column that names the entity, unique in the population.")
    population: Population | None = Field(None, description="**Required**, or `events`.")
    events: Events | None = Field(None, description="Instead of `population`: rows that happen.")
    examples: Examples
    features: dict[Column, Feature] = Field(min_length=1, description="The columns the model reads, in this order.")
    decision_threshold: float = Field(0.5, gt=0, lt=1, description="Scores from here on are predicted positive.")
    decision_costs: DecisionCosts | None = Field(None, description="Instead: training finds the threshold.")
    history: HistoryLimits = HistoryLimits()
    network: Network = Network()
    training: Training = Training()
    gates: Gates = Gates()
    predictions: Predictions = Predictions()
    drift: Drift = Drift()
    outcomes: Outcomes = Outcomes()
    retraining: Retraining = Retraining()
    costs: Costs = Costs()
    api: Api = Api()

    @model_validator(mode="before")
    @classmethod
    def _examples_are_events(cls, raw: Any) -> Any:
        """Let the examples of a model of events be its own feature table, where they name no other."""
        events, examples = (raw.get("events"), raw.get("examples")) if isinstance(raw, dict) else (None, None)
        if not isinstance(events, dict) or not isinstance(examples, dict):
            return raw
        default = {"table": f"silver.{raw.get('name')}_features", "time": events.get("time")}
        named = {field: value for field, value in examples.items() if value is not None}
        return raw | {"examples": default | named}

    @model_validator(mode="after")
    def _parts_agree(self) -> Self:
        problems = _disagreements(self.model_dump(mode="json", exclude_unset=True))
        if problems:
            raise ValueError("; ".join(map(str, problems)))
        return self

    @property
    def features_table(self) -> str:
        """The identifier of the table of events with their features."""
        return f"silver.{self.name}_features"

    @property
    def source_table(self) -> str:
        """The table that others write and that is scored: of entities, or of events."""
        return self.events.table if self.events else self._population.table

    @property
    def scored_table(self) -> str:
        """The table whose rows a night scores."""
        return self.features_table if self.events else self._population.table

    @property
    def scored_time(self) -> str | None:
        """The column of that table with the time that the features were true."""
        return self.events.time if self.events else self._population.time

    @property
    def scored_after(self) -> timedelta:
        """How long after a day begins its hours count: the events of a day are all there when it is over."""
        return timedelta(days=1) if self.events else timedelta()

    @property
    def row_key(self) -> str:
        """The column that names a row of the Gold table: the event, or else the entity."""
        return self.events.key if self.events else self.entity_key

    @property
    def features_fingerprint(self) -> str:
        """16 hexadecimal digits that change when an event's features would: which there are, and what they mean."""
        features = [(name, f.model_dump(mode="json", exclude={"description"})) for name, f in self.features.items()]
        events = self.events.model_dump() if self.events else None
        parts = [self.entity_key, events, features, self.history.model_dump()]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]

    def events_of(self, key_type: Literal["integer", "string"]) -> contract.Events | None:
        """Return what a contract says of the events; None for a model of entities."""
        if self.events is None:
            return None
        limits = self.history.model_dump()
        return contract.Events(key=self.events.key, key_type=key_type, time=self.events.time, **limits)

    @property
    def _population(self) -> Population:
        assert self.population is not None  # else there are events
        return self.population

    @property
    def predictions_table(self) -> str:
        """The Gold table's identifier."""
        return self.predictions.table or f"gold.{self.name}_predictions"

    @property
    def rejects_table(self) -> str:
        """The identifier of the table of rejected rows."""
        return self.predictions.rejects or f"gold.{self.name}_rejects"

    @property
    def requests_table(self) -> str:
        """The identifier of the table of logged requests."""
        return f"silver.{self.name}_requests"

    @property
    def outcomes_table(self) -> str:
        """The identifier of the table in which outcomes become known."""
        return self.outcomes.table or (self.events.table if self.events else self.examples.table)

    @property
    def promotions_table(self) -> str:
        """The identifier of the ledger of promotions and rollbacks of the model."""
        return f"gold.{self.name}_promotions"


def load_declaration(path: Path) -> Declaration:
    """Read one file. `DeclarationError` carries all of its errors, each with field, value and remedy."""
    try:
        raw = read_yaml(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise DeclarationError(
            str(path), [Problem("file", path.name, f"cannot be read: {error}", "Mend it.")]
        ) from error
    except yaml.YAMLError as error:
        remedy = "Mend the YAML: indentation by spaces, `key: value`, each key once."
        raise DeclarationError(str(path), [Problem("file", path.name, " ".join(str(error).split()), remedy)]) from error
    if not isinstance(raw, dict):
        remedy = "Start with `name: ...`; docs/declaration.md has an example."
        raise DeclarationError(str(path), [Problem("file", raw, "is not a mapping of fields", remedy)])
    try:
        declaration = Declaration.model_validate(raw)
    except ValidationError as error:
        problems = [_problem(e) for e in error.errors() if e["loc"]]
        raise DeclarationError(str(path), problems + _disagreements(raw) + _other_name(raw, path)) from error
    if problems := _other_name(raw, path):
        raise DeclarationError(str(path), problems)
    return declaration


def read_yaml(text: str) -> Any:
    """Return what YAML says as declarations are read; `yaml.YAMLError` when it is none or a key stands twice."""
    return yaml.load(text, _Loader)  # noqa: S506  a SafeLoader with fewer surprises


def load_declarations(folder: Path) -> list[Declaration]:
    """Read every `*.yaml` of a folder, in the order of their names; `DeclarationError` has the errors of all files."""
    declarations, broken = [], []
    for path in sorted(folder.glob("*.yaml")):
        try:
            declarations.append(load_declaration(path))
        except DeclarationError as error:
            broken.append(error)
    if len(broken) == 1:
        raise broken[0]
    if broken:
        problems = [replace(p, field=f"{Path(e.file).name}: {p.field}") for e in broken for p in e.problems]
        raise DeclarationError(str(folder), problems)
    return declarations


def json_schema() -> str:
    """Return the JSON Schema for editors, as text."""
    schema = {"$schema": "https://json-schema.org/draft/2020-12/schema", **Declaration.model_json_schema()}
    return json.dumps(schema, indent=2) + "\n"


class _Loader(yaml.SafeLoader):
    """YAML without its traps: `Yes`, `on`, `18:30` and dates are text, and a key that stands twice is an error."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Build a mapping; refuse a repeated key, which YAML's own loader silently overwrites."""
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        for key in keys:
            if keys.count(key) > 1:
                raise yaml.constructor.ConstructorError(None, None, f"key {key!r} stands twice", node.start_mark)
        return super().construct_mapping(node, deep)


_Loader.yaml_implicit_resolvers = {}
for _tag, _pattern, _first in (
    ("bool", r"^(?:true|false)$", "tf"),
    ("int", r"^[-+]?(?:0|[1-9][0-9_]*)$", "-+0123456789"),
    ("float", r"^[-+]?(?:[0-9][0-9_]*\.[0-9_]*|\.[0-9]+|[0-9]+(?=[eE]))(?:[eE][-+]?[0-9]+)?$", "-+0123456789."),
    ("null", r"^(?:~|null|)$", ["~", "n", ""]),
):
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(_pattern), list(_first))


def _other_name(raw: dict[str, Any], path: Path) -> list[Problem]:
    name = raw.get("name", path.stem)
    remedy = f"Write `name: {path.stem}` or rename the file."
    return [] if name == path.stem else [Problem("name", name, f"is not the file's name {path.stem!r}", remedy)]


def _disagreements(raw: dict[str, Any]) -> list[Problem]:
    """Find what is wrong between fields; works on unvalidated data too, so that all errors show at once."""

    def part(name: str) -> dict[str, Any]:
        value = raw.get(name)
        return value if isinstance(value, dict) else {}

    examples, features, predictions, problems = part("examples"), part("features"), part("predictions"), []
    roles = {"entity_key": raw.get("entity_key"), **{f"examples.{k}": examples.get(k) for k in ("label", "time")}}
    roles["population.time"] = part("population").get("time")
    roles |= {f"events.{k}": part("events").get(k) for k in ("key", "time")}
    for role, column in roles.items():
        if isinstance(column, str) and column in features:
            message = f"is also the {role}, which would leak what is to be predicted or identify the row"
            problems.append(Problem(f"features.{column}", column, message, "Remove it from `features`."))
    for role in ("entity_key", "events.key", "events.time"):
        if roles.get(role) in RESERVED:
            remedy = f"Rename the column; these names are taken: {', '.join(RESERVED)}."
            problems.append(Problem(role, roles[role], "is a name that requests or answers use", remedy))
    problems += event_disagreements(raw)
    split = examples.get("split")
    method = split.get("method", "time") if isinstance(split, dict) else "time"
    if examples and method == "time" and not examples.get("time") and not part("events"):
        remedy = "Name the date column (`time: observed_on`), or write `split: {method: stratified}`."
        problems.append(Problem("examples.time", None, "is needed to split by time", remedy))
    at, by = predictions.get("score_at", "02:00"), predictions.get("ready_by", "08:00")
    if all(isinstance(time, str) and len(time) == 5 for time in (at, by)) and at >= by:
        problems.append(Problem("predictions.ready_by", by, f"is not after score_at {at}", "Give scoring time to run."))
    return problems


_REMEDIES = {
    "missing": "Add this field.",
    "union_tag_not_found": "Say which kind it is: `kind: number`, `category` or `history` (a split: `method: ...`).",
    "union_tag_invalid": "Use one of the kinds that exist.",
    "string_type": "Write a text (quote it if it looks like a number).",
    "float_parsing": "Write a number like 0 or 12.5.",
    "float_type": "Write a number like 0 or 12.5.",
    "int_parsing": "Write a whole number.",
    "int_type": "Write a whole number.",
    "bool_type": "Write true or false.",
    "bool_parsing": "Write true or false.",
    "model_type": "Write its fields below it, indented.",
    "dict_type": "Write `column: {kind: ...}` lines below it, indented.",
    "value_error": "Mend it.",
}
_PATTERN_REMEDIES = {
    "name": "Use lower-case letters, digits and underscores, like `churn` or `card_fraud`.",
    "table": "Write namespace and table, like `silver.active_customers`.",
    "score_at": "Write hours and minutes, like 02:00.",
    "ready_by": "Write hours and minutes, like 08:00.",
    "window": "Write a number and a unit: 30s, 10min, 1h or 30d.",
    "at": "Write hours and minutes, like 05:00.",
}


def _problem(error: ErrorDetails) -> Problem:
    """Put one of pydantic's errors into words with a remedy."""
    loc = [str(part) for part in error["loc"]]
    if loc[0] == "features" or loc[:2] == ["examples", "split"]:
        del loc[2:3]  # the tag of the union, which stands in no file
    kind, message, remedy = error["type"], error["msg"].removeprefix("Value error, "), _REMEDIES.get(error["type"])
    if kind == "missing":
        return Problem(".".join(loc), None, "is missing", remedy or "")
    if kind == "extra_forbidden":
        close = difflib.get_close_matches(loc[-1], _field_names(), n=1)
        remedy = f"Did you mean {close[0]!r}?" if close else "Remove it; docs/declaration.md has every field."
        message = "is not a field here"
    if kind == "string_pattern_mismatch":
        message, remedy = "has the wrong form", _PATTERN_REMEDIES.get(loc[-1])
    remedy = remedy or "Mend it as the message says; docs/declaration.md has every field."
    return Problem(".".join(loc), error["input"], message[:1].lower() + message[1:].rstrip("."), remedy)


def _field_names() -> list[str]:
    """Every field name of the language, for `did you mean`."""
    schema = Declaration.model_json_schema()
    objects = [schema, *schema["$defs"].values()]
    return sorted({name for part in objects for name in part.get("properties", {})})
