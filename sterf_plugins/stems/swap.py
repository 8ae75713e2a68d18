"""A covariant convolution that replaces an ordinary one."""

import math
from collections.abc import Mapping, Sequence

from torch import nn

from ..checks import one_of, positive_int
from .fields.bank import RFBank
from .fields.bank_arguments import bank_or_default
from .fields.covariant_conv import INITS, CovariantRFConv2d


def covariant_like(
    old: nn.Module,
    bank: RFBank | Mapping | None = None,
    in_chans: int | None = None,
    init: str = "rf",
    learn: Sequence[str] = (),
    where: str = "the layer",
) -> CovariantRFConv2d:
    """A covariant convolution that can replace ``old``: it has its channels, its stride and its output sizes.

    Args:
        old: the convolution to be replaced.
        bank: the receptive fields, or a mapping of the arguments of ``RFBank``; ``None``: the bank that fits the window
            of ``old``.
        in_chans: input channels; ``None``: those of ``old``.
        init: "rf", "rf-free" or "uniform", as in ``CovariantRFConv2d``.
        learn: what the default bank learns, such as ("sigma", "ratio", "angle"), with ``init="rf"``.
        where: what error messages call the layer.

    Raises:
        TypeError: ``old`` is not an ``nn.Conv2d``, or another argument has a wrong type.
        ValueError: ``old`` is grouped or dilated, no padding gives the bank's window the output sizes of ``old``, or
            another argument is out of range.
    """
    one_of("init", init, INITS)
    if not isinstance(old, nn.Conv2d):
        raise TypeError(f"{where} is a {type(old).__name__}; only an nn.Conv2d can be replaced by receptive fields.")
    if old.groups != 1 or any(d != 1 for d in old.dilation):
        raise ValueError(f"{where} has groups={old.groups}, dilation={old.dilation}; both must be 1.")
    bank = bank_or_default(bank, max(old.kernel_size), learn, init)
    padding = _matching_padding(old, bank.kernel_size, where)
    return CovariantRFConv2d(
        old.in_channels if in_chans is None else positive_int("in_chans", in_chans),
        old.out_channels,
        bank,
        (old.stride[0], old.stride[1]),
        padding,
        init=init,
        bias=old.bias is not None,
        padding_mode=old.padding_mode,
    ).train(old.training)


def _matching_padding(old: nn.Conv2d, size: int, where: str) -> int:
    """The padding with which a window of ``size`` gives the output sizes of ``old``.

    If no padding does so for all inputs, one is taken that does for multiples of the stride. A convolution gives
    floor((H + 2 p - k) / s) + 1 rows. Two of them agree for all H if 2 p - k is the same, and for multiples of s if
    floor((2 p - k) / s) is the same.
    """
    paddings = set()
    for old_size, pad, stride in zip(old.kernel_size, _pads(old), old.stride, strict=True):
        excess = pad - old_size  # 2 p - k of the old convolution
        exact = [p for p in range(size) if 2 * p - size == excess]
        near = [p for p in range(size) if math.floor((2 * p - size) / stride) == math.floor(excess / stride)]
        # Of several paddings, take the one whose window is centred nearest to the centre of the old window.
        choice = exact or sorted(near, key=lambda p: abs(2 * p - size - excess))
        if not choice:
            raise ValueError(
                f"{where} has kernel {old.kernel_size}, stride {old.stride}, padding {old.padding}; no padding gives a "
                f"window of {size} the same output size. Use a bank with another kernel_size."
            )
        paddings.add(choice[0])
    if len(paddings) != 1:
        raise ValueError(f"{where} has kernel {old.kernel_size}: one square window cannot replace it.")
    return paddings.pop()


def _pads(conv: nn.Conv2d) -> list[int]:
    """The padding of both sides together, for each of the two axes."""
    if conv.padding == "valid":
        return [0, 0]
    if conv.padding == "same" or "Same" in type(conv).__name__:
        # Padding "same" of TensorFlow gives ceil(H / stride), as does an odd kernel padded by half on each side.
        return [k - 1 if k % 2 else k - s for k, s in zip(conv.kernel_size, conv.stride, strict=True)]
    return [2 * int(p) for p in conv.padding]
