"""A convolution whose kernels are learned mixtures of covariant receptive fields, and the stem made of it."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..batch_norm import BatchNorm2d
from ..checks import one_of, positive_int
from .bank import RFBank

MODES = ("mix", "depthwise", "aggregate")
INITS = ("rf", "rf-free", "uniform")


class CovariantRFConv2d(nn.Module):
    """Receptive fields, then a learned mixture of them, computed as one ordinary convolution.

    There is nothing between the fields and the 1x1 mixture, so W[o, c] = sum_n mix[o, c, n] bank[n] is one small
    product, and the cost does not depend on the number of fields.

    (B, in_ch, H, W) -> (B, out, H', W') with the arithmetic of ``nn.Conv2d``; (T, B, in_ch, H, W) likewise.

    Args:
        in_ch: input channels.
        out_ch: output channels; in the modes "depthwise" and "aggregate" it may be ``None``, for what there must be.
        bank: the fields; ``None``: ``RFBank.for_kernel_size(7)``.
        stride: of the convolution.
        padding: "same" (half the kernel, so that sizes are rounded up), or pixels.
        mode: "mix": ``out_ch`` learned combinations of all fields of all inputs; "depthwise": every field of every
            input, in_ch * N outputs; "aggregate": every field of the sum of the inputs, N outputs.
        init: "rf": as described; "rf-free": an ordinary weight that starts as the mixture and learns freely (what the
            paper's networks do); "uniform": an ordinary weight with ``nn.Conv2d``'s start.
        mix_init: "orthogonal": random orthogonal rows over L1-balanced fields, scaled so that white input gives
            the variance of Kaiming's start; "identity": output o is field o mod (in_ch N).
        bias: add a bias.
        padding_mode: "zeros", "reflect", "replicate" or "circular".

    Raises:
        ValueError, TypeError: an argument is out of range, or the input has another number of channels.

    Source: Nat. Commun. 16:8231 (2025), spatial fields; the folding is ours.
    """

    def __init__(
        self,
        in_ch: int,
        out_ch: int | None = None,
        bank: RFBank | None = None,
        stride: int | tuple[int, int] = 1,
        padding: str | int = "same",
        mode: str = "mix",
        init: str = "rf",
        mix_init: str = "orthogonal",
        bias: bool = False,
        padding_mode: str = "zeros",
    ):
        super().__init__()
        one_of("mode", mode, MODES)
        one_of("init", init, INITS)
        one_of("mix_init", mix_init, ("orthogonal", "identity"))
        one_of("padding_mode", padding_mode, ("zeros", "reflect", "replicate", "circular"))
        bank = RFBank.for_kernel_size(7) if bank is None else bank
        if not isinstance(bank, RFBank):
            raise TypeError(f"`bank` is a {type(bank).__name__}; it must be an RFBank.")
        self.in_ch = self.in_channels = positive_int("in_ch", in_ch)
        needed = {"mix": None, "depthwise": in_ch * len(bank), "aggregate": len(bank)}[mode]
        if out_ch is None and needed is None:
            raise ValueError("`out_ch` is None; mode='mix' needs the number of output channels.")
        if out_ch is not None and needed is not None and out_ch != needed:
            raise ValueError(
                f"`out_ch` is {out_ch}; mode={mode!r} gives {needed} channels: leave it out, or mode='mix'."
            )
        self.out_ch = self.out_channels = positive_int("out_ch", out_ch if needed is None else needed)
        self.mode, self.init, self.padding_mode = mode, init, padding_mode
        size = bank.kernel_size
        self.kernel_size = (size, size)
        self.stride = (stride, stride) if isinstance(stride, int) else tuple(stride)
        pixels = size // 2 if padding == "same" else padding
        if not isinstance(pixels, int) or pixels < 0:
            raise ValueError(f"`padding` is {padding!r}; it must be 'same' or an int >= 0.")
        self.padding = (pixels, pixels)
        self.groups = in_ch if mode == "depthwise" else 1
        self.dilation, self.output_padding, self.transposed = (1, 1), (0, 0), False  # what is asked of a convolution
        self.bias = nn.Parameter(torch.zeros(self.out_ch)) if bias else None

        self.bank: RFBank | None = bank
        if mode == "mix":
            self.mix = nn.Parameter(_mixture(self.out_ch, in_ch, bank, mix_init))
        if init != "rf":
            weight = self.folded().detach().clone()
            if init == "uniform":
                nn.init.kaiming_uniform_(weight, a=5**0.5)
            self.bank = None
            if mode == "mix":
                del self.mix
            self.weight = nn.Parameter(weight)

    def folded(self) -> Tensor:
        """The weight (out, in / groups, k, k) of the one convolution that this layer is, from its parameters as they are."""
        if self.bank is None:
            return self.weight
        kernels = self.bank.kernels().flip((-2, -1))  # conv2d correlates
        if self.mode == "mix":
            mix = self.mix.to(kernels.dtype)
            with torch.autocast(kernels.device.type, enabled=False):
                return (mix.flatten(0, 1) @ kernels.flatten(1)).view(self.out_ch, self.in_ch, *self.kernel_size)
        kernels = kernels.unsqueeze(1)
        return kernels.repeat(self.in_ch, 1, 1, 1) if self.mode == "depthwise" else kernels

    def forward(self, x: Tensor) -> Tensor:
        if x.ndim not in (4, 5) or x.shape[-3] != self.in_ch:
            raise ValueError(
                f"input has shape {tuple(x.shape)}; it must be (B, {self.in_ch}, H, W) or (T, B, {self.in_ch}, H, W)."
            )
        frames = x.flatten(0, 1) if x.ndim == 5 else x
        weight, padding = self.folded(), self.padding
        if self.mode == "aggregate":
            frames = frames.sum(1, keepdim=True)
        if not torch.is_autocast_enabled(frames.device.type):
            weight = weight.to(frames.dtype)
        if self.padding_mode != "zeros":
            frames, padding = F.pad(frames, [padding[1]] * 2 + [padding[0]] * 2, mode=self.padding_mode), (0, 0)
        y = F.conv2d(frames, weight, self.bias, self.stride, padding, groups=self.groups)
        return y.unflatten(0, x.shape[:2]) if x.ndim == 5 else y

    def fuse(self) -> nn.Conv2d:
        """The plain convolution that this one is now, for deployment.

        Raises:
            ValueError: mode "aggregate" sums its inputs first, which no convolution of the same cost does.
        """
        if self.mode == "aggregate":
            raise ValueError("mode='aggregate' cannot be fused: it sums its inputs first; use mode='mix'.")
        with torch.no_grad():
            weight = self.folded()
            conv = nn.Conv2d(
                self.in_ch,
                self.out_ch,
                self.kernel_size,
                self.stride,
                self.padding,
                groups=self.groups,
                bias=self.bias is not None,
                padding_mode=self.padding_mode,
                device=weight.device,
                dtype=weight.dtype,
            )
            conv.weight.copy_(weight)
            if self.bias is not None:
                conv.bias.copy_(self.bias)
        return conv.train(self.training)

    def extra_repr(self) -> str:
        return (
            f"{self.in_ch}, {self.out_ch}, kernel_size={self.kernel_size}, stride={self.stride}, "
            f"padding={self.padding}, mode={self.mode}, init={self.init}"
        )


def _mixture(out_ch: int, in_ch: int, bank: RFBank, how: str) -> Tensor:
    kernels = bank.kernels().detach().float()
    columns = in_ch * len(bank)
    if how == "identity":
        return F.one_hot(torch.arange(out_ch) % columns, columns).float().view(out_ch, in_ch, len(bank))
    mix = nn.init.orthogonal_(torch.empty(out_ch, columns)).view(out_ch, in_ch, len(bank))
    mix = mix / kernels.abs().sum((-2, -1))
    weight = mix.flatten(0, 1) @ kernels.flatten(1)
    # White input of variance 1 gives sum w^2; Kaiming's start for a rectifier gives 2.
    return mix * (2 / weight.view(out_ch, -1).square().sum(1)).sqrt()[:, None, None]


class CovariantStem(nn.Module):
    """``CovariantRFConv2d`` and BN, as the first layers of a backbone; plugin name "covariant".

    (B, in_chans, H, W) -> (B, embed_dim, ceil(H / stride), ceil(W / stride)); (T, B, in_chans, H, W) likewise.

    Args:
        in_chans: image channels.
        embed_dim: output channels.
        stride: of the convolution.
        kernel_size: window; the default bank follows from it. Even strides of patch embeddings keep their grid.
        bank: the fields; ``None``: ``RFBank.for_kernel_size(kernel_size)``.
        learn: what the default bank learns, such as ("sigma", "ratio", "angle").
        init: "rf", "rf-free" or "uniform".
    """

    def __init__(
        self,
        in_chans: int,
        embed_dim: int,
        stride: int = 2,
        kernel_size: int = 7,
        bank: RFBank | None = None,
        learn: tuple[str, ...] = (),
        init: str = "rf",
    ):
        super().__init__()
        self.stride = positive_int("stride", stride)
        bank = RFBank.for_kernel_size(kernel_size, learn=learn) if bank is None else bank
        self.conv = CovariantRFConv2d(in_chans, embed_dim, bank, stride, init=init)
        self.bn = BatchNorm2d(embed_dim)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        return self.bn(y) if y.ndim == 4 else self.bn(y.flatten(0, 1)).unflatten(0, y.shape[:2])
