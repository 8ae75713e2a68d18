"""Success and precision plots of several trackers."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from ..erf.figures.sheet import NARROW, SMALL, TITLE, WIDTH, styles
from .box_metrics import OVERLAPS, PIXELS, Curves

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def draw_curves(trackers: Mapping[str, Curves], note: str = "", page: float = WIDTH) -> "Figure":
    """Both plots side by side, or one below the other on a narrow page, with a line for each tracker.

    The legends below name the trackers and their AUC or PR, best first.

    Args:
        trackers: name -> mean curves.
        note: what is written below.
        page: width of the page in inches.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    shape = (1, 2) if page > NARROW else (2, 1)
    figure = Figure(figsize=(page, shape[0] * (3.5 + 0.18 * len(trackers))), layout="constrained")
    FigureCanvasAgg(figure)
    numbers = {name: curves.numbers() for name, curves in trackers.items()}
    style = dict(zip(trackers, styles(len(trackers)), strict=True))
    panels = (
        ("success", OVERLAPS, "AUC", "overlap threshold", "Success: share of frames with a larger overlap"),
        (
            "precision",
            PIXELS,
            "PR",
            "threshold of the centre's error in pixels",
            "Precision: share of frames within it",
        ),
    )
    for ax, (curve, thresholds, key, label, title) in zip(figure.subplots(*shape), panels, strict=True):
        for name in sorted(trackers, key=lambda n: -numbers[n][key]):
            shares, every = getattr(trackers[name], curve), max(1, len(thresholds) // 10)
            ax.plot(thresholds, shares, markevery=every, label=f"{name} [{numbers[name][key]:.1f}]", **style[name])
        if key == "PR":
            ax.axvline(20, color="0.6", linewidth=0.8, linestyle=":")  # where PR is read off
        ax.set(xlim=(0, thresholds[-1]), ylim=(0, 1.02))
        ax.set_xlabel(label, fontsize=SMALL)
        ax.set_title(title, fontsize=TITLE)
        ax.tick_params(labelsize=SMALL)
        ax.grid(alpha=0.25, linewidth=0.5)
        ax.legend(
            loc="upper center",
            bbox_to_anchor=(0.5, -0.16),
            fontsize=SMALL,
            title=f"tracker [{key}]",
            title_fontsize=SMALL,
        )
    figure.supxlabel(note, fontsize=SMALL, x=0.01, horizontalalignment="left")
    return figure
