"""Models by their specification: timm's, configs of OpenMMLab, and factories of any package, with weights of a checkpoint."""

import importlib
import importlib.util
import math
import sys
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from ..checkpoints import read_checkpoint, state_dict_of
from ..checkpoints.efficientnet import with_timm_names
from ..checkpoints.reading import averaged_beside
from ..checks import image_channels
from .checkpoints import check_not_published_tracker
from .specs import CHECKPOINTS, is_config, is_timm, parse_spec


@dataclass
class Loaded:
    """A model in eval mode, and how its inputs are made.

    Attributes:
        label: name of the model in results.
        model: the model.
        size: (H, W) of the inputs that it was made for; see ``default_size``.
        mean, std: mean and standard deviation of the normalisation for each channel, in the model's order of channels,
            for pixel values of 0 to 255.
        bgr: whether the model takes BGR instead of RGB images.
        config: the OpenMMLab config, if the model came from one.
        notes: remarks for the user, one line each, such as which checkpoint was loaded.
        dataset_meta: what the checkpoint says of the classes that the model was trained on, as mmengine writes it.
        size_is_known: whether the model or its config says what ``size`` is; else it is a guess.
    """

    label: str
    model: nn.Module
    size: tuple[int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    bgr: bool = False
    config: Any = None
    notes: list[str] = field(default_factory=list)
    dataset_meta: dict[str, Any] = field(default_factory=dict)
    size_is_known: bool = True

    @property
    def is_tracker(self) -> bool:
        """Whether the model is an SDTrack, which takes a template and a search region."""
        return self.config is not None and str(self.config.model.type).rpartition(".")[2] == "SDTrack"

    @property
    def network(self) -> Any:
        """The module that tensors are given to: the model, or of a tracker the network inside."""
        return self.model.network if self.is_tracker else self.model

    @property
    def test_dataset(self) -> dict[str, Any]:
        """What the config says of the data set of its test; empty without a config, or where it has no test."""
        return ((self.config or {}).get("test_dataloader") or {}).get("dataset", {})

    @property
    def time_steps(self) -> int:
        """Time steps that the config's preprocessor makes of an event image; 1 without a time axis."""
        model = (self.config or {}).get("model") or {}
        return (model.get("data_preprocessor") or {}).get("time_steps", 1)

    @property
    def takes_videos(self) -> bool:
        """Whether the config's data set has videos of events, and its model takes nothing else."""
        return str(self.test_dataset.get("type", "")).rpartition(".")[2] == "ShapeEvents"

    @property
    def images_have_time(self) -> bool:
        """Whether images of the config's data set, which may be videos of events, have a time axis."""
        return self.time_steps > 1 or self.takes_videos

    @property
    def region_sizes(self) -> tuple[int, int]:
        """Sides of template and search region in the config's test of a tracker."""
        return self.test_dataset.get("template_size", 128), self.test_dataset.get("search_size", 256)


def load_model(spec: str, checkpoint: str | None = None, pretrained: bool = False) -> Loaded:
    """Build a model from its specification, load its weights, and put it in eval mode.

    Without a checkpoint, the model of a config has the weights with which its training would start, but for those that
    the config takes from files.

    Args:
        spec: a timm name (ours included), an OpenMMLab config (a path, ``mmdet::…``, ``mmseg::…``) or
            ``module:factory``; with options in parentheses, and a label before an equals sign, if wanted.
        checkpoint: weights, as saved by mmengine, timm or ``torch.save(model.state_dict())``.
        pretrained: load timm's pretrained weights; ignored for models that are not timm's.

    Raises:
        ValueError: unknown model, bad options, or a checkpoint that is unreadable or does not fit.
    """
    label, name, options = parse_spec(spec)
    if is_timm(spec):
        loaded = _from_timm(label, name, options, pretrained)
    elif is_config(name):
        loaded = _from_config(label, name, options)
    else:
        loaded = _from_factory(label, name, options)
    if checkpoint:
        load_weights(loaded, checkpoint)
    elif loaded.config is not None:
        from ..openmmlab.configs.trial import initialise

        initialise(loaded.model)
    loaded.model.eval()
    return loaded


def _from_timm(label: str, name: str, options: Mapping[str, Any], pretrained: bool) -> Loaded:
    import difflib

    import timm

    from .. import timm as ours  # noqa: F401

    if name.endswith(CHECKPOINTS):
        raise ValueError(
            f"{name} is a checkpoint, and a model is wanted here: give the model first, and the checkpoint behind it; "
            f"to compare two checkpoints: sterf erf {name} OTHER --model NAME."
        )
    try:
        model = timm.create_model(name, pretrained=pretrained, **options)
    except RuntimeError as error:
        if "Unknown model" not in str(error):
            raise
        near = difflib.get_close_matches(name, timm.list_models(), 3)
        raise ValueError(
            f"no timm model {name!r}; near: {', '.join(near) or 'none'}. Give a timm name, a config (a path, mmdet::…, "
            f"mmseg::…) or module:factory."
        ) from error
    except TypeError as error:
        if not _names_an_option(error, options):
            raise
        raise ValueError(f"model {name!r} does not take these options: {error}") from error
    data = timm.data.resolve_model_data_config(model)
    mean, std = (_for_channels([255.0 * v for v in data[k]], _channels(model)) for k in ("mean", "std"))
    return Loaded(label, model, _own_size(model) or tuple(data["input_size"][1:]), mean, std)


def _names_an_option(error: TypeError, options: Mapping[str, Any]) -> bool:
    """Whether a call failed for its arguments: the error names one, or it arose before the function had begun."""
    arose_in_the_call = error.__traceback__ is not None and error.__traceback__.tb_next is None
    return arose_in_the_call or any(f"'{option}'" in str(error) or f"`{option}`" in str(error) for option in options)


def _from_factory(label: str, name: str, options: Mapping[str, Any]) -> Loaded:
    """A model of ``module:factory``, of which little is known: images of its own size, else 224x224, normalised to [-1, 1]."""
    module_name, _, attribute = name.partition(":")
    try:
        factory = getattr(importlib.import_module(module_name), attribute)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"model {name!r} cannot be imported: {error}; give module:factory.") from error
    try:
        model = factory(**options)
    except TypeError as error:
        if not _names_an_option(error, options):
            raise
        taken = f"does not take these options: {error}" if options else f"cannot be built without options: {error}"
        raise ValueError(f"model {name!r} {taken}") from error
    if not isinstance(model, nn.Module):
        raise ValueError(f"{name} returns a {type(model).__name__}, not a torch.nn.Module.")
    levels, size = (127.5,) * _channels(model), _own_size(model)
    return Loaded(label, model, size or (224, 224), levels, levels, size_is_known=size is not None)


