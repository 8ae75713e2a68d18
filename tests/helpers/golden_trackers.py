"""Golden networks and arrays of event trackers: the authors' code with small widths, computed in float64."""

import json
from functools import cache

import numpy as np
import pytest
import torch
from golden_arrays import golden_folder

from sterf_plugins.checkpoints.sd_track import convert_tracker
from sterf_plugins.tracking.sd_track import SDTrack

FOLDER = golden_folder() / "sdtrack"
NETWORKS = (
    "1x4_conv", "2x2_conv", "4x1_conv", "1x4_mlpixer_raster", "1x4_srb_raster", "1x4_srb_channel", "4x1_mlpixer6_raster",
    "4x1_srb_raster",
)  # fmt: skip


@cache
def arrays(name: str) -> dict:
    path = FOLDER / f"{name}.npz"
    if not path.is_file():
        pytest.skip(f"{name} is in the full set of golden arrays only; set STERF_GOLDEN to its folder")
    return dict(np.load(path))


def tracker(name: str) -> tuple[SDTrack, dict]:
    """A golden network and its arrays."""
    golden = arrays(f"model_{name}")
    about = json.loads((FOLDER / "manifest.json").read_text())["files"][f"model_{name}.npz"]
    mixer = about.get("mixer", "conv")
    net = SDTrack(
        dict(embed_dims=about["dims"], num_heads=about["heads"]),
        mixer=mixer,
        ratio=about.get("ratio", 4),
        layout=about.get("layout", "raster"),
        norm_hidden=False,
        variant=about["variant"],
        sep_conv=mixer != "conv",
        head_width=about["channel"],
    )
    if "state/backbone.head.weight" in golden:
        net.backbone.set_num_classes(5)
    state = {k.removeprefix("state/"): torch.from_numpy(v) for k, v in golden.items() if k.startswith("state/")}
    lacking = net.load_state_dict(convert_tracker(dict(net=state)), strict=False)
    assert not lacking.unexpected_keys
    assert all(key.endswith("num_batches_tracked") for key in lacking.missing_keys)
    return net.double().eval(), golden


def inputs(net: SDTrack) -> tuple[torch.Tensor, torch.Tensor]:
    images = arrays("model_inputs")
    template, search = (torch.from_numpy(images[k][: net.T]).double() for k in ("template", "search"))
    return (template[0], search[0]) if net.T == 1 else (template, search)
