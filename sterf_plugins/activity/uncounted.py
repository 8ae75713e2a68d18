"""Operators that a count leaves out although they may compute sums of products."""

from typing import Any

import torch
from spikingjelly.activation_based.op_counter import BaseCounter

# Operators that have no product, though no tag of theirs (or of their in-place form) tells it: in this order they make
# data, move it, reduce it, pool or resize it, normalise it, or treat elements one by one.
NAMES = """
    empty zeros ones full arange scalar_tensor linspace eye empty_like zeros_like ones_like full_like new_empty
    new_zeros new_ones new_full empty_strided new_empty_strided zero fill rand randn randint randperm rand_like
    randn_like randint_like random uniform normal bernoulli exponential multinomial native_dropout _fused_dropout

    copy _to_copy cat stack _unsafe_view _reshape_alias unsafe_split unsafe_split_with_sizes unsafe_chunk
    split_with_sizes_copy index _unsafe_index index_select index_put index_copy index_fill gather scatter scatter_add index_add
    masked_select embedding constant_pad_nd reflection_pad1d reflection_pad2d reflection_pad3d replication_pad1d
    replication_pad2d replication_pad3d roll flip repeat repeat_interleave pixel_shuffle pixel_unshuffle channel_shuffle
    native_channel_shuffle im2col col2im one_hot tril triu _pin_memory lift is_nonzero _local_scalar_dense item equal
    resize set sort topk nonzero unique_consecutive _unique2 searchsorted bucketize bincount

    sum mean amax amin max min argmax argmin aminmax var var_mean std std_mean prod any all logsumexp linalg_vector_norm
    norm cumsum cumprod cummax cummin median count_nonzero

    max_pool2d_with_indices max_pool3d_with_indices avg_pool2d avg_pool3d _adaptive_avg_pool2d _adaptive_avg_pool3d
    adaptive_avg_pool2d mkldnn_max_pool2d adaptive_max_pool2d adaptive_max_pool3d max_unpool2d upsample_nearest1d
    upsample_nearest2d _upsample_nearest_exact2d upsample_nearest3d upsample_linear1d upsample_bilinear2d
    _upsample_bilinear2d_aa upsample_bicubic2d _upsample_bicubic2d_aa upsample_trilinear3d

    native_batch_norm cudnn_batch_norm miopen_batch_norm _native_batch_norm_legit _batch_norm_with_update
    _native_batch_norm_legit_no_training _batch_norm_no_update native_layer_norm native_group_norm _fused_rms_norm
    batch_norm_elemt batch_norm_stats

    _softmax _log_softmax _safe_softmax leaky_relu hardswish glu prelu _prelu_kernel rrelu_with_noise
    _thnn_fused_lstm_cell _thnn_fused_gru_cell abs add celu copysign elu eq gcd ge gelu gt hardsigmoid hardtanh heaviside
    lcm le lt masked_fill mish mul ne selu threshold true_divide xlogy
"""
_NO_PRODUCTS = {f"aten::{name}" for name in NAMES.split()}
_TAGS = {torch.Tag.pointwise, torch.Tag.inplace_view, torch.Tag.view_copy}


class Uncounted(BaseCounter):
    """Counts the calls of operators that another counter has no rule for, unless they are known to have no products.

    Args:
        counter: the counter with the rules.
    """

    def __init__(self, counter: BaseCounter):
        super().__init__()
        self.counter = counter

    def has_rule(self, func: Any) -> bool:
        return not (self.counter.has_rule(func) or _without_products(func))

    def count(self, *args: Any, **kwargs: Any) -> int:
        return 1

    def calls(self) -> dict[str, int]:
        """Number of calls by the operator's name, the most frequent first."""
        calls = {func.name(): number for func, number in self.get_counts().get("Global", {}).items()}
        return dict(sorted(calls.items(), key=lambda item: -item[1]))


def _without_products(func: Any) -> bool:
    """Whether an operator moves or makes data, or treats elements one by one, or is one of ``NAMES``."""
    if not hasattr(func, "is_view"):  # no operator, but a higher-order function
        return False
    name = func.name().partition(".")[0]
    return func.is_view or not _TAGS.isdisjoint(func.tags) or name in _NO_PRODUCTS or name.rstrip("_") in _NO_PRODUCTS
