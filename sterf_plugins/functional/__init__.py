"""Pure tensor functions: no state, no modules, no registry."""

from .attention import linear_attention
from .batch_norm import frozen_batch_norm, same_strided_grad
from .depthwise import depthwise_conv2d, splits_weight_gradient
from .integer_fire import integer_fire
from .layout import LAYOUTS, from_tokens, to_tokens
from .leaky_integrator import decay, leaky_integrator, moving_integrator

__all__ = [
    "LAYOUTS",
    "decay",
    "depthwise_conv2d",
    "from_tokens",
    "frozen_batch_norm",
    "integer_fire",
    "leaky_integrator",
    "linear_attention",
    "moving_integrator",
    "same_strided_grad",
    "splits_weight_gradient",
    "to_tokens",
]
