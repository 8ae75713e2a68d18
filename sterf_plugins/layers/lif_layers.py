"""The layers of spiking transformers with leaky integrate-and-fire neurons; (T, B, C, H, W) in and out.

Neurons, surrogate and layout are those of the published models: tau 2, hard reset to 0 that is not differentiated,
the derivative of a sigmoid of slope 4 as surrogate. Each neuron forgets its state at the end of a forward pass.
"""

from collections import OrderedDict

from spikingjelly.activation_based import surrogate
from torch import Tensor, nn

from ..checks import check_heads
from ..functional import linear_attention
from .conv_bn import ConvBN2d
from .described import Described
from .drop_path import drop_path
from .over_time import over_time
from .spiking_nodes import StatelessNode, lif_node


def lif(threshold: float = 1.0) -> StatelessNode:
    """The LIF neuron of the published models.

    Args:
        threshold: firing threshold; the published models have 0.5 after products of attention and 1 elsewhere.
    """
    return lif_node(
        tau=2.0, v_threshold=threshold, v_reset=0.0, detach_reset=True, surrogate_function=surrogate.Sigmoid(4.0)
    )


class TimeConvBN(ConvBN2d):
    """Convolution and BN [, max-pooling] on every time step: real numbers come out.

    (T, B, in_channels, H, W) -> (T, B, out_channels, H', W').

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        kernel: side of the kernel, odd; the padding is half of it.
        pool: add 3x3 max-pooling of stride 2.
        **options: further arguments of ``ConvBN2d``.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel: int = 1, pool: bool = False, **options):
        super().__init__(in_channels, out_channels, kernel, **options)
        if pool:
            self.add_module("pool", nn.MaxPool2d(3, 2, 1))

    def forward(self, x: Tensor) -> Tensor:
        return over_time(super().forward, x)


class SpikingConv(nn.Sequential):
    """Convolution, BN [, max-pooling], LIF [, max-pooling]: spikes come out.

    (T, B, in_channels, H, W) -> (T, B, out_channels, H', W').

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        kernel: side of the kernel, odd; the padding is half of it.
        pool: where 3x3 max-pooling of stride 2 stands: "before" or "after" the neuron; ``None``: nowhere.
        **options: further arguments of ``ConvBN2d``.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel: int = 1, pool: str | None = None, **options):
        parts: OrderedDict[str, nn.Module] = OrderedDict(
            conv_bn=TimeConvBN(in_channels, out_channels, kernel, pool == "before", **options), lif=lif()
        )
        if pool == "after":
            parts["pool"] = MaxPool()
        super().__init__(parts)


class MaxPool(nn.MaxPool2d):
    """3x3 max-pooling of stride 2 on every time step; (T, B, C, H, W) -> (T, B, C, ceil(H / 2), ceil(W / 2))."""

    def __init__(self):
        super().__init__(3, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return over_time(super().forward, x)


def heads(x: Tensor, number: int) -> Tensor:
    """Divide the channels among attention heads: (T, B, C, H, W) -> (T*B, number, C / number, H*W)."""
    return x.flatten(0, 1).unflatten(1, (number, -1)).flatten(3)


class SelfAttention(Described):
    """Spiking self-attention without softmax: q (k^T v) * 0.125 -> LIF of threshold 0.5.

    ``forward(q, k, v)`` takes three tensors of spikes (T, B, C, H, W) and returns one of this shape. ``num_heads``
    must divide C.
    """

    SCALE = 0.125  # the same in all published models, whatever the width of a head

    def __init__(self, num_heads: int):
        super().__init__()
        self.num_heads = num_heads
        self.lif = lif(0.5)

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        n = self.num_heads
        mixed = linear_attention(heads(q, n), heads(k, n), heads(v, n), self.SCALE)
        return self.lif(mixed.reshape(len(q), -1, *q.shape[2:]))

    def description(self) -> dict[str, int]:
        """What a state dict says of the attention that no shape shows: its number of heads."""
        return dict(num_heads=self.num_heads)

    def extra_repr(self) -> str:
        return f"num_heads={self.num_heads}, scale={self.SCALE}"


class SpikingMlp(nn.Sequential):
    """(1x1 convolution with bias, BN, LIF) twice, dim -> ratio*dim -> dim: spikes come out.

    (T, B, dim, H, W) -> (T, B, dim, H, W), the branch alone, without the residual.
    """

    def __init__(self, dim: int, ratio: int = 4):
        super().__init__(
            OrderedDict(
                fc1=SpikingConv(dim, ratio * dim, bias=True),
                fc2=SpikingConv(ratio * dim, dim, bias=True),
            )
        )


class MembraneMlp(nn.Sequential):
    """(LIF, 1x1 convolution with bias, BN) twice, dim -> ratio*dim -> dim: real numbers come out.

    (T, B, dim, H, W) -> (T, B, dim, H, W), the branch alone, without the residual.
    """

    def __init__(self, dim: int, ratio: int = 4):
        super().__init__(
            OrderedDict(
                lif1=lif(),
                fc1=TimeConvBN(dim, ratio * dim, bias=True),
                lif2=lif(),
                fc2=TimeConvBN(ratio * dim, dim, bias=True),
            )
        )


class SpikingAttention(nn.Module):
    """Spiking self-attention of Spikformer: spikes come in, and spikes come out.

    (T, B, dim, H, W) -> (T, B, dim, H, W), the branch alone, without the residual. q, k and v are one convolution to
    3*dim channels, since they read the same spikes and their neurons are alike.

    Raises:
        ValueError: ``dim`` is not a multiple of ``num_heads``.

    Source: arXiv:2209.15425.
    """

    def __init__(self, dim: int, num_heads: int):
        super().__init__()
        check_heads(dim, num_heads)
        self.qkv = SpikingConv(dim, 3 * dim)
        self.attend = SelfAttention(num_heads)
        self.proj = SpikingConv(dim, dim, bias=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(self.attend(*self.qkv(x).chunk(3, 2)))


class _ResidualBlock(nn.Module):
    """x + attention(x), then x + MLP(x), (T, B, dim, H, W) in and out."""

    def __init__(self, attention: nn.Module, mlp: nn.Module, drop_path_rate: float):
        super().__init__()
        self.attn = attention
        self.mlp = mlp
        self.drop_path = drop_path(drop_path_rate, over_time=True)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.drop_path(self.attn(x))
        return x + self.drop_path(self.mlp(x))


class SpikingBlock(_ResidualBlock):
    """x + attention(x), then x + MLP(x): the residuals add spikes, so that values may exceed 1.

    (T, B, dim, H, W) -> (T, B, dim, H, W).

    Args:
        dim: channels.
        attention: the branch of the attention, which keeps the shape.
        ratio: hidden channels of the MLP per input channel.
        drop_path_rate: probability that a sample does without a branch in training, in all time steps.
    """

    def __init__(self, dim: int, attention: nn.Module, ratio: int = 4, drop_path_rate: float = 0.0):
        super().__init__(attention, SpikingMlp(dim, ratio), drop_path_rate)


class MembraneBlock(_ResidualBlock):
    """x + attention(x), then x + MLP(x): the residuals add membrane potentials; only spikes enter a weight layer.

    The shapes and the arguments are those of ``SpikingBlock``.
    """

    def __init__(self, dim: int, attention: nn.Module, ratio: int = 4, drop_path_rate: float = 0.0):
        super().__init__(attention, MembraneMlp(dim, ratio), drop_path_rate)
