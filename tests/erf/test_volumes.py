"""Videos, volumes and signals: the fields are those of autograd, whatever the layout of a layer's output."""

import numpy as np
import pytest
import torch
from by_autograd import field, leaves, same
from torch import nn

from sterf_plugins.erf import compute_erf


class Video(nn.Sequential):
    """Takes (N, C, T, H, W) and halves frames, rows and columns."""

    def __init__(self):
        super().__init__(nn.Conv3d(2, 3, 3, (1, 2, 2), 1), nn.Tanh(), nn.Conv3d(3, 4, 3, 2, 1))


def test_videos_have_fields_over_frames_and_space():
    torch.manual_seed(0)
    model, x = Video().double(), torch.randn(3, 2, 6, 16, 8).double()
    (leaf,) = leaves(x)
    expected = field(model(leaf), leaf)
    result = compute_erf(model, x, ["1", "2"], axes="NCTHW", batch_size=2)
    assert result.info["kinds"] == ["spatial", "frames", "volume"] and result.info["map_size"]["2"] == [3, 4, 2]
    assert same(result.volume["2"], expected)
    assert same(result.spatial["2"], expected.sum(0)) and same(result.frames["2"], expected.sum((1, 2)))
    numbers = result.numbers("2")
    share = expected.sum((1, 2)) / expected.sum()
    assert numbers["mean_frame"].value == pytest.approx(share @ np.arange(6), rel=1e-5)
    assert 0 < numbers["frame_extent"].error < numbers["frame_extent"].value and numbers["centre_mass"].value > 0
    # The same frames, in the other order of axes, into a model that takes them so.
    turned = compute_erf(
        model, x.transpose(1, 2), "2", axes="NTCHW", forward=lambda m, v: m(v.transpose(1, 2)), kinds="volume"
    )
    assert same(turned.volume["2"], expected) and not turned.spatial
    (gradient,) = torch.autograd.grad(model(leaf)[:, :, 2, 1, 0].sum(), leaf)
    at = compute_erf(model, x, "2", axes="NCDHW", position=(2, 1, 0)).volume["2"]
    assert same(at, gradient.abs().mean(1).mean(0).numpy())
    with pytest.raises(ValueError, match="give axes='NCTHW' for videos, axes='NCDHW' for volumes, or axes='TNCHW'"):
        compute_erf(model, x, "2")
    with pytest.raises(
        ValueError, match=r"`position` is \(1, 0\), and the output of layer '2' is 3x4x2; give 3 numbers"
    ):
        compute_erf(model, x, "2", axes="NCTHW", position=(1, 0))


class VolumeLoop(nn.Module):
    """A spiking-like loop over time steps of volumes: a leaky sum of what a convolution gives."""

    def __init__(self):
        super().__init__()
        self.conv, self.sum = nn.Conv3d(2, 3, 3, padding=1), nn.Identity()

    def forward(self, x):
        state, outputs = 0, []
        for step in x:
            state = 0.5 * state + self.conv(step)
            outputs.append(self.sum(state))
        return torch.stack(outputs)


def test_volumes_with_time_steps():
    torch.manual_seed(0)
    model, x = VolumeLoop().double(), torch.randn(3, 2, 2, 4, 6, 6).double()
    kinds = ["spatial", "temporal", "spatiotemporal", "frames", "volume"]
    result = compute_erf(model, x, "sum", axes="TNCDHW", kinds=kinds)
    (leaf,) = leaves(x)
    y = model(leaf)
    (total,) = torch.autograd.grad(y[..., 2, 3, 3].sum(), leaf, retain_graph=True)
    volume = total.sum(0).abs().mean(1).mean(0).numpy() / 3
    assert same(result.volume["sum"], volume) and same(result.frames["sum"], volume.sum((1, 2)))
    (last,) = torch.autograd.grad(y[-1].sum(), leaf, retain_graph=True)
    assert same(result.temporal["sum"], last.flip(0).abs().mean(2).flatten(2).sum(2).mean(1).numpy())
    (second,) = torch.autograd.grad(y[1, ..., 2, 3, 3].sum(), leaf)
    assert same(result.spatiotemporal["sum"][1, 1], second[0].abs().mean(1).sum(1).mean(0).numpy())


class Tubes(nn.Module):
    """Tubelets of 2 frames and 4x4 pixels, arranged in some way."""

    def __init__(self, arrange):
        super().__init__()
        self.embed = nn.Conv3d(1, 5, (2, 4, 4), (2, 4, 4))
        self.out = nn.Identity()
        self.arrange = arrange

    def forward(self, x):
        return self.out(self.arrange(self.embed(x)))


