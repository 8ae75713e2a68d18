"""Less memory in training: what the backward pass needs is computed again there instead of being kept.

PyTorch's activation checkpointing does the work; this module says what is kept. Convolutions and matrix products take
two thirds of a forward pass and are one of the three tensors that a spiking layer needs for its gradients. The other
two, the norm's output and the spikes, are cheap to compute again. ``PRODUCTS`` keeps the first and drops the others.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint, create_selective_checkpoint_contexts

_aten = torch.ops.aten
PRODUCTS = (
    _aten.convolution.default,
    _aten.mm.default,
    _aten.addmm.default,
    _aten.bmm.default,
    _aten.baddbmm.default,
)


def recomputed(function: Callable[[Tensor], Tensor], x: Tensor, inside: nn.Module, kept: Sequence = ()) -> Tensor:
    """``function(x)``, of which only ``x`` and the results of some operations are kept for the backward pass.

    BatchNorm counts the images once: its statistics stay as they are while the forward pass is repeated. A compiler
    chooses by itself what to keep, so ``kept`` has no effect while it traces.

    Args:
        function: a part of a network, (B, C, H, W) -> (B, C', H', W').
        x: its input.
        inside: the module whose norms ``function`` runs.
        kept: operators whose results are kept, such as ``PRODUCTS``.
    """
    if torch.compiler.is_compiling():  # a compiler takes no contexts
        return function(x) if kept else checkpoint(function, x, use_reentrant=False)
    return checkpoint(function, x, use_reentrant=False, context_fn=lambda: _contexts(inside, kept))


def _contexts(inside: nn.Module, kept: Sequence) -> tuple[AbstractContextManager, AbstractContextManager]:
    """Contexts of the forward pass and of its repetition."""
    forward, repetition = create_selective_checkpoint_contexts(list(kept)) if kept else (nullcontext(), nullcontext())
    return forward, _Repetition(inside, repetition)


class _Repetition:
    """The context of a repeated forward pass: BatchNorm's running statistics stay as they are inside."""

    def __init__(self, module: nn.Module, context: AbstractContextManager):
        kinds = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
        self.norms = [m for m in module.modules() if isinstance(m, kinds)]
        self.context = context

    def __enter__(self) -> None:
        self.stack = ExitStack()
        self.stack.enter_context(self.context)
        for norm in self.norms:
            momentum, count = norm.momentum, norm.num_batches_tracked
            self.stack.callback(setattr, norm, "momentum", momentum)
            self.stack.callback(setattr, norm, "num_batches_tracked", count)
            norm.momentum, norm.num_batches_tracked = 0.0, None if count is None else count.clone()

    def __exit__(self, *error: object) -> None:
        self.stack.close()
