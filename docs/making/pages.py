"""The pages of the documentation, cut into what can be tried: fenced blocks, and the commands of shell blocks."""

import re
import shlex
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from backends.settings import ROOT

PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").glob("*.md")])
BLOCK = re.compile(r"^( *)```(\w*)\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
SHELL = ("sh", "bash", "console", "shell")


@dataclass(frozen=True)
class Block:
    """A fenced block: the page's name, the line that it begins in, its language and its text."""

    page: str
    line: int
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


@dataclass(frozen=True)
class Command:
    """One command of a shell block, as it stands there without comments, and where that is."""

    where: Block
    text: str

    def __str__(self) -> str:
        return f"{self.where.page}: {self.text.splitlines()[0][:60]}"

    @property
    def words(self) -> list[str]:
        """The command's words; a variable keeps its name."""
        return shlex.split(self.text.replace("\\\n", " "), comments=True)


def blocks_of(page: Path) -> list[Block]:
    """Return a page's fenced blocks; those inside lists are moved to the left."""
    text = page.read_text()
    return [
        Block(page.name, text[: found.start()].count("\n") + 1, found[2], textwrap.dedent(found[3]))
        for found in BLOCK.finditer(text)
    ]


def blocks(*languages: str) -> list[Block]:
    """Return the blocks of some languages, on all pages."""
    return [block for page in PAGES for block in blocks_of(page) if block.language in languages]


def commands() -> list[Command]:
    """Return the commands of all shell blocks, in their order."""
    return [Command(block, text) for block in blocks(*SHELL) for text in _split(block.text)]


def _split(text: str) -> Iterator[str]:
    """Cut a shell block into commands: one goes on behind a backslash and inside a quotation."""
    rest = ""
    for line in text.splitlines():
        rest += line.removeprefix("$ ") if not rest else f"\n{line}"
        if not rest.endswith("\\") and _is_closed(rest):
            if shlex.split(rest, comments=True):
                yield rest
            rest = ""
    assert not rest, f"a command without an end: {rest}"


def _is_closed(text: str) -> bool:
    try:
        shlex.split(text, comments=True)
    except ValueError:
        return False
    return True