TUBES = {
    "BCDHW": lambda y: y,
    "BDHWC": lambda y: y.movedim(1, -1),
    "BNC": lambda y: y.flatten(2).transpose(1, 2),
    "BNC with a class token": lambda y: torch.cat([y.new_ones(len(y), 1, 5), y.flatten(2).transpose(1, 2)], 1),
    "slices in the batch": lambda y: y.transpose(1, 2).flatten(0, 1),
}


@pytest.mark.parametrize("name", TUBES)
def test_layouts_of_volumes(name):
    torch.manual_seed(0)
    model = Tubes(TUBES[name]).double()
    result = compute_erf(model, torch.randn(2, 1, 8, 24, 16).double(), "out", axes="NCDHW")
    assert result.info["map_size"]["out"] == [4, 6, 4]
    expected = np.zeros((8, 24, 16))
    expected[4:6, 12:16, 8:12] = 1
    assert np.array_equal(result.volume["out"] > 0, expected > 0)


def test_tokens_of_two_frames_that_see_each_other_are_in_order():
    """What changes in any frame changes both alike: that says nothing against their order."""
    torch.manual_seed(1)
    spread = nn.Conv3d(5, 5, (3, 1, 1), padding=(1, 0, 0)).double()  # over both of 2 frames
    nn.init.constant_(spread.weight, 0.1)
    model = Tubes(lambda y: spread(y).tanh().flatten(2).transpose(1, 2)).double()
    x = torch.randn(2, 1, 4, 24, 24).double()
    assert compute_erf(model, x, "out", axes="NCDHW", position=[(1, 0, 5), (0, 3, 3)]).info["map_size"]["out"] == [
        2,
        6,
        6,
    ]
    exchanged = Tubes(lambda y: spread(y).tanh().transpose(3, 4).flatten(2).transpose(1, 2)).double()
    with pytest.raises(ValueError, match="its map of 2x6x6 changes elsewhere than the input does"):
        compute_erf(exchanged, x, "out", axes="NCDHW", position=[(1, 0, 5), (0, 3, 3)])


def test_what_a_volume_network_gives_may_be_unclear():
    square = Tubes(lambda y: y.new_ones(1) * y.repeat(1, 4, 1, 1, 1)[:, :4])  # (4, 4, 4, 4): channels first or last
    with pytest.raises(
        ValueError, match=r"fits \(C, D, H, W\) and \(D, H, W, C\); pass layout='BCDHW' or layout='BDHWC'"
    ):
        compute_erf(square, torch.randn(1, 1, 8, 16, 16), "out", axes="NCDHW")
    assert compute_erf(square, torch.randn(1, 1, 8, 16, 16), "out", axes="NCDHW", layout="BCDHW").layers == ["out"]
    odd = Tubes(lambda y: y.flatten(2).transpose(1, 2)[:, :7])
    with pytest.raises(
        ValueError, match=r"7 tokens, which fit no grid of a 8x16x16 input in patches of 2x4x4; pass grid="
    ):
        compute_erf(odd, torch.randn(1, 1, 8, 16, 16), "out", axes="NCDHW")


def test_signals():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv1d(2, 3, 5), nn.ReLU(), nn.Conv1d(3, 4, 3, 2)).double()
    x = torch.randn(3, 2, 41).double()
    (leaf,) = leaves(x)
    result = compute_erf(model, x, ["1", "2"], axes="NCL")
    assert result.info["map_size"] == {"1": [1, 37], "2": [1, 18]}
    assert same(result.spatial["2"], field(model(leaf), leaf)[None])
    assert same(result.spatial["1"], field(model[:2](leaf), leaf)[None])
    assert result.numbers("2")["column_extent"].value > 0 == result.numbers("2")["row_extent"].value


