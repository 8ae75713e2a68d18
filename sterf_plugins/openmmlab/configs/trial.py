"""Run the model of a config once on two small made-up images: what does not train is found before a training starts."""

import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from typing import Any

import numpy as np
import torch
from mmengine.config import Config
from mmengine.logging import MessageHub, MMLogger
from mmengine.registry import MODELS, DefaultScope
from torch import nn

from ...undisturbed import preserved_random_state
from .made_up import channels_of, sample_of, smallest
from .reading import revert_sync_bn, without_weight_files
from .types import dicts_in, type_name

SMALL, LARGE = 128, 448  # sides of the images in pixels; some heads pool over windows of 400
NOT_TRIED = {
    "teacher_config": "needs a teacher's checkpoint",
    "teacher_ckpt": "needs a teacher's checkpoint",
    "language_model": "needs texts",
}  # by a setting of the model


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
        try_model(config, _training_device())
    except TrialError as error:
        other = "" if "DropInBackbone" in type_name(config.model.get("backbone")) else " Try --interface stock."
        raise ValueError(f"{option}: the adapted model does not run ({error}).{other}") from error


def _training_device() -> torch.device:
    """The device that the training will have: some operators of mmcv are there for one kind of device only."""
    if not torch.cuda.is_available():
        return torch.device("cpu")
    torch.cuda.init()  # so that its random states can be kept
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))


def try_model(config: Config, device: torch.device | str = "cpu") -> str:
    """Build a config's model without pretrained weights, compute a loss, its gradients and a prediction on made-up images.

    What fails on small images is tried on larger ones, too. The model is thrown away, and the random states are as before.
    SyncBN, which needs several processes, becomes BN.

    Args:
        config: config of a detector, a segmentor, or of what has a detector in it; not changed.
        device: where the model runs.

    Returns:
        Why the model was not tried: made-up images and annotations are not all that it needs. Empty if it was.

    Raises:
        TrialError: the model does not run.
    """
    for key, reason in NOT_TRIED.items():
        if key in config.model:
            return reason
    try:
        return _try_model(config, device, SMALL)
    except TrialError as error:
        if error.stage == "build":
            raise
    return _try_model(config, device, LARGE)


def _try_model(config: Config, device: torch.device | str, size: int) -> str:
    """Try the model on square images of this side, or of the one that the model is built for."""
    config = deepcopy(config)
    detector = config.model.get("detector") or {}
    if "backbone" in detector:  # of a tracker or a semi-supervised training, which hand it images that are prepared
        detector.setdefault("data_preprocessor", dict(type="DetDataPreprocessor", pad_size_divisor=32))
        config.model = detector
    revert_sync_bn(config)
    without_weight_files(config.model)
    size = _shrink(config.model, size)
    with (
        warnings.catch_warnings(action="ignore"),  # the training says them again
        preserved_random_state(),
        DefaultScope.overwrite_default_scope(config.get("default_scope")),
        _first_iteration(),
    ):
        torch.manual_seed(0)
        np.random.seed(0)
        with _stage(lambda: "build"):
            model = MODELS.build(config.model)
            initialise(model)
            model.to(device)
        sample = sample_of(model, config)
        if sample is None:
            return f"{type(model).__name__} is no detector or segmentor with a backbone of its own"

        def batch(count: int) -> dict:
            images = [torch.randint(0, 256, (channels_of(config), size, size), dtype=torch.uint8) for _ in range(count)]
            return dict(inputs=images, data_samples=[sample(config, size) for _ in images])

        _train_once(model, batch(2))
        with _stage(lambda: "predict"), torch.no_grad():
            model.eval()
            model(**model.data_preprocessor(batch(1), False), mode="predict")
    return ""


def initialise(model: Any) -> None:
    """Initialise the weights as mmengine's Runner does before a training, without its log of every parameter."""
    logger = MMLogger.get_current_instance()
    level = logger.level
    logger.setLevel("ERROR")
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


@contextmanager
def _first_iteration() -> Iterator[None]:
    """Tell heads that read them the numbers of iteration and epoch, which a training publishes."""
    hub = MessageHub.get_current_instance()
    missing = [key for key in ("iter", "epoch") if hub.get_info(key) is None]
    for key in missing:
        hub.update_info(key, 0)
    try:
        yield
    finally:
        for key in missing:
            hub.pop_info(key)


def _train_once(model: Any, batch: dict) -> None:
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
        losses, _ = model.parse_losses(model(**model.data_preprocessor(batch, True), mode="loss"))
    with _stage(lambda: "backward"):
        losses.backward()
        trained = [p for p in model.backbone.parameters() if p.requires_grad]
        if trained and all(p.grad is None for p in trained):
            raise RuntimeError("no gradient reaches the backbone")


def _shrink(model: Any, size: int) -> int:
    """Set everything in a model's config that names the size of images, and return the side of the images."""
    preprocessor: Any = model.get("data_preprocessor") or {}
    size = smallest(model, "input_size", size)  # the anchors of SSD
    if preprocessor.get("batch_augments"):
        preprocessor.batch_augments = None  # resize or pad to sizes of real images
    if preprocessor.get("size"):
        if max(preprocessor.size) <= 2 * SMALL:
            size = max(preprocessor.size)
        preprocessor.size = (size, size)
    backbone: Any = model.get("backbone") or {}
    if backbone.get("img_size"):  # the model's tables of positions fit this size alone
        backbone.img_size = size
    for weights, nothing in (("pretrained", False), ("checkpoint_path", "")):  # of a timm model
        if backbone.get(weights):
            backbone[weights] = nothing
    _change(model, "num_queries", lambda number: min(number, 100))
    _change(model.get("rpn_head"), "num_proposals", lambda number: min(number, 20))  # as many as results
    for settings in (model.get("train_cfg"), model.get("test_cfg")):
        _change(settings, "num", lambda number: min(number, 32))  # of regions that a loss takes
        _change(settings, "max_per_img", lambda number: min(number, 20))
    _change(model, "clip_border", lambda _: True)  # untrained weights give boxes that are nowhere in the image
    return size


def _change(node: Any, key: str, new: Callable[[Any], Any]) -> None:
    """Replace the values of a key, wherever it stands in a config."""
    for part in dicts_in(node):
        if part.get(key) is not None:
            part[key] = new(part[key])
