"""The declaration as it is written: every choice, and behind it the reason."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from typing import Any

from onboarding.features import Feature
from onboarding.findings import Finding

PLAIN = re.compile(r"^[^\W\d_]\w*(?:[ -]\w+)*$")
WORDS = {"true", "false", "null", "y", "n", "yes", "no", "on", "off"}  # that some YAML readers take for something else
WIDTH = 118
LeftOut = tuple[Finding, Feature | None]  # a column that is left out, and what it would be, where it could be one


@dataclass(frozen=True)
class Draft:
    """What a declaration is written from."""

    name: str
    source: str
    key: str
    label: str
    positive: str | None
    population: str
    examples: str
    time: str | None
    split: Mapping[str, Any]
    features: Sequence[Feature]
    left_out: Sequence[LeftOut]
    port: int
    first_day: date
    comments: dict[str, str] = field(default_factory=dict)  # by field
    threshold: float | None = None
    gates: dict[str, float] = field(default_factory=dict)
    notes: Sequence[str] = ()


def text_of(draft: Draft) -> str:
    """Return the file's text."""
    parts = [_head(draft), _tables(draft), _features(draft), _decisions(draft), _rest(draft)]
    return "\n".join("\n".join(part) + "\n" for part in parts)


def scalar(value: Any) -> str:
    """Write a value so that every YAML reader takes it for what it is."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if not isinstance(value, str):
        return f"{value:g}" if isinstance(value, float) else str(value)
    plain = PLAIN.fullmatch(value) and value.casefold() not in WORDS
    return value if plain else _quoted(value)


def _quoted(text: str) -> str:
    """Write a text in quotes, and what is no printable character by its number."""
    return "".join(c if c.isprintable() else _numbered(ord(c)) for c in json.dumps(text, ensure_ascii=False))


def _numbered(character: int) -> str:
    return f"\\u{character:04x}" if character < 0x10000 else f"\\U{character:08x}"


def feature_lines(feature: Feature, width: int = 0, prefix: str = "  ") -> list[str]:
    """Write a feature, without its comment: one line, or as many as its values need."""
    items = [f"{name}: {scalar(value)}" for name, value in feature.fields.items() if name != "values"]
    values = [scalar(value) for value in feature.fields.get("values", ())]
    words = [f"{{{items[0]}", *items[1:]]
    if values:
        words = (
            [words[0], f"values: [{values[0]}", *values[1:-1], f"{values[-1]}]"]
            if len(values) > 1
            else [words[0], f"values: [{values[0]}]"]
        )
        words += items[1:]
    words[-1] += "}"
    return _wrapped(f"{prefix}{scalar(feature.name) + ':':<{width}} ", words, f"{prefix}    ")


def _wrapped(begin: str, words: Sequence[str], indent: str) -> list[str]:
    """Put words behind each other, separated by commas, and go on in a new line where one is full."""
    lines, line = [], begin + words[0]
    for word in words[1:]:
        if len(line) + len(word) + 3 > WIDTH:
            lines.append(line + ",")
            line = indent + word
        else:
            line += f", {word}"
    return [*lines, line]


def _head(draft: Draft) -> list[str]:
    return [
        f"# Written by `tandem new` from {_one_line(draft.source)}.",
        "# Change what you know better: `tandem check` reads it, docs/declaration.md has every field.",
        *(f"# {line}" for note in draft.notes for line in _folded(_one_line(note))),
        f"name: {draft.name}",
        "description: " + scalar(f"Probability that {draft.label} is {draft.positive or 'yes'}."),
        f"entity_key: {scalar(draft.key)}",
    ]


def _tables(draft: Draft) -> list[str]:
    split = ", ".join(f"{name}: {scalar(value)}" for name, value in draft.split.items())
    lines = [
        "population:",
        f"  table: {draft.population}" + _behind(draft, "population"),
        *([f"  # time: {scalar(draft.time)}  # with it, answers say how old features are"] if draft.time else []),
        "",
        "examples:",
        f"  table: {draft.examples}" + _behind(draft, "examples"),
        f"  label: {scalar(draft.label)}" + _behind(draft, "label"),
    ]
    lines += [f"  positive: {scalar(draft.positive)}"] if draft.positive is not None else []
    lines += [f"  time: {scalar(draft.time)}"] if draft.time else []
    return [*lines, f"  split: {{{split}}}" + _behind(draft, "split")]


def _features(draft: Draft) -> list[str]:
    every = [feature.name for feature in draft.features] + [finding.column for finding, _ in draft.left_out]
    width = min(32, max(len(scalar(name)) for name in every) + 1)
    lines = ["features:"]
    for feature in draft.features:
        lines += _with_comment(feature_lines(feature, width), feature.comment)
    if draft.left_out:
        lines += ["", "  # Left out. To use one that has a kind all the same, take the # away:"]
    for finding, possible in draft.left_out:
        reason = f"{finding.what}: {finding.evidence}"
        if possible is None:
            lines += [f"  # {part}" for part in _folded(_one_line(f"{scalar(finding.column)}  {reason}"))]
        else:
            lines += _with_comment(feature_lines(possible, width, "  # "), reason)
    return lines


def _with_comment(lines: Sequence[str], comment: str) -> list[str]:
    """Put a comment behind a line, or above where there is no room."""
    comment = _one_line(comment)
    if not comment:
        return list(lines)
    if len(lines) == 1 and len(lines[0]) + len(comment) + 4 <= WIDTH:
        return [f"{lines[0]}  # {comment}"]
    return [*(f"  # {part}" for part in _folded(comment)), *lines]


def _decisions(draft: Draft) -> list[str]:
    lines = (
        [f"decision_threshold: {draft.threshold:g}" + _behind(draft, "decision_threshold")] if draft.threshold else []
    )
    if draft.gates:
        lines += ["", "gates:"] + [f"  {name}: {value:g}" + _behind(draft, name) for name, value in draft.gates.items()]
    return lines


def _rest(draft: Draft) -> list[str]:
    return [
        "predictions:",
        f"  table: gold.{draft.name}_predictions",
        '  score_at: "02:00"',
        '  ready_by: "08:00"',
        f'  first_day: "{draft.first_day}"',
        "",
        "api:",
        f"  port: {draft.port}",
    ]


def _behind(draft: Draft, name: str) -> str:
    comment = draft.comments.get(name)
    return f"  # {_one_line(comment)}" if comment else ""


def _one_line(text: str) -> str:
    """Keep a comment in its line, whatever a file's values hold."""
    return "".join(letter if letter.isprintable() else " " for letter in text)


def _folded(text: str) -> list[str]:
    import textwrap

    return textwrap.wrap(text, WIDTH - 4) or [""]
