"""A covariant convolution in the place of a stock one."""

import math
from collections.abc import Mapping

from torch import nn

from ..checks import one_of, positive_int
from .bank import RFBank, as_bank
from .covariant import INITS, CovariantRFConv2d


def covariant_like(
    old: nn.Module,
    bank: RFBank | Mapping | None = None,
    in_chans: int | None = None,
    init: str = "rf",
    learn: tuple[str, ...] = (),
    where: str = "the layer",
) -> CovariantRFConv2d:
    """A covariant convolution that can stand in for ``old``: its channels, its stride, its output sizes.

    Raises:
        TypeError: ``old`` is no ``nn.Conv2d``.
        ValueError: it is grouped or dilated, or the bank's window gives another output size.
    """
    one_of("init", init, INITS)
    if not isinstance(old, nn.Conv2d):
        raise TypeError(f"{where} is a {type(old).__name__}; only an nn.Conv2d can be replaced by receptive fields.")
    if old.groups != 1 or any(d != 1 for d in old.dilation):
        raise ValueError(f"{where} has groups={old.groups}, dilation={old.dilation}; both must be 1.")
    bank = as_bank(bank)
    if bank is None:
        bank = RFBank.for_kernel_size(max(old.kernel_size), learn=learn)
    padding = _matching_padding(old, bank.kernel_size, where)
    return CovariantRFConv2d(
        positive_int("in_chans", in_chans or old.in_channels),
        old.out_channels,
        bank,
        tuple(old.stride),
        padding,
        init=init,
        bias=old.bias is not None,
    )


def _matching_padding(old: nn.Conv2d, size: int, where: str) -> int:
    """Padding with which a window of ``size`` gives the sizes of ``old`` on its multiples of the stride.

    Conv2d gives floor((H + 2 p - k) / s) + 1: equal for all H if 2 p - k is, and for multiples of s if
    floor((2 p - k) / s) is.
    """
    found = set()
    for old_size, pad, stride in zip(old.kernel_size, _pads(old), old.stride, strict=True):
        wanted = pad - old_size
        exact = [p for p in range(size) if 2 * p - size == wanted]
        near = [p for p in range(size) if math.floor((2 * p - size) / stride) == math.floor(wanted / stride)]
        # nearest to the middle of the old window
        choice = exact or sorted(near, key=lambda p: abs(2 * p - size - wanted))
        if not choice:
            raise ValueError(
                f"{where} has kernel {old.kernel_size}, stride {old.stride}, padding {old.padding}; no padding gives a "
                f"window of {size} the same output size. Use a bank with another kernel_size."
            )
        found.add(choice[0])
    if len(found) != 1:
        raise ValueError(f"{where} has kernel {old.kernel_size}: one square window cannot replace it.")
    return found.pop()


def _pads(conv: nn.Conv2d) -> list[int]:
    if isinstance(conv.padding, str) or "Same" in type(conv).__name__:
        # TensorFlow's "same": ceil(H / stride), which an odd kernel gives with half of it on both sides
        return [k - 1 if k % 2 else k - s for k, s in zip(conv.kernel_size, conv.stride, strict=True)]
    return [2 * p for p in conv.padding]
