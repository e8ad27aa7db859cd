"""A headless Chromium, driven over its own debugging protocol: open a page, wait for it, click, take a picture."""

import base64
import io
import json
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any
from urllib.request import urlopen

from PIL import Image, ImageChops
from websockets.sync.client import ClientConnection, connect

QUIET = ("gpu", "quic", "background-networking", "component-update", "sync", "default-apps", "extensions")
START_SECONDS, DRAW_SECONDS, STILL_SECONDS = 30, 60, 2.0
COLOURS = 256  # of a picture of a page: more are hardly seen, and it is a third as large
MARGIN = 24  # pixels around what is cropped

CLICK = """(() => {
  const found = [...document.querySelectorAll('button, a, [role=tab], [role=button], div')]
    .filter(e => e.innerText && e.innerText.trim() === %s && e.offsetParent).pop();
  if (found) found.click();
  return Boolean(found);
})()"""
DRAWN = """(() => {
  const text = document.body.innerText;
  const things = document.querySelectorAll('svg, canvas, img').length;
  return !text || text.includes('Loading') ? '' : text.length + ' ' + things;
})()"""


class Browser:
    """One page of a running Chromium. Sizes are in pixels."""

    def __init__(self, socket: ClientConnection) -> None:
        self._socket, self._numbers = socket, count(1)

    def open(self, url: str, width: int, height: int) -> None:
        """Go to a page and wait until nothing of it changes any more."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self._call("Emulation.setDeviceMetricsOverride", **size)
        self._call("Page.navigate", url=url)
        self.settle()

    def click(self, text: str) -> None:
        """Click what has exactly this text; `SystemExit` where nothing has, after some seconds."""
        deadline = time.monotonic() + 10
        while not self._value(CLICK % json.dumps(text)):
            if time.monotonic() > deadline:
                raise SystemExit(f"Nothing with the text {text!r} is on the page {self._value('location.href')}")
            time.sleep(0.3)
        self.settle()

    def settle(self) -> None:
        """Wait until the page has looked the same for a while."""
        deadline, before, since = time.monotonic() + DRAW_SECONDS, "", time.monotonic()
        while time.monotonic() < deadline and time.monotonic() - since < STILL_SECONDS:
            time.sleep(0.2)
            now = str(self._value(DRAWN))
            if now != before or not now:
                before, since = now, time.monotonic()

    def picture(self, target: Path, without: Sequence[int] = (0, 0, 0, 0), crop: bool = False) -> None:
        """Write a small PNG, without so much at its left, top, right and bottom; `crop` leaves empty borders away."""
        data = base64.b64decode(self._call("Page.captureScreenshot", format="png")["data"])
        with Image.open(io.BytesIO(data)) as whole:
            left, top, right, bottom = without
            shown = whole.convert("RGB").crop((left, top, whole.width - right, whole.height - bottom))
        shown = _cropped(shown) if crop else shown
        shown.quantize(COLOURS, dither=Image.Dither.NONE).save(target, optimize=True)

    def _value(self, expression: str) -> Any:
        return self._call("Runtime.evaluate", expression=expression, returnByValue=True)["result"].get("value")

    def _call(self, method: str, **parameters: Any) -> dict[str, Any]:
        number = next(self._numbers)
        self._socket.send(json.dumps({"id": number, "method": method, "params": parameters}))
        while True:
            answer = json.loads(self._socket.recv(timeout=DRAW_SECONDS))
            if answer.get("id") == number:
                if "error" in answer:
                    raise SystemExit(f"Chromium cannot do {method}: {answer['error']['message']}")
                return dict(answer["result"])


@contextmanager
def browser() -> Iterator[Browser]:
    """Run Chromium until the body ends."""
    program = shutil.which("chromium")
    if program is None:
        raise SystemExit("chromium is not installed: apt-get install chromium")
    options = [f"--disable-{feature}" for feature in QUIET]
    options += ["--headless", "--no-sandbox", "--no-first-run", "--hide-scrollbars", "--remote-debugging-port=0"]
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        command = [program, *options, f"--user-data-dir={profile}", "about:blank"]
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
            try:
                with connect(_address(Path(profile)), max_size=None) as socket:
                    yield Browser(socket)
            finally:
                process.terminate()
                process.wait(30)


def _address(profile: Path) -> str:
    """Return the address of the only page, once Chromium says on which port it listens."""
    told, deadline = profile / "DevToolsActivePort", time.monotonic() + START_SECONDS
    while not (told.exists() and told.read_text().count("\n")):
        if time.monotonic() > deadline:
            raise SystemExit(f"Chromium did not start within {START_SECONDS} s")
        time.sleep(0.1)
    with urlopen(f"http://127.0.0.1:{told.read_text().splitlines()[0]}/json", timeout=10) as answer:
        pages = [page for page in json.load(answer) if page["type"] == "page"]
    return str(pages[0]["webSocketDebuggerUrl"])


def _cropped(picture: Image.Image) -> Image.Image:
    """Leave away the borders that have the colour of the corner, but a margin."""
    empty = Image.new("RGB", picture.size, picture.getpixel((picture.width - 1, picture.height - 1)))
    found = ImageChops.difference(picture, empty).convert("L").point(lambda shade: 255 * (shade > 35)).getbbox()
    if found is None:
        return picture
    left, top, right, bottom = found
    high, wide = picture.height, picture.width
    box = max(0, left - MARGIN), max(0, top - MARGIN), min(wide, right + MARGIN), min(high, bottom + MARGIN)
    return picture.crop(box)
