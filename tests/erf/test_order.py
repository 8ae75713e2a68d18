"""Whether tokens and axes are in the order that was inferred: what changes where a part of the image does."""

import numpy as np
import pytest
import timm
import torch
from arranged import Rearranged, Reshaped, patch_of_the_centre, with_prefix
from torch import nn

from sterf_plugins.erf import compute_erf


@pytest.mark.slow
def test_a_map_of_sixteen_tokens_in_another_order_is_refused():
    """Hiera's third stage at 64x64: 4x4 tokens in mask units of 2x2, whose attention spreads over all of them."""
    torch.manual_seed(0)
    result = compute_erf(
        timm.create_model("hiera_tiny_224", img_size=64), torch.randn(2, 3, 64, 64), ["blocks.9", "blocks.11"]
    )
    assert result.layers == ["blocks.11"] and "not in the order of rows and columns" in result.failed["blocks.9"]


@pytest.mark.parametrize("spread", [0.0, 0.05, 0.5])
@pytest.mark.parametrize("several", [False, True])
def test_an_order_is_checked_by_what_changes(spread, several):
    """With several inputs, too, where the target's place in the map is one in one of them alone."""
    torch.manual_seed(0)
    x = torch.randn(2, 3, 32, 32)
    inputs = dict(x=x, template=torch.randn(2, 3, 16, 16)) if several else x
    result = compute_erf(Rearranged(torch.arange(64), spread), inputs, "out")
    assert result.layers == (["out@x", "out@template"] if several else ["out"])
    units = (
        torch.arange(64).view(4, 2, 4, 2).permute(1, 3, 0, 2).flatten()
    )  # the first of each unit of 2x2, the second, ...
    with pytest.raises(ValueError, match="'out': its map of 8x8 changes elsewhere than the input does"):
        compute_erf(Rearranged(units, spread), inputs, "out")
    assert compute_erf(Rearranged(units, spread), inputs, "out", grid=(8, 8)).layers  # the user knows better


@pytest.mark.parametrize("protocol", [None, "openerf"])
def test_a_field_in_one_cell_is_at_its_target(protocol):
    """Without any mixing all of the mass lies in one patch: of openerf's target, in the cell before that of the others."""
    torch.manual_seed(0)  # openerf's field is zero where the mean gradient is negative
    model = Rearranged(torch.arange(64), 0.0)
    result = compute_erf(model, torch.randn(2, 3, 32, 32), "out", protocol=protocol)
    rows, columns = np.nonzero(result.spatial["out"])
    first = 12 if protocol else 16
    assert {*rows} == {*columns} == {*range(first, first + 4)}
    shifted = Rearranged((torch.arange(64) + 3) % 64, 0.0)
    with pytest.raises(ValueError, match="'out': its map of 8x8 changes elsewhere"):
        compute_erf(shifted, torch.randn(2, 3, 32, 32), "out", protocol=protocol)


def test_tokens_and_channels_that_both_fit_a_grid_are_told_apart_or_an_error():
    """64 patches, a class token and 64 channels: (65, 64) is no list of 65 channels because 64 alone is a grid."""
    model = Reshaped(with_prefix(1), dim=64)
    x = torch.randn(2, 1, 32, 32)
    with pytest.raises(ValueError, match=r"\(65, 64\) per input, which fits \(N, C\) and \(C, N\)"):
        compute_erf(model, x, "out")
    model.norm = nn.LayerNorm(64)
    model.forward = lambda x: model.norm(model.out(model.arrange(model.embed(x))))
    assert patch_of_the_centre(compute_erf(model, x, "out", batch_size=1).spatial["out"], (8, 8))


def test_tokens_in_front_of_the_batch():
    """As ``nn.TransformerEncoder`` has them by default; 65 of them are no 65 time steps."""
    model = Reshaped(lambda y: with_prefix(1)(y).transpose(0, 1))
    x = torch.randn(2, 1, 32, 32)
    with pytest.raises(ValueError, match=r"tokens \(N, B, C\), for which pass layout='NBC'"):
        compute_erf(model, x, "out", batch_size=2)
    field = compute_erf(model, x, "out", batch_size=2, layout="NBC").spatial["out"]
    assert patch_of_the_centre(field, (8, 8))


