"""Pure tensor functions: no state, no modules, no registry."""

from .attention import linear_attention
from .batch_norm import frozen_batch_norm, frozen_conv_bn, same_strided_grad
from .integer_fire import integer_fire
from .layout import LAYOUTS, from_tokens, to_tokens

__all__ = [
    "LAYOUTS",
    "from_tokens",
    "frozen_batch_norm",
    "frozen_conv_bn",
    "integer_fire",
    "linear_attention",
    "same_strided_grad",
    "to_tokens",
]
