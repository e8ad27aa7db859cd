"""The figures of `docs/benchmarks.md`, from the JSON of a run: `python -m benchmarks.api_pages bench-api.json`.

They stand between two markers, of which each model has its own; whatever is written around those stays. The picture
goes to `docs/images/`.
"""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from backends.settings import ROOT
from benchmarks.api import judged
from benchmarks.machine import title
from benchmarks.plots import waits
from models.errors import TandemError

PAGE = ROOT / "docs" / "benchmarks.md"
FIRST = "churn"  # whose names have no model in them

HEADINGS = ("system", "store", "rate", "requests/s", "p50 ms", "p99 ms", "p99.9 ms", "errors", "MB")


def main(records: Annotated[Path, typer.Argument(help="What `make bench-api` wrote.")]) -> None:
    """Write the tables and the picture into the docs."""
    facts = json.loads(records.read_text())
    PAGE.write_text(filled(PAGE.read_text(), tables(facts), _name(facts)))
    waits(facts["records"], PAGE.parent / _picture(facts))


def filled(page: str, part: str, name: str = "bench-api") -> str:
    """Return a page with a part between its markers; `TandemError` when it has none."""
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    marked = re.compile(rf"(?<={begin}\n).*?(?={end})", re.DOTALL)
    if not marked.search(page):
        raise TandemError(f"The page has no markers `{begin}` and `{end}`.")
    return marked.sub(lambda _: f"\n{part}\n", page)


def _name(facts: Mapping[str, Any]) -> str:
    return "bench-api" if facts["model"] == FIRST else f"bench-api-{facts['model']}"


def _picture(facts: Mapping[str, Any]) -> str:
    return f"images/{_name(facts).replace('-', '_')}.png"


def tables(facts: Mapping[str, Any]) -> str:
    """Return all tables of a run, in Markdown."""
    one_by_one = [_row(record, "one by one") for record in facts["records"] if not record["rate"]]
    at_rates = [_row(record, f"{record['rate']:,}") for record in facts["records"] if record["rate"]]
    saturated = [_row(record, f"{record['connections']} at once") for record in facts["saturated"]]
    load = [_row(record, f"{record['rate']:,}" if record["rate"] else "one by one") for record in facts["load"]]
    starts = [(start["system"], start["store"], f"{start['seconds']:.1f}") for start in facts["starts"]]
    bars = [(bar["name"], *judged(bar)) for bar in facts["bars"]]
    made, python = f"{facts['rows']:,} {facts['what']}", f"Python {facts['machine']['python']}"
    versions = ", ".join(f"{name} {version}" for name, version in facts["machine"]["versions"].items())
    return "\n\n".join(
        [
            f"{made}; {title(facts['machine'])}; {python}, {versions}.",
            _table(("figure", "measured", "what we want", ""), bars),
            f"![p99 at each rate, LMDB and Redis]({_picture(facts)})",
            _table(HEADINGS, at_rates),
            _table(HEADINGS, one_by_one + saturated),
            _table(("server", "store", "seconds from start to ready"), starts),
            "What the load itself costs, against a server that answers at once with nothing:",
            _table(HEADINGS, load),
        ]
    )


def _row(record: Mapping[str, Any], rate: str) -> tuple[str, ...]:
    times = [f"{record[name]:,.2f}" for name in ("p50_ms", "p99_ms", "p999_ms")]
    own = record["rss_mb"] - record["mapped_mb"]
    figures = (f"{record['requests_per_second']:,.0f}", *times, f"{record['errors']:,}", f"{own:.0f}")
    return (f"`{record['system']}`", record["store"], rate, *figures)


def _table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [headings, ["---"] * len(headings), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


if __name__ == "__main__":
    typer.run(main)
