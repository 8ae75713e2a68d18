"""Covariant stems for timm's models: a swap for models that exist, and a patch embedding for those to be built."""

import warnings
from collections.abc import Mapping
from typing import Any

from timm.layers import PatchEmbed
from torch import nn

from ..checks import check_module
from ..stems import RFBank, covariant_like


def swap_stem(
    model: nn.Module,
    bank: RFBank | Mapping | None = None,
    in_chans: int | None = None,
    target: str | None = None,
    init: str = "rf",
    learn: tuple[str, ...] = (),
) -> nn.Module:
    """Put covariant receptive fields in place of a model's first convolution, and keep all the rest.

    Channels, stride and output size stay; even patch kernels become the next odd size at the same stride, and windows
    below 7 become 7. Call it after ``create_model(pretrained=True)``. Models of ``features_only=True`` work too. Hooks stay
    with the old convolution, and a warning says so.

    Args:
        model: any timm model that names its first convolution (``pretrained_cfg["first_conv"]``), or any module with
            ``target``.
        bank: the receptive fields, as an ``RFBank`` or as a dict of its arguments; ``None`` for the bank that fits the
            replaced kernel, ``RFBank.for_kernel_size``.
        in_chans: number of input channels (event frames have 2); ``None`` for as many as before.
        target: name of the convolution to replace; needed where the model does not name its first one.
        init: how the weights start and whether they stay fields: "rf", "rf-free" or "uniform", see
            ``CovariantRFConv2d``.
        learn: which parameters of the default bank are learned, see ``RFBank``; a bank that is given has its own.

    Returns:
        The same model, changed in place.

    Raises:
        ValueError: the model does not have exactly one first convolution, or the new one would give another size.
        TypeError: the model is no module, or the named one is not an ``nn.Conv2d``.

    Source: Nat. Commun. 16:8231 (2025), spatial receptive fields.
    """
    check_module("model", model)
    name = _first_conv(model) if target is None else target
    try:
        old: Any = model.get_submodule(name)
    except AttributeError as error:
        raise ValueError(
            f"`target` is {name!r}, which this model does not have; known: {_convolutions(model)}."
        ) from error
    new = covariant_like(old, bank, in_chans, init, learn, where=name)
    hooks = sum(len(value) for key, value in vars(old).items() if key.endswith("_hooks") and isinstance(value, dict))
    if hooks:
        warnings.warn(
            f"swap_stem: the {hooks} hook(s) of {name!r} stay with the old convolution, which the model no longer runs; "
            f"register them on the new one, model.get_submodule({name!r}).",
            stacklevel=2,
        )
    model.set_submodule(name, new.to(old.weight))
    if in_chans and in_chans != old.in_channels:
        _set_in_chans(model, in_chans)
    return model


def _set_in_chans(model: Any, in_chans: int) -> None:
    """Enter the number of input channels wherever timm and our models keep it."""
    for holder in (model, *model.children()):  # `features_only` wraps the model
        if hasattr(holder, "in_chans"):
            holder.in_chans = in_chans
    config = getattr(model, "pretrained_cfg", None)
    if isinstance(config, dict) and "input_size" in config:
        # A changed copy, since timm shares one configuration among all models of a name.
        model.pretrained_cfg = model.default_cfg = {**config, "input_size": (in_chans, *config["input_size"][1:])}


def _first_conv(model: nn.Module) -> str:
    """Name of the convolution that timm's configuration of the model gives as its first."""
    config = getattr(model, "pretrained_cfg", None) or getattr(model, "default_cfg", None) or {}
    name = config.get("first_conv")
    if name and isinstance(name, (tuple, list)):
        raise ValueError(
            f"this model starts with several parallel convolutions ({', '.join(name)}), which are merged for inference; "
            f"one bank cannot replace them. Choose a model with one first convolution, or name one by target=."
        )
    if not name:
        raise ValueError(
            f"`model` ({type(model).__name__}) does not name its first convolution; pass target=. Its convolutions: "
            f"{_convolutions(model)}."
        )
    return name_in_features(model, name) or name


def name_in_features(model: nn.Module, name: str) -> str | None:
    """A module's name in a model that timm may have wrapped by ``features_only``; ``None`` if it is not there.

    timm then flattens names (stem.0 becomes stem_0) or puts the name of the wrapped model in front of them.
    """
    known = dict(model.named_modules())
    return next((n for n in (name, name.replace(".", "_", 1), f"model.{name}", f"body.{name}") if n in known), None)


def _convolutions(model: nn.Module) -> str:
    """The names of the first three convolutions, for error messages."""
    names = [n for n, m in model.named_modules() if isinstance(m, nn.Conv2d)]
    return ", ".join(repr(n) for n in names[:3]) or "none: it has no nn.Conv2d"


class CovariantPatchEmbed(PatchEmbed):
    """timm's patch embedding with covariant receptive fields; give it as ``embed_layer=``.

    >>> timm.create_model("vit_tiny_patch16_224", embed_layer=CovariantPatchEmbed)

    The window is one pixel larger than an even patch, so that it has a centre; strides and grids are timm's. With
    dynamic padding an image is padded to whole patches first.

    Args:
        *args: positional arguments of ``timm.layers.PatchEmbed``.
        rf_bank: the receptive fields; ``None`` for the bank that fits the patch, ``RFBank.for_kernel_size``.
        rf_init: how the weights start: "rf", "rf-free" or "uniform", see ``CovariantRFConv2d``.
        **kwargs: keyword arguments of ``timm.layers.PatchEmbed``.

    Raises:
        ValueError: the window of ``rf_bank`` would give another grid of patches.
    """

    proj: Any  # timm's is an nn.Conv2d

    def __init__(self, *args, rf_bank: RFBank | None = None, rf_init: str = "rf", **kwargs):
        super().__init__(*args, **kwargs)
        old = self.proj
        self.proj = covariant_like(old, rf_bank, init=rf_init, where="patch_embed.proj").to(old.weight)

    def set_input_size(self, img_size=None, patch_size=None):
        """Change the image size, as timm does; the patch size cannot be changed.

        Raises:
            ValueError: ``patch_size`` differs from the present one, and receptive fields cannot be resampled.
        """
        if patch_size is not None and tuple(_pair(patch_size)) != tuple(self.patch_size):
            raise ValueError(
                f"`patch_size` is {patch_size}; receptive fields cannot be resampled from {self.patch_size}: build the "
                f"model with the patch size that you want."
            )
        super().set_input_size(img_size=img_size)


def _pair(value: int | tuple[int, int]) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else value
