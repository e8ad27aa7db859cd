"""What pages and `make help` say that a target reads, it reads: make itself is asked, and runs no recipe."""

import os
import re
import subprocess
from dataclasses import dataclass
from functools import cache

import pytest

from backends.settings import ROOT, Settings
from docs.making.pages import PAGES

MAKEFILE = (ROOT / "Makefile").read_text()
TYPED = re.compile(r"(?:^|`)((?:\w+=\S+ )*)make ([a-z-]+)([^`\n]*)", re.MULTILINE)  # in a block, or in backticks
HELP = re.compile(r"^()([a-z-]+):.*?## (.*)$", re.MULTILINE)
VARIABLE = re.compile(r"\b([A-Z][A-Z_]+)=")
OTHER = "what_no_target_has_by_default"


@dataclass(frozen=True)
class Mention:
    """A target, the settings ahead of `make`, and the variables that are named for it, in the comment too."""

    where: str
    ahead: tuple[str, ...]
    target: str
    variables: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.where}: {self.target} {' '.join(self.variables)}".strip()


def mentions(where: str, text: str, form: re.Pattern[str]) -> list[Mention]:
    """Find the targets that a text names, in one of the two forms."""
    found = form.findall(text)
    return [Mention(where, tuple(VARIABLE.findall(a)), target, tuple(VARIABLE.findall(b))) for a, target, b in found]


ON_PAGES = {mention: None for page in PAGES for mention in mentions(page.name, page.read_text(), TYPED)}
IN_HELP = mentions("Makefile", MAKEFILE, HELP)
NAMED = [mention for mention in (*ON_PAGES, *IN_HELP) if mention.variables]


@cache
def recipe(target: str, *given: str) -> str:
    """Return all that make would do for a target; nothing is done."""
    command = ["make", "--dry-run", "--always-make", target, *given]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
    return done.stdout


def is_read(variable: str, target: str) -> bool:
    """Whether a target does something else when a variable is given, or hands it on as it is."""
    exported = re.search(rf"^export .*\b{variable}\b", MAKEFILE, re.MULTILINE)
    return bool(exported) or recipe(target, f"{variable}={OTHER}") != recipe(target)


@pytest.mark.parametrize("mention", NAMED, ids=str)
def test_a_target_reads_each_variable_that_is_named_for_it(mention):
    assert [variable for variable in mention.variables if not is_read(variable, mention.target)] == []


@pytest.mark.parametrize("mention", [mention for mention in ON_PAGES if mention.ahead], ids=str)
def test_what_stands_ahead_of_make_is_a_setting(mention):
    assert set(mention.ahead) <= {f"TANDEM_{name.upper()}" for name in Settings.model_fields}


def test_variables_are_found_where_they_are_named():
    """In a command, in its comment, in backticks, in the list of targets."""
    found = {(mention.target, variable) for mention in ON_PAGES for variable in mention.variables}
    assert {("image", "NAME"), ("demo", "ROWS"), ("serve", "MODEL"), ("bench-quality", "SPLITS")} <= found
    assert {mention.target for mention in IN_HELP if "STAY" in mention.variables} == {"demo"}


@pytest.mark.parametrize(
    ("target", "variable", "reads"),
    [
        ("demo", "STAY", True),  # which only switches something on
        ("demo", "ROWS", True),  # which is passed on only when it is given
        ("setup", "PYTHON", True),  # in the recipe of a file that it needs
        ("dev", "TANDEM_HOME", True),  # by all: it is exported
        ("demo-weeks", "ROWS", False),  # another's
        ("bench-growth", "ONLY", False),
        ("test", "WORKER", False),  # a part of a name
    ],
)
def test_a_variable_of_another_target_would_be_seen(target, variable, reads):
    assert is_read(variable, target) == reads
