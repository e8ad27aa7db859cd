"""How many rows have which score, as an SVG: every night draws it, so it may not take the tenth of a second of a plot.

It looks like the pictures of `plots`, whose colours it uses.
"""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from models.training.plots import COLOURS, GRID, INK

WIDTH, HEIGHT = 860, 340
LEFT, RIGHT, TOP, BOTTOM = 94, 844, 42, 290  # of the plane, in pixels
FONT = "DejaVu Sans, Verdana, Helvetica, Arial, sans-serif"


def score_chart(counts: npt.NDArray[np.int64], edges: npt.NDArray[np.float64], threshold: float) -> bytes:
    """Return an SVG of 860 by 340 pixels from `numpy.histogram`'s counts [bins] and edges [bins + 1]."""
    step = _step(int(counts.max()))
    highest = max(1.05 * int(counts.max()), step)
    marks = [*_grid(edges, step, highest), *_bars(counts, edges, threshold, highest), *_threshold(edges, threshold)]
    title = f"{int(counts.sum()):,} scores, threshold {threshold:g}"
    words = [
        _text(LEFT, 26, title, "start", 15),
        _text((LEFT + RIGHT) / 2, HEIGHT - 10, "probability", "middle", 13),
        _text(16, (TOP + BOTTOM) / 2, "rows", "middle", 13, f' transform="rotate(-90 16 {(TOP + BOTTOM) / 2:g})"'),
    ]
    size = f'width="{WIDTH}" height="{HEIGHT}" viewBox="0 0 {WIDTH} {HEIGHT}"'
    page = f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>'
    body = "".join([page, *marks, *words])
    return f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="{FONT}">{body}</svg>'.encode()


def _grid(edges: npt.NDArray[np.float64], step: int, highest: float) -> Iterator[str]:
    for value in range(0, int(highest) + 1, step):
        y = _y(value, highest)
        yield _line(LEFT, y, RIGHT, y, GRID, 1)
        yield _text(LEFT - 8, y + 4, f"{value:,}", "end", 12)
    for value in np.linspace(edges[0], edges[-1], 6):
        x = _x(value, edges)
        yield _line(x, TOP, x, BOTTOM, GRID, 1)
        yield _text(x, BOTTOM + 18, f"{value:.1f}", "middle", 12)


def _bars(
    counts: npt.NDArray[np.int64], edges: npt.NDArray[np.float64], threshold: float, highest: float
) -> Iterator[str]:
    for left, right, count in zip(edges[:-1], edges[1:], counts, strict=True):
        x, y, colour = _x(left, edges), _y(int(count), highest), COLOURS[int((left + right) / 2 >= threshold)]
        size = f'width="{_x(right, edges) - x:.1f}" height="{BOTTOM - y:.1f}"'
        yield f'<rect x="{x:.1f}" y="{y:.1f}" {size} fill="{colour}" stroke="white" stroke-width="0.6"/>'


def _threshold(edges: npt.NDArray[np.float64], threshold: float) -> Iterator[str]:
    x = _x(threshold, edges)
    yield _line(x, TOP, x, BOTTOM, INK, 1.3, ' stroke-dasharray="5 5"')


def _step(largest: int) -> int:
    """Return the distance of the grid's lines: 1, 2 or 5 times a power of ten, for at most six lines and the axis."""
    power = int(10 ** (len(str(largest)) - 1))
    steps = (power * factor // 10 for factor in (1, 2, 5, 10, 20))
    return next(step for step in steps if step and largest / step < 6)


def _x(value: float, edges: npt.NDArray[np.float64]) -> float:
    return float(LEFT + (value - edges[0]) / (edges[-1] - edges[0]) * (RIGHT - LEFT))


def _y(count: int, highest: float) -> float:
    return BOTTOM - count / highest * (BOTTOM - TOP)


def _line(x: float, y: float, to_x: float, to_y: float, colour: str, width: float, more: str = "") -> str:
    at = f'x1="{x:.1f}" y1="{y:.1f}" x2="{to_x:.1f}" y2="{to_y:.1f}"'
    return f'<line {at} stroke="{colour}" stroke-width="{width:g}"{more}/>'


def _text(x: float, y: float, words: str, anchor: str, size: int, more: str = "") -> str:
    return f'<text x="{x:g}" y="{y:g}" font-size="{size}" fill="{INK}" text-anchor="{anchor}"{more}>{words}</text>'