def _own_size(model: nn.Module) -> tuple[int, int] | None:
    """(H, W) of the images that a model was built for, where it or its patch embedding says so.

    timm's models have ``img_size``, those of Hugging Face ``config.image_size``.
    """
    candidates = [(getattr(model, "patch_embed", None), "img_size"), (model, "img_size")]
    for owner, name in [*candidates, (getattr(model, "config", None), "image_size")]:
        value = getattr(owner, name, None)
        if isinstance(value, int) and not isinstance(value, bool):
            return value, value
        if isinstance(value, (tuple, list)) and len(value) == 2 and all(isinstance(n, int) for n in value):
            return value[0], value[1]
    return None


def _channels(model: nn.Module) -> int:
    """Number of image channels that a model takes: those of its first layer that tells, otherwise 3."""
    channels = image_channels(model)
    return 3 if channels is None else channels


def _for_channels(values: Sequence[float], channels: int) -> tuple[float, ...]:
    """The values of each colour, or for another number of channels their mean in each channel."""
    return tuple(values) if len(values) == channels else (sum(values) / len(values),) * channels


def _from_config(label: str, name: str, options: Mapping[str, Any]) -> Loaded:
    if importlib.util.find_spec("mmengine") is None:
        raise ValueError(f'config {name!r} needs OpenMMLab: pip install "sterf-plugins[openmmlab]"')
    import sterf_plugins

    sterf_plugins.setup()
    from ..openmmlab.configs.reading import load_config

    return build_config(load_config(name, dict(options)), label)


def build_config(config: Any, label: str) -> Loaded:
    """Build the model of an OpenMMLab config, which has the weights that its construction gives it.

    Raises:
        ValueError: the config has no model.
    """
    from mmengine.model import ImgDataPreprocessor
    from mmengine.registry import MODELS, init_default_scope

    from ..openmmlab.configs.reading import revert_sync_bn, without_weight_files

    if not config.get("model"):
        raise ValueError(f"config {label!r} has no `model`.")
    if not torch.cuda.is_available():
        revert_sync_bn(config)
    init_default_scope(config.get("default_scope") or "mmdet")
    without_weight_files(config.model)
    settings = config.model.get("data_preprocessor") or {}
    bgr = bool(settings) and not (settings.get("bgr_to_rgb") or settings.get("rgb_to_bgr"))
    model = MODELS.build(config.model)
    preprocessor: Any = getattr(model, "data_preprocessor", None)
    mean = getattr(preprocessor, "mean", None)
    raw = getattr(model, "takes_bytes", False) or (isinstance(preprocessor, ImgDataPreprocessor) and mean is None)
    means, stds = ([0.0], [1.0]) if raw else ([127.5], [127.5])
    if mean is not None:
        means, stds = ([float(v) for v in values.flatten()] for values in (mean, preprocessor.std))
    if len(means) == 1:  # one number stands for all channels
        means, stds = means * _channels(model), stds * _channels(model)
    size = getattr(preprocessor, "size", None) or getattr(model, "resolution", None)  # the latter of a shape tracker
    height, width = size or (512, 512)
    return Loaded(
        label, model, (int(height), int(width)), tuple(means), tuple(stds), bgr, config, size_is_known=bool(size)
    )


