"""The two ways in which a token MLP reads a feature map.

``channel``: one token per pixel, holding its C channels. A Linear on it is the channel MLP of the papers' text
(a 1x1 convolution).

``raster``: the buffer (B, C, H, W) cut into runs of C consecutive numbers, without a permutation. This is what the
released code of "Unveiling the Spatial-temporal Effective Receptive Fields of SNNs" (arXiv:2510.21403) computes, and
what its checkpoints and its receptive-field pictures need. When C divides H*W, a run is C raster-consecutive pixels
of *one* channel: the Linear mixes pixels of a horizontal strip and no channels. After a widening Linear, reading the
buffer as (B, ratio*C, H, W) stretches each of ``ratio`` horizontal bands over a whole map. The grouping depends on H
and W, so a raster mixer is neither translation-equivariant nor resolution-consistent: weights trained at one input
size see other groups at another.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from ..checks import check_axes, entries, one_of
from .torch_kernels import is_exporting, is_traced

LAYOUTS = ("raster", "channel")


def to_tokens(x: Tensor, layout: str) -> Tensor:
    """Read a feature map as tokens, (B, C, H, W) -> (B, H*W, C); ``layout`` is one of ``LAYOUTS``.

    Raises:
        TypeError, ValueError: ``x`` has other axes, ``layout`` is another word, or it is "raster" and the model is being exported
            with a dynamic H or W.
    """
    one_of("layout", layout, LAYOUTS)
    check_axes("x", x, "(B, C, H, W)")
    if layout == "channel":
        return x.permute(0, 2, 3, 1).flatten(1, 2)
    b, c, h, w = x.shape
    if _is_dynamic(h) or _is_dynamic(w):
        raise ValueError(
            "the raster layout cannot be exported with a dynamic height or width, since which pixels it groups depends on "
            "the image size: export for one size (the batch may be dynamic)."
        )
    return x.reshape(b, h * w, c)


def _is_dynamic(size: int) -> bool:
    """Whether a model is being exported for any value of this size.

    ``export(strict=True)``, which the ONNX exporter tries as well, hides that such a size is no int. Asking for an
    attribute of it ends that export, with a message of PyTorch's.
    """
    return isinstance(size, torch.SymInt) or (is_exporting() and hasattr(size, "node"))


def from_tokens(tokens: Tensor, size: Sequence[int], layout: str) -> Tensor:
    """Write tokens as a feature map, (B, H*W, C') -> (B, C', H, W), as ``to_tokens`` reads it; ``size`` is (H, W).

    Raises:
        TypeError, ValueError: the tokens have other axes, ``size`` is no size of so many, or ``layout`` is another word.
    """
    one_of("layout", layout, LAYOUTS)
    check_axes("tokens", tokens, "(B, H*W, C')")
    b, count, c = tokens.shape
    h, w = size if len(entries("size", size)) == 2 else (0, 0)
    if not is_traced() and (h * w != count or min(h, w) < 0):  # traced sizes may change
        raise ValueError(
            f"`size` is {size}, and `tokens` has shape {tuple(tokens.shape)}; it must be (H, W) of {count} tokens."
        )
    if layout == "channel":
        return tokens.view(b, h, w, c).permute(0, 3, 1, 2)
    return tokens.reshape(b, c, h, w)
