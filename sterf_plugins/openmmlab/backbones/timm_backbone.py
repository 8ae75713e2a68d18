"""Any timm model as an mmdet or mmseg backbone."""

from collections.abc import Mapping, Sequence
from typing import Any

import timm
from mmengine.model import BaseModule
from torch import Tensor

from ...registry import MODELS
from ...timm import swap_stem


@MODELS.register_module()
class TIMMBackbone(BaseModule):
    """A timm model in ``features_only`` mode; (B, C, H, W) -> tuple of (B, C_i, H_i, W_i).

    Args:
        model_name: any name of ``timm.list_models()``, this package's and other plugins' included.
        pretrained: load timm's pretrained weights.
        checkpoint_path: local checkpoint in timm's format.
        in_channels: image channels.
        out_indices: feature levels to return; ``None`` for all. A level that the model lacks is an error, whereas timm
            would silently drop it.
        stem: a dict without ``type`` holds arguments of ``sterf_plugins.timm.swap_stem`` (``bank`` being arguments of
            ``RFBank``), which puts covariant receptive fields in place of the first convolution after the weights are
            loaded. A dict with ``type``, the name of any stem plugin, is passed on to a model of this package.
        init_cfg: mmengine's initialisation.
        **kwargs: passed to ``timm.create_model``.

    Raises:
        ValueError: unknown model or feature level; the message lists what there is.
    """

    def __init__(
        self,
        model_name: str,
        pretrained: bool = False,
        checkpoint_path: str = "",
        in_channels: int = 3,
        out_indices: Sequence[int] | None = None,
        stem: Mapping | None = None,
        init_cfg: Mapping | None = None,
        **kwargs,
    ):
        super().__init__(init_cfg)
        check_model_name(model_name)
        if stem and "type" in stem:  # a plugin: the model's own argument
            kwargs["stem"] = dict(stem)
        if out_indices is not None:
            kwargs["out_indices"] = check_out_indices(model_name, out_indices)
        model: Any = timm.create_model(
            model_name,
            pretrained=pretrained,
            checkpoint_path=checkpoint_path,
            in_chans=in_channels,
            features_only=True,
            **kwargs,
        )
        if stem and "type" not in stem:
            swap_stem(model, **stem)
        info = model.feature_info
        self.out_channels, self.out_strides = tuple(info.channels()), tuple(info.reduction())
        self.out_indices = tuple(info.out_indices)
        # Many timm models have an `init_weights` of their own, which mmengine would call after the weights are loaded.
        model.is_init = True
        self.timm_model = model
        if pretrained or checkpoint_path:
            self.is_init = True

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        return tuple(self.timm_model(x))


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


def check_out_indices(model_name: str, out_indices: Sequence[int]) -> tuple[int, ...]:
    """Return the levels as a tuple; raise ``ValueError`` unless the model has them all."""
    import torch

    with torch.device("meta"):
        model: Any = timm.create_model(model_name, features_only=True)
    levels = model.feature_info.info
    indices = tuple(out_indices)
    if not indices or any(not -len(levels) <= i < len(levels) for i in indices):
        table = ", ".join(f"{i} (stride {f['reduction']}, {f['num_chs']} channels)" for i, f in enumerate(levels))
        raise ValueError(f"`out_indices` is {indices}; {model_name} has {table}.")
    return indices
