"""Take the pictures of the documentation from the running UI: `make screenshots`, on the home of a `make demo`.

Needs Debian's chromium. Dagster's web server is started on a free loopback port and stopped again.
"""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.error import URLError
from urllib.request import Request, urlopen

from backends.settings import ROOT, Settings
from orchestration.home import prepare

IMAGES = ROOT / "docs" / "images"
LOAD_SECONDS = 120
PAGES = {  # file name -> page, width, height
    "lineage": ("/asset-groups?expanded=global@global:churn,global@global:silver", 2700, 1500),
    "predictions": ("/assets/gold/churn_predictions?view=overview", 1500, 1300),
    "training": ("/assets/churn/trained_model?view=overview", 1500, 1420),
}
CROPS = {"lineage": (592, 290, 2650, 1085)}  # left, top, right, bottom: the graph without the empty plane around it
QUERY = "{ workspaceOrError { ... on Workspace { locationEntries { loadStatus } } } }"


def take_all(settings: Settings) -> None:
    """Write every picture to `docs/images/`."""
    IMAGES.mkdir(exist_ok=True)
    for plot in ("roc_and_calibration", "float_against_int8"):
        newest = max(settings.home.glob(f"mlflow/churn/*/artifacts/pictures/{plot}.png"), key=os.path.getmtime)
        shutil.copyfile(newest, IMAGES / f"{plot}.png")
    with web_server(settings) as url:
        take((settings.home / "demo.svg").as_uri(), IMAGES / "demo.png", *svg_size(settings.home / "demo.svg"))
        for name, (page, width, height) in PAGES.items():
            take(url + page, IMAGES / f"{name}.png", width, height)
            if name in CROPS:
                crop(IMAGES / f"{name}.png", CROPS[name])
            print(f"docs/images/{name}.png")


@contextmanager
def web_server(settings: Settings) -> Iterator[str]:
    """Run Dagster's web server until the body ends; yield its address when the definitions are loaded."""
    environment, port = {**os.environ, **prepare(settings)}, _free_port()
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


def take(url: str, target: Path, width: int, height: int) -> None:
    """Write a picture of a page, as headless Chromium draws it after twenty seconds of its own time."""
    browser = shutil.which("chromium")
    if browser is None:
        raise SystemExit("chromium is not installed: apt-get install chromium")
    quiet = ("gpu", "quic", "background-networking", "component-update", "sync")
    with tempfile.TemporaryDirectory() as profile:
        subprocess.run(
            [
                browser,
                "--headless",
                "--no-sandbox",
                "--no-first-run",
                *(f"--disable-{feature}" for feature in quiet),
                f"--user-data-dir={profile}",
                "--hide-scrollbars",
                f"--window-size={width},{height}",
                "--virtual-time-budget=20000",
                f"--screenshot={target}",
                url,
            ],
            check=True,
            capture_output=True,
            timeout=180,
        )


def svg_size(path: Path) -> tuple[int, int]:
    """Return width and height that an SVG's view box asks for, in pixels."""
    box = re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', path.read_text())
    assert box, f"{path} has no view box"
    return round(float(box[1])), round(float(box[2]))


def crop(picture: Path, box: tuple[int, int, int, int]) -> None:
    """Cut a picture to a box of pixels."""
    from PIL import Image

    with Image.open(picture) as whole:
        cut = whole.crop(box)
    cut.save(picture)


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
    take_all(Settings())
