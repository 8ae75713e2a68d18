"""Run a model without a trace: its state and the process's random states and settings are restored afterwards."""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
import torch.utils.checkpoint
from torch import nn

# Flags that make a model recompute its forward in the backward: re-entrant checkpointing forbids autograd.grad, and
# recomputing once per layer costs more than it saves.
_CHECKPOINT_FLAGS = ("with_cp", "grad_checkpointing", "use_checkpoint", "gradient_checkpointing", "memory_efficient")


@contextmanager
def undisturbed(model: nn.Module) -> Iterator[None]:
    """Inside, the model is in eval mode, without parameter gradients and checkpointing; afterwards it is as before.

    Restores each module's own training flag (they may differ: ``norm_eval``, frozen stages), ``requires_grad``, the
    checkpointing flags, the state of stateful neurons, and the random states of torch, numpy and Python.
    """
    settings: list[tuple[Any, str, Any]] = [(torch.utils.checkpoint, "CheckpointFunction", _PlainCall)]
    for m in model.modules():
        settings.append((m, "training", False))
        settings += [(m, name, False) for name in _CHECKPOINT_FLAGS if isinstance(getattr(m, name, None), bool)]
    settings += [(p, "requires_grad", False) for p in model.parameters()]
    with preserved_random_state(), _kept_states(model), changed(settings):
        yield


@contextmanager
def changed(settings: list[tuple[Any, str, Any]]) -> Iterator[None]:
    """Inside, each attribute of the list of (owner, name, value) has that value; afterwards the one it had before."""
    before = [(owner, name, getattr(owner, name)) for owner, name, _ in settings]
    try:
        for owner, name, value in settings:
            setattr(owner, name, value)
        yield
    finally:
        for owner, name, value in before:
            setattr(owner, name, value)


def stateful(model: nn.Module) -> list[Any]:
    """Modules that keep a state between calls, as SpikingJelly's neurons do: ``reset()`` and ``named_memories()``."""
    return [
        m
        for m in model.modules()
        if callable(getattr(m, "named_memories", None)) and callable(getattr(m, "reset", None))
    ]


def reset_states(model: nn.Module) -> None:
    """Let every module that keeps a state between calls forget it."""
    for module in stateful(model):
        module.reset()


@contextmanager
def _kept_states(model: nn.Module) -> Iterator[None]:
    """Afterwards neurons have the states that they had before."""
    states = [(m, dict(m.named_memories())) for m in stateful(model)]
    try:
        yield
    finally:
        for m, memories in states:
            for name in dict(m.named_memories()).keys() - memories.keys():
                delattr(m, name)
            for name, value in memories.items():
                setattr(m, name, value)


class _PlainCall:
    """Takes the place of torch's re-entrant checkpoint function, and runs what it is given without checkpointing.

    The flags above do not cover all uses: modules import ``checkpoint`` by name, and mmengine wraps forwards.
    """

    @staticmethod
    def apply(run_function, preserve_rng_state, *args):
        return run_function(*args)


@contextmanager
def exact_kernels() -> Iterator[None]:
    """Inside, CUDA computes deterministic convolutions and full float32; a rounded product can flip a spike."""
    matmul: Any = torch.backends.cuda.matmul
    cudnn: Any = torch.backends.cudnn
    settings: list[tuple[Any, str, Any]] = [(cudnn, "benchmark", False), (cudnn, "deterministic", True)]
    if hasattr(matmul, "fp32_precision"):  # from PyTorch 2.9 on, which allows one of the two ways only
        settings += [(matmul, "fp32_precision", "ieee"), (cudnn.conv, "fp32_precision", "ieee")]
    else:
        settings += [(matmul, "allow_tf32", False), (cudnn, "allow_tf32", False)]
    with changed(settings):
        yield


@contextmanager
def preserved_random_state() -> Iterator[None]:
    """Inside, random numbers may be drawn; afterwards the random states of torch, numpy and Python are as before."""
    numpy_state, python_state = np.random.get_state(), random.getstate()
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else []
    with torch.random.fork_rng(devices=list(devices)):
        try:
            yield
        finally:
            np.random.set_state(numpy_state)
            random.setstate(python_state)
