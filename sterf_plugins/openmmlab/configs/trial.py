"""Run the model of a config once on two small made-up images: what does not train is found before a training starts."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from typing import Any

import numpy as np
import torch
from mmengine.config import Config
from mmengine.logging import MMLogger
from mmengine.registry import MODELS, DefaultScope
from mmengine.structures import InstanceData, PixelData
from torch import nn

from ...undisturbed import preserved_random_state
from .reading import revert_sync_bn, without_weight_files
from .types import type_name

SIZE = 128  # side of the images in pixels: four for a level of stride 32
IGNORED = 255  # pixels without a class, in mmdet's and mmseg's label maps


class TrialError(ValueError):
    """A model that does not run, with the step at which it stopped.

    Attributes:
        stage: "build", "backbone", "neck", "loss", "backward" or "predict".
    """

    def __init__(self, stage: str, cause: Exception):
        lines = str(cause).strip().splitlines()
        super().__init__(f"{stage}: {type(cause).__name__}: {lines[0] if lines else 'no message'}")
        self.stage = stage


def try_backbone(config: Config, option: str) -> None:
    """Refuse a config whose model does not run after its backbone has been replaced.

    Args:
        config: config of a detector or a segmentor; not changed.
        option: what replaced the backbone, for the message: "--backbone NAME".

    Raises:
        ValueError: the model does not run; the message says at which step, and why.
    """
    try:
        try_model(config)
    except TrialError as error:
        raise ValueError(f"{option}: the adapted model does not run ({error}).") from error


def try_model(config: Config) -> bool:
    """Build a config's model without pretrained weights, compute loss, gradients and predictions of two made-up images.

    The model is thrown away, and the random states are as before. Images are on the CPU, so SyncBN becomes BN.

    Args:
        config: config of a detector or a segmentor; not changed.

    Returns:
        Whether the model was tried: not if it is neither a detector nor a segmentor, or needs more than images (text, depth).

    Raises:
        TrialError: the model does not run.
    """
    config = deepcopy(config)
    revert_sync_bn(config)
    without_weight_files(config.model)
    if "language_model" in config.model or "Depth" in type_name(config.model):
        return False
    size = _shrink(config.model)
    with preserved_random_state(), DefaultScope.overwrite_default_scope(config.get("default_scope")):
        torch.manual_seed(0)
        np.random.seed(0)
        with _stage(lambda: "build"):
            model = MODELS.build(config.model)
            initialise(model)
        data = _data(model, config.model, size)
        if data is None:
            return False
        _train_once(model, data)
        with _stage(lambda: "predict"), torch.no_grad():
            model.eval()
            model(**model.data_preprocessor(data(), False), mode="predict")
    return True


def initialise(model: Any) -> None:
    """Initialise the weights as mmengine's Runner does before a training, without its log of every parameter."""
    logger = MMLogger.get_current_instance()
    level = logger.level
    logger.setLevel("WARNING")
    try:
        model.init_weights()
    finally:
        logger.setLevel(level)


@contextmanager
def _stage(name: Callable[[], str]) -> Iterator[None]:
    """Whatever another library's model raises becomes an error that names the step at which it happened."""
    try:
        yield
    except Exception as error:
        raise TrialError(name(), error) from error


def _train_once(model: Any, data: Callable[[], dict]) -> None:
    """Compute the loss and its gradients, which must reach the backbone."""
    at = "loss"

    def enter(stage: str) -> Callable[..., None]:
        def hook(*_: Any) -> None:
            nonlocal at
            at = stage

        return hook

    for part in ("backbone", "neck"):
        module = getattr(model, part, None)
        if isinstance(module, nn.Module):
            module.register_forward_pre_hook(enter(part))
            module.register_forward_hook(enter("loss"))
    model.train()
    with _stage(lambda: at):
        losses, _ = model.parse_losses(model(**model.data_preprocessor(data(), True), mode="loss"))
    with _stage(lambda: "backward"):
        losses.backward()
        trained = [p for p in model.backbone.parameters() if p.requires_grad]
        if trained and all(p.grad is None for p in trained):
            raise RuntimeError("no gradient reaches the backbone")


