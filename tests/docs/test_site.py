"""The site: it is built without a warning, has every page, and fetches nothing from elsewhere."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from backends.settings import ROOT

FETCHED = re.compile(r"<(?:script|img|iframe|source)[^>]* src=\"(?:https?:)?//|<link[^>]* href=\"(?:https?:)?//")


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    """Build the site as `make docs` does: a broken link or anchor, or a page in no menu, is an error."""
    pytest.importorskip("mkdocs")
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-W", "ignore", "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder


def test_every_page_is_built_and_in_the_menu(site):
    pages = {page.stem for page in (ROOT / "docs").glob("*.md")}
    assert {page.stem for page in site.glob("*.html")} == pages | {"404"}
    menu = set(re.findall(r"([\w-]+)\.md$", (ROOT / "mkdocs.yml").read_text(), re.MULTILINE))
    assert menu == pages


def test_nothing_is_fetched_from_elsewhere(site):
    for page in site.glob("*.html"):
        assert FETCHED.findall(page.read_text()) == [], page.name
    assert "url(http" not in "".join(style.read_text() for style in site.rglob("*.css"))


def test_what_pages_link_to_outside_of_docs_is_there(site):
    assert yaml.safe_load((site / "deploy" / "compose.yaml").read_text())
    assert 'href="deploy/compose.yaml"' in (site / "deploying.html").read_text()


def test_no_program_is_published(site):
    assert list(site.rglob("*.py")) == []
