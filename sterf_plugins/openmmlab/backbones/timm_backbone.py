"""Any timm model as an mmdet or mmseg backbone."""

import inspect
import re
import traceback
from collections.abc import Callable, Mapping, Sequence
from itertools import takewhile
from pathlib import Path
from typing import Any

import timm
import torch
from mmengine.logging import print_log
from mmengine.model import PretrainedInit
from timm.layers import Format
from timm.models import FeatureListNet, load_state_dict
from torch import Tensor, nn

from ...backbones.base import StagedBackbone, save_memory
from ...checkpoints.reading import below, read_checkpoint, state_dict_of, weights_beside
from ...checkpoints.renaming import listing
from ...checks import entries, flag, is_whole, positive_int
from ...layers.described import compare
from ...registry import MODELS
from ...timm import swap_stem
from ...timm.stems import name_in_features
from ..runtime.checkpoint_files import read_weights
from .freezing import Freezing, check_frozen_stages

FEATURE_NETS = inspect.getfile(FeatureListNet)  # where timm looks for what a model says of its feature levels
_STAGE = re.compile(r".*?\.stages\.\d+\.")  # of an entry's name


@MODELS.register_module()
class TIMMBackbone(Freezing):
    """A timm model in ``features_only`` mode; (B, C, H, W) -> tuple of (B, C_i, H_i, W_i).

    Args:
        model_name: any name of ``timm.list_models()``, this package's and other plugins' included.
        pretrained: load timm's pretrained weights.
        checkpoint_path: local checkpoint of the model or classifier in timm's format, or of a release of a model of this
            package. Every entry that the features need must be there.
        in_channels: image channels; timm's own name for them, ``in_chans``, is taken too.
        out_indices: feature levels to return; ``None`` for all. A level that the model lacks is an error, whereas timm
            would silently drop it.
        stem: a dict without ``type`` holds arguments of ``sterf_plugins.timm.swap_stem`` (``bank`` being arguments of
            ``RFBank``), which puts covariant receptive fields in place of the first convolution after the weights are
            loaded. The name of any stem plugin, or a dict with it as ``type``, is passed on to a model of this package.
        mixer: channel mixer of a model of this package that has one, as in ``SDTV3``; ``None`` for the model's own.
        frozen_stages: everything up to this feature level is not trained; -1 trains all.
        norm_eval: BatchNorm keeps its statistics during training, as is usual with few images per GPU.
        with_cp: timm's gradient checkpointing: less memory, more time.
        memory_efficient: a model of this package keeps results of convolutions and products alone for the backward pass,
            and computes norms and spikes again.
        init_cfg: mmengine's initialisation. Of type "Pretrained" it is a checkpoint of this backbone, or of a detector or
            segmentor with it, and every entry must be there.
        features_only: configs of mmseg's ``TIMMBackbone`` say it; it can only be true.
        **kwargs: passed to ``timm.create_model``.

    Raises:
        ValueError: unknown model or feature level; the message lists what there is. The model has no gradient
            checkpointing, or the checkpoint does not fit.
    """

    def __init__(
        self,
        model_name: str,
        pretrained: bool = False,
        checkpoint_path: str = "",
        in_channels: int = 3,
        out_indices: Sequence[int] | None = None,
        stem: str | Mapping | None = None,
        mixer: str | Mapping | Callable | None = None,
        frozen_stages: int = -1,
        norm_eval: bool = False,
        with_cp: bool = False,
        memory_efficient: bool = False,
        init_cfg: Mapping | None = None,
        features_only: bool = True,
        **kwargs,
    ):
        super().__init__(init_cfg)
        check_model_name(model_name)
        for name, value in dict(pretrained=pretrained, with_cp=with_cp, memory_efficient=memory_efficient).items():
            flag(name, value)
        fields = (
            dict(stem) if isinstance(stem, Mapping) and "type" not in stem else None
        )  # arguments of a bank, no plugin
        if not features_only:
            raise ValueError("`features_only` is False; a backbone gives feature maps, so leave it out.")
        kwargs |= _plugin_arguments(model_name, None if fields else stem, mixer)
        kwargs["in_chans"] = _channels_given(in_channels, kwargs)
        if out_indices is not None:
            kwargs["out_indices"] = check_out_indices(model_name, out_indices, **kwargs)
        if checkpoint_path and not Path(checkpoint_path).is_file():
            raise ValueError(f"`checkpoint_path`: there is no file {checkpoint_path}; nothing is downloaded.")
        if checkpoint_path:  # before timm cuts off what makes no features; its own `checkpoint_path` is loaded after it
            overlay = kwargs.get("pretrained_cfg_overlay") or {}
            kwargs["pretrained_cfg_overlay"] = {**overlay, "file": checkpoint_path, "source": ""}
        self.is_init = bool(pretrained or checkpoint_path)
        model: Any = timm.create_model(model_name, pretrained=self.is_init, features_only=True, **kwargs)
        if checkpoint_path:
            _check_loaded(model, checkpoint_path)
            _compare_and_tell(model, checkpoint_path)
        if fields:
            swap_stem(model, **fields)
        info = model.feature_info
        self.out_channels, self.out_strides = tuple(info.channels()), tuple(info.reduction())
        self.out_indices = tuple(info.out_indices)
        # Many timm models have an `init_weights` of their own, which mmengine would call after the weights are loaded.
        model.is_init = True
        self.timm_model = model
        if with_cp:
            _checkpoint_gradients(model, model_name)
        if memory_efficient and not save_memory(model):
            raise ValueError(
                f"`memory_efficient` is True, but {model_name} is not of this package; use `with_cp=True`."
            )
        modules: list[str] = []
        parameters: list[nn.Parameter] = []
        if check_frozen_stages(frozen_stages, len(info)) >= 0:
            modules, parameters = _up_to(self, info.module_name(frozen_stages))
        self.freeze(modules, parameters, norm_eval)

    def init_weights(self) -> None:
        """Load ``init_cfg``'s checkpoint, if there is one: that of such a backbone, or of a detector with one."""
        if self.init_cfg and self.init_cfg.get("type") in ("Pretrained", PretrainedInit) and not self.is_init:
            path = self.init_cfg["checkpoint"]
            self._load_strictly(read_weights(path, self.init_cfg.get("prefix") or ""), path)
            self.is_init = True
            return
        super().init_weights()

    def _load_strictly(self, state: Mapping[str, Tensor], path: str) -> None:
        """Load the entries, or those below "backbone."; ``ValueError`` unless they are this backbone's."""
        own = self.state_dict()
        parts = [below(state, start) for start in ("", "backbone.")]
        part = max(parts, key=lambda entries: len(own.keys() & entries.keys()))
        wrong = sorted(k for k in own if k not in part or part[k].shape != own[k].shape)
        if wrong:
            raise ValueError(
                f"`init_cfg`: the checkpoint {path} is not of this backbone: {len(wrong)} of {len(own)} entries are missing or "
                f"of another shape, such as {wrong[0]!r}. A checkpoint of the timm model alone, or a released one, goes into "
                f"`checkpoint_path`."
            )
        stages = {
            match[0] for match in map(_STAGE.match, own) if match
        }  # a backbone may have fewer than the checkpoint
        surplus = [k for k in part if k not in own and (match := _STAGE.match(k)) and match[0] in stages]
        if surplus:
            raise ValueError(
                f"`init_cfg`: the checkpoint {path} is not of this backbone: it has {len(surplus)} entries more in the same "
                f"stages, such as {surplus[0]!r}. Give the backbone the arguments that it was trained with."
            )
        self.load_state_dict(part, strict=False)
        print_log(f"backbone weights loaded from {path} ({len(own)} tensors)", logger="current")

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        maps = self.timm_model(x)
        if getattr(self.timm_model, "output_fmt", Format.NCHW) == Format.NHWC:
            maps = [y.permute(0, 3, 1, 2) for y in maps]
        return tuple(y.contiguous() for y in maps)  # some heads of mmdet and mmseg look at them by `view`