def _shrink(model: Any) -> int:
    """Make everything in a model's config that fixes the size of images small, and return the side of the images."""
    preprocessor: Any = model.get("data_preprocessor") or {}
    size = _find(model, "input_size", SIZE)  # the anchors of SSD
    if preprocessor.get("batch_augments"):
        preprocessor.batch_augments = None  # resize or pad to sizes of real images
    if preprocessor.get("size"):
        if max(preprocessor.size) <= 2 * SIZE:
            size = max(preprocessor.size)
        preprocessor.size = (size, size)
    backbone: Any = model.get("backbone") or {}
    if backbone.get("img_size"):  # tables of positions
        backbone.img_size = size
    for weights, nothing in (("pretrained", False), ("checkpoint_path", "")):  # of a timm model
        if backbone.get(weights):
            backbone[weights] = nothing
    for settings in ("train_cfg", "test_cfg"):
        _limit(model.get(settings), {"num": 32, "max_per_img": 20})
    return size


def _limit(node: Any, limits: dict[str, int]) -> None:
    """Set numbers in a config that are above the limit of their key to the limit: a few samples and results are enough."""
    children = node.values() if isinstance(node, dict) else node if isinstance(node, (list, tuple)) else ()
    for child in children:
        _limit(child, limits)
    for key in limits.keys() & (node if isinstance(node, dict) else ()):
        if isinstance(node[key], int):
            node[key] = min(node[key], limits[key])


def _find(node: Any, key: str, default: int) -> int:
    """The smallest number that is given for a key anywhere in a config, or the default if there is none."""
    numbers = [node[key]] if isinstance(node, dict) and isinstance(node.get(key), int) else []
    children = node.values() if isinstance(node, dict) else node if isinstance(node, (list, tuple)) else ()
    numbers += [n for n in (_find(child, key, 0) for child in children) if n]
    return min(numbers, default=default)


def _data(model: nn.Module, config: Any, size: int) -> Callable[[], dict] | None:
    """A function that makes a batch for a detector or a segmentor; ``None`` for any other model."""
    from mmdet.models import BaseDetector
    from mmseg.models import BaseSegmentor

    sample = _detection if isinstance(model, BaseDetector) else _segmentation
    if not isinstance(model, (BaseDetector, BaseSegmentor)) or not hasattr(model, "backbone"):
        return None
    channels = config.backbone.get("in_channels", 3)
    channels = channels if isinstance(channels, int) else 3

    def batch() -> dict:
        images = [torch.randint(0, 256, (channels, size, size), dtype=torch.uint8) for _ in range(2)]
        return dict(inputs=images, data_samples=[sample(config, size) for _ in images])

    return batch


def _labels(size: int, *values: int) -> PixelData:
    """A label map (1, size, size) with a column for each value."""
    columns = torch.tensor(values).repeat_interleave(-(-size // len(values)))[:size]
    return PixelData(sem_seg=columns.expand(1, size, size).clone())


def _detection(config: Any, size: int) -> Any:
    """Two objects, of which one is small, a region that is ignored, and what only some detectors read."""
    from mmdet.structures import DetDataSample
    from mmdet.structures.bbox import HorizontalBoxes
    from mmdet.structures.mask import BitmapMasks

    corners = [[size // 8, size // 8, size * 3 // 4, size * 3 // 4], [size // 2, size // 4, size * 7 // 8, size // 2]]
    masks = np.zeros((2, size, size), np.uint8)
    for mask, (x1, y1, x2, y2) in zip(masks, corners, strict=True):
        mask[y1:y2, x1:x2] = 1
    boxes = torch.tensor(corners, dtype=torch.float32)
    classes = _find(config, "num_classes", 2)
    things = _find(config, "num_things_classes", 0)
    return DetDataSample(
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
            masks=BitmapMasks(masks, size, size),
        ),
        ignored_instances=InstanceData(bboxes=HorizontalBoxes(torch.tensor([[0.0, 0.0, size / 8, size / 8]]))),
        gt_sem_seg=_labels(size, 0, things, IGNORED),
        proposals=InstanceData(bboxes=boxes + 1, scores=torch.ones(2)),
    )


def _segmentation(config: Any, size: int) -> Any:
    """Two classes, pixels that are ignored, and the edges that some heads learn."""
    from mmseg.structures import SegDataSample

    classes = _find(config, "num_classes", 2)
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
