"""Published checkpoints under our parameter names: SDT-V3, MLPixer and SRB here, the others in ``zoo.py``.

The releases for classification, detection and segmentation name the backbone's parameters alike; detectors and
segmentors put ``backbone.`` in front of each name.
"""

import re
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from ..backbones.sdt_v3 import SDTV3
from .reading import below, renamed, state_dict_of
from .renaming import check_entries, classes_of, join_qkv, listing
from .zoo import find_family, rename_zoo

# published module -> ours, applied to the start of a key
_MODULES = [
    (r"downsample1_1\.", "stages.0.downsample."),
    (r"ConvBlock1_1\.(\d+)\.", r"stages.0.blocks.\1."),
    (r"downsample1_2\.", "stages.1.downsample."),
    (r"ConvBlock1_2\.(\d+)\.", r"stages.1.blocks.\1."),
    (r"downsample2\.", "stages.2.downsample."),
    (r"ConvBlock2_1\.(\d+)\.", r"stages.2.blocks.\1."),
    (r"ConvBlock2_2\.0\.", "stages.2.blocks.1."),
    (r"downsample3\.", "stages.3.downsample."),
    (r"block3\.(\d+)\.", r"stages.3.blocks.\1."),
    (r"downsample4\.", "stages.4.downsample."),
    (r"block4\.(\d+)\.", r"stages.4.blocks.\1."),
]
# published layer -> ours, applied to what follows the module
_LAYERS = [
    (r"encode_(conv|bn)\.", r"\1."),
    (r"(?:Conv|conv)\.pwconv([12])\.0\.", r"sep_conv.pw\1.conv."),
    (r"(?:Conv|conv)\.pwconv([12])\.1\.", r"sep_conv.pw\1.bn."),
    (r"(?:Conv|conv)\.dwconv\.0\.", "sep_conv.dw.conv."),
    (r"(?:Conv|conv)\.dwconv\.1\.", "sep_conv.dw.bn."),
    (r"((?:conv|bn|fc)[12])\.", r"mixer.\1."),
    (r"attn\.([qkv])_conv\.0\.", r"attn.\1.conv."),
    (r"attn\.([qkv])_conv\.1\.", r"attn.\1.bn."),
    (r"attn\.proj_conv\.0\.", "attn.proj.conv."),
    (r"attn\.proj_conv\.1\.", "attn.proj.bn."),
    (r"mlp\.fc([12])_(conv|bn)\.", r"mlp.fc\1.\2."),
    (r"layer_scale([123])$", r"layer_scale\1"),
]
# Beginnings of keys that belong to parts of detectors and segmentors other than the backbone; they are dropped.
_OTHER_PARTS = (
    "neck.",
    "rpn_head.",
    "roi_head.",
    "bbox_head.",
    "mask_head.",
    "decode_head.",
    "auxiliary_head.",
    "loss",
)


def convert_state_dict(state_dict: Mapping) -> dict[str, Tensor]:
    """Rename a published checkpoint's backbone to our names: SDT-V3, its mixers, and the other models of this package.

    Takes the published names bare, nested under ``model`` or ``state_dict``, or behind ``backbone.``. Neck, head and
    loss entries of detectors and segmentors are dropped, ``head.*`` of a classifier is kept. A checkpoint of one of our
    models has our names already, whatever mixers and stems it has: its entries stay as they are, and whether they fit
    is up to the model that loads them.

    Args:
        state_dict: the checkpoint as ``torch.load`` returned it.

    Returns:
        Entries for ``load_state_dict(strict=True)`` of our model of that size. Layers that no forward pass of the
        release uses (Spikformer's block norms, SDT-V1's talking heads) are left out.

    Raises:
        ValueError: an unknown key, a missing one or an inconsistent shape; the message lists what does not fit.
    """
    entries = _backbone_entries(state_dict)
    if has_our_names(entries):
        return entries
    family = find_family(entries)
    build: Callable[..., nn.Module]
    if family is None:
        converted = rename_entries(entries)
        build, arguments = SDTV3, infer_architecture(converted)
    else:
        converted, unknown = rename_zoo(entries, family)
        if unknown:
            raise ValueError(listing(f"the checkpoint, a {family.name} by its names, has unknown keys", unknown))
        try:
            build, arguments = family.build, family.arguments(converted)
        except KeyError as error:
            raise ValueError(f"this {family.name} is not whole: {error.args[0]!r} is missing.") from None
    with torch.device("meta"):
        expected = build(**arguments).state_dict()
    check_entries(converted, expected, f"{build.__name__} of its size")
    return converted


