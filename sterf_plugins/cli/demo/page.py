"""What the pages of the demos share: style, tables, charts and pictures, in one self-contained HTML file."""

import base64
import html
import io
import json
from pathlib import Path

import cv2
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from ...erf.figures.sheet import styles
from ...erf.figures.wording import digits

STYLE = Path(__file__).with_suffix(".css").read_text()


def scalars(folder: Path) -> list[dict]:
    """All logged scalars of a training, over its resumed parts, in order."""
    lines = []
    for path in sorted(folder.glob("2*/vis_data/scalars.json")):
        lines += [json.loads(line) for line in path.read_text().splitlines()]
    return lines


def picture(image: np.ndarray, enlarge: int = 1, quality: int = 90) -> str:
    """An RGB image as a data URI, as WebP, which takes a fifth of the bytes of PNG."""
    if enlarge > 1:
        image = cv2.resize(image, None, fx=enlarge, fy=enlarge, interpolation=cv2.INTER_NEAREST)
    options = [cv2.IMWRITE_WEBP_QUALITY, quality]
    ok, data = cv2.imencode(".webp", np.ascontiguousarray(image[..., ::-1]), options)
    assert ok
    return "data:image/webp;base64," + base64.b64encode(data.tobytes()).decode()


def chart(series: dict[str, tuple[list, list]], ylabel: str, xlabel: str = "iteration", ylim=None) -> str:
    """A line chart as inline SVG."""
    figure = Figure(figsize=(5.2, 3.0), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for (name, (x, y)), style in zip(series.items(), styles(len(series)), strict=True):
        axes.plot(x, y, **style, markevery=max(1, len(x) // 12), label=name)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))  # no half iterations, no half epochs
    axes.set_xlabel(xlabel)
    axes.set_ylabel(ylabel)
    if ylim:
        axes.set_ylim(*ylim)
    axes.grid(alpha=0.3)
    figure.legend(fontsize=8, loc="outside upper center", ncols=2, frameon=False)
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg")
    svg = buffer.getvalue()[buffer.getvalue().index("<svg") :]
    label = html.escape(f"{ylabel} by {xlabel}: {', '.join(series)}", quote=True)
    return svg.replace("<svg", f'<svg role="img" aria-label="{label}"', 1)


def number(value: float, expected: float | None = None) -> str:
    """A number as HTML; with one that is expected, in a colour that says whether it is lower."""
    text = digits(value)
    if expected is None:
        return text
    return f'<b class="{"good" if value >= expected else "bad"}">{text}</b>'


def table(head: list[str], rows: list[list[str]]) -> str:
    """An HTML table of cells that are HTML themselves."""
    cells = "".join(f"<th>{h}</th>" for h in head)
    body = "".join("<tr>" + "".join(f"<td>{c}</td>" for c in row) + "</tr>" for row in rows)
    return f'<div class="scroll"><table><tr>{cells}</tr>{body}</table></div>'