@pytest.mark.parametrize("first", ["time", "batch"])
def test_time_and_batch_of_equal_length(first):
    """The output (B, C) of a head belongs to the last step, also where B = C = T; (B, T, ...) is no (T, B, ...)."""

    class Head(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed, self.out = nn.Conv2d(1, 4, 4, 4), nn.Identity()

        def forward(self, x):  # (T, B, 1, H, W)
            y = self.embed(x.flatten(0, 1)).unflatten(0, x.shape[:2])
            return self.out(y[-1].mean((2, 3)) if first == "time" else y.transpose(0, 1))

    torch.manual_seed(0)
    model, x = Head(), torch.randn(4, 8, 1, 16, 16)
    if first == "batch":
        with pytest.raises(ValueError, match="are understood"):
            compute_erf(model, x, "out", batch_size=4)
        return
    several, single = (compute_erf(model, x, "out", batch_size=n) for n in (4, 1))
    np.testing.assert_allclose(several.temporal["out"], single.temporal["out"], atol=1e-6)
    assert several.temporal["out"][0] > 0 and not several.temporal["out"][1:].any()


def test_an_output_without_places_does_not_take_the_others_of_its_layer_with_it():
    """Also behind the first batch; a module that makes several of a model's feature maps counts once."""
    model = Reshaped(lambda y: (y, y.new_ones(len(y), 1, 3, 5)))
    model.feature_info = [dict(module="out", reduction=4), dict(module="out", reduction=4)]
    result = compute_erf(model, torch.randn(4, 1, 32, 32), batch_size=1)
    assert result.layers == ["out[0]"] and [*result.failed] == ["out[1]"] and result.info["num_inputs"] == 4


@pytest.mark.parametrize("seed", [0, 3])
def test_attention_without_a_shortcut_is_not_refused_by_chance(seed):
    """A LeViT's first stage ends with one, and with random weights the image alone decides what looks where."""
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(seed)
    options = dict(hidden_sizes=[64, 96, 128], num_attention_heads=[2, 3, 4], depths=[1, 1, 1], key_dim=[16, 16, 16])
    model = transformers.LevitModel(transformers.LevitConfig(**options))
    result = compute_erf(model, torch.randn(1, 3, 224, 224), "encoder.stages.0")
    assert result.info["map_size"]["encoder.stages.0"] == [7, 7]


class Exchanged(nn.Module):
    """A square map whose rows are the columns of the image."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), nn.Conv2d(4, 5, 3, 2, 1))

    def forward(self, x):
        return self.net(x).transpose(2, 3)


def test_a_field_that_has_nothing_around_its_target_is_marked():
    torch.manual_seed(0)
    model, x = nn.Sequential(Exchanged()), torch.randn(2, 3, 64, 64)
    result = compute_erf(model, x, ["0", "0.net"], position=(2, 10))
    assert [line.split(":")[0] for line in result.warnings] == ["0"] and "rows and columns" in result.warnings[0]
    assert result.doubtful("0") and not result.doubtful("0.net")
    assert result.notes == ["† hardly any of the field lies around the target, in 0"]
    told = compute_erf(model, x, "0", position=(2, 10), layout=lambda y: y.transpose(2, 3))
    assert not told.warnings and np.allclose(told.spatial["0"], result.spatial["0.net"])


class ClassToken(nn.Module):
    """A small vision transformer whose class token is in front of the others, amid them or behind them."""

    def __init__(self, before):
        super().__init__()
        self.embed, self.token, self.before = nn.Conv2d(3, 24, 8, 8), nn.Parameter(torch.randn(1, 1, 24)), before
        self.block = nn.TransformerEncoderLayer(24, 2, 48, 0, batch_first=True, norm_first=True)
        for module in self.block.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=0.2)

    def forward(self, x):
        tokens, n = self.embed(x).flatten(2).transpose(1, 2), self.before
        return self.block(torch.cat([tokens[:, :n], self.token.expand(len(x), -1, -1), tokens[:, n:]], 1))


@pytest.mark.parametrize("position", [(0.2, 0.7), [(1, 2), (6, 3)]])
@pytest.mark.parametrize("before", [0, 32, 64])
def test_a_class_token_that_is_not_in_front_does_not_shift_the_others_by_one(before, position):
    torch.manual_seed(0)
    model, x = ClassToken(before).eval(), torch.randn(2, 3, 64, 64)
    if before == 0:
        assert compute_erf(model, x, "block", position=position).info["map_size"]["block"] == [8, 8]
        return
    with pytest.raises(ValueError, match="its map of 8x8 changes elsewhere than the input does"):
        compute_erf(model, x, "block", position=position)


def test_a_crop_that_moves_a_pixel_into_the_next_cell_is_no_other_order():
    """Row 17 of 35 sees row 18 of 36 alone, which lies in the cell of row 18 if all rows are spread over the image."""

    class Crop(nn.Module):
        def forward(self, x):
            return x[:, :, 1:, ::2]

    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 1), Crop())
    field = compute_erf(model, torch.randn(2, 3, 36, 40), "1").spatial["1"]
    assert np.argwhere(field).tolist() == [[18, 20]]


@pytest.mark.parametrize(
    ("kind", "message"),
    [("linear", "the first axis may be that of the channels"), ("conv", "its map of 4x4 changes elsewhere")],
)
def test_channels_are_not_taken_for_tokens_where_tokens_are_mixed(kind, message):
    """16 channels that fit a map of 4x4, of a layer that mixes 64 tokens: no norm and no convolution has 16 places."""

    class Mixer(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed, self.norm = nn.Conv2d(3, 16, 8, 8), nn.LayerNorm(16)
            self.tokens = nn.Linear(64, 64) if kind == "linear" else nn.Conv1d(64, 64, 1)
            self.channels = nn.Linear(16, 8)

        def forward(self, x):
            x = self.norm(self.embed(x).flatten(2).transpose(1, 2))
            mixed = self.tokens(x.transpose(1, 2)).transpose(1, 2) if kind == "linear" else self.tokens(x)
            return self.channels(x + mixed)

    torch.manual_seed(0)
    result = compute_erf(Mixer(), torch.randn(2, 3, 64, 64), ["tokens", "channels"])
    assert result.layers == ["channels"] and message in result.failed["tokens"]


class Classes(nn.Module):
    """A convolution over 19 classes, (B, C, 19, 1), as in the context of OCRNet."""

    def __init__(self):
        super().__init__()
        self.embed, self.classes, self.out = nn.Conv2d(3, 8, 4, 4), nn.Conv2d(8, 19, 1), nn.Conv2d(8, 6, 1)

    def forward(self, x):
        x = self.embed(x)
        return self.out((self.classes(x).flatten(2) @ x.flatten(2).transpose(1, 2)).transpose(1, 2)[..., None])


class RowsAndColumns(nn.Module):
    """A convolution over rows and columns behind each other, (B, C, h + w, 1), as in coordinate attention; then over rows alone."""

    def __init__(self):
        super().__init__()
        self.embed, self.out, self.rows = nn.Conv2d(3, 8, 4, 4), nn.Conv2d(8, 4, 1), nn.Conv2d(4, 8, 1)

    def forward(self, x):
        x = self.embed(x)
        both = self.out(torch.cat([x.mean(3, keepdim=True), x.mean(2, keepdim=True).transpose(2, 3)], 2))
        return self.rows(both[:, :, : x.shape[2]])


def test_what_shows_no_order_is_told():
    """A Linear that mixes as many tokens as there are channels: nothing tells that its first axis is that of the channels."""

    class Mixer(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed, self.norm = nn.Conv2d(3, 64, 8, 8), nn.LayerNorm(64)
            self.mix, self.out = nn.Linear(64, 64), nn.Linear(64, 64)

        def forward(self, x):
            tokens = self.embed(x).flatten(2).transpose(1, 2)
            return self.out(tokens + self.mix(self.norm(tokens).transpose(1, 2)).transpose(1, 2))

    torch.manual_seed(0)
    result = compute_erf(Mixer(), torch.randn(2, 3, 64, 64), ["mix", "out"])
    assert result.info["unclear"] == ["mix"]
    assert "no change of the input shows which place is whose, in mix" in result.notes


def test_convolutions_over_something_else_than_rows_and_columns_are_refused():
    torch.manual_seed(0)
    x = torch.randn(2, 3, 64, 96)
    with pytest.raises(ValueError, match="'out': its map of 19x1 changes elsewhere than the input does"):
        compute_erf(Classes(), x, "out")
    result = compute_erf(RowsAndColumns(), x, ["out", "rows"])
    assert "its map of 40x1 changes elsewhere" in result.failed["out"] and result.info["map_size"] == {"rows": [16, 1]}
