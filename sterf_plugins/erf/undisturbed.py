"""Leave a model exactly as it was found."""

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import nn

# Flags that make a model recompute its forward in the backward: re-entrant checkpointing forbids autograd.grad, and
# hooks would see the recomputation as a second pass.
_CHECKPOINT_FLAGS = ("with_cp", "grad_checkpointing", "use_checkpoint", "gradient_checkpointing")


@contextmanager
def undisturbed(model: nn.Module) -> Iterator[None]:
    """Evaluation mode, no parameter gradients and no checkpointing inside; everything as before outside.

    Restores each module's own training flag (they may differ: ``norm_eval``, frozen stages), ``requires_grad``,
    the checkpointing flags, and the random states of torch (all devices), numpy and Python.
    """
    training = [(m, m.training) for m in model.modules()]
    requires_grad = [(p, p.requires_grad) for p in model.parameters()]
    flags = [
        (m, name, getattr(m, name))
        for m in model.modules()
        for name in _CHECKPOINT_FLAGS
        if isinstance(getattr(m, name, None), bool)
    ]
    with preserved_random_state():
        try:
            for m, _ in training:
                m.training = False
            for p, _ in requires_grad:
                p.requires_grad_(False)
            for m, name, _ in flags:
                setattr(m, name, False)
            yield
        finally:
            for m, flag in training:
                m.training = flag
            for p, flag in requires_grad:
                p.requires_grad_(flag)
            for m, name, flag in flags:
                setattr(m, name, flag)


@contextmanager
def preserved_random_state() -> Iterator[None]:
    """Put the random states of torch, numpy and Python back at the end."""
    numpy_state, python_state = np.random.get_state(), random.getstate()
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else []
    with torch.random.fork_rng(devices=list(devices)):
        try:
            yield
        finally:
            np.random.set_state(numpy_state)
            random.setstate(python_state)
