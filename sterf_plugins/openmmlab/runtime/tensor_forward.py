"""Run a detector or segmentor beyond its backbone and neck."""

import sys
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor


def forward_for(model: Any, layers: str | Sequence[str] | None) -> Callable[[Any, Tensor], Any] | None:
    """The function that runs a detector as far as some layers, or ``None`` where ``compute_erf`` knows it.

    Args:
        model: any model.
        layers: names or patterns of layers; ``None`` for the backbone's outputs.
    """
    patterns = [layers] if isinstance(layers, str) else layers or ()
    inside = all(pattern.split(".")[0] in ("backbone", "neck") for pattern in patterns)
    mmdet = sys.modules.get("mmdet.models")  # whoever has one of its detectors has imported it
    return None if inside or mmdet is None or not isinstance(model, mmdet.BaseDetector) else _tensors


def _tensors(model: Any, images: Tensor) -> Any:
    """The outputs of a detector's heads, with the sizes of the images and no objects, which some heads ask for."""
    from mmdet.structures import DetDataSample
    from mmengine.structures import InstanceData

    size = tuple(images.shape[-2:])
    sizes = dict.fromkeys(("img_shape", "ori_shape", "pad_shape", "batch_input_shape"), size)
    none = dict(bboxes=images.new_zeros(0, 4), labels=images.new_zeros(0, dtype=torch.long))
    samples = [
        DetDataSample(metainfo=dict(sizes, scale_factor=(1.0, 1.0)), gt_instances=InstanceData(**none)) for _ in images
    ]
    return model(images, samples, mode="tensor")
