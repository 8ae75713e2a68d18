"""What is no map although its shape could be one: windows, heads, attention matrices, queries and classes."""

import pytest
import timm
import torch
from arranged import Rearranged, Reshaped
from torch import nn

from sterf_plugins.erf import compute_erf
from sterf_plugins.erf.outputs.evidence import Evidence


@pytest.mark.parametrize("position", ["center", (0.0, 0.0)])
def test_a_matrix_over_tokens_is_no_map_although_it_fits_a_grid(position):
    """Attention over 4x4 tokens of a 32x32 image gives 16x16 numbers for each head, as a map of stride 2 would have."""

    class Attention(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed, self.tokens = nn.Conv2d(3, 32, 8, 8), nn.Identity()
            self.scores, self.weights = nn.Identity(), nn.Dropout(0.1)
            self.fine = nn.Sequential(nn.ConvTranspose2d(32, 8, 4, 4), nn.Identity())

        def forward(self, x):
            y = self.tokens(self.embed(x).flatten(2).transpose(1, 2))
            heads = y.unflatten(2, (2, 16)).transpose(1, 2)
            scores = self.scores(heads @ heads.transpose(2, 3) / 16)
            y = (self.weights(scores.softmax(-1)) @ heads).transpose(1, 2).flatten(2)
            return self.fine(y.transpose(1, 2).unflatten(2, (4, 4)))

    torch.manual_seed(0)
    result = compute_erf(Attention(), torch.randn(2, 3, 32, 32), ["scores", "weights", "fine.1"], position=position)
    assert result.layers == ["fine.1"] and result.info["map_size"]["fine.1"] == [16, 16]  # a true map of this size
    assert "others than they seem, as those of a matrix over tokens" in result.failed["scores"]
    assert "the weights of an attention, whose rows sum to 1" in result.failed["weights"]


class Windows(nn.Module):
    """Maps of 16x16 and 8x8 as windows of 4x4 in one axis and their tokens in the next, as in NesT, or the other way round."""

    def __init__(self):
        super().__init__()
        self.embed, self.pool = nn.Conv2d(3, 48, 2, 2), nn.MaxPool2d(2)
        self.first, self.second, self.norm, self.linear = Spread(), Spread(), nn.GroupNorm(1, 48), nn.Linear(48, 48)

    def forward(self, x):
        fine = self.embed(x)
        middle = self.pool(fine)
        self.first(windows(fine, 4))
        self.second(windows(middle, 4))
        self.norm(windows(middle, 2).transpose(1, 3))  # channels, pixels of a patch, patches, as in MobileViT-v2
        self.linear(windows(self.pool(middle), 4))


def windows(y, size):
    """A map (B, C, h, w) as (B, windows, tokens, C)."""
    return y.unfold(2, size, size).unfold(3, size, size).flatten(4).flatten(2, 3).permute(0, 2, 3, 1)


class Spread(nn.Module):
    def forward(self, y):
        return y + 0.5 * y.mean((1, 2), keepdim=True)


def test_windows_beside_their_tokens_are_no_map():
    """Sixteen windows of sixteen tokens fit a map of 16x16; the other windows of that class fit none."""
    torch.manual_seed(0)
    x = torch.randn(2, 3, 32, 32)
    with pytest.raises(ValueError, match="'first': its map of 16x16 changes elsewhere than the input does"):
        compute_erf(Windows(), x, "first")
    with pytest.raises(ValueError, match="'norm': its map of 4x16 changes elsewhere than the input does"):
        compute_erf(Windows(), x, "norm")
    with pytest.raises(
        ValueError, match=r"\(1, 16, 48\) per input, which is no map of a 32x32 input; pass layout='BHWC'"
    ):
        compute_erf(Windows(), x, "linear")


def test_weights_of_an_attention_over_few_tokens_are_no_map():
    """Swin's last stage has four tokens at 64x64: 4x4 numbers for each head, as many as the map of the stage before."""
    torch.manual_seed(0)
    options = dict(img_size=64, embed_dim=12, depths=(1, 1, 1, 1), num_heads=(1, 1, 2, 2), window_size=2)
    model = timm.create_model("swinv2_tiny_window8_256", **options)
    layers = ["layers.2", "layers.3.blocks.0.attn.softmax"]
    result = compute_erf(model, torch.randn(1, 3, 64, 64), layers)
    assert result.layers == layers[:1] and "whose rows sum to 1" in result.failed[layers[1]]


def test_heads_and_tokens_are_no_map():
    """(B, heads, N, d), here (2, 3, 65, 64), has the ratio of a square image, but its rows are tokens."""

    class Heads(Rearranged):
        def forward(self, x):
            y = self.embed(x).flatten(2).transpose(1, 2)
            y = torch.cat([y.new_zeros(len(y), 1, 24), y], 1)
            return self.out((y @ self.mix).unflatten(2, (3, 64)).transpose(1, 2))

    torch.manual_seed(0)
    model = Heads(None)
    model.mix = torch.randn(24, 192)
    with pytest.raises(ValueError, match="'out': its map of 65x64 changes elsewhere"):
        compute_erf(model, torch.randn(2, 3, 32, 32), "out")


def test_heads_of_tokens_that_all_look_everywhere_are_no_map():
    """(B, heads, N, d), here (2, 3, 17, 19): no change of the input shows what its axes are, but its tokens (2, 17, 57) do."""

    class Heads(Rearranged):
        def forward(self, x):
            y = self.embed(x).mean((2, 3))[:, None].expand(-1, 17, -1)
            return self.out(self.to_heads(y).unflatten(2, (3, 19)).transpose(1, 2))

    torch.manual_seed(0)
    model = Heads(None)
    model.to_heads = nn.Linear(24, 57)
    with pytest.raises(ValueError, match=r"\(3, 17, 19\) per input, which is no map of a 16x16 input"):
        compute_erf(model, torch.randn(2, 3, 16, 16), "out")


def test_queries_of_a_decoder_are_no_map_even_if_they_could_be_a_grid():
    """16 queries look at all of the image alike; no layer of the model gives 4x4 maps."""

    class Decoder(Reshaped):
        def forward(self, x):
            y = self.embed(x).flatten(2).transpose(1, 2)
            return self.out(self.query[None] * (1 + y.mean(1, keepdim=True)))

    torch.manual_seed(0)
    model = Decoder(None)
    model.query = nn.Parameter(torch.randn(16, 37))
    with pytest.raises(ValueError, match=r"'out': its map of 4x4 changes elsewhere than the input does.*are queries"):
        compute_erf(model, torch.randn(2, 1, 32, 32), "out")


def test_queries_are_not_taken_for_the_channels_of_a_map():
    """Each of 50 queries has a box, whose four numbers fit a map of 2x2."""

    class Boxes(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.Tanh())
            self.embed, self.box = nn.Linear(8, 8), nn.Sequential(nn.Linear(8, 4), nn.Sigmoid())
            self.query = nn.Parameter(torch.randn(50, 8))

        def forward(self, x):
            y = self.net(x).flatten(2)
            looks = (self.embed(self.query[None].detach()) @ y).softmax(-1)
            return self.box(self.query + looks @ y.transpose(1, 2))

    torch.manual_seed(0)
    model = Boxes()
    model.embed.requires_grad_(False)
    result = compute_erf(model, torch.randn(2, 3, 64, 64), ["net", "box"])
    assert result.layers == ["net"] and "its map of 2x2 changes elsewhere than the input does" in result.failed["box"]


def test_windows_beside_their_tokens_are_no_map_where_their_field_looks_like_one():
    """As NesT's: (B, windows, N, C), whose N x C has the aspect of an image, but a size that no stride and no convolution makes."""

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed, self.act, self.out = nn.Conv2d(3, 96, 2, 2), nn.GELU(), nn.AdaptiveAvgPool2d(1)

        def forward(self, x):
            y = self.embed(x).unflatten(2, (4, 8)).unflatten(4, (4, 8)).permute(0, 2, 4, 3, 5, 1)
            return self.out(self.act(y.flatten(1, 2).flatten(2, 3)))

    torch.manual_seed(0)
    with pytest.raises(ValueError, match="'act': its map of 64x96 changes elsewhere than the input does"):
        compute_erf(Net(), torch.randn(2, 3, 64, 64), "act")


@pytest.mark.parametrize("position", ["center", (0.3, 0.7)])
@pytest.mark.parametrize("window", [(2, 2), (4, 4), (2, 1)])
def test_windows_near_their_place_are_another_order(window, position):
    """Tokens window by window, whose fields are spread over their neighbours, so that they look near the target of another one."""

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed, self.spread, self.out = nn.Conv2d(3, 20, 4, 4), nn.Conv2d(20, 20, 3, 1, 1), nn.Linear(20, 20)

        def forward(self, x):
            y = self.spread(self.embed(x)).unflatten(3, (-1, window[1])).unflatten(2, (-1, window[0]))
            return self.out(y.permute(0, 2, 4, 3, 5, 1).flatten(1, 4))

    torch.manual_seed(0)
    with pytest.raises(ValueError, match="its map of 8x8 changes elsewhere than the input does"):
        compute_erf(Net(), torch.randn(2, 3, 32, 32), "out", position=position)


def test_as_many_channels_as_a_map_has_rows_make_it_no_matrix_over_tokens():
    """A pooling of (B, C, N) has channels in front; a map in windows, whose attention spreads changes, was refused for it."""
    model = nn.Sequential(nn.AdaptiveAvgPool1d(1), nn.Linear(3, 3))
    shapes = {"0": torch.Size((2, 16, 1)), "1": torch.Size((2, 49, 3))}
    assert not Evidence(model, shapes).matrix((16, 16)) and Evidence(model, shapes).matrix((49, 49))
