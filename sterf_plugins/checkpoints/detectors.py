"""Convert released checkpoints of whole detectors and segmentors (backbone, spiking neck, heads) to our key names."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from torch import Tensor

from .renaming import check_entries, listing, name_by
from .sdt_v3 import convert_state_dict, infer_architecture

# Rules are (pattern of a released key, our key). A released detector's layer is a sequence of spikes (0) and a
# container (1) that applies the layer (0) to all time steps; some versions have a `module` between these two.
_IN_CONTAINER = r"\.1\.(?:module\.)?0"
_DETECTOR = [
    (rf"(neck\.(?:lateral|fpn)_convs\.\d+){_IN_CONTAINER}\.conv\.(.*)", r"\1.conv.\2"),
    (rf"(rpn_head\.rpn_(?:conv|cls|reg)){_IN_CONTAINER}\.(.*)", r"\1.\2"),
    (rf"(roi_head\.bbox_head\.shared_fcs\.\d+){_IN_CONTAINER}\.(.*)", r"\1.1.\2"),
    (r"(roi_head\.bbox_head\.fc_(?:cls|reg))\.(.*)", r"\1.\2"),
    (rf"(roi_head\.mask_head\.convs\.\d+){_IN_CONTAINER}\.conv\.(.*)", r"\1.conv.\2"),
    (rf"(roi_head\.mask_head\.(?:upsample|conv_logits)){_IN_CONTAINER}\.(.*)", r"\1.\2"),
]
_SEGMENTOR = [
    (r"(neck\.(?:lateral|fpn)_convs\.\d+)\.0\.(.*)", r"\1.conv.\2"),
    (r"(neck\.(?:lateral|fpn)_convs\.\d+)\.1\.(.*)", r"\1.bn.\2"),
    (r"(decode_head\.scale_heads\.\d+\.\d+)\.1\.(.*)", r"\1.conv.\2"),
    (r"(decode_head\.scale_heads\.\d+\.\d+)\.2\.(.*)", r"\1.bn.\2"),
    (r"(decode_head\.conv_seg)\.(.*)", r"\1.\2"),
]
_BASES = Path(__file__).resolve().parents[1] / ".mim" / "configs" / "_base_" / "models"


def kind_of(state: Mapping[str, Any]) -> str:
    """Tell by its keys whether a state dict is of a "detector", a "segmentor" or a "backbone" (or classifier)."""
    if any(k.startswith("roi_head.") for k in state):
        return "detector"
    return "segmentor" if any(k.startswith("decode_head.") for k in state) else "backbone"


def convert_model(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename the entries of a released detector's or segmentor's state dict to our names.

    Args:
        state: the released state dict, without enclosing ``state_dict`` or ``model`` entries.

    Returns:
        Entries for ``load_state_dict(strict=True)`` of the model that a config in ``configs/`` with ``spikefpn`` and
        ``_reference`` in its name builds, for that backbone, mixer and number of classes.

    Raises:
        ValueError: a key is unknown or missing, or a tensor has another shape; the message lists what does not fit.
    """
    kind = kind_of(state)
    converted = {f"backbone.{k}": v for k, v in convert_state_dict(state).items()}
    rules = _DETECTOR if kind == "detector" else _SEGMENTOR
    unknown = []
    for key, value in state.items():
        if key.startswith(("backbone.", "data_preprocessor.")):
            continue
        name = name_by(rules, key)
        if name is None:
            unknown.append(key)
        else:
            converted[name] = value
    if unknown:
        raise ValueError(listing(f"the {kind} has unknown keys", unknown))
    check_entries(converted, _expected(converted, kind), f"spiking {kind}")
    return converted


def _expected(converted: Mapping[str, Tensor], kind: str) -> dict[str, Tensor]:
    """State dict, without data, of the model whose widths and number of classes the converted entries have."""
    inner = {k.removeprefix("backbone."): v for k, v in converted.items() if k.startswith("backbone.")}
    backbone_options = infer_architecture(inner)
    for name in ("num_classes", "in_chans"):
        backbone_options.pop(name)
    widths = [
        v.shape[1] for k, v in sorted(converted.items()) if re.fullmatch(r"neck\.lateral_convs\.\d+\.conv\.weight", k)
    ]
    outs = [v.shape[0] for k, v in converted.items() if re.fullmatch(r"neck\.fpn_convs\.0\.conv\.weight", k)]
    if not widths or not outs:
        raise ValueError(f"the {kind} has no neck that is known: no neck.lateral_convs and neck.fpn_convs.")
    name = "mask-rcnn_sdtv3_spikefpn.py" if kind == "detector" else "fpn_sdtv3_spikefpn.py"
    config = Config.fromfile(_BASES / name)
    model = config.model
    model.backbone.update(backbone_options)
    model.neck.update(in_channels=widths, out_channels=outs[0])
    if kind == "detector":
        classes = converted["roi_head.bbox_head.fc_cls.weight"].shape[0] - 1
        model.roi_head.bbox_head.num_classes = model.roi_head.mask_head.num_classes = classes
    else:
        classes = converted["decode_head.conv_seg.weight"].shape[0]
        model.decode_head.update(
            num_classes=classes, in_channels=[outs[0]] * len(widths), channels=outs[0], norm_cfg=dict(type="BN")
        )
    init_default_scope("mmdet" if kind == "detector" else "mmseg")
    with torch.device("meta"):
        return MODELS.build(model).state_dict()
