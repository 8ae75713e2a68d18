"""Operations of PyTorch's operators and fused layers, counted by hand."""

import contextlib

import pytest
import timm
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from sterf_plugins.activity import count_operations
from sterf_plugins.layers import IntegerSpike


class Call(nn.Module):
    """Calls a function of a module and an input of four axes, the first two of which become one."""

    def __init__(self, function, module=None):
        super().__init__()
        self.function, self.module = function, module or nn.Identity()

    def forward(self, x):
        return self.function(self.module, x.flatten(0, 1))


# Two sequences of 5 tokens with 8 channels: by operation, the module, how it is called, and MACs counted by hand.
TOKENS = 2 * 5
ATTENTION = TOKENS * 8 * (3 * 8) + TOKENS * 8 * 8, 2 * 2 * (5 * 5 * 4) * 2  # q, k, v and the output; 2 heads of 4
MLP = 2 * TOKENS * 8 * 16
FLASH = lambda q: F.scaled_dot_product_attention(q, q, q)  # noqa: E731


def forced_flash(module, x):
    with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
        return FLASH(x[:, None])


BY_HAND = {
    "linear": (nn.Linear(8, 3), lambda m, x: m(x), TOKENS * 8 * 3),
    "scaled_dot_product_attention": (None, lambda m, x: FLASH(x[:, None]), 2 * (5 * 5 * 8) * 2),
    "flash attention chosen by the model": (None, forced_flash, 2 * (5 * 5 * 8) * 2),
    "MultiheadAttention": (nn.MultiheadAttention(8, 2, batch_first=True), lambda m, x: m(x, x, x), sum(ATTENTION)),
    "its products alone": (
        nn.MultiheadAttention(8, 2, batch_first=True),
        lambda m, x: m(x, x, x, need_weights=False),
        sum(ATTENTION),
    ),
    "TransformerEncoderLayer": (
        nn.TransformerEncoderLayer(8, 2, 16, batch_first=True),
        lambda m, x: m(x),
        sum(ATTENTION) + MLP,
    ),
    "TransformerEncoder": (
        nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), 2),
        lambda m, x: m(x, src_key_padding_mask=torch.zeros(2, 5, dtype=torch.bool)),
        2 * (sum(ATTENTION) + MLP),
    ),
    "LSTM": (nn.LSTM(8, 6, batch_first=True), lambda m, x: m(x), TOKENS * 4 * 6 * (8 + 6)),
    "LSTM, two layers both ways": (
        nn.LSTM(8, 6, 2, batch_first=True, bidirectional=True),
        lambda m, x: m(x),
        TOKENS * 2 * 4 * 6 * ((8 + 6) + (12 + 6)),
    ),
    "LSTM with projections": (
        nn.LSTM(8, 6, proj_size=3, batch_first=True),
        lambda m, x: m(x),
        TOKENS * (4 * 6 * (8 + 3) + 6 * 3),
    ),
    "GRU": (nn.GRU(8, 6, batch_first=True), lambda m, x: m(x), TOKENS * 3 * 6 * (8 + 6)),
    "RNN": (nn.RNN(8, 6, batch_first=True), lambda m, x: m(x), TOKENS * 6 * (8 + 6)),
    "GRUCell": (nn.GRUCell(8, 6), lambda m, x: m(x[:, 0]), 2 * 3 * 6 * (8 + 6)),
    "bmm": (None, lambda m, x: x @ x.mT, 2 * 5 * 5 * 8),
    "baddbmm": (None, lambda m, x: torch.baddbmm(x[:, :, :5], x, x.mT), 2 * 5 * 5 * 8),
    "addbmm": (None, lambda m, x: torch.addbmm(x[0, :, :5], x, x.mT), 2 * 5 * 5 * 8),
    "einsum": (None, lambda m, x: torch.einsum("bij,bkj->bik", x, x), 2 * 5 * 5 * 8),
    "mv": (None, lambda m, x: x[0] @ x[0, 0], 5 * 8),
    "addmv": (None, lambda m, x: torch.addmv(x[0, :, 0], x[0], x[0, 0]), 5 * 8),
    "dot": (None, lambda m, x: x[0, 0] @ x[0, 1], 8),
    "conv1d": (nn.Conv1d(5, 3, 3), lambda m, x: m(x), 2 * 3 * 6 * 5 * 3),
    "conv_transpose": (nn.ConvTranspose1d(5, 3, 4, 2), lambda m, x: m(x), 2 * 8 * 5 * 3 * 4),
}


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("name", BY_HAND)
def test_operations_by_hand(name, training):
    """Whatever kernel runs: fused attention, fast paths in eval mode, and whole recurrent layers."""
    module, function, expected = BY_HAND[name]
    torch.manual_seed(0)
    operations = count_operations(Call(function, module).train(training), torch.randn(2, 1, 5, 8))
    assert (operations.total.dense, operations.total.macs, operations.total.acs) == (expected, expected, 0)
    assert operations.not_counted == {}


