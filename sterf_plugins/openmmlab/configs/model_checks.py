"""Checks of a config that its model and its data fit together: classes, sizes and channels of the images."""

from collections.abc import Iterator
from typing import Any

from mmengine.config import Config, ConfigDict
from mmengine.registry import MODELS

from ...registry import TRANSFORMS
from .data_checks import class_names, datasets, is_kind_of, listed
from .types import dicts_in, registered, type_name

# Heads whose labels are not the data set's classes: COCO-stuff, and the borders of objects.
OTHER_LABELS = ("FusedSemanticHead", "SCNetSemanticHead", "STDCHead")
PREPROCESSORS = ("ImgDataPreprocessor", "DetDataPreprocessor", "EventDataPreprocessor", "SegDataPreProcessor")
GROUPS = ("classes", "thing_classes", "stuff_classes")
BEHIND_BACKBONE = ("neck", "rpn_head", "roi_head", "bbox_head", "decode_head", "auxiliary_head")
# Transforms of mmdet that fill gaps with a grey of 114 or 128, and what sets another value.
FILLS = dict(
    RandomAffine="border_val", Mosaic="pad_val", CachedMosaic="pad_val", MixUp="pad_val", CachedMixUp="pad_val",
    RandomErasing="img_border_value", Rotate="img_border_value",
)  # fmt: skip


def check_model(config: Config, *phases: str) -> None:
    """Raise ``ValueError`` if the model's settings do not fit the data sets of the phases."""
    check_classes(config, *phases)
    check_train_size(config)
    check_channels(config)
    check_events(config, *phases)
    check_fills(config, *phases)
    check_time(config)


def check_classes(config: Config, *phases: str) -> None:
    """Raise ``ValueError`` if a head counts other classes than a data set has.

    Heads that compare with texts instead of classes are left out, and so are data sets of videos, which keep some of
    their classes only.
    """
    model = _network(config)
    texts = model.get("language_model") or model.get("text_encoder")
    for key, dataset in datasets(config, *phases):
        classes = class_names(dataset, config)
        if not classes or texts or is_kind_of(dataset, "BaseVideoDataset", config):
            continue
        counts = _counts(dataset, config)
        wrong = [
            (f"{where}.{setting}", head[setting], counts[setting])
            for where, head in _heads(model, "model")
            for setting in counts
            if head.get(setting, counts[setting]) != counts[setting] and not _is_sigmoid(head, counts[setting])
        ]
        if wrong:
            options = " ".join(f"{setting}={count}" for setting, _, count in wrong)
            raise ValueError(
                f"{wrong[0][0]} is {wrong[0][1]}, and {key} ({type_name(dataset)}) has {wrong[0][2]} such classes: "
                f"{listed(classes)}. If these are right: --cfg-options {options}; else name the others in "
                f"{key}.metainfo.classes."
            )


def _network(config: Config) -> ConfigDict:
    """The model's config, out of the wrapper of test-time augmentation."""
    return config.model.get("module") or config.model


def _heads(node: Any, path: str) -> Iterator[tuple[str, ConfigDict]]:
    """Each head below a part of the model whose labels are classes, as (its key, its config).

    Heads of region proposals tell objects from background.
    """
    if isinstance(node, (list, tuple)):
        for index, item in enumerate(node):
            yield from _heads(item, f"{path}.{index}")
    elif isinstance(node, dict) and type_name(node) not in OTHER_LABELS:
        name = path.rstrip(".0123456789")
        if name.endswith("head") and not name.endswith("rpn_head"):
            yield path, node
        for key, value in node.items():
            yield from _heads(value, f"{path}.{key}")


def _counts(dataset: ConfigDict, config: Config) -> dict[str, int]:
    """What the settings of heads have to count for a data set, as far as it tells."""
    classes, things, stuff = (len(class_names(dataset, config, group) or ()) for group in GROUPS)
    if things:  # panoptic; boxes and masks are of things
        return dict(num_classes=things, num_things_classes=things, num_stuff_classes=stuff)
    return dict(num_classes=classes, num_things_classes=classes, num_stuff_classes=0)


def _is_sigmoid(head: ConfigDict, count: int) -> bool:
    """Whether a head has one output, a sigmoid, for two classes."""
    return count == 2 and head.get("num_classes") == 1


def check_train_size(config: Config) -> None:
    """Raise ``ValueError`` if training images are cropped to another size than the one to which they are padded.

    Smaller crops would be padded with ignored pixels: most of the computation would be for nothing, and the loss, a mean
    over all pixels, would be small.
    """
    size = (_network(config).get("data_preprocessor") or {}).get("size")
    for key, dataset in datasets(config, "train"):
        crop = _crop_size(dataset.get("pipeline") or [])
        if size and crop and tuple(size) != crop:
            raise ValueError(
                f"{key}.pipeline crops images to {crop}, and model.data_preprocessor.size pads them to {tuple(size)}: set both to "
                f'one size, --cfg-options "model.data_preprocessor.size=({crop[0]},{crop[1]})".'
            )


