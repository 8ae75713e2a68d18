"""The effective receptive field behind one detection: of the feature that it was predicted from."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ...erf import ERFResult, compute_erf
from ...erf.figures.plot import GREYS, TICKS, cube_root, display_map, mark_target, pixel_axes
from ...erf.figures.sheet import TITLE, WIDTH, Sheet, write
from ...erf.figures.wording import measured, provenance, quantity, target_cells

LAYER = "level"
SIDE = 14  # an object's side over the stride of its level: FPN's rule takes 224 pixels to the level of stride 16


class _Level(nn.Module):
    """One level of a detector's features, as a model of its own."""

    def __init__(self, detector: Any, index: int):
        super().__init__()
        self.detector, self.index, self.level = detector, index, nn.Identity()

    def forward(self, images: Tensor) -> Tensor:
        return self.level(_features(self.detector, images)[self.index])


def _features(detector: Any, images: Tensor) -> Sequence[Tensor]:
    """The feature maps, level by level, that the detector's heads read."""
    maps = detector.extract_feat(images)
    return [maps] if isinstance(maps, Tensor) else maps


@dataclass
class DetectionField:
    """The field of one feature, and where that feature is.

    Attributes:
        result: of ``compute_erf``, for the layer ``LAYER`` alone.
        level: index of the feature level.
        stride: (rows, columns) in pixels of the network's input between neighbours on this level.
        place: (row, column) on the level.
        box: left, top, right, bottom of the detection in pixels of the network's input.
    """

    result: ERFResult
    level: int
    stride: tuple[float, float]
    place: tuple[int, int]
    box: tuple[float, ...]

    def draw(self, image: np.ndarray, title: str, path: Path) -> None:
        """Write a picture: the image with the box and the feature's place, and the field over the image.

        Args:
            image: (H, W, 3) in [0, 1], the network's input or its upper left part.
            title: what was detected.
            path: file to write.
        """
        from matplotlib.patches import Rectangle

        height, width = image.shape[:2]
        field = display_map(self.result.spatial[LAYER])[:height, :width, None]
        area = measured(self.result.numbers(LAYER)["area_50"])
        notes = [
            f"Box: the detection. White cross: around the cell of its feature, on level {self.level} of stride "
            f"{max(self.stride):.3g}. Half of the mass is on {area} of the pixels of the input. Axes: its pixels.",
            *provenance({"": self.result}),
        ]
        sheet = Sheet({"": 2}, notes, height / width, lines=1, panel=(WIDTH - 0.65) / 2)
        colours = cube_root(GREYS)
        label = f"brightness of the image: cube root of {quantity(self.result)} over its maximum"
        left, top, right, bottom = self.box
        shown = {title: image, "its receptive field": image * (0.15 + 0.85 * field)}
        for ax, (text, picture) in zip(sheet.panels[""], shown.items(), strict=True):
            ax.imshow(np.clip(picture, 0, 1))
            ax.add_patch(Rectangle((left, top), right - left, bottom - top, fill=False, color="black", lw=2.5))
            ax.add_patch(Rectangle((left, top), right - left, bottom - top, fill=False, color="#F0E442", lw=1.2))
            for edges in target_cells(self.result, LAYER):
                mark_target(ax, *edges)
            ax.set(xlim=(-0.5, width - 0.5), ylim=(height - 0.5, -0.5))
            pixel_axes(ax, height, width)
            ax.set_title(text, fontsize=TITLE)
        sheet.colour_bar(colours, f"{label} (numbers at the bar: before the root)", TICKS)
        write(sheet.figure, path)


def level_of(detector: Any, box: Sequence[float], strides: Sequence[float]) -> int:
    """The feature level that a box is assigned to.

    A detector of two stages pools the features of a box from the level that its RoI extractor says. Detectors of one stage do
    not tell which level a detection came from; there the same rule is used with the strides: the coarsest level whose stride
    is at most a 14th of the box's side (the root of its area), the finest one for smaller boxes.

    Args:
        detector: a model of mmdet.
        box: left, top, right, bottom in pixels of the network's input.
        strides: of the levels, in pixels of the network's input.
    """
    extractor: Any = getattr(getattr(detector, "roi_head", None), "bbox_roi_extractor", None)
    if isinstance(extractor, nn.ModuleList):  # the stages of a cascade
        extractor = extractor[0]
    if hasattr(extractor, "map_roi_levels"):
        return int(extractor.map_roi_levels(torch.tensor([[0.0, *box]]), extractor.num_inputs))
    side = math.sqrt(max(box[2] - box[0], 0) * max(box[3] - box[1], 0))
    fitting = [i for i, stride in enumerate(strides) if SIDE * stride <= side]
    return max(fitting, key=lambda i: strides[i], default=min(range(len(strides)), key=lambda i: strides[i]))


def detection_field(detector: Any, inputs: Tensor, box: Sequence[float]) -> DetectionField:
    """The receptive field of the feature at the middle of a detection, on the level of ``level_of``.

    Args:
        detector: a model of mmdet in eval mode.
        inputs: the image as the network sees it (1, C, H, W), on the model's device.
        box: left, top, right, bottom of the detection in pixels of ``inputs``.
    """
    height, width = inputs.shape[-2:]
    with torch.no_grad():
        sizes = [feature.shape[-2:] for feature in _features(detector, inputs)]
    level = level_of(detector, box, [height / h for h, _ in sizes])
    (rows, columns), (left, top, right, bottom) = sizes[level], box
    middle = (top + bottom) / 2 * rows / height, (left + right) / 2 * columns / width
    row, column = (min(max(int(p), 0), n - 1) for p, n in zip(middle, (rows, columns), strict=True))
    result = compute_erf(_Level(detector, level), inputs, [LAYER], position=(row, column), kinds="spatial")
    return DetectionField(result, level, (height / rows, width / columns), (row, column), tuple(box))
