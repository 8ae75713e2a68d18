"""A convolution whose kernels are learned mixtures of covariant receptive fields."""

from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...checks import check_floating, flag, is_whole, one_of, positive_int, size_pair
from ...functional.precision import autocast_enabled, without_autocast
from .bank import RFBank
from .fixed import in_default_precision

MODES = ("mix", "depthwise", "aggregate")
INITS = ("rf", "rf-free", "uniform")
PaddingMode = Literal["zeros", "reflect", "replicate", "circular"]


class CovariantRFConv2d(nn.Module):
    """Receptive fields, then a learned mixture of them, computed as one ordinary convolution.

    There is nothing between the fields and the 1x1 mixture, so W[o, c] = sum_n mix[o, c, n] bank[n] is one small
    product, and the cost does not depend on the number of fields.

    (B, in_ch, H, W) -> (B, out_ch, H', W'), with the output size of ``nn.Conv2d``. A sequence (T, B, in_ch, H, W) is
    processed step by step and keeps its time axis. N below is the number of kernels of the bank.

    Args:
        in_ch: input channels.
        out_ch: output channels; may be ``None`` in the modes "depthwise" and "aggregate", which determine it.
        bank: the receptive fields; ``None``: ``RFBank.for_kernel_size(7)``.
        stride: stride of the convolution, one number or (rows, columns).
        padding: pixels on each side, or "same": half the kernel, which gives ceil(H / stride) rows.
        mode: "mix": each output is a learned combination of all kernels on all input channels; "depthwise": each kernel
            on each input channel, in_ch * N outputs; "aggregate": each kernel on the sum of the input channels, N
            outputs.
        init: "rf": the weight remains a mixture of the bank's kernels; "rf-free": an ordinary weight that starts as
            such a mixture and learns freely, as in the paper's networks; "uniform": an ordinary weight with the initial
            values of ``nn.Conv2d``.
        mix_init: initial mixture in mode "mix". "orthogonal": random orthogonal rows, each kernel divided by its L1
            norm, scaled so that white noise gives the variance that it gives with Kaiming initialisation; "identity":
            the outputs are the single kernels on the single input channels, in order and repeated as needed.
        bias: whether to add a learned bias.
        padding_mode: "zeros", "reflect", "replicate" or "circular".

    Raises:
        ValueError, TypeError: an argument is out of range, or the input has another number of channels.

    Source: Nat. Commun. 16:8231 (2025), spatial fields. Folding the fields into one convolution is not in the paper.
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
        padding_mode: PaddingMode = "zeros",
    ):
        super().__init__()
        one_of("mode", mode, MODES)
        one_of("init", init, INITS)
        one_of("mix_init", mix_init, ("orthogonal", "identity"))
        one_of("padding_mode", padding_mode, get_args(PaddingMode))
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
        self.stride = size_pair("stride", stride)
        pixels = size // 2 if padding == "same" else padding
        if not is_whole(pixels) or pixels < 0:
            raise ValueError(f"`padding` is {padding!r}; it must be 'same' or an int >= 0.")
        self.padding = (pixels, pixels)
        self.groups = in_ch if mode == "depthwise" else 1
        # Code that handles any convolution reads these attributes too.
        self.dilation, self.output_padding, self.transposed = (1, 1), (0, 0), False
        self.bias = nn.Parameter(torch.zeros(self.out_ch)) if flag("bias", bias) else None

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
        """The weight (out_ch, in_ch / groups, k, k) of the one convolution that this layer amounts to at present."""
        if self.bank is None:
            return self.weight
        kernels = self.bank.kernels().flip((-2, -1))  # conv2d correlates, the bank's kernels are for convolution
        if self.mode == "mix":
            mix = self.mix.to(kernels.dtype)
            with without_autocast(kernels):
                return (mix.flatten(0, 1) @ kernels.flatten(1)).view(self.out_ch, self.in_ch, *self.kernel_size)
        kernels = kernels.unsqueeze(1)
        return kernels.repeat(self.in_ch, 1, 1, 1) if self.mode == "depthwise" else kernels

    def forward(self, x: Tensor) -> Tensor:
        return _convolved(self, x)

    def __prepare_scriptable__(self) -> "CovariantRFConv2d":
        """Called by ``torch.jit.script``, which cannot read the fields."""
        raise TypeError(
            "torch.jit.script cannot compile a CovariantRFConv2d; put what its `fuse()` returns in its place, or use "
            "torch.jit.trace, torch.export or torch.compile."
        )

    def fuse(self) -> nn.Conv2d:
        """A plain ``nn.Conv2d`` that gives the outputs which this layer gives at present, for deployment.

        Raises:
            ValueError: the mode is "aggregate", which sums its inputs first; no convolution of the same cost does.
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
            if self.bias is not None and conv.bias is not None:
                conv.bias.copy_(self.bias)
        conv.requires_grad_(any(p.requires_grad for p in self.parameters()))
        return conv.train(self.training)

    def extra_repr(self) -> str:
        return (
            f"{self.in_ch}, {self.out_ch}, kernel_size={self.kernel_size}, stride={self.stride}, "
            f"padding={self.padding}, mode={self.mode}, init={self.init}"
        )


@torch.fx.wrap  # one step of a traced model, since it looks at the shape
def _convolved(layer: CovariantRFConv2d, x: Tensor) -> Tensor:
    """The layer's output for frames (B, C, H, W) or (T, B, C, H, W)."""
    check_floating("x", x)
    if x.ndim not in (4, 5) or x.shape[-3] != layer.in_ch:
        raise ValueError(
            f"input has shape {tuple(x.shape)}; it must be (B, {layer.in_ch}, H, W) or (T, B, {layer.in_ch}, H, W)."
        )
    frames = x.flatten(0, 1) if x.ndim == 5 else x
    weight, padding = layer.folded(), layer.padding
    if layer.mode == "aggregate":
        frames = frames.sum(1, keepdim=True)
    if not autocast_enabled(frames):
        weight = weight.to(frames.dtype)
    if layer.padding_mode != "zeros":
        frames, padding = F.pad(frames, [padding[1]] * 2 + [padding[0]] * 2, mode=layer.padding_mode), (0, 0)
    y = F.conv2d(frames, weight, layer.bias, layer.stride, padding, groups=layer.groups)
    return y.unflatten(0, x.shape[:2]) if x.ndim == 5 else y


def _mixture(out_ch: int, in_ch: int, bank: RFBank, mix_init: str) -> Tensor:
    """Initial mixing weights (out_ch, in_ch, len(bank))."""
    kernels = in_default_precision(bank.kernels().detach())
    columns = in_ch * len(bank)
    if mix_init == "identity":
        return F.one_hot(torch.arange(out_ch) % columns, columns).to(kernels.dtype).view(out_ch, in_ch, len(bank))
    mix = nn.init.orthogonal_(torch.empty(out_ch, columns, dtype=kernels.dtype)).view(out_ch, in_ch, len(bank))
    mix = mix / kernels.abs().sum((-2, -1))
    weight = mix.flatten(0, 1) @ kernels.flatten(1)
    # White noise of variance 1 gives an output of variance sum w^2, which is 2 in Kaiming's initialisation for ReLU.
    return mix * (2 / weight.view(out_ch, -1).square().sum(1)).sqrt()[:, None, None]