@pytest.mark.parametrize("name", BY_HAND)
def test_operations_in_inference_mode(name):
    """Layers reach a counter whole then, and tensors may have been made in that mode."""
    module, function, expected = BY_HAND[name]
    with torch.inference_mode():
        assert count_operations(Call(function, module), torch.randn(2, 1, 5, 8)).total.dense == expected
    inside = Call(torch.inference_mode()(function), module)
    assert count_operations(inside, torch.randn(2, 1, 5, 8)).total.dense == expected


def test_spikes_drive_what_fused_layers_multiply():
    """3 spikes enter an LSTM with 4 * 6 gates; the products of its state are analog from the second step on."""
    spikes = torch.zeros(1, 1, 5, 8)
    spikes[0, 0, 0, 0], spikes[0, 0, 1, 3] = 1, 2
    model = nn.Sequential(IntegerSpike(4, norm=1), Call(lambda m, x: m(x), nn.LSTM(8, 6, batch_first=True)))
    total = count_operations(model, spikes).total
    assert (total.acs, total.macs) == (3 * 4 * 6, 4 * 6 * 4 * 6)
    # Each spike of q meets 5 keys; the attention weights are analog, and each spike of v meets all 5 of a token.
    model = nn.Sequential(IntegerSpike(4, norm=1), Call(lambda m, x: FLASH(x[:, None])))
    assert count_operations(model, spikes).total.acs == 3 * 5 + 3 * 5


def test_a_vision_transformer_with_fused_attention_and_without():
    totals = []
    for fused in (True, False):
        model = timm.create_model("vit_tiny_patch16_224")
        for block in model.blocks:
            block.attn.fused_attn = fused
        operations = count_operations(model, torch.randn(1, 3, 224, 224))
        assert operations.not_counted == {}
        totals.append(operations.total.dense)
        products = [o.dense for name, o in operations.layers.items() if name.endswith("(product)")]
        assert products == [2 * 197 * 197 * 192] * 12  # q k^T and its product with v, in each block
    assert totals == [1_253_683_200, 1_253_683_200]


def test_operators_without_a_rule_are_listed():
    bilinear = Call(lambda m, x: F.relu(m(x, x)).mean(1), nn.Bilinear(8, 8, 3))
    operations = count_operations(nn.Sequential(bilinear, nn.Linear(3, 4)), torch.randn(2, 1, 5, 8))
    assert operations.total.dense == 2 * 3 * 4 and operations.not_counted == {"aten::_trilinear": 1}
    layers = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.GroupNorm(2, 8), nn.GELU(), nn.Hardswish(), nn.PReLU(), nn.MaxPool2d(2),
        nn.Upsample(scale_factor=2, mode="bilinear"), nn.ReflectionPad2d(1), nn.Softmax(1), nn.Dropout(),
        nn.AdaptiveAvgPool2d(2), nn.PixelShuffle(2), nn.Flatten(),
    )  # fmt: skip
    assert count_operations(layers, torch.randn(1, 3, 16, 16)).not_counted == {}


def test_settings_are_restored():
    fast, attention = torch.backends.mha.get_fastpath_enabled(), torch.backends.cuda.flash_sdp_enabled()
    libraries = torch.backends.mkldnn.enabled, torch.backends.cudnn.enabled
    for function in (lambda m, x: m(x), lambda m, x: 1 / 0):
        with contextlib.suppress(ZeroDivisionError):
            count_operations(Call(function, nn.LSTM(8, 6)), torch.randn(2, 1, 5, 8))
        assert (torch.backends.mha.get_fastpath_enabled(), torch.backends.cuda.flash_sdp_enabled()) == (fast, attention)
        assert (torch.backends.mkldnn.enabled, torch.backends.cudnn.enabled) == libraries