def _crop_size(pipeline: list[ConfigDict]) -> tuple[int, int] | None:
    """Size (H, W) of the crop with which a pipeline's changes of size end; ``None`` if they end otherwise."""
    changes = [step for step in pipeline if any(word in type_name(step) for word in ("Crop", "Resize", "Pad", "Rot"))]
    if not changes or type_name(changes[-1]) != "RandomCrop":
        return None
    size = changes[-1].crop_size
    return (size, size) if isinstance(size, int) else tuple(size)


def check_channels(config: Config) -> None:
    """Raise ``ValueError`` if images are normalised with another number of channels than the backbone takes.

    mmengine takes one value of ``mean`` and ``std`` for all channels, or three; preprocessors of other kinds are not known.
    """
    preprocessor, backbone = (_network(config).get(part) or {} for part in ("data_preprocessor", "backbone"))
    if type_name(preprocessor) not in PREPROCESSORS:
        return
    channels = backbone.get("in_chans", backbone.get("in_channels", 3))
    wrong = {
        setting: f"[{sum(values) / len(values):.6g}]"
        for setting in ("mean", "std")
        if (values := preprocessor.get(setting)) and len(values) not in ({1, 3} if channels == 3 else {1})
    }
    if channels != 3:
        wrong |= {setting: "False" for setting in ("bgr_to_rgb", "rgb_to_bgr") if preprocessor.get(setting)}
    if wrong:
        options = " ".join(f"model.data_preprocessor.{setting}={value}" for setting, value in wrong.items())
        raise ValueError(
            f"model.data_preprocessor.{', '.join(wrong)} cannot be applied to images of {channels} channels, which "
            f"model.backbone takes: one value stands for all channels, and three, or an order of colours, for three: "
            f"--cfg-options {options}"
        )


def check_events(config: Config, *phases: str) -> None:
    """Raise ``ValueError`` if the events of a data set are drawn with other channels or steps than the model takes."""
    model = _network(config)
    steps = (model.get("data_preprocessor") or {}).get("time_steps", 1)
    backbone = model.get("backbone") or {}
    channels = backbone.get("in_chans", backbone.get("in_channels", 3))
    for key, dataset in datasets(config, *phases):
        for index, step in enumerate(dataset.get("pipeline") or []):
            if type_name(step) != "LoadEvents":
                continue
            loaded: Any = TRANSFORMS.build(step)
            where = f"{key}.pipeline.{index}"
            if steps not in (1, loaded.parts):
                raise ValueError(
                    f"{where} cuts the window into parts={loaded.parts}, and model.data_preprocessor makes time_steps={steps} of "
                    f"them: set both to one number, or time_steps to 1 for one image."
                )
            if loaded.channels != steps * channels:
                raise ValueError(
                    f"{where} draws {loaded.representation!r} in {loaded.channels // steps} channels"
                    f"{f' for each of {steps} steps' * (steps > 1)}, and model.backbone takes in_channels={channels}: "
                    f"--cfg-options model.backbone.in_channels={loaded.channels // steps}."
                )


def check_fills(config: Config, *phases: str) -> None:
    """Raise ``ValueError`` if a transform would fill gaps in images of events with grey, as many events as its value."""
    for phase in phases:
        parts = list(dicts_in((config.get(f"{phase}_dataloader") or {}).get("dataset")))
        if not any(type_name(part) == "LoadEvents" for part in parts):
            continue
        for part in parts:
            setting = FILLS.get(type_name(part))
            if setting is not None and setting not in part:
                raise ValueError(
                    f"{type_name(part)} in {phase}_dataloader fills gaps with a grey above 100, and LoadEvents draws numbers "
                    f"of events: set {setting}=0 in it."
                )


def check_time(config: Config) -> None:
    """Raise ``ValueError`` if a backbone keeps its time steps, and a stock neck or head takes its maps, which knows no time.

    Behind a part of another package nothing is known: it may be what takes the mean.
    """
    model = _network(config)
    if not (model.get("backbone") or {}).get("keep_time"):
        return
    for name in BEHIND_BACKBONE:
        parts = model.get(name) or []  # a neck may be several, one behind the other
        for part in [parts] if isinstance(parts, dict) else parts:
            package = getattr(registered(part, MODELS, config), "__module__", "").split(".")[0]
            if package in ("mmdet", "mmseg"):
                raise ValueError(
                    f"model.backbone has keep_time=True and gives maps of all time steps, (T, B, C, H, W), and model.{name} is "
                    f"{type_name(part)}, which takes (B, C, H, W): --cfg-options model.backbone.keep_time=False for their mean, "
                    f"or spiking necks and heads of this package, such as sterf_plugins.SpikeFPN."
                )
            if package != "sterf_plugins":
                return
