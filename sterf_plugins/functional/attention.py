"""Softmax-free attention in the order of products that is linear in the number of tokens."""

from torch import Tensor


def linear_attention(q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
    """``(q k^T) v * scale`` computed as ``q (k^T v) * scale``.

    Without a softmax both orders give the same result, and this one needs no (N, N) scores. For integer spikes whose norm
    is a power of two, such as 4, every partial sum is a multiple of 1/norm^3, so float32 gives bit-equal results while the
    sums stay below 2^24. With other norms, such as 3 and 5, spikes are rounded themselves: the orders agree to rounding,
    and where the result lies at a tie between two counts, the neuron behind may count one more in one of them.

    Args:
        q: queries (B, heads, d, N), channels before tokens.
        k: keys (B, heads, d, N).
        v: values (B, heads, e, N).
        scale: factor by which the result is multiplied.

    Returns:
        (B, heads, e, N).

    Raises:
        ValueError: the shapes do not fit.

    Source: SDT-V3, arXiv:2411.16061 (linear spiking attention).
    """
    if k.shape != q.shape or v.shape[:-2] != q.shape[:-2] or v.shape[-1] != q.shape[-1]:
        raise ValueError(
            f"`q`, `k` and `v` have shapes {tuple(q.shape)}, {tuple(k.shape)} and {tuple(v.shape)}; they must be (B, heads, d, N) "
            f"twice, and (B, heads, e, N)."
        )
    vk = v @ k.transpose(-2, -1)  # (B, heads, e, d)
    return (vk @ q) * scale