def default_size(loaded: Loaded) -> tuple[int, int]:
    """(H, W) of the inputs of a tool that was given no ``--input-size``; says so where it is a guess."""
    if loaded.is_tracker:
        return (loaded.region_sizes[1],) * 2
    if not loaded.size_is_known:
        print(
            f"{loaded.label}: inputs of {loaded.size[0]}x{loaded.size[1]}, since neither the model nor a config says for which "
            f"size it was made; give --input-size H W for others.",
            file=sys.stderr,
        )
    return loaded.size


def entries_without_place(state: Mapping[str, Any], own: Mapping[str, Any]) -> list[str]:
    """Entries of a checkpoint that a model lacks although it has the part: weights of another network.

    Entries of parts that the model does not have at all, such as a classifier, are none of them.
    """
    parts = {key.split(".")[0] for key in own if "." in key}
    return [key for key in state if key not in own and key.split(".")[0] in parts]


def _fits(value: Any, own: torch.Tensor) -> bool:
    """Whether a value of a checkpoint is a tensor of the same shape, and of floating-point numbers, of any size, if those are."""
    if not isinstance(value, torch.Tensor) or value.is_meta or value.layout != own.layout:
        return False
    return value.is_floating_point() == own.is_floating_point() and value.shape == own.shape


def _other_images(loaded: Loaded, checkpoint: Mapping[str, Any]) -> list[str]:
    """Lines about images that were normalised in another way in the training, as far as mmengine's or timm's checkpoint says it."""
    if loaded.config is not None:
        from ..openmmlab.configs.image_checks import other_images

        return other_images(loaded.config, checkpoint)
    lines = []
    for name, own in (("mean", loaded.mean), ("std", loaded.std)):
        trained = getattr(checkpoint.get("args"), name, None)
        here = [value / 255 for value in own]
        if trained and not (len(trained) == len(own) and all(map(math.isclose, trained, here))):
            lines.append(
                f"the weights were trained with --{name} {trained}, and images are normalised with {here} here"
            )
    return lines


def load_weights(loaded: Loaded, path: str) -> None:
    """Load a checkpoint, which must hold all of the model's entries but BatchNorm's counters; note it in ``loaded``.

    Averaged weights that the file has beside those that are taken, settings with which they were saved and that the model does
    not have, and another normalisation of images are told in a line each.

    Raises:
        ValueError: the checkpoint is unreadable or does not fit; the message names what is wrong.
    """
    model, checkpoint = loaded.model, read_checkpoint(path)
    check_not_published_tracker(checkpoint, path)
    own = model.state_dict()
    state = with_timm_names(state_dict_of(checkpoint), own)
    if not any(isinstance(v, torch.Tensor) for v in state.values()):
        raise ValueError(f"checkpoint {path} holds no tensors by name.")
    fitting = {k: v for k, v in state.items() if k in own and _fits(v, own[k])}
    lacking = [k for k in own if k not in fitting and not k.endswith("num_batches_tracked")]
    if lacking:
        raise ValueError(
            f"checkpoint {path} does not fit: {len(lacking)} of {len(own)} entries are missing or of another shape or type, such "
            f"as {', '.join(lacking[:3])}. Give the model with the options that it was trained with."
        )
    if surplus := entries_without_place(state, own):
        raise ValueError(
            f"checkpoint {path} does not fit: it has {len(surplus)} entries more in parts of the model, such as "
            f"{', '.join(surplus[:3])}. Give the model with the options that it was trained with."
        )
    broken = [k for k, v in fitting.items() if not torch.isfinite(v.to(own[k].dtype)).all()]
    if broken:
        raise ValueError(f"checkpoint {path}: {len(broken)} entries hold NaN or infinite values, such as {broken[0]}.")
    for key in [key for key in state if key not in fitting]:
        del state[key]
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        model.load_state_dict(state, strict=False)
    others = (str(warning.message) for warning in told)
    for line in dict.fromkeys((*averaged_beside(checkpoint), *_other_images(loaded, checkpoint), *others)):
        print(f"{path}: {line}", file=sys.stderr)
    loaded.notes.append(f"{len(fitting)} entries from {path}")
    loaded.dataset_meta = dict((checkpoint.get("meta") or {}).get("dataset_meta") or {})
