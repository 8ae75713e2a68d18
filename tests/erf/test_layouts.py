"""Every layout of a layer's output gives the field of the right position."""

import numpy as np
import pytest
import timm
import torch
from arranged import Reshaped, patch_of_the_centre, with_prefix
from torch import nn

from sterf_plugins.erf import compute_erf
from sterf_plugins.erf.outputs.geometry import Geometry, possible_strides

ARRANGED = {
    "BCHW": lambda y: y,
    "BHWC": lambda y: y.permute(0, 2, 3, 1),
    "BNC": lambda y: y.flatten(2).transpose(1, 2),
    "BCN": lambda y: y.flatten(2),
    "class token": with_prefix(1),
    "class and distillation tokens": with_prefix(2),
    "leading T=1": lambda y: y[None],
    "tuple": lambda y: (y, None),
    "nested dict": lambda y: {"a": [y], "b": 3},
}


@pytest.mark.parametrize("name", ARRANGED)
@pytest.mark.parametrize("size", [(32, 32), (32, 56), (40, 24)])
def test_layouts(name, size):
    result = compute_erf(Reshaped(ARRANGED[name]), torch.randn(3, 1, *size), "out")
    expected = {"tuple": "out[0]", "nested dict": "out[a][0]"}.get(name, "out")
    assert result.layers == [expected]
    assert patch_of_the_centre(result.spatial[expected], (size[0] // 4, size[1] // 4))


@pytest.mark.parametrize("prefix", [0, 1, 5])
def test_a_model_may_say_how_many_tokens_are_no_patches(prefix):
    model = Reshaped(with_prefix(prefix))
    model.num_prefix_tokens = prefix
    assert patch_of_the_centre(compute_erf(model, torch.randn(2, 1, 24, 40), "out").spatial["out"], (6, 10))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "layer"),
    [
        ("vit_tiny_patch16_224", "blocks.1.attn.proj"),  # class token
        ("vit_tiny_patch16_224", "blocks.1"),
        ("vit_small_patch14_reg4_dinov2", "blocks.0"),  # registers, patch 14
        ("convnext_tiny", "stages.1.blocks.0.mlp.fc2"),  # (B, H, W, C)
        ("pvt_v2_b0", "stages.1.blocks.0.attn.proj"),  # tokens at stride 8
        ("mixer_s16_224", "blocks.0.mlp_tokens"),  # token mixer, channels of its inside are tokens
        ("maxvit_tiny_rw_224", "stages.0.blocks.0"),
    ],
)
def test_stock_timm_models(name, layer):
    size = (112, 224) if name not in ("mixer_s16_224", "maxvit_tiny_rw_224") else (224, 224)
    options = dict(img_size=size) if name.startswith("vit") else {}
    torch.manual_seed(0)
    model = timm.create_model(name, **options)
    result = compute_erf(model, torch.randn(2, 3, *size), layer, batch_size=2)
    grid = result.info["map_size"][layer]
    assert grid[0] / grid[1] == pytest.approx(size[0] / size[1])
    field = result.spatial[layer]
    # The residual stream or the norm alone keeps most of the mass at the target's own patch.
    if layer in ("blocks.1", "blocks.0"):
        cell = (size[0] // grid[0], size[1] // grid[1])
        peak = np.unravel_index(field.argmax(), field.shape)
        assert (peak[0] // cell[0], peak[1] // cell[1]) == (grid[0] // 2, grid[1] // 2)


def rows_and_columns(field):
    return [(int(np.flatnonzero(v).min()), int(np.flatnonzero(v).max()) + 1) for v in (field.any(1), field.any(0))]


@pytest.mark.slow
@pytest.mark.parametrize("suffix", ["attn", "attn.proj"])
def test_windows_of_timm_swin(suffix):
    """56x56 at stride 4 in windows of 7: pixel 28 is the first of the window 28..34; shifted, it is in 24..30."""
    torch.manual_seed(0)
    model = timm.create_model("swin_tiny_patch4_window7_224")
    layers = [f"layers.0.blocks.0.{suffix}", f"layers.0.blocks.1.{suffix}"]
    result = compute_erf(model, torch.randn(2, 3, 224, 224), layers, batch_size=2)
    assert result.info["map_size"][layers[0]] == [56, 56]
    assert rows_and_columns(result.spatial[layers[0]]) == [(112, 140), (112, 140)]
    # The windows of block 0 that 24..30 overlaps are 21..27 and 28..34.
    assert rows_and_columns(result.spatial[layers[1]]) == [(84, 140), (84, 140)]


def test_windows_of_mmdet_swin_with_padding():
    """A map of 30x44 in windows of 7 is padded to 35x49 before it is shifted."""
    import sterf_plugins

    sterf_plugins.setup()
    from mmdet.models.backbones import SwinTransformer

    torch.manual_seed(0)
    model = SwinTransformer(embed_dims=24, depths=(2, 1), num_heads=(3, 3), strides=(4, 2), out_indices=(0, 1))
    layers = ["stages.0.blocks.0.attn.w_msa", "stages.0.blocks.1.attn.w_msa"]
    with pytest.raises(ValueError, match=r"windows of 7x7.*Pass grid=\(rows, columns\)"):
        compute_erf(model, torch.randn(1, 3, 24, 24), layers[0])  # 6x6, or coarser maps in the same one window
    result = compute_erf(model, torch.randn(2, 3, 120, 176), layers, grid=(30, 44))
    # Pixel (15, 22): in the windows 14..20 x 21..27; shifted, 10..16 x 17..23 out of 7..20 x 14..27.
    assert rows_and_columns(result.spatial[layers[0]]) == [(56, 84), (84, 112)]
    assert rows_and_columns(result.spatial[layers[1]]) == [(28, 84), (56, 112)]


@pytest.mark.parametrize(("cells", "window"), [(4, 8), (8, 8), (16, 8)])
def test_a_window_with_padding_is_no_map(cells, window):
    """As SAM's: a map of 4x4 is padded to the window, 8x8, which would be a map of stride 2; one of 8x8 is the window itself.

    Windows of a map of 16x16 are pooled to 4x4, and their map of 8x8 is as large as a window, but none.
    """

    class Windowed(nn.Module):
        window_size = window

        def __init__(self):
            super().__init__()
            self.norm, self.attn, self.mlp = nn.LayerNorm(5), nn.Linear(5, 5), nn.Linear(5, 5)

        def forward(self, x):
            y = self.norm(x)
            if cells <= window:
                y = nn.functional.pad(y, (0, 0, 0, window - cells, 0, window - cells))
                return x + self.mlp(self.attn(y)[:, :cells, :cells])
            windows = y.unflatten(2, (2, 2, 4)).unflatten(1, (2, 2, 4)).amax((2, 5))
            y = self.attn(windows.permute(0, 1, 3, 2, 4, 5).flatten(0, 2)).unflatten(0, (-1, 2, 2))
            return self.mlp(y.permute(0, 1, 3, 2, 4, 5).flatten(3, 4).flatten(1, 2))

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed, self.block = nn.Conv2d(3, 5, 4, 4), Windowed()

        def forward(self, x):
            return self.block(self.embed(x).movedim(1, -1))

    layers = ["block.norm", "block.attn", "block.mlp", "block"]
    result = compute_erf(Net(), torch.randn(2, 3, 4 * cells, 4 * cells), layers)
    assert result.layers == [name for name in layers if cells == window or name != "block.attn"]
    message = "a window of 8x8 with padding" if cells < window else "4 time steps, windows"
    assert all(message in reason for reason in result.failed.values())


TIMED = {
    "TBCHW": lambda y, t, b: y.unflatten(0, (t, b)),
    "flattened": lambda y, t, b: y,
    "TBNC": lambda y, t, b: y.flatten(2).transpose(1, 2).unflatten(0, (t, b)),
    "TBCN": lambda y, t, b: y.flatten(2).unflatten(0, (t, b)),
    "flattened tokens": lambda y, t, b: y.flatten(2).transpose(1, 2),
    "mean over time": lambda y, t, b: y.unflatten(0, (t, b)).mean(0),
}


@pytest.mark.parametrize("name", TIMED)
@pytest.mark.parametrize("batch", [1, 3, 4])
def test_layouts_with_a_time_axis(name, batch):
    class Timed(Reshaped):
        def forward(self, x):
            return self.out(TIMED[name](self.embed(x.flatten(0, 1)), *x.shape[:2]))

    result = compute_erf(Timed(None), torch.randn(4, batch, 1, 32, 56), "out", batch_size=batch)
    assert patch_of_the_centre(result.spatial["out"], (8, 14))
    lags = result.spatiotemporal["out"].sum((-2, -1))
    if name == "mean over time":  # belongs to the last step, and every input step counts alike
        assert np.allclose(lags[-1], lags[-1, 0]) and not lags[:-1].any()
    else:  # no memory: each step sees itself
        assert np.allclose(lags, np.diag(np.zeros(4)) + np.outer(np.ones(4), [1, 0, 0, 0]) * lags[0, 0])


@pytest.mark.parametrize("known", [True, False])
def test_a_model_with_a_time_axis_of_its_own(known):
    """As spiking transformers do: images in, repeated T times inside, (T*B, ...) or (T, B, ...) out."""

    class Inner(Reshaped):
        def forward(self, x):
            return self.out(self.embed(x.repeat(4, 1, 1, 1)))

    model = Inner(None)
    if not known:
        with pytest.raises(
            ValueError,
            match=r"4 time steps, windows, tokens, .* in the batch axis.*attribute T = 4",
        ):
            compute_erf(model, torch.randn(3, 1, 24, 40), "out")
        return
    model.T = 4
    field = compute_erf(model, torch.randn(3, 1, 24, 40), "out").spatial["out"]
    assert patch_of_the_centre(field, (6, 10))
    assert field.max() == 37  # the mean over the four equal steps, 37 channels summed


def test_what_fits_twice_is_an_error_that_says_how_to_decide():
    x = torch.randn(2, 1, 32, 32)
    square = Reshaped(lambda y: y.flatten(2).transpose(1, 2), dim=64)  # 64 tokens and 64 channels
    with pytest.raises(ValueError, match=r"fits \(N, C\) and \(C, N\); pass layout='BNC' or"):
        compute_erf(square, x, "out")
    field = compute_erf(square, x, "out", layout={"o*": "BNC"}).spatial["out"]
    assert patch_of_the_centre(field, (8, 8))
    odd = Reshaped(lambda y: y[..., :7, :7].flatten(2).transpose(1, 2))
    with pytest.raises(ValueError, match=r"49 tokens, which fit no grid of a 32x32 input.*pass grid=\(rows, columns\)"):
        compute_erf(odd, x, "out")
    assert compute_erf(odd, x, "out", grid=(7, 7)).info["map_size"]["out"] == [7, 7]
    with pytest.raises(ValueError, match=r"has 49 tokens, fewer than the 8x8 of `grid`"):
        compute_erf(odd, x, "out", grid={"out": (8, 8)})
    time = Reshaped(lambda y: y.repeat(2, 1, 1, 1)[:, :2])  # 4 = 2 * 2 entries of 2 channels, batch 2
    with pytest.raises(ValueError, match=r"may be \(T, B, ...\) or \(T\*B, ...\)"):
        compute_erf(time, x, "out", batch_size=2)
    with pytest.raises(ValueError, match=r"2 time steps, windows, tokens, .* in the batch axis"):
        compute_erf(time, x, "out")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(layout="NCHW"), "`layout` is 'NCHW'; allowed"),
        (dict(grid=(0, 3)), r"`grid` is \(0, 3\)"),
        (dict(layout="BNC"), "which is not `layout` 'BNC'"),
    ],
)
def test_bad_layouts(options, message):
    with pytest.raises(ValueError, match=message):
        compute_erf(Reshaped(lambda y: y), torch.randn(2, 1, 32, 32), "out", **options)