def _channels_given(in_channels: int, options: Mapping[str, Any]) -> int:
    """The image channels, which may be among the options by timm's name for them, ``in_chans``."""
    if "in_chans" in options and in_channels != 3:
        raise ValueError(
            f"`in_channels` is {in_channels} and `in_chans` {options['in_chans']}; give `in_channels` alone."
        )
    return positive_int("in_channels", options.get("in_chans", in_channels))


def _plugin_arguments(model_name: str, stem: str | Mapping | None, mixer: str | Mapping | Callable | None) -> dict:
    """The plugins that go to the model as arguments of its own; ``ValueError`` for a model that takes none."""
    plugins = dict(stem=dict(type=stem) if isinstance(stem, str) else dict(stem) if stem else None, mixer=mixer)
    arguments = {argument: value for argument, value in plugins.items() if value is not None}
    for argument, value in arguments.items():
        _check_takes(model_name, argument, value)
    return arguments


def _check_takes(model_name: str, argument: str, value: Any) -> None:
    """Raise ``ValueError`` for a plugin given to a model that has no such argument."""
    try:
        feature_levels(model_name, **{argument: value})
    except TypeError as error:
        if f"unexpected keyword argument '{argument}'" not in str(error):
            raise
        other = " Receptive fields go into any model: stem=dict(init='rf')." if argument == "stem" else ""
        raise ValueError(f"`{argument}` is {value!r}; {model_name} takes none, and sdtv3_tiny does.{other}") from error