class Sequence(nn.Module):
    """A transformer's layer over samples, channels last, as models of time series have it."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Linear(3, 8)
        self.mix = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)

    def forward(self, x):
        return self.mix(self.embed(x))


def test_signals_with_channels_last():
    torch.manual_seed(0)
    model, x = Sequence().double().eval(), torch.randn(2, 23, 3).double()
    (leaf,) = leaves(x)
    signs = torch.randint(0, 2, (8, 8), generator=torch.Generator().manual_seed(0)) * 2 - 1
    middle = model(leaf)[:, 11]
    grads = [torch.autograd.grad((middle * s).sum(), leaf, retain_graph=True)[0].abs().mean(2).mean(0) for s in signs]
    result = compute_erf(model, x, ["embed", "mix"], axes="NLC")
    assert result.info["constant_sums"] == ["mix"]  # it ends with a LayerNorm
    assert same(result.spatial["mix"], torch.stack(grads).mean(0).numpy()[None])
    assert np.flatnonzero(result.spatial["embed"]).tolist() == [11]


def test_a_signal_whose_layout_nothing_tells_is_refused():
    class Gate(nn.Module):
        def forward(self, x):
            return x[..., :7] * 2

    x = torch.randn(2, 3, 16)
    with pytest.raises(
        ValueError, match=r"gives \(3, 7\) per signal; pass layout='BCN' if channels come first, or 'BNC'"
    ):
        compute_erf(nn.Sequential(Gate()), x, "0", axes="NCL")
    assert compute_erf(nn.Sequential(Gate()), x, "0", axes="NCL", layout="BCN").info["map_size"] == {"0": [1, 7]}


def test_poolings_and_recurrent_layers_tell_the_order_of_their_axes():
    """Whichever axis ``batch_first`` puts first; the last state of a layer has no place, and those of several no order."""

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.pool, self.up = nn.MaxPool1d(2), nn.Upsample(scale_factor=2)
            self.first, self.second = nn.GRU(3, 5, batch_first=True), nn.GRU(5, 4, bidirectional=True)

        def forward(self, x):
            pooled = self.pool(x)
            first, state = self.first(self.up(pooled).transpose(1, 2))
            return pooled, first, state, self.second(first.transpose(0, 1))[0]

    torch.manual_seed(0)
    model, x = Net().double(), torch.randn(2, 3, 24).double()
    (leaf,) = leaves(x)
    pooled, first, state, second = model(leaf)
    result = compute_erf(model, x, ["pool", "up", "first", "second"], axes="NCL")
    assert result.layers == ["pool", "up", "first[0]", "first[1]", "second[0]"]
    assert same(result.spatial["pool"], field(pooled, leaf)[None])
    assert same(result.spatial["first[0]"], field(first.transpose(1, 2), leaf)[None])
    assert same(result.spatial["first[1]"], field(state[0][..., None], leaf)[None])
    assert same(result.spatial["second[0]"], field(second.permute(1, 2, 0), leaf)[None])
    assert "last states of 2 layers or directions" in result.failed["second[1]"]


class Mixer(nn.Module):
    """Mixes channels and samples of (N, L, C) in turn, as TSMixer does."""

    def __init__(self, length, channels):
        super().__init__()
        self.norm, self.samples = nn.LayerNorm(channels), nn.Linear(length, length)
        self.channels, self.out = nn.Linear(channels, 2 * channels), nn.Linear(2 * channels, channels)

    def forward(self, x):
        x = x + self.samples(self.norm(x).transpose(1, 2)).transpose(1, 2)
        return self.out(self.channels(x).relu())


def test_a_layer_that_mixes_samples_is_not_read_as_one_that_mixes_channels():
    torch.manual_seed(0)
    model, x = Mixer(64, 7).double(), torch.randn(2, 64, 7).double()
    result = compute_erf(model, x, ["samples", "channels", "out"], axes="NLC")
    assert result.layers == ["channels", "out"] and "1x7 changes elsewhere" in result.failed["samples"]
    (leaf,) = leaves(x)
    grads = torch.autograd.grad(model(leaf)[:, 32].sum(), leaf)[0].abs().mean(2).mean(0)
    assert same(result.spatial["out"], grads.numpy()[None])
    told = compute_erf(model, x, "samples", axes="NLC", layout="BCN")  # the user knows better
    assert told.info["map_size"]["samples"] == [1, 64]


@pytest.mark.parametrize("count", [1, 3])
def test_a_class_token_in_front_of_a_signal_has_no_place(count):
    class Tokens(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed, self.token = nn.Conv1d(2, 6, 4, 4), nn.Parameter(torch.randn(1, count, 6))
            self.out = nn.Linear(6, 9)

        def forward(self, x):
            x = self.embed(x).transpose(1, 2)
            return self.out(torch.cat([self.token.expand(len(x), -1, -1), x], 1))

    torch.manual_seed(0)
    result = compute_erf(Tokens(), torch.randn(2, 2, 64), ["embed", "out"], axes="NCL")
    assert result.info["map_size"]["out"] == [1, 16]
    assert (
        np.flatnonzero(result.spatial["out"]).tolist()
        == np.flatnonzero(result.spatial["embed"]).tolist()
        == [32, 33, 34, 35]
    )


def test_samples_in_another_order_are_refused():
    class Backwards(nn.Sequential):
        def forward(self, x):
            return self[1](self[0](x).flip(2).transpose(1, 2))

    torch.manual_seed(0)
    model, x = Backwards(nn.Conv1d(2, 6, 3, 1, 1), nn.Linear(6, 4)), torch.randn(2, 2, 64)
    with pytest.raises(ValueError, match="layer '1': its map of 1x64 changes elsewhere than the input does"):
        compute_erf(model, x, "1", axes="NCL", position=(0, 9))
