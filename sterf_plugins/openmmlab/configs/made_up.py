"""Images and annotations that a detector or a segmentor can be tried on, made up by what its config says."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from mmengine.config import Config
from mmengine.structures import InstanceData, PixelData
from torch import nn

from .types import dicts_in, type_name

IGNORED = 255  # pixels without a class, in mmdet's and mmseg's label maps


def smallest(node: Any, key: str, default: int) -> int:
    """The smallest number that is given for a key anywhere in a config, or the default if there is none."""
    numbers = (part.get(key) for part in dicts_in(node))
    return min((n for n in numbers if n and isinstance(n, int)), default=default)


def channels_of(config: Config) -> int:
    """Channels of the images that a config's backbone takes, in all of its time steps."""
    channels = config.model.backbone.get("in_channels", 3)
    steps = (config.model.get("data_preprocessor") or {}).get("time_steps", 1)  # of an EventDataPreprocessor
    return steps * channels if isinstance(channels, int) else 3


def sample_of(model: nn.Module, config: Config) -> Callable[[Config, int], Any] | None:
    """The function that makes up annotations for a detector or a segmentor; ``None`` for any other model."""
    from mmdet.models import BaseDetector
    from mmseg.models import BaseSegmentor

    if "backbone" not in config.model or "Depth" in type(model).__name__:
        return None
    kinds = ((BaseDetector, _detection), (BaseSegmentor, _segmentation))
    return next((sample for kind, sample in kinds if isinstance(model, kind)), None)


def _labels(size: int, *values: int) -> PixelData:
    """A label map (1, size, size) with a column for each value."""
    columns = torch.tensor(values).repeat_interleave(-(-size // len(values)))[:size]
    return PixelData(sem_seg=columns.expand(1, size, size).clone())


def _detection(config: Config, size: int) -> Any:
    """Two objects, of which one is small, a region that is ignored, and what only some detectors read."""
    from mmdet.structures import DetDataSample
    from mmdet.structures.bbox import HorizontalBoxes
    from mmdet.structures.mask import BitmapMasks

    corners = [[size // 8, size // 8, size * 3 // 4, size * 3 // 4], [size // 2, size // 4, size * 7 // 8, size // 2]]
    masks = np.zeros((2, size, size), np.uint8)
    for mask, (x1, y1, x2, y2) in zip(masks, corners, strict=True):
        mask[y1:y2, x1:x2] = 1
    boxes = torch.tensor(corners, dtype=torch.float32)
    classes = smallest(config.model, "num_classes", 2)
    things = smallest(config.model, "num_things_classes", 0)
    sample = DetDataSample(
        metainfo=dict(
            img_id=0,
            img_path="",
            img_shape=(size, size),
            ori_shape=(size, size),
            scale_factor=(1.0, 1.0),
            flip=False,
            flip_direction=None,
            border=(0, size, 0, size),  # CornerNet's and CenterNet's padding: none
        ),
        gt_instances=InstanceData(
            bboxes=HorizontalBoxes(boxes),
            labels=torch.tensor([0, min(1, classes - 1)]),
        ),
        ignored_instances=InstanceData(bboxes=HorizontalBoxes(torch.tensor([[0.0, 0.0, size / 8, size / 8]]))),
        gt_sem_seg=_labels(size, 0, things, IGNORED),
    )
    if _loads_masks(config.get("train_dataloader") or {"with_mask": True}):
        sample.gt_instances.masks = BitmapMasks(masks, size, size)
    if "rpn_head" not in config.model:
        sample.proposals = InstanceData(bboxes=boxes + 1, scores=torch.ones(2))
    return sample


def _loads_masks(node: Any) -> bool:
    """Whether anything in a data loader's config loads masks of objects."""
    return any(part.get("with_mask") or "Panoptic" in type_name(part) for part in dicts_in(node))


def _segmentation(config: Config, size: int) -> Any:
    """Two classes, pixels that are ignored, and the edges that some heads learn."""
    from mmseg.structures import SegDataSample

    classes = smallest(config.model, "num_classes", 2)
    labels = _labels(size, 0, min(1, classes - 1), IGNORED)
    edges = torch.zeros(1, size, size, dtype=torch.long)
    edges[..., 1:] = (labels.sem_seg[..., 1:] != labels.sem_seg[..., :-1]).long()
    return SegDataSample(
        metainfo=dict(
            img_path="",
            img_shape=(size, size),
            ori_shape=(size, size),
            pad_shape=(size, size),
            scale_factor=(1.0, 1.0),
            flip=False,
            flip_direction=None,
            reduce_zero_label=False,
        ),
        gt_sem_seg=PixelData(data=labels.sem_seg),
        gt_edge_map=PixelData(data=edges),
    )
