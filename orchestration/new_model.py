"""What `tandem new` shows: what was found in each column, what was decided, and what to do next."""

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from backends.settings import Settings
from onboarding.new_model import Made, new_model
from onboarding.profiling import Request
from orchestration.life import screen


def make_model(settings: Settings, request: Request) -> None:
    """Make the model, and say on a screen what was found and decided."""
    console = screen()
    with console.status("") as status:
        made = new_model(settings, request, status.update)
    show(console, made)


def show(console: Console, made: Made) -> None:
    """Print what was found: the rows, the columns, what is left out, and the next command."""
    found = made.profiled
    outcome = found.outcome
    console.print(
        f"[bold]{made.declaration.name}[/bold] from {escape(found.staged.origin)}: {found.staged.rows:,} rows"
    )
    console.print(
        f"label     {escape(outcome.column)}: {outcome.positives:,} of {outcome.labelled:,} are positive "
        f"({outcome.share:.2%}), {escape(' '.join(map(repr, outcome.positive)))} means yes, {outcome.why}"
    )
    console.print(_features(made))
    for finding in found.findings:
        mark = "[yellow]left out[/yellow]" if finding.left_out else "[yellow]look at[/yellow]"
        console.print(f"{mark}  {escape(finding.column)}: {finding.what}, {escape(finding.evidence)}")
    for note in (*made.draft.notes, *made.warnings):
        console.print(f"[yellow]note[/yellow]      {escape(note)}")
    console.print(_tables(made))


def _features(made: Made) -> Table:
    table = Table(box=None, header_style="bold", pad_edge=False)
    for heading in ("feature", "kind", "missing", "alone, AUC", "what was decided"):
        table.add_column(heading, justify="right" if heading in ("missing", "alone, AUC") else "left")
    columns = {column.name: column for column in made.profiled.columns}
    for feature in made.draft.features:
        column = columns[feature.name]
        missing = f"{column.absent.rows / column.all_rows:.1%}" if column.absent.rows else ""
        kind = str(feature.fields["kind"])
        table.add_row(escape(feature.name), kind, missing, f"{column.auc:.3f}", escape(feature.comment))
    return table


def _tables(made: Made) -> str:
    declaration = made.declaration
    rows = f"{made.profiled.outcome.labelled:,} labelled rows, {made.profiled.scored:,} to score every night"
    return (
        f"loaded    {declaration.examples.table}, {declaration.scored_table}: {rows}\n"
        f"declared  {made.path}: a quick baseline ranks with an AUC of {made.baseline.auc:.3f}\n"
        f"next      [bold]tandem run {declaration.name}[/bold]"
    )
