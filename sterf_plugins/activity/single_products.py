"""Every product of a forward pass as an operator of its own, which is what a counter of operations can see."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode

from ..undisturbed import recurrent_steps


@contextmanager
def single_products(model: nn.Module) -> Iterator[None]:
    """Inside, layers of the model run as single products, in inference mode too, and not as one fused operator.

    Attention is computed in its plain form, the fast path of ``nn.MultiheadAttention`` and
    ``nn.TransformerEncoderLayer`` is off, and so are the libraries' kernels for whole recurrent layers, if there are any.
    """
    backends: Any = torch.backends
    fast = backends.mha.get_fastpath_enabled()
    try:
        backends.mha.set_fastpath_enabled(False)
        with recurrent_steps(model), sdpa_kernel(SDPBackend.MATH), _Decomposed():
            yield
    finally:
        backends.mha.set_fastpath_enabled(fast)


class _Decomposed(TorchDispatchMode):
    """Breaks composite operators, such as a linear layer's in inference mode, into those that they are made of."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        with self:
            out = func.decompose(*args, **kwargs)
        return func(*args, **kwargs) if out is NotImplemented else out
