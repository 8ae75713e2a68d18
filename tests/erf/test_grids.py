"""Grids, class tokens and outputs of other kinds: what a model's own layers tell of the places in its outputs."""

from dataclasses import dataclass

import numpy as np
import pytest
import timm
import torch
from arranged import Reshaped, patch_of_the_centre, with_prefix
from torch import nn

from sterf_plugins.erf import compute_erf

# --- grids that the model's convolutions tell -------------------------------------------------------------------------


@pytest.mark.slow
def test_both_branches_of_crossvit():
    """The second branch gets the images in 224x224, in patches of 16: 14x14 tokens, no grid of 240x240."""
    torch.manual_seed(0)
    model = timm.create_model("crossvit_9_240")
    result = compute_erf(model, torch.randn(2, 3, 240, 240), "blocks.0", batch_size=2)
    assert result.info["map_size"] == {"blocks.0[0]": [20, 20], "blocks.0[1]": [14, 14]}
    assert all(result.numbers(layer)["centre_mass"].value > 0.5 for layer in result.layers)


@pytest.mark.parametrize("prefix", [4, 5, 9])
def test_register_tokens_are_counted(prefix):
    """The model does not say how many tokens come before those of the patches; its patch embedding does."""
    model = Reshaped(with_prefix(prefix))
    model.class_token, model.registers = (nn.Parameter(torch.ones(1, n, 37)) for n in (1, prefix - 1))
    field = compute_erf(model, torch.randn(2, 1, 24, 40), "out").spatial["out"]
    assert patch_of_the_centre(field, (6, 10))


def test_a_single_token_is_one_place():
    """Such as a class token that is kept apart, in PiT, CaiT and VOLO, whatever the size of the image."""
    model = Reshaped(lambda y: y.mean((2, 3))[:, None], dim=40)
    result = compute_erf(model, torch.randn(2, 1, 160, 160), "out")
    assert result.info["map_size"]["out"] == [1, 1] and (result.spatial["out"] > 0).all()


@pytest.mark.parametrize("tokens", [1, 2])
def test_channels_of_class_tokens_that_fit_a_grid_are_no_tokens(tokens):
    """As in PiT at 256x256, whose 64 channels would be a map of 8x8; the user may say that they are."""
    model, x = Reshaped(lambda y: y.mean((2, 3))[:, None].expand(-1, tokens, -1), dim=64), torch.randn(2, 1, 128, 128)
    with pytest.raises(ValueError, match=rf"\({tokens}, 64\) per input, which fits \(N, C\) and \(C, N\)"):
        compute_erf(model, x, "out")
    assert compute_erf(model, x, "out", layout="BCN", grid=(8, 8)).info["map_size"]["out"] == [8, 8]


def test_tokens_before_those_of_patches_are_learnt_ones():
    """Else they may be queries of a decoder, which are no map, even if a few more would be one."""
    with pytest.raises(ValueError, match="'out' has 64 tokens, which fit no grid of a 24x40 input"):
        compute_erf(Reshaped(with_prefix(4)), torch.randn(2, 1, 24, 40), "out")


