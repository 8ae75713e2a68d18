"""The page that a figure is drawn on: as wide as a text, with panels in rows, one colour bar, and notes at its foot.

Sizes are chosen for a width of 830 pixels at 100 pixels an inch, at which the smallest letters are 10 pixels high.
Figures are made without pyplot, so no global state is touched.
"""

import base64
import io
import math
import os
import re
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ...checks import as_path
from ...files import replacing

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH = 8.3  # inches
NARROW = 4.0  # inches, of a telephone
RESOLUTION = 160  # pixels an inch of files
TITLE, SMALL = 8, 7.5  # points
_LETTER = 0.55 / 72  # inches of a letter's width a point, about
_LINE = 1.25 / 72  # inches of a line's height a point
_PANEL = 1.5  # inches of a panel's width at least, for its title
_MARGIN = 0.65  # inches beside the panels, for a label and numbers
_NUMBERS = 0.35  # inches of the numbers beside a panel with axes of its own
_LARGEST = 16_383  # pixels of a side of a WebP picture
_HANDLE = 10  # letters that a line of a legend and the space around it are wide

_STYLE: dict[Any, Any] = {"pdf.fonttype": 42, "svg.fonttype": "none"}  # letters stay letters in vector files


def letters(width: float, size: float = SMALL) -> int:
    """How many letters of this size fit into a width in inches."""
    return max(8, int(width / (size * _LETTER)))


def _wrapped(text: str, letters: int) -> str:
    """A text in lines of so many letters, none of which begins with a "%" or ends within a word."""
    text = text.replace(" %", "\N{NO-BREAK SPACE}%")
    return textwrap.fill(text, letters, break_on_hyphens=False).replace("\N{NO-BREAK SPACE}", " ")


def _rows(groups: dict[str, int], columns: int) -> int:
    """How many rows all groups take."""
    return sum(math.ceil(n / columns) for n in groups.values())


