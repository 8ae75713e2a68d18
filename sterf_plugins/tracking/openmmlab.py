"""The shape tracking experiment of the covariant paper for mmengine's Runner: model, data set and metric.

Paper: Nat. Commun. 16:8231 (2025).
"""

from collections.abc import Sequence

import torch
from mmengine.evaluator import BaseMetric
from mmengine.model import BaseModel
from torch import Tensor

from ..checks import distinct, entries, finite_number
from ..plugins import check_options
from ..registry import DATASETS, METRICS, MODELS
from . import picture_hook as _picture_hook  # noqa: F401  (registers the hook)
from .dataset import ShapeEvents
from .losses import normalised_positions, pixel_positions, tracking_losses
from .shape_tracker import ShapeTracker, Tracks

LOSS_OPTIONS = ("js_weight", "js_sigma", "rate", "rate_weight")


@MODELS.register_module()
class ShapeTrackingModel(BaseModel):
    """``ShapeTracker`` with the paper's losses; its state is prepared on warm-up frames, without gradients.

    Args:
        resolution: (rows, columns) of the videos.
        tracker: arguments of ``ShapeTracker`` as a dict.
        losses: arguments of ``tracking_losses`` as a dict: ``js_weight``, ``js_sigma``, ``rate``, ``rate_weight``.
        data_preprocessor, init_cfg: as in every mmengine model.

    Raises:
        TypeError, ValueError: an argument is out of range, or there is none of that name.
    """

    def __init__(
        self,
        resolution: Sequence[int],
        tracker: dict | None = None,
        losses: dict | None = None,
        data_preprocessor: dict | None = None,
        init_cfg: dict | None = None,
    ):
        super().__init__(data_preprocessor, init_cfg)
        self.resolution = tuple(resolution)
        self.tracker = ShapeTracker(**(tracker or {}))
        self.losses = dict(losses or {})
        check_options("`losses`", self.losses, LOSS_OPTIONS)
        for name, value in self.losses.items():
            if finite_number(f"losses[{name!r}]", value) <= 0 and name == "js_sigma":
                raise ValueError(f"`losses['js_sigma']` is {value!r}; it must be a number > 0.")

    def forward(self, warmup: Tensor, frames: Tensor, poses: Tensor, mode: str = "tensor"):
        """Follow the shapes in a batch of videos; tensors are batch-first, as the data set's items collate.

        Args:
            warmup: (B, T, C, H, W) event frames before those that count; they set the tracker's state.
            frames: (B, T, C, H, W) event frames that count.
            poses: (B, T, classes, 2) true positions in pixels, (row, column).
            mode: "tensor" returns the tracks, "loss" the losses, and "predict" for each video the found and the true
                positions in pixels, both (T, classes, 2).
        """
        state = None
        if self.tracker.has_memory:
            with torch.no_grad():
                _, state = self.tracker(warmup.transpose(0, 1))
        tracks, _ = self.tracker(frames.transpose(0, 1), state)
        if mode == "tensor":
            return tracks
        targets = poses.transpose(0, 1)
        if mode == "loss":
            targets = normalised_positions(targets, self.resolution)
            maps, ramp = tracks.probabilities, self.tracker.readout.ramp
            return tracking_losses(tracks.coordinates, maps, tracks.rates, targets, ramp=ramp, **self.losses)
        found = pixel_positions(tracks.coordinates, self.resolution)
        return [dict(found=f, poses=p) for f, p in zip(found.unbind(1), targets.unbind(1), strict=True)]

    def extract_feat(self, frames: Tensor) -> Tracks:
        """The tracks of event frames (T, B, C, H, W) alone, from no state."""
        return self.tracker(frames)[0]


DATASETS.register_module(name="ShapeEvents", module=ShapeEvents)


@METRICS.register_module()
class PositionError(BaseMetric):
    """Mean distance between found and true positions in pixels: ``position_error``, and one value for each named class.

    Args:
        classes: names of all classes, in the order of the data set; none by default.
        **options: arguments of mmengine's ``BaseMetric``.
    """

    default_prefix = None

    def __init__(self, classes: Sequence[str] = (), **options):
        super().__init__(**options)
        self.classes = entries("classes", classes)
        distinct("classes", self.classes)

    def process(self, data_batch, data_samples: Sequence[dict]) -> None:
        for sample in data_samples:
            distance = (sample["found"] - sample["poses"]).norm(dim=-1).mean(0)  # over time: (classes,)
            self.results.append(distance.cpu())

    def compute_metrics(self, results: list[Tensor]) -> dict[str, float]:
        distances = torch.stack(results).mean(0)
        if len(self.classes) not in (0, len(distances)):
            raise ValueError(
                f"`classes` names {len(self.classes)}, {', '.join(self.classes)}, and the data set has {len(distances)}."
            )
        return dict(zip(self.classes, distances.tolist(), strict=False)) | dict(position_error=distances.mean().item())