class Queries(nn.Module):
    """33 queries of 64 channels, which are no map; the channels would fit a grid of 8x8."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Conv2d(1, 64, 4, 4)
        self.read = nn.Sequential(nn.LayerNorm(64), nn.Identity())

    def forward(self, x):
        return self.read(self.embed(x).flatten(2).transpose(1, 2)[:, :33])


def test_channels_that_fit_a_grid_are_told_by_the_layers_inside():
    with pytest.raises(ValueError, match=r"'read' has 33 tokens, which fit no grid of a 32x32 input"):
        compute_erf(Queries(), torch.randn(2, 1, 32, 32), "read")


@pytest.mark.parametrize("layer", ["fc1", "fc2", "out"])
def test_channels_in_front_of_mixed_tokens_are_no_tokens(layer):
    """An MLP-Mixer with 64 channels: (64, 16) are no 64 tokens of 16 channels, which a map of 8x8 would have."""

    class Mixer(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed, self.norm = nn.Conv2d(1, 64, 8, 8), nn.LayerNorm(64)
            self.fc1, self.fc2, self.out = nn.Linear(16, 24), nn.Linear(24, 16), nn.Identity()

        def forward(self, x):
            tokens = self.norm(self.embed(x).flatten(2).transpose(1, 2))
            return self.out(self.fc2(self.fc1(tokens.transpose(1, 2))))

    torch.manual_seed(0)
    model, x = Mixer(), torch.randn(2, 1, 32, 32)
    with pytest.raises(ValueError, match=r"per input, and the first axis may be that of the channels"):
        compute_erf(model, x, layer)
    if layer != "fc1":
        assert compute_erf(model, x, layer, layout="BCN", grid=(4, 4)).layers == [layer]


@pytest.mark.slow
def test_a_late_stage_of_hiera_is_refused_although_attention_spreads_its_mass():
    torch.manual_seed(0)
    result = compute_erf(timm.create_model("hiera_tiny_224"), torch.randn(2, 3, 224, 224), ["blocks.9", "blocks.11"])
    assert result.layers == ["blocks.11"] and "not in the order of rows and columns" in result.failed["blocks.9"]


# --- outputs of other kinds, and the default layers ---------------------------------------------------------------------


def test_a_dataclass_is_an_output():
    @dataclass
    class Features:
        map: torch.Tensor
        count: int = 3

    result = compute_erf(Reshaped(lambda y: y), torch.randn(2, 1, 32, 32), "out")
    model = Reshaped(Features)
    again = compute_erf(model, torch.randn(2, 1, 32, 32), "out")
    assert again.layers == ["out[map]"] and np.array_equal(again.spatial["out[map]"] > 0, result.spatial["out"] > 0)


@pytest.mark.parametrize(
    ("name", "options", "levels"),
    [
        ("repvgg_a0", {}, ["stem", "stages_0", "stages_1", "stages_2", "final_conv"]),  # flattened names
        ("resnet18", dict(feature_cls="hook"), [f"body.{n}" for n in ("act1", "layer1", "layer2", "layer3", "layer4")]),
        ("resnet18", dict(feature_cls="getter", out_indices=(1, 3)), ["model.layer1", "model.layer3"]),
        ("mvitv2_tiny", None, [f"stages.{i}[0]" for i in range(4)]),  # whose `feature_info` names what is not there
    ],
)
@pytest.mark.slow
def test_levels_of_timm_models_are_the_default_in_extractors_too(name, options, levels):
    options = {} if options is None else dict(features_only=True, **options)
    assert compute_erf(timm.create_model(name, **options), torch.randn(1, 3, 64, 64), calibrate=False).layers == levels


def test_a_single_place_is_a_map_of_images_of_any_aspect():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Sequential(nn.Conv2d(4, 4, 1)))
    result = compute_erf(model, torch.randn(2, 3, 32, 96), "2")
    assert result.info["map_size"] == {"2": [1, 1]}


def test_a_map_without_an_axis_of_channels_is_not_read_as_tokens():
    """A head of depths gives (B, 64, 64), which could be 64 tokens on a grid of 8x8."""

    class Depth(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 1, 3, 1, 1)

        def forward(self, x):
            return self.conv(x).squeeze(1)

    torch.manual_seed(0)
    model, x = nn.Sequential(Depth()), torch.randn(2, 3, 64, 64)
    with pytest.raises(
        ValueError, match=r"gives \(64, 64\) per input, rows and columns of a map without an axis of channels; pass"
    ):
        compute_erf(model, x, "0")
    result = compute_erf(model, x, ["0", "0.conv"], layout={"0": lambda y: y[:, None]})
    assert np.array_equal(result.spatial["0"], result.spatial["0.conv"])
