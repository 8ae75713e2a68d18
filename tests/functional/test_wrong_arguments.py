"""Arguments of the tensor functions and the layers that cannot be right: the message names them and what is allowed."""

import math

import numpy as np
import pytest
import torch

from sterf_plugins import functional as F
from sterf_plugins import layers
from sterf_plugins.checks import positive_int

X, TOKENS, Q = torch.zeros(2, 8, 4, 4), torch.zeros(2, 16, 8), torch.zeros(1, 2, 4, 6)
STEPS, HALF = torch.zeros(5, 2, 3), torch.tensor(0.5)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: F.to_tokens(X[0], "channel"), r"`x` has shape \(8, 4, 4\); it must be \(B, C, H, W\)"),
        (lambda: F.to_tokens(X[None], "raster"), r"`x` has shape \(1, 2, 8, 4, 4\); it must be \(B, C, H, W\)"),
        (lambda: F.to_tokens(X.numpy(), "channel"), r"`x` is a ndarray; it must be a tensor \(B, C, H, W\)"),
        (
            lambda: F.from_tokens(TOKENS[0], (4, 4), "channel"),
            r"`tokens` has shape \(16, 8\); it must be \(B, H\*W, C'\)",
        ),
        (lambda: F.from_tokens(TOKENS, 4, "channel"), "`size` is 4 .*list or tuple"),
        *(
            (lambda s=size, k=layout: F.from_tokens(TOKENS, s, k), r"`size` is .*it must be \(H, W\) of 16 tokens")
            for size in ((4, 5), (2, 2), (4, 4, 1), (-4, -4))
            for layout in F.LAYOUTS
        ),
        (lambda: F.integer_fire([1.0]), "`x` is a list; it must be a floating-point tensor"),
        (lambda: F.integer_fire(X, norm="4"), "`norm` is '4'; it must be > 0"),
        (
            lambda: F.linear_attention(Q, Q[..., :5], Q, 1.0),
            r"`q`, `k` and `v` have shapes \(1, 2, 4, 6\), \(1, 2, 4, 5\)",
        ),
        (lambda: F.linear_attention(Q, Q, Q[:, :1], 1.0), "`q`, `k` and `v` have shapes"),
        (
            lambda: F.depthwise_conv2d(X, torch.zeros(7, 1, 3, 3)),
            r"`weight` has shape \(7, 1, 3, 3\), and `x` \(2, 8, 4, 4\)",
        ),
        (lambda: F.depthwise_conv2d(X, torch.zeros(8, 1, 4, 4)), "with odd kh and kw"),
        (lambda: F.depthwise_conv2d(X[0], torch.zeros(8, 1, 3, 3)), "`x` has shape"),
        (lambda: F.decay(2.0), r"`mu` is 2.0 \(float\); it must be a tensor"),
        (lambda: F.decay(HALF, dt=-1), "`dt` is -1; it must be a finite number > 0"),
        (lambda: F.leaky_integrator(STEPS, 0.5, STEPS[0]), "`a` is 0.5 .*a tensor"),
        *(
            (
                lambda v=v, b=b: F.leaky_integrator(STEPS, HALF, v, backend=b),
                "a step of `x`, and `a`, must broadcast to `v`",
            )
            for v in (torch.zeros(3, 2), torch.zeros(2, 4), torch.zeros(3))
            for b in ("gemm", "loop")
        ),
        (lambda: F.leaky_integrator(STEPS, torch.rand(7), STEPS[0]), r"`a` \(7,\) and `v` \(2, 3\)"),
        (lambda: F.moving_integrator(STEPS, HALF, 1.0), "`velocity` is 1.0 .*list or tuple"),
        (lambda: F.moving_integrator(STEPS, HALF, (1, 2, 3)), r"`velocity` is .*must be \(x, y\)"),
        (lambda: F.moving_integrator(STEPS, HALF, (math.nan, 0)), "`velocity` is nan"),
        (lambda: F.moving_integrator(STEPS[0], HALF, (1, 0)), r"`x` has shape \(2, 3\); they must be"),
        (lambda: layers.ConvBN2d("3", 4), "`in_channels` is '3'"),
        (lambda: layers.ConvBN2d(3, 0), "`out_channels` is 0; it must be an int >= 1"),
        (lambda: layers.ConvBN2d(3, 4, 2), "`kernel` is 2; it must be odd"),
        (lambda: layers.Downsample(3, 0), "`embed_dim` is 0"),
        (lambda: layers.Downsample(3, 4, 0), "`stride` is 0"),
        (lambda: layers.SepConv(0, 3), "`dim` is 0"),
        (lambda: layers.SepConv(8, 4), "`kernel` is 4; it must be odd"),
        (lambda: layers.SpikeMlp(8, 0), "`ratio` is 0"),
        (lambda: layers.SpikeMlp("8"), "`dim` is '8'"),
        (lambda: layers.SpikeAttention(-8, 2), "`dim` is -8"),
        (lambda: layers.SpikeAttention(8, 2, factor="2"), "`factor` is '2'"),
        (lambda: layers.TransformerBlock(8, 2, layer_scale=math.nan), "`layer_scale` is nan"),
        (lambda: layers.TransformerBlock(8, 2, sep_conv="no"), "`sep_conv` is 'no'"),
        (lambda: layers.TransformerBlock(8, 2, drop_path_rate=-1), "`drop_path_rate` is -1"),
        (lambda: layers.MixerBlock(8, "conv"), r"`mixer` is 'conv' .*a module, such as ConvMixer\(8\)"),
    ],
)
def test_wrong_arguments(call, message):
    with pytest.raises((TypeError, ValueError), match=message):
        call()


@pytest.mark.parametrize(
    "value", [np.True_, np.array([2]), np.array(2.0), torch.tensor([2]), torch.tensor(2.5), torch.tensor(True)]
)
def test_no_whole_numbers(value):
    """All of them have ``__index__``."""
    with pytest.raises(TypeError, match="`n` is"):
        positive_int("n", value)


def test_whole_numbers_of_other_libraries():
    assert [positive_int("n", n) for n in (2, np.int64(2), np.uint8(2), np.array(2), torch.tensor(2))] == [2] * 5
