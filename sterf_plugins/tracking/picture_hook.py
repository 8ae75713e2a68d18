"""Pictures of what a shape tracker follows."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from torch import Tensor

from ..checks import positive_int
from ..erf.figures.plot import pixel_axes
from ..erf.figures.sheet import TITLE, Sheet, styles, write
from ..erf.figures.wording import digits
from ..registry import HOOKS

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TRUE: dict[str, Any] = dict(linestyle="-", linewidth=4, alpha=0.35, marker="")
FOUND: dict[str, Any] = dict(linestyle="-", linewidth=1, marker=".", markersize=3)


@HOOKS.register_module()
class TrackPictureHook(Hook):
    """At each validation, draw the events of some videos with the true and the found paths over them.

    The picture is ``<work_dir>/<timestamp>/vis_data/tracks/<step>.png``.

    Args:
        samples: number of videos to draw, from the first batch.
    """

    def __init__(self, samples: int = 4):
        self.samples = positive_int("samples", samples)

    def after_val_iter(self, runner, batch_idx: int, data_batch: dict, outputs: list[dict]) -> None:
        """Draw the first batch; it is the same at every validation."""
        if batch_idx or not is_main_process():
            return
        count = min(self.samples, len(outputs))
        videos = [video[:, :2].sum((0, 1)).cpu().numpy() for video in data_batch["frames"][:count]]
        figure = draw_tracks(videos, outputs[:count], f"weights at step {runner.iter} of the training")
        write(figure, Path(runner.log_dir) / "vis_data" / "tracks" / f"{runner.iter}.png")


def draw_tracks(videos: Sequence[np.ndarray], samples: Sequence[Mapping[str, Tensor]], note: str = "") -> "Figure":
    """A panel for each video: its events, and the true and the found paths over them, with their mean distance above.

    Args:
        videos: number of events of each pixel, (H, W).
        samples: ``poses`` and ``found`` of each video, (T, shapes, 2) as row and column.
        note: a line for the foot of the figure.
    """
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize
    from matplotlib.lines import Line2D

    height, width = videos[0].shape
    top = max(1, *(int(video.max()) for video in videos))
    greys: Any = ScalarMappable(Normalize(0, top), "Greys")
    notes = ["Above: mean distance of the found from the true path. Axes: pixels.", *filter(None, [note])]
    sheet = Sheet({"": len(videos)}, notes, height / width, 1)
    looks = list(styles(samples[0]["poses"].shape[1]))
    for ax, events, sample in zip(sheet.panels[""], videos, samples, strict=True):
        ax.imshow(events, norm=greys.norm, cmap=greys.cmap)
        pixel_axes(ax, height, width)
        for look, found, true in zip(looks, sample["found"].unbind(1), sample["poses"].unbind(1), strict=True):
            for path, style in ((true, TRUE), (found, FOUND)):
                ax.plot(*path.cpu().T.flip(0), **dict(look, **style))
        distance = (sample["found"] - sample["poses"]).norm(dim=-1).mean().item()
        ax.set_title(f"{digits(distance)} px", fontsize=TITLE)
    sheet.outer_numbers()
    ticks = np.unique(np.linspace(0, top, min(top, 4) + 1).round())  # whole numbers of events
    sheet.colour_bar(greys, "events of a pixel, both polarities, all time steps of the video", ticks)
    sheet.legend([Line2D([], [], **dict(looks[0], **s), label=n) for n, s in (("true", TRUE), ("found", FOUND))])
    return sheet.figure