def test_grids_are_never_square_roots():
    geometry = Geometry(((32, 128),), 1, None, possible_strides(nn.Identity()), None)
    assert (2, 8) in geometry.grids() and (4, 4) not in geometry.grids()


# --- order of tokens and axes -----------------------------------------------------------------------------------------


@pytest.mark.slow
def test_tokens_in_another_order_are_refused_with_a_way_to_give_it():
    """Hiera keeps tokens in the order of its mask units until the last stages; a function may undo any order."""
    torch.manual_seed(0)
    model, x = timm.create_model("hiera_tiny_224"), torch.randn(2, 3, 224, 224)
    result = compute_erf(model, x, ["blocks.0", "blocks.11"])
    assert result.layers == ["blocks.11"] and "not in the order of rows and columns" in result.failed["blocks.0"]
    assert result.warnings[0].startswith("blocks.0: no field")

    again = compute_erf(model, x, "blocks.0", layout=lambda y: model.reroll(y, 0).movedim(-1, 1))
    assert not again.failed and again.numbers("blocks.0")["centre_mass"].value > 0.1
    with pytest.raises(ValueError, match="its map of 56x56 changes elsewhere than the input"):
        compute_erf(model, x, "blocks.0")


class Cubes(nn.Module):
    """Maps of 16x16 with 16 channels and of 8x8 with 16, channels last or first."""

    def __init__(self, last):
        super().__init__()
        self.embed = nn.Conv2d(3, 16, 2, 2)
        self.first, self.second = Part(last), Part(last)

    def forward(self, x):
        y = self.first(self.embed(x))
        return self.second(y[:, ::2, ::2] if self.first.last else y[..., ::2, ::2])


class Part(nn.Module):
    def __init__(self, last):
        super().__init__()
        self.last = last

    def forward(self, y):
        return y.permute(0, 2, 3, 1) * 2 if self.last and y.shape[1] == 16 and y.shape[-1] == 16 else y * 2


@pytest.mark.parametrize("last", [False, True])
def test_a_cube_is_told_apart_by_modules_of_its_kind(last):
    """(16, 16, 16) fits both orders; the other part's output, 8x8 with 16 channels, fits one alone."""
    torch.manual_seed(0)
    result = compute_erf(Cubes(last), torch.randn(2, 3, 32, 32), "first", position=(3, 9))
    rows, columns = rows_and_columns(result.spatial["first"])
    assert (rows, columns) == ((6, 8), (18, 20))


def test_a_cube_that_nothing_tells_apart_is_an_error():
    model = nn.Sequential(nn.Conv2d(3, 16, 2, 2), nn.Identity())
    with pytest.raises(ValueError, match=r"\(16, 16, 16\) per input, which fits \(C, H, W\) and \(H, W, C\)"):
        compute_erf(model, torch.randn(2, 3, 32, 32), "1")
    assert compute_erf(model, torch.randn(2, 3, 32, 32), "1", layout="BCHW").layers == ["1"]