def check_model_name(name: str) -> None:
    """Raise ``ValueError``, which lists similar names, unless timm knows the model."""
    if timm.is_model(name.split(".")[0]) or name.startswith(("hf-hub:", "hf_hub:", "local-dir:")):
        return
    import difflib

    names = timm.list_models()
    near = difflib.get_close_matches(name, names, 5) or [n for n in names if n.startswith("sdtv3_tiny")]
    raise ValueError(
        f"unknown timm model {name!r}; near names: {', '.join(near)}. "
        f'All names: python -c "import timm, sterf_plugins.timm; print(timm.list_models())"'
    )


def feature_levels(model_name: str, **options) -> list[dict[str, Any]]:
    """What timm says of each feature level of a model (``num_chs``, ``reduction``), found without allocating its weights.

    Raises:
        ValueError: timm does not know the model, or it has no feature levels.
    """
    check_model_name(model_name)
    try:
        with torch.device("meta"):
            model: Any = timm.create_model(model_name, features_only=True, **options)
    except (AttributeError, AssertionError) as error:
        if not any(frame.filename == FEATURE_NETS for frame in traceback.extract_tb(error.__traceback__)):
            raise
        raise ValueError(f"{model_name}: timm gives no feature maps of it ({error}).") from error
    return model.feature_info.info


def any_image_size(model_name: str) -> dict[str, bool]:
    """Options by which a timm model takes images of any size: those of ViT, Swin and their relatives, otherwise none."""
    with torch.device("meta"):
        model = timm.create_model(model_name)
    return {"dynamic_img_size": True} if "dynamic_img_size" in inspect.signature(type(model)).parameters else {}


def check_out_indices(model_name: str, out_indices: Sequence[int], **options) -> tuple[int, ...]:
    """Return the levels as a tuple; raise ``ValueError`` unless the model with these options has them all.

    timm gives the maps in ascending order, each once, whatever it is asked for.
    """
    levels = feature_levels(model_name, **options)
    indices = entries("out_indices", out_indices)
    count = len(levels)
    there = [i % count for i in indices if is_whole(i) and -count <= i < count]
    if not indices or len(there) < len(indices) or there != sorted(set(there)):
        table = ", ".join(f"{i} (stride {f['reduction']}, {f['num_chs']} channels)" for i, f in enumerate(levels))
        raise ValueError(f"`out_indices` is {indices}; {model_name} has {table}. Give them ascending, each once.")
    return indices


def _check_loaded(model: nn.Module, path: str) -> None:
    """Raise ``ValueError`` if a features model has entries that a checkpoint lacks, about which timm is silent.

    Checkpoints of models of this package were checked when they got our names.
    """
    if isinstance(getattr(model, "model", None), StagedBackbone):
        return
    # `features_only` flattens names, or puts the wrapped model's name in front of them.
    stored = {key.replace(".", "_") for key in load_state_dict(path)}
    wanted = {key: key.removeprefix("model.").removeprefix("body.").replace(".", "_") for key in model.state_dict()}
    missing = [key for key, flat in wanted.items() if flat not in stored]
    if missing:
        raise ValueError(listing(f"the checkpoint {path} is not of this model: it lacks entries", missing))


def _compare_and_tell(model: nn.Module, path: str) -> None:
    """Warn of arguments with which a checkpoint was not saved, and say whether averaged weights were taken."""
    checkpoint = read_checkpoint(path)
    compare(getattr(model, "model", model), state_dict_of(checkpoint))
    beside = weights_beside(checkpoint)
    if averaged := [name for name in ("state_dict_ema", "model_ema") if name in beside]:
        print_log(f"backbone: the averaged weights {averaged[0]!r} of {path} are taken, as timm always does", "current")


def _checkpoint_gradients(model: Any, name: str) -> None:
    """Turn on timm's gradient checkpointing in a features model or in the model that it wraps."""
    holder = model if hasattr(model, "set_grad_checkpointing") else getattr(model, "model", None)
    try:
        holder.set_grad_checkpointing(True)  # type: ignore[union-attr]
    except (AttributeError, AssertionError) as error:
        raise ValueError(f"`with_cp` is True, but timm has no gradient checkpointing for {name}.") from error


def _up_to(backbone: TIMMBackbone, level: str) -> tuple[list[str], list[nn.Parameter]]:
    """Modules without children, by name, and parameters up to the end of the module ``level`` of the timm model.

    timm registers modules in the order in which they run.
    """
    found = name_in_features(backbone.timm_model, level)
    if found is None:
        raise ValueError(
            f"`frozen_stages` cannot be used with {type(backbone.timm_model).__name__}: it hides {level!r}."
        )
    last = f"timm_model.{found}"
    leaves = [name for name, module in backbone.named_modules() if not any(True for _ in module.children())]
    end = 1 + max(i for i, name in enumerate(leaves) if f"{name}.".startswith(f"{last}."))
    later = set(leaves[end:])
    before = takewhile(lambda entry: entry[0].rpartition(".")[0] not in later, backbone.named_parameters())
    return leaves[:end], [parameter for _, parameter in before]
