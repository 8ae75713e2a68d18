"""Operators that a count leaves out although they may compute sums of products."""

from typing import Any

import torch
from spikingjelly.activation_based.op_counter import BaseCounter

from .origins import KEEPING

# Operators that have no product, though no tag of theirs (or of their in-place form) tells it: in this order they make
# data, move it, reduce it, pool or resize it, normalise it, or treat elements one by one.
NAMES = """
    empty zeros ones full arange scalar_tensor linspace eye empty_like zeros_like ones_like full_like new_empty
    new_zeros new_ones new_full empty_strided new_empty_strided zero fill rand randn randint randperm rand_like
    randn_like randint_like random uniform normal bernoulli exponential multinomial native_dropout _fused_dropout

    _unsafe_view _reshape_alias index_fill embedding one_hot _pin_memory lift is_nonzero _local_scalar_dense item
    equal resize set nonzero unique_consecutive _unique2 searchsorted bucketize bincount

    mean argmax argmin aminmax var var_mean std std_mean prod any all logsumexp linalg_vector_norm norm cumprod
    cummax cummin median count_nonzero

    avg_pool2d avg_pool3d _adaptive_avg_pool2d _adaptive_avg_pool3d adaptive_avg_pool2d upsample_linear1d
    upsample_bilinear2d _upsample_bilinear2d_aa upsample_bicubic2d _upsample_bicubic2d_aa upsample_trilinear3d

    native_batch_norm cudnn_batch_norm miopen_batch_norm _native_batch_norm_legit _batch_norm_with_update
    _native_batch_norm_legit_no_training _batch_norm_no_update native_layer_norm native_group_norm _fused_rms_norm
    batch_norm_elemt batch_norm_stats

    _softmax _log_softmax _safe_softmax leaky_relu hardswish glu prelu _prelu_kernel rrelu_with_noise
    _thnn_fused_lstm_cell _thnn_fused_gru_cell abs celu copysign elu eq gcd ge gelu gt hardsigmoid heaviside lcm le
    lt mish mul ne selu threshold true_divide xlogy
"""
_NO_PRODUCTS = {f"aten::{name}" for name in KEEPING.union(NAMES.split())}
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
