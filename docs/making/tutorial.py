"""Follow `docs/tutorial.md` as a reader does, and write into it what really came out: `python -m docs.making.tutorial`.

It lives in a folder of its own below TANDEM_HOME, made anew each time, and takes some minutes. Blocks of commands and
of Python are run; the block of text or JSON behind one gets its output, and the block of YAML gets the declaration.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

from rich.console import Console
from rich.text import Text

from backends.settings import QUIET, ROOT, Settings
from docs.making.browser import browser
from docs.making.pages import BLOCK, SHELL
from docs.making.screenshots import IMAGES, Page, svg_size, take, web_server
from orchestration.life import Life
from orchestration.progress import Stages

PAGE = ROOT / "docs" / "tutorial.md"
MODEL, WIDTH = "leaving", 112
OWN = ("TANDEM_", "DAGSTER_", "BENTOML_", "MLFLOW_", "PYICEBERG_")  # what the settings of whoever runs this begin with
SCREEN = "run.svg"  # what `tandem run` shows at its end
PAGES = {
    "tutorial_lineage": Page(
        f"/asset-groups?expanded=global@global:{MODEL},global@global:silver",
        2300,
        1150,
        (),
        (380, 112, 84, 0),
        crop=True,
    ),
    "tutorial_gold": Page(f"/assets/gold/{MODEL}_predictions?view=overview", 1500, 1300),
}


class Reader:
    """Who follows the page, in a folder in which it looks as in the repository."""

    def __init__(self, folder: Path) -> None:
        shutil.rmtree(folder, ignore_errors=True)
        (folder / "models").mkdir(parents=True)
        for declaration in (ROOT / "models").glob("*.yaml"):
            shutil.copy(declaration, folder / "models")
        (folder / ".venv").symlink_to(ROOT / ".venv")
        have_only({"TANDEM_HOME": str(folder / ".tandem"), "TANDEM_MODELS": str(folder / "models")})
        self.folder, self.said, self.settings = folder, "", Settings()

    @property
    def alone(self) -> Settings:
        """The same home, as if there was no other model: pictures need not show those."""
        folder = self.folder / "alone"
        folder.mkdir(exist_ok=True)
        shutil.copyfile(self.settings.models / f"{MODEL}.yaml", folder / f"{MODEL}.yaml")
        return self.settings.model_copy(update={"models": folder})

    def follow(self, language: str, text: str) -> str:
        """Do what a block asks for, or return what it should show instead."""
        if language == "yaml":
            return (self.settings.models / f"{MODEL}.yaml").read_text()
        if language == "json":
            return json.dumps(json.loads(self.said), indent=2) + "\n"
        if language == "text":
            return self.said
        if language == "python":
            self.said = self._run(".venv/bin/python", "-c", text)
        elif language in SHELL and not text.startswith("make "):
            self.said = self._type(text)
        return text

    def _type(self, command: str) -> str:
        print(command, end="", flush=True)
        if command.startswith("curl"):
            with Stages(Console()) as stages, Life(self.settings, stages, MODEL).api():
                return self._run("sh", "-c", f"{command.strip()} --silent")
        if command.strip().endswith(f"tandem run {MODEL}"):
            said = self._run("sh", "-c", f"FORCE_COLOR=1 {command}")
            keep(said[said.rindex("\n", 0, said.index("╭")) + 1 :], self.folder / SCREEN)
            return said
        return self._run("sh", "-c", command)

    def _run(self, *command: str) -> str:
        environment = {**os.environ, "COLUMNS": str(WIDTH), "PYTHONPATH": str(ROOT)}
        done = subprocess.run(command, cwd=self.folder, env=environment, stdout=subprocess.PIPE, text=True, check=True)
        lines = done.stdout.replace(f"{self.folder}/", "").splitlines()
        return "\n".join(line.rstrip() for line in lines).strip("\n") + "\n"


def have_only(variables: dict[str, str]) -> None:
    """Let this process, and all that it starts, have these settings and none of whoever runs it."""
    for name in [name for name in os.environ if name.startswith(OWN)]:
        del os.environ[name]
    os.environ.update(QUIET | variables)


def keep(said: str, path: Path) -> None:
    """Keep a screen as a picture."""
    with (path.parent / "screen.txt").open("w") as nowhere:
        recorder = Console(record=True, width=WIDTH, file=nowhere)
        recorder.print(Text.from_ansi(said.rstrip("\n")))
        recorder.save_svg(str(path), title=f"tandem run {MODEL}")


def take_pictures(reader: Reader) -> None:
    """Take the page's pictures: of the screen, and of Dagster."""
    with browser() as chromium:
        screen = reader.folder / SCREEN
        chromium.open(screen.as_uri(), *svg_size(screen))
        chromium.picture(IMAGES / "tutorial_run.png")
        with web_server(reader.alone) as url:
            take(chromium, url, PAGES, ())


def main(folder: Path) -> None:
    """Follow the page, write it anew, and take its pictures."""
    reader, page = Reader(folder), PAGE.read_text()
    PAGE.write_text(BLOCK.sub(lambda found: f"```{found[2]}\n{reader.follow(found[2], found[3])}```", page))
    take_pictures(reader)


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve() if sys.argv[1:] else Settings().home / "tutorial")
