"""Write `docs/declaration.md` from the JSON Schema of declarations, so that the reference is never behind the code."""

import json
import re
from pathlib import Path
from typing import Any

from models.declaration import Declaration

ROOT = Path(__file__).resolve().parents[2]
INTRODUCTION = """# The declaration

One file, `models/<name>.yaml`, is all that is written to get a model: Dagster shows its assets, checks, jobs and
schedule the next time the code location is loaded. `tandem check` validates the files and says every error at once.
Editors that know JSON Schema complete and check while you type (the first line of the example names the schema).

The smallest file; everything else has a default:

```yaml
name: churn
entity_key: customer_id
population: {table: silver.active_customers}
examples: {table: silver.churn_examples, label: churned, time: observed_on}
features:
  tenure_months: {kind: number, min: 0}
  plan:          {kind: category, values: [basic, plus, pro]}
```

- **Numbers** are read as float32. A value outside `min` and `max`, or a missing one without `missing: true`, is
  refused, never clipped: a night fails before anything is published, the API answers 422 and names the field.
- **Categories** are texts (integers and booleans are read as their text). A value that is not listed falls into the
  bucket `other`, in both lanes alike.
- **The split.** With `method: time` the latest months are the test set: evaluation looks into the future, as production
  does. Examples that carry no time say `split: {method: stratified, test_share: 0.25}`.
- **Events.** A table whose rows happen, like card swipes, is declared as `events` instead of a `population`. Its
  features may be of kind `history`: counted from the entity's earlier rows. See [events](events.md).
- **The threshold.** `decision_threshold` fixes it. `decision_costs: {missed: 150, false_alarm: 4}` lets training find
  the one that costs least.
- YAML's traps are off: `Yes`, `on` and `18:30` are texts, and a key that stands twice is an error.

This page is generated from the schema (`make schema`).
"""


# How each part looks in the file. Tests read every one as part of a declaration.
EXAMPLES = {
    "Population": "population: {table: silver.active_customers, time: updated_at}",
    "Events": "events: {table: silver.card_transactions, key: transaction_id, time: occurred_at}",
    "Examples": "examples: {table: silver.churn_examples, label: outcome, positive: left, time: observed_on}",
    "TimeSplit": "examples:\n  split: {method: time, test_months: 3}",
    "StratifiedSplit": "examples:\n  split: {method: stratified, test_share: 0.25}",
    "NumberFeature": "features:\n  age_years: {kind: number, min: 16, max: 110, missing: true, description: Age.}",
    "CategoryFeature": "features:\n  plan: {kind: category, values: [basic, plus, pro]}",
    "HistoryFeature": "features:\n  spent_24h: {kind: history, measure: sum, of: amount, window: 24h}",
    "DecisionCosts": "decision_costs: {missed: 150, false_alarm: 4}",
    "HistoryLimits": "history: {resolution: 0.01, max_events: 1000}",
    "Network": "network: {hidden: [64, 16], bins: 12}",
    "Training": "training: {synthetic_rows: 300000, row_presentations: 4000000}",
    "Gates": "gates: {min_auc: 0.75, max_calibration_error: 0.03, max_rejected_share: 0.01}",
    "Comparison": "gates:\n  comparison: {confidence: 0.9, min_auc_gain: 0.001}",
    "Int8Limits": "gates:\n  int8: {max_auc_drop: 0.001, max_decision_flips: 0.01}",
    "Predictions": 'predictions: {score_at: "03:30", ready_by: "07:00", timezone: Europe/Berlin}',
    "Drift": "drift: {max_feature_shift: 0.2, min_rows: 5000}",
    "Outcomes": "outcomes: {after_days: 30, window_days: 28, min_auc: 0.72}",
    "Retraining": 'retraining: {day: monday, at: "06:00", on_drift: false}',
    "Costs": "costs: {cpu_hour: 0.04, currency: EUR}",
    "Api": "api: {port: 3003, batch_limit: 5000, log_sample: 0.01}",
}


def reference() -> str:
    """Return the page: the introduction, then an example and a table for each part of a declaration."""
    schema = Declaration.model_json_schema()
    parts = {"Declaration": schema, **{name: schema["$defs"][name] for name in _in_order(schema)}}
    return INTRODUCTION + "".join(_section(name, part) for name, part in parts.items())


def _in_order(schema: dict[str, Any]) -> list[str]:
    """Name the parts as a reader of the file meets them: after each one those that stand inside it."""
    found: list[str] = []
    for name in re.findall(r'"#/\$defs/(\w+)"', json.dumps(schema.get("properties", {}))):
        if name not in found:
            found += [name, *(inner for inner in _in_order(schema["$defs"][name] | {"$defs": schema["$defs"]}))]
    return list(dict.fromkeys(found))


def _section(name: str, part: dict[str, Any]) -> str:
    required = set(part.get("required", ()))
    about = _text(part.get("description", ""))
    example = f"```yaml\n{EXAMPLES[name]}\n```\n\n" if name in EXAMPLES else ""
    rows = "".join(_row(field, spec, field in required) for field, spec in part.get("properties", {}).items())
    return f"\n## {name}\n\n{about}\n\n{example}| field | type | default | meaning |\n|---|---|---|---|\n{rows}"


def _row(field: str, spec: dict[str, Any], required: bool) -> str:
    default = "**required**" if required else _default(spec.get("default"))
    meaning = _text(spec.get("description", "")).replace("|", "\\|")
    return f"| `{field}` | {_type(spec)} | {default} | {meaning} |\n"


def _text(description: str) -> str:
    """Return a description on one line; what looks like a tag would not be shown."""
    return " ".join(description.split()).replace("<", "&lt;")


def _default(value: Any) -> str:
    if isinstance(value, dict):
        return "see there"
    return "" if value in (None, "") else f"`{str(value).lower() if isinstance(value, bool) else value}`"


def _type(spec: dict[str, Any]) -> str:
    """Name a field's type, with its bounds or a link to its part."""
    if "$ref" in spec:
        name = spec["$ref"].rsplit("/", 1)[1]
        return f"[{name}](#{name.lower()})"
    if "const" in spec:
        return f"`{spec['const']}`"
    if "enum" in spec:
        return ", ".join(f"`{value}`" for value in spec["enum"])
    for key in ("anyOf", "oneOf"):
        if key in spec:
            return " or ".join(_type(option) for option in spec[key] if option.get("type") != "null")
    if spec.get("type") == "array":
        return f"list of {_type(spec['items'])}"
    if isinstance(spec.get("additionalProperties"), dict):
        return f"column: {_type(spec['additionalProperties'])}"
    return f"{spec.get('type', 'any')}{_bounds(spec)}"


def _bounds(spec: dict[str, Any]) -> str:
    signs = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
    found = [f"{sign} {spec[key]:g}" for key, sign in signs.items() if key in spec]
    return f" ({', '.join(found)})" if found else ""


if __name__ == "__main__":
    (ROOT / "docs" / "declaration.md").write_text(reference())
