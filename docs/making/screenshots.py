"""Take the pictures of the documentation from the running UI: `make screenshots`.

Needs Debian's chromium. The first time, a home is made for it (`docs.making.screenshots_home`): some
minutes. Dagster's web server and the API are started on loopback, and stopped again.
"""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.error import URLError
from urllib.request import Request, urlopen

from rich.console import Console

from backends.settings import ROOT, Settings
from demo.run import Demo
from docs.making.browser import Browser, browser
from docs.making.screenshots_home import Homes, ready_homes
from orchestration.home import prepare
from orchestration.progress import Stages

IMAGES = ROOT / "docs" / "images"
LOAD_SECONDS = 120
FOLDED = "Hide navigation"
QUERY = "{ workspaceOrError { ... on Workspace { locationEntries { loadStatus } } } }"


@dataclass(frozen=True)
class Page:
    """One page of Dagster's UI: its address, the size of its window, what is clicked, and what of it is left away."""

    address: str
    width: int
    height: int
    clicks: Sequence[str] = ()
    without: tuple[int, int, int, int] = (0, 0, 0, 0)  # pixels at the left, the top, the right and the bottom
    crop: bool = False


PAGES = {
    "lineage": Page(
        "/asset-groups?expanded=global@global:churn,global@global:silver",
        *(2300, 1150),
        without=(380, 112, 84, 0),
        crop=True,
    ),
    "training": Page("/assets/churn/trained_model?view=overview", 1500, 1300),
    "predictions": Page("/assets/gold/churn_predictions?view=overview", 1500, 1300),
    "checks": Page("/assets/gold/churn_predictions?view=checks&checkDetail=scores_resemble_last_night", 1500, 900),
    "drift": Page("/assets/churn/drift?view=overview", 1500, 1000, ["Plots"]),
    "costs": Page("/assets/churn/costs?view=overview", 1500, 1000),
    "automation": Page("/automation", 1300, 960),
}
REFUSED = {"failed_gate": Page("/assets/churn/champion?view=checks&checkDetail=reaches_the_least_auc", 1500, 690)}


def take_all(settings: Settings, only: Sequence[str] = ()) -> None:
    """Write every picture to `docs/images/`, or only some by their names."""
    IMAGES.mkdir(exist_ok=True)
    homes = ready_homes(settings)
    _copy_plots(homes.lived)
    with browser() as chromium:
        demo = settings.home / "demo.svg"
        if demo.exists() and _wanted("demo", only):
            chromium.open(demo.as_uri(), *svg_size(demo))
            chromium.picture(IMAGES / "demo.png")
        with web_server(homes.lived) as url:
            take(chromium, url, PAGES, only)
        with web_server(homes.refused, homes.dagster_of_refused) as url:
            take(chromium, url, REFUSED, only)
        if _wanted("api", only):
            _take_api(chromium, homes)


def take(chromium: Browser, url: str, pages: dict[str, Page], only: Sequence[str]) -> None:
    """Take pictures of pages that a running server has: all, or some by their names."""
    folded = False
    for name, page in pages.items():
        if _wanted(name, only):
            chromium.open(url + page.address, page.width, page.height)
            if not folded:
                chromium.click(FOLDED)  # the browser keeps it so
                folded = True
            for text in page.clicks:
                chromium.click(text)
            chromium.picture(IMAGES / f"{name}.png", page.without, page.crop)
            print(f"docs/images/{name}.png")


def _take_api(chromium: Browser, homes: Homes) -> None:
    with Stages(Console()) as stages:
        demo = Demo(homes.lived, stages)
        with demo.api():
            chromium.open(demo.url, 1200, 1000)
            chromium.picture(IMAGES / "api.png")
    print("docs/images/api.png")


def _wanted(name: str, only: Sequence[str]) -> bool:
    return not only or name in only


def _copy_plots(settings: Settings) -> None:
    for plot in ("roc_and_calibration", "float_against_int8"):
        oldest = min(settings.home.glob(f"mlflow/churn/*/artifacts/pictures/{plot}.png"), key=os.path.getmtime)
        shutil.copyfile(oldest, IMAGES / f"{plot}.png")  # of the champion: the later one was refused


@contextmanager
def web_server(settings: Settings, dagster_home: Path | None = None) -> Iterator[str]:
    """Run Dagster's web server until the body ends; yield its address when the definitions are loaded."""
    environment, port = {**os.environ, **prepare(settings), "TANDEM_MODELS": str(settings.models)}, _free_port()
    environment["DAGSTER_HOME"] = str(dagster_home or settings.dagster_home)
    program = str(Path(sys.executable).parent / "dagster-webserver")
    command = [program, "-w", str(ROOT / "workspace.yaml"), "-h", "127.0.0.1", "-p", str(port)]
    url = f"http://127.0.0.1:{port}"
    with subprocess.Popen(command, env=environment, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.STDOUT) as p:
        try:
            _wait_until_loaded(url)
            yield url
        finally:
            p.terminate()
            p.wait(30)


def svg_size(path: Path) -> tuple[int, int]:
    """Return width and height that an SVG's view box asks for, in pixels."""
    box = re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', path.read_text())
    assert box, f"{path} has no view box"
    return round(float(box[1])), round(float(box[2]))


def _wait_until_loaded(url: str) -> None:
    request = Request(f"{url}/graphql", json.dumps({"query": QUERY}).encode(), {"content-type": "application/json"})  # noqa: S310  loopback
    deadline = time.monotonic() + LOAD_SECONDS
    while time.monotonic() < deadline:
        try:
            with urlopen(request, timeout=10) as answer:  # noqa: S310  loopback
                entries = json.load(answer)["data"]["workspaceOrError"]["locationEntries"]
            if all(entry["loadStatus"] == "LOADED" for entry in entries):
                return
        except (URLError, OSError, KeyError):
            pass
        time.sleep(0.5)
    raise SystemExit(f"{url} did not load the definitions within {LOAD_SECONDS} s")


def _free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


if __name__ == "__main__":
    take_all(Settings(), sys.argv[1:])