def has_our_names(entries: Mapping[str, Tensor]) -> bool:
    """Whether the entries of a backbone are those of one of our models, and not of a release."""
    return any(key.startswith("stages.") for key in entries)


def infer_architecture(converted: Mapping[str, Tensor]) -> dict:
    """Read off a converted state dict the constructor arguments of the ``SDTV3`` that it fits.

    D (``levels``), the attention factor, the number of heads and the dropout are not in a checkpoint. The result has
    ``num_heads`` 1, which gives the right shapes, and leaves the others out. The layout is not in it either: mixers
    without a BN are taken for released ones, whose layout is "raster"; otherwise it is left out.

    Args:
        converted: entries under our names, as ``convert_state_dict`` returns them.

    Returns:
        Keyword arguments of ``SDTV3``.

    Raises:
        ValueError: an entry that every SDT-V3 has is missing, or the mixer is neither conv, MLPixer nor SRB.
    """
    try:
        dims = [converted[f"stages.{i}.downsample.conv.weight"].shape[0] for i in range(1, 5)]
        in_chans = converted["stages.0.downsample.conv.weight"].shape[1]
        ratio = converted["stages.3.blocks.0.mlp.fc1.conv.weight"].shape[0] // dims[2]
    except KeyError as error:
        raise ValueError(f"this is no SDT-V3 backbone: {error.args[0]!r} is missing.") from None
    mixer_keys = {key.rsplit(".mixer.", 1)[1].split(".")[0] for key in converted if ".mixer." in key}
    kinds = {"conv1": "conv", "conv2": "srb", "fc2": "mlpixer"}
    kind = next((name for key, name in kinds.items() if key in mixer_keys), None)
    if kind is None:
        raise ValueError(f"mixer entries {sorted(mixer_keys)} are of no known mixer (conv, mlpixer, srb).")
    released = kind != "conv" and "bn1" not in mixer_keys
    return dict(
        arch=dict(embed_dims=dims, num_heads=1),
        mixer=kind,
        ratio=ratio,
        norm_hidden=not released,
        **(dict(layout="raster") if released else {}),
        layer_scale=1.0 if "stages.3.blocks.0.layer_scale1" in converted else None,
        in_chans=in_chans,
        num_classes=classes_of(converted),
    )


def rename_entries(entries: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename the entries of an SDT-V3 backbone and give them the shapes of our layers.

    The three layers q, k and v are one here, and the 1-d convolutions of the MLPs are 2-d ones.

    Args:
        entries: published keys without ``backbone.``, and their tensors.

    Raises:
        ValueError: a key is unknown, or one of ``q``, ``k`` and ``v`` is missing where there is another.
    """
    renamed: dict[str, Tensor] = {}
    unknown = []
    for key, value in entries.items():
        name = _rename(key)
        if name is None:
            unknown.append(key)
        else:
            is_conv1d = value.ndim == 3 and ".mlp.fc" in name
            renamed[name] = value.unsqueeze(-1) if is_conv1d else value
    if unknown:
        raise ValueError(listing("the checkpoint has unknown keys", unknown))
    return join_qkv(renamed, ("qkv",))


def _backbone_entries(state_dict: Mapping) -> dict[str, Tensor]:
    """The backbone's entries of a checkpoint, without the prefix ``backbone.``."""
    entries = state_dict_of(state_dict)
    not_tensors = [k for k, v in entries.items() if not isinstance(v, Tensor)]
    if not entries or not_tensors:
        found = listing("found", not_tensors) if not_tensors else "it is empty."
        raise ValueError(f"this is no state dict of tensors, nor one under `model` or `state_dict`; {found}")
    prefix = "backbone."
    if any(k.startswith(prefix) for k in entries):
        inner = below(entries, prefix)
        if has_our_names(inner):
            return inner
        strays = [k for k in entries if not k.startswith((prefix, *_OTHER_PARTS, "data_preprocessor."))]
        if strays:
            raise ValueError(listing("beside `backbone.` the checkpoint has unknown keys", strays))
        return inner
    return renamed(entries, lambda key: None if key.startswith(_OTHER_PARTS) else key)


def _rename(key: str) -> str | None:
    """Our name of a published key, or ``None`` if no rule fits it."""
    if key in ("head.weight", "head.bias"):
        return key
    for module, ours in _MODULES:
        match = re.match(module, key)
        if match is None:
            continue
        layer_key = key[match.end() :]
        for layer, our_layer in _LAYERS:
            if re.match(layer, layer_key):
                return match.expand(ours) + re.sub(layer, our_layer, layer_key, count=1)
    return None
