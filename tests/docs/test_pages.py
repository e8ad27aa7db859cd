"""The documents say what the code does: generated pages are current, links lead somewhere, commands exist.

And nothing on them escapes the tests of commands and snippets: each fenced block says what it is.
"""

import re
import subprocess
from pathlib import Path

import pytest
import typer

from backends.settings import ROOT, Settings
from docs.making.declaration_reference import reference
from docs.making.pages import BLOCK, PAGES, SHELL, blocks, blocks_of
from models.declaration import load_declarations
from orchestration.cli import app

VERBS = typer.main.get_command(app).commands
FENCE = re.compile(r"^[ >]*(?:```|~~~)", re.MULTILINE)
TRIED = {*SHELL, "python", "yaml", "json", "sql"}  # by tests of this folder
SHOWN = ("text", "nginx")  # only to be looked at
TYPED = re.compile(
    r"^(?:\$ |export |(?:sudo )?(?:\.venv/bin/)?(?:make|tandem|python|pip|uv|curl|docker|podman) )", re.MULTILINE
)
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")


@pytest.fixture(scope="module")
def targets() -> set[str]:
    """What `make help` lists."""
    done = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True)
    return set(re.findall(r"^  make (\S+)", done.stdout, re.MULTILINE))


@pytest.fixture(scope="module")
def configuration() -> dict[str, str]:
    """The table of `docs/configuration.md`: variable -> the rest of its row."""
    text = (ROOT / "docs" / "configuration.md").read_text()
    return dict(re.findall(r"^\| `(TANDEM_\w+)` \| (.*) \|$", text, re.MULTILINE))


def test_the_reference_of_declarations_is_current():
    written = (ROOT / "docs" / "declaration.md").read_text()
    assert written == reference(), "run `make schema`"


def test_every_setting_is_documented_and_nothing_else(configuration):
    assert list(configuration) == [f"TANDEM_{name.upper()}" for name in Settings.model_fields]


@pytest.mark.parametrize("name", Settings.model_fields)
def test_a_setting_is_documented_in_its_own_words(configuration, name):
    assert Settings.model_fields[name].description in configuration[f"TANDEM_{name.upper()}"]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_each_fenced_block_says_what_it_is(page):
    """Untagged, or fenced in a way that `docs.making.pages` does not know, it would be tried by nobody."""
    found = blocks_of(page)
    assert len(FENCE.findall(page.read_text())) == 2 * len(found)
    assert {str(block): block.language for block in found if block.language not in {*TRIED, *SHOWN}} == {}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_code_is_fenced_and_not_only_indented(page):
    in_list = False
    for paragraph in filter(str.strip, re.split(r"\n\s*?\n", BLOCK.sub("", page.read_text()))):
        assert in_list or not paragraph.startswith("    "), paragraph
        in_list = paragraph.startswith(" ") or bool(re.search(r"^(?:[-*]|\d+\.) ", paragraph, re.MULTILINE))


def test_what_is_only_to_be_looked_at_has_no_commands():
    assert [str(block) for block in blocks(*SHOWN) if TYPED.search(block.text)] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_relative_links_and_images_lead_somewhere(page):
    links = [link for link in LINK.findall(page.read_text()) if not re.match(r"[a-z]+:", link)]
    missing = [link for link in links if not target_exists(page, link)]
    assert missing == []


def target_exists(page: Path, link: str) -> bool:
    file, _, anchor = link.partition("#")
    target = page.parent / file if file else page
    if not target.exists():
        return False
    headings = re.findall(r"^#+ (.+)$", target.read_text(), re.MULTILINE) if anchor else []
    return not anchor or anchor in {re.sub(r"[^\w\- ]", "", heading).lower().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_are_those_of_the_makefile(page, targets):
    """Commands stand in backticks or at the beginning of a line of a code block."""
    commands = set(re.findall(r"(?:`|^)make ([a-z-]+)", page.read_text(), re.MULTILINE))
    assert commands <= targets
    if page.name == "README.md":
        assert {"demo", "test", "dev", "serve", "check", "bench", "clean"} <= commands


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_verbs_and_their_options_are_those_of_the_command_line(page):
    """They stand where commands do, with or without their folder."""
    found = re.findall(r"(?:`|^)(?:\.venv/bin/)?tandem ([a-z-]+)((?:\\\n|[^`\n])*)", page.read_text(), re.MULTILINE)
    for verb, rest in found:
        assert verb in VERBS
        options = {option for parameter in VERBS[verb].params for option in parameter.opts}
        assert set(re.findall(r" (--[a-z-]+)", rest.partition("#")[0])) <= options | {"--help"}, verb
    if page.name == "promotion.md":
        assert {"promote", "rollback-model", "rollback"} <= {verb for verb, _ in found}


def test_make_help_lists_every_target(targets):
    phony = re.search(r"^\.PHONY: (.+)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert set(phony[1].split()) == targets


def test_the_readmes_example_is_the_declaration_that_is_there():
    readme = (ROOT / "README.md").read_text()
    for declaration in load_declarations(ROOT / "models"):
        for said in (f"name: {declaration.name}", declaration.source_table, declaration.examples.table):
            assert said in readme
