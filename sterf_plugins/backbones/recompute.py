"""Less memory in training: tensors for the backward pass are computed again there instead of being kept.

PyTorch's activation checkpointing does the work; this module says what is kept. A spiking layer needs three tensors for
its gradients: the result of its convolution or matrix product, the norm's output, and the spikes. The first takes two
thirds of the time of a forward pass; the other two are cheap to compute again. ``PRODUCTS`` therefore keeps the first
alone.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint, create_selective_checkpoint_contexts, set_checkpoint_early_stop

from ..checks import has_statistics
from ..undisturbed import transformed

_aten = torch.ops.aten
# operators whose results are worth keeping: convolutions and matrix products
PRODUCTS = (
    _aten.convolution.default,
    _aten.mm.default,
    _aten.addmm.default,
    _aten.bmm.default,
    _aten.baddbmm.default,
)


def recomputed(function: Callable[[Tensor], Tensor], x: Tensor, module: nn.Module, kept: Sequence = ()) -> Tensor:
    """Compute ``function(x)`` and keep only ``x`` and the results of some operators for the backward pass.

    The backward pass runs ``function`` a second time. BatchNorm's running statistics do not change then, so that every
    image counts once. While ``torch.compile`` traces, ``kept`` has no effect, since the compiler itself chooses what to
    keep.

    Args:
        function: a part of a network, a function of one tensor; it has no side effects besides BatchNorm's.
        x: its input.
        module: the module that ``function`` runs; its BatchNorms are the ones that are protected.
        kept: operators whose results are kept, such as ``PRODUCTS``.

    Raises:
        RuntimeError: ``torch.func`` is at work, which PyTorch's checkpointing does not support.
    """
    if transformed():
        raise RuntimeError(
            "torch.func (grad, vmap, jvp, ...) and forward-mode differentiation do not work with recomputation; set "
            "`model.memory_efficient = False` and `model.grad_checkpointing = False`."
        )
    if torch.compiler.is_compiling():  # our contexts cannot be traced
        return function(x) if kept else checkpoint(function, x, use_reentrant=False)
    # The repeated pass runs to its end. PyTorch would end it at the last tensor that is saved, by an exception; where an
    # autograd function of Python saves that tensor, as our neurons do, everything that the function holds would stay for ever.
    with set_checkpoint_early_stop(False):
        return checkpoint(function, x, use_reentrant=False, context_fn=lambda: _contexts(module, kept))


def _contexts(module: nn.Module, kept: Sequence) -> tuple[AbstractContextManager, AbstractContextManager]:
    """The context in which the forward pass runs, and the one in which it is repeated."""
    forward, repetition = create_selective_checkpoint_contexts(list(kept)) if kept else (nullcontext(), nullcontext())
    return forward, _Repetition(module, repetition, once=bool(kept))


class _Repetition:
    """The context of a repeated forward pass: BatchNorm's running statistics stay as they are inside.

    With ``once`` the pass can be repeated a single time, since kept results are given up when they have been used.
    """

    def __init__(self, module: nn.Module, context: AbstractContextManager, once: bool):
        self.norms: list[Any] = [m for m in module.modules() if has_statistics(m)]
        self.context = context
        self.once, self.entered = once, False

    def __enter__(self) -> None:
        if self.once and self.entered:
            raise RuntimeError(
                "`memory_efficient` keeps results for one backward pass; for a second one through the same forward pass "
                "or for second derivatives set `model.memory_efficient = False` (`grad_checkpointing` has both)."
            )
        self.entered = True
        self.stack = ExitStack()
        for norm in self.norms:
            # Momentum 0 leaves the statistics as they are; the counter is replaced by a copy that is thrown away.
            momentum, count = norm.momentum, norm.num_batches_tracked
            self.stack.callback(setattr, norm, "momentum", momentum)
            self.stack.callback(setattr, norm, "num_batches_tracked", count)
            norm.momentum, norm.num_batches_tracked = 0.0, None if count is None else count.clone()
        self.stack.enter_context(self.context)  # last, for it takes every operator as one of the pass, our copies too

    def __exit__(self, *error: object) -> None:
        self.stack.close()
