"""Pictures of what a shape tracker follows."""

from pathlib import Path

from mmengine.dist import is_main_process
from mmengine.hooks import Hook

from ..checks import positive_int
from ..files import replacing
from ..registry import HOOKS

COLORS = ("tab:blue", "tab:orange", "tab:green", "tab:red", "tab:purple")


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
        from matplotlib.figure import Figure

        count = min(self.samples, len(outputs))
        figure = Figure(figsize=(3 * count, 3.2), layout="constrained")
        for axes, frames, sample in zip(
            figure.subplots(1, count, squeeze=False)[0], data_batch["frames"], outputs, strict=False
        ):
            axes.imshow(frames[:, :2].sum((0, 1)).cpu(), cmap="Greys", vmin=0)
            for color, found, true in zip(COLORS, sample["found"].unbind(1), sample["poses"].unbind(1), strict=False):
                axes.plot(*true.cpu().T.flip(0), color=color, linewidth=4, alpha=0.4)
                axes.plot(*found.cpu().T.flip(0), color=color, linewidth=1, marker=".", markersize=3)
            error = (sample["found"] - sample["poses"]).norm(dim=-1).mean().item()
            axes.set(title=f"{error:.2f} px", xticks=[], yticks=[])
        figure.suptitle("wide: true paths, dotted: found", fontsize=8)
        with replacing(Path(runner.log_dir) / "vis_data" / "tracks" / f"{runner.iter}.png") as partial:
            figure.savefig(partial, dpi=100)