class Sheet:
    """A figure whose panels stand in rows of at most five, two if it is narrow, a block of rows for each group.

    Args:
        groups: name of each group, such as a model, -> number of its panels.
        notes: lines below the figure; they are wrapped.
        aspect: height of a panel over its width.
        lines: lines of text above each panel.
        columns: most panels in a row.
        bar: whether there will be a colour bar.
        panel: width of a panel in inches, at most; it is half of that at least, where the page is so wide.
        page: width of the page in inches.
        ticks: inches for numbers between the rows, where each panel has axes of its own.
    """

    def __init__(
        self,
        groups: dict[str, int],
        notes: Sequence[str],
        aspect: float = 1.0,
        lines: int = 3,
        columns: int = 5,
        bar: bool = True,
        ticks: float = 0.0,
        panel: float = 2.5,
        page: float = WIDTH,
    ):
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
        from matplotlib.layout_engine import ConstrainedLayoutEngine

        columns = min(columns, max(1, int((page - _MARGIN) / max(_PANEL, panel / 2))))
        count = min(range(1, columns + 1), key=lambda n: (_rows(groups, n), n))
        panel = min(panel, (page - _MARGIN) / count)
        width = max(count * panel + _MARGIN, NARROW)
        self.letters = letters(panel - (_NUMBERS if ticks else 0), TITLE)
        self.width = width
        rows = {name: math.ceil(n / count) for name, n in groups.items()}
        above = lines * TITLE * _LINE + 0.1
        self.text = "\n".join(_wrapped(line, letters(width)) for line in notes)
        foot = (self.text.count("\n") + 1) * SMALL * _LINE + 0.1
        height = sum(rows.values()) * (panel * aspect + above + ticks) + 0.3 + foot + 0.65 * bar
        margins = (0.005, 0, 0.99, 1)  # labels of rows, whose place follows from numbers, need more than their padding
        engine = ConstrainedLayoutEngine(w_pad=0.04, h_pad=0.03, hspace=0.01, wspace=0.01, rect=margins)
        self.figure: Figure = Figure(figsize=(width, height), layout=engine)
        FigureCanvasAgg(self.figure)
        self.grid: Any = self.figure.subplots(sum(rows.values()), count, squeeze=False)
        self.figure.supxlabel(self.text, fontsize=SMALL, x=0.01, horizontalalignment="left")
        self.panels: dict[str, list[Axes]] = {}
        first = 0
        for name, n in groups.items():
            axes = list(self.grid[first : first + rows[name]].flat)
            self.panels[name] = axes[:n]
            for ax in axes[n:]:
                ax.set_axis_off()
            if len(groups) > 1:
                label = textwrap.fill(name, letters(panel * aspect, TITLE))
                axes[0].set_ylabel(label, fontsize=TITLE, fontweight="bold")
            first += rows[name]

    def _heighten(self, inches: float) -> None:
        self.figure.set_figheight(self.figure.get_figheight() + inches)

    def outer_numbers(self) -> None:
        """Leave the numbers of the axes to the first panel of each row and the last of each column, where all have the same."""
        shown = [ax for ax in self.grid.flat if ax.axison]
        if len({(*ax.get_xticks(), None, *ax.get_yticks()) for ax in shown}) > 1:
            self._heighten(0.15 * len(self.grid))
            return
        for column in self.grid.T:
            shown = [ax for ax in column if ax.axison]
            for ax in shown[:-1]:
                ax.tick_params(labelbottom=False)
        for ax in self.grid[:, 1:].flat:
            ax.tick_params(labelleft=False)
        self._heighten(0.15 * (len({sum(ax.axison for ax in column) for column in self.grid.T}) - 1))

    def colour_bar(self, colours: Any, label: str, ticks: Sequence[float]) -> None:
        """A bar of what ``colours``, a ``ScalarMappable``, shows, below all panels."""
        shrink = 0.75
        bar = self.figure.colorbar(
            colours,
            ax=self.grid,
            location="bottom",
            shrink=shrink,
            aspect=self.width * shrink / 0.11,
            pad=0.01,
            ticks=list(ticks),
        )
        bar.ax.set_xticklabels([f"{tick:g}" for tick in ticks])
        bar.ax.tick_params(labelsize=SMALL, pad=2)
        bar.set_label(_wrapped(label, letters(self.width - 0.5, TITLE)), fontsize=TITLE)
        self._heighten(bar.ax.get_xlabel().count("\n") * TITLE * _LINE)

    def legend(self, handles: Sequence[Any]) -> None:
        """One legend for all panels, above them, in as many columns as fit."""
        longest = max(len(handle.get_label()) for handle in handles)
        fitting = max(1, letters(self.width) // (longest + _HANDLE))
        rows = math.ceil(len(handles) / fitting)
        columns = math.ceil(len(handles) / rows)
        self._heighten(rows * 0.17)
        self.figure.legend(handles=handles, loc="outside upper center", ncols=columns, fontsize=SMALL, frameon=False)


def logarithmic(axis: Any, ticks: Sequence[float] | None = None) -> None:
    """Make an axis of matplotlib logarithmic, with plain numbers at 1, 2 and 5 times powers of ten, or at these ticks."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    getattr(axis.axes, f"set_{axis.axis_name}scale")("log")
    if ticks is None:
        axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    else:
        axis.set_ticks(list(ticks))
        axis.axes.minorticks_off()
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.10g}"))
    axis.set_minor_formatter(NullFormatter())


def shortened(name: str, letters: int) -> str:
    """A layer's name, or its end, behind a dot or a space if there is one, where it is longer than a panel is wide."""
    if len(name) <= letters:
        return name
    end = name[len(name) - letters + 1 :]
    boundary = re.search(r"[. ]", end[: len(end) // 2])
    return f"…{end[boundary.end() :] if boundary else end}"


def _lay_out(figure: "Figure") -> None:
    """Give the panels their places, once for all files and pictures that are made of the figure."""
    engine = figure.get_layout_engine()
    if engine is not None:
        for axis in (axis for ax in figure.axes for axis in (ax.xaxis, ax.yaxis)):
            if not axis.label.get_text():  # matplotlib would look for its place again and again, a fifth of the time
                axis.set_label_coords(0.5, 0.5)
        engine.execute(figure)
        figure.set_layout_engine("none")
        _cut_blank(figure)


def _cut_blank(figure: "Figure") -> None:
    """Lower a figure by what is blank at its top, since panels of images may be less high than was planned for them."""
    first: list[Any] = [ax for ax in figure.axes if (spec := ax.get_subplotspec()) and spec.rowspan.start == 0]
    if figure.legends or not first:  # a legend is at the top
        return
    for ax in first:
        ax.apply_aspect()
    texts = [text for ax in first for text in (ax.title, ax.yaxis.label) if text.get_text()] + figure.texts
    top = max([ax.bbox.y1 for ax in first] + [text.get_window_extent().y1 for text in texts])
    height = figure.get_figheight()
    new_height = top / figure.dpi + 0.05
    if new_height < height:
        for ax in figure.axes:
            x0, y0, width, high = ax.get_position(original=True).bounds
            ax.set_position((x0, y0 * height / new_height, width, high * height / new_height))
        figure.set_figheight(new_height)


def write(figure: "Figure", path: str | os.PathLike) -> Path:
    """Write a figure, whole or not at all, and return the path; the suffix (.png, .pdf, .svg) decides the format.

    Raises:
        ValueError: matplotlib writes no files of this suffix.
    """
    from matplotlib import rc_context

    path = as_path("path", path)
    if path.suffix.lower().lstrip(".") not in figure.canvas.get_supported_filetypes():
        raise ValueError(f"{path} does not end as a picture that can be written; give a .png, .pdf or .svg file.")
    _lay_out(figure)
    with replacing(path) as partial, rc_context(_STYLE):
        figure.savefig(partial, dpi=RESOLUTION)
    return path


def pixels(figure: "Figure", resolution: int = RESOLUTION) -> np.ndarray:
    """A figure as an (H, W, 3) uint8 RGB picture, of so many pixels an inch."""
    canvas: Any = figure.canvas
    _lay_out(figure)
    figure.set_dpi(resolution)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def write_picture(picture: np.ndarray, path: str | os.PathLike) -> Path:
    """Write a picture (H, W, 3) that ``pixels`` has made as PNG, whole or not at all, and return the path."""
    from PIL import Image

    with replacing(path) as partial:
        Image.fromarray(picture).save(partial, dpi=(RESOLUTION, RESOLUTION))
    return Path(path)


def embedded(picture: np.ndarray) -> str:
    """A picture (H, W, 3) as an address that holds it, for HTML: as WebP, which takes a sixth of the bytes of PNG for large fields.

    What is longer than such a picture can be is made smaller.
    """
    from PIL import Image

    buffer = io.BytesIO()
    image = Image.fromarray(picture)
    image.thumbnail((_LARGEST, _LARGEST))
    image.save(buffer, "WEBP", quality=85, method=2)  # half the time of method 4 for a twentieth more bytes
    return f"data:image/webp;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def styles(count: int) -> Iterator[dict[str, Any]]:
    """Styles of lines that differ in grey and for the colour-blind: brightness by depth, dashes, and markers."""
    from matplotlib import colormaps

    for i in range(count):
        yield dict(
            color=colormaps["viridis"](0.85 * i / max(count - 1, 1)),
            linestyle=("-", "--", "-.", ":")[i % 4],
            marker="os^Dv<>P"[i % 8],
            markersize=3,
            linewidth=1.1,
        )
