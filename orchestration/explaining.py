"""What the verb `explain` does: why a row of the Gold table, or one that stands nowhere, has its score, as a table."""

from collections.abc import Iterator
from datetime import date
from typing import TYPE_CHECKING, Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from assets.resources import Backends
from backends.settings import Settings
from models.declaration import Declaration, load_declaration
from models.errors import ModelNotServedError, TandemError

if TYPE_CHECKING:
    from backends.explanations import Explanation

HALF = 12  # characters of the longest bar
ALL = 1_000_000  # reasons; the model that is served may have other features than the declaration


def explained(
    settings: Settings, model: str, key: str | None, day: date | None, features: str | None, url: str | None
) -> "Explanation":
    """Explain a published row, given features, or what a running service answers; see `tandem explain --help`."""
    declaration = load_declaration(settings.models / f"{model}.yaml")
    if (key is None) == (features is None):
        raise TandemError(f"Give a key of {declaration.row_key}, or --features: one of them.")
    if day and (features or url):
        raise TandemError("--day is for what stands in the Gold table: leave --features and --url out.")
    if url:
        return _answered(declaration, url, key, features)
    backends = Backends(settings)
    from backends.explanations import explain_features, explain_published

    if features is not None:
        return explain_features(backends.registry(), model, features)
    assert key is not None
    with backends.lakehouse() as lake:
        return explain_published(lake, backends.registry(), declaration, key, day)


def _answered(declaration: Declaration, url: str, key: str | None, features: str | None) -> "Explanation":
    from backends.explanations import explanation_of, json_object, key_of
    from bento.client import ApiClient

    if declaration.events:
        raise TandemError("An event is explained by its row in the Gold table, or by --features: leave --url out.")
    model, name = declaration.name, declaration.entity_key
    with ApiClient(url) as client:
        if (served := client.lineage()["model"]) != model:
            raise ModelNotServedError(f"{url} is the service of {served}, not of {model}. Give the address of that.")
        if key is None:
            asked: dict[str, Any] = {"features": json_object(features or "")}
        else:
            asked = {name: key_of(name, key, integer=client.datatypes(model).get(name) == "INT64")}
        answer = client.predict(asked | {"reasons": ALL})
    row = "the given features" if key is None else f"{name} {key}"
    return explanation_of(answer, f"{model} version {answer['model_version']} at {url}: {row}")


# --- the picture ----------------------------------------------------------------------------------------------------


def pictured(explanation: "Explanation", most: int) -> RenderableType:
    """Return the table that a person reads: the features that moved the score most, and what the others add up to."""
    table = Table(box=None, padding=(0, 2, 0, 0))
    table.add_column("feature")
    table.add_column("value", justify="right")
    table.add_column("log-odds", justify="right")
    table.add_column("")
    largest = max((abs(amount) for _, _, amount in explanation.reasons), default=0.0)
    for name, value, amount in explanation.reasons[:most]:
        table.add_row(Text(name), Text(_shown(value)), f"{amount:+.3f}", _bar(amount, largest))
    others = [amount for _, _, amount in explanation.reasons[most:]]
    if others:
        table.add_row(f"{len(others)} others", "", f"{sum(others):+.3f}", _bar(sum(others), largest), style="dim")
    return Group(Text(explanation.what, "bold"), *map(Text, _lines(explanation)), "", table)


def _lines(explanation: "Explanation") -> Iterator[str]:
    decided = "predicted positive" if explanation.decision else "not predicted positive"
    as_published = ", as published" if explanation.published is not None and explanation.agrees else ""
    yield f"probability {explanation.probability:.4f}{as_published}; threshold {explanation.threshold:g}: {decided}"
    if not explanation.agrees:
        yield f"published as {explanation.published:.4f}: by another kind of CPU"
    yield f"base        {explanation.base_probability:.4f}; what moved the score from there, in log-odds:"


def _shown(value: Any) -> str:
    return "missing" if value is None else f"{value:.6g}" if isinstance(value, float) else str(value)


def _bar(amount: float, largest: float) -> Text:
    """Draw an amount from the middle: to the right what raises the score, to the left what lowers it."""
    length = round(HALF * min(abs(amount) / largest, 1)) if largest else 0
    bar = "\u2588" * length
    left, right = (bar.rjust(HALF), "") if amount < 0 else (" " * HALF, bar)
    return Text.assemble((left, "blue"), "\u2502", (right, "red"))
