"""Run a model without a trace: its state and the process's random states and settings are restored afterwards."""

import random
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import numpy as np
import torch
import torch.utils.checkpoint
from torch import Tensor, nn

from .checks import has_statistics

# Flags that make a model recompute its forward in the backward: re-entrant checkpointing forbids autograd.grad, and
# recomputing once per layer costs more than it saves.
_CHECKPOINT_FLAGS = ("with_cp", "grad_checkpointing", "use_checkpoint", "gradient_checkpointing", "memory_efficient")

_PLAIN = (int, float, complex, str, torch.dtype, torch.device)

_OF_ALL_MODULES = frozenset(vars(nn.Module()))


@contextmanager
def undisturbed(model: nn.Module) -> Iterator[Callable[[], None]]:
    """Inside, the model is in eval mode, without parameter gradients and checkpointing; afterwards it is as before.

    Restores each module's own training flag (they may differ: ``norm_eval``, frozen stages), ``requires_grad``, the
    checkpointing flags, what modules keep between calls, and the random states of torch, numpy and Python.

    Yields:
        A function that lets the model start afresh: neurons without a state, and all else that modules keep between calls
        as it was at the beginning.
    """
    settings: list[tuple[Any, str, Any]] = [(torch.utils.checkpoint, "CheckpointFunction", _PlainCall)]
    for m in model.modules():
        settings.append((m, "training", False))
        settings += [(m, name, False) for name in _CHECKPOINT_FLAGS if isinstance(getattr(m, name, None), bool)]
    settings += [(p, "requires_grad", False) for p in model.parameters()]
    nodes = stateful(model)

    with preserved_random_state(), changed(settings):
        kept = _Kept(model)

        def start_afresh() -> None:
            kept.restore()
            for node in nodes:
                forget(node)

        try:
            yield start_afresh
        finally:
            kept.restore()


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
    """Neurons that keep a state between calls.

    SpikingJelly's have ``reset()`` and ``named_memories()``; snnTorch's have ``reset_mem()`` and ``init_hidden``, and begin with
    the state of their last call even where that is ``False``, unless they are given another one.
    """
    return [m for m in model.modules() if _of_spikingjelly(m) or _of_snntorch(m)]


def _of_spikingjelly(module: Any) -> bool:
    return callable(getattr(module, "named_memories", None)) and callable(getattr(module, "reset", None))


def _of_snntorch(module: Any) -> bool:
    return hasattr(module, "init_hidden") and callable(getattr(module, "reset_mem", None))


def forget(neuron: Any) -> None:
    """Let a neuron that keeps a state between calls forget it."""
    if _of_spikingjelly(neuron):
        neuron.reset()
    else:
        neuron.reset_mem()


def reset_states(model: nn.Module) -> None:
    """Let every neuron that keeps a state between calls forget it."""
    for neuron in stateful(model):
        forget(neuron)


class _Kept:
    """What the modules of a model keep between calls, besides parameters: tensors, plain values, and lists and dicts of them.

    These are buffers and attributes, such as the membrane potentials of neurons, the state of a recurrent cell, a counter of
    steps, or a table of positions and the size that it was made for, which belong together. The statistics of norms do not
    belong to them: a forward pass in eval mode leaves them alone. Of a module that has made itself parameters or modules in
    its first call, plain values stay as that call left them, for they may say that it has. Hooks that a model has given its
    modules in its first call are taken away, as the note that it has is: Hugging Face's models collect hidden states so.
    """

    def __init__(self, model: nn.Module):
        modules = [m for m in model.modules() if not has_statistics(m)]
        self._modules = [(m, dict(vars(m)), dict(m.named_buffers(recurse=False)), _made_of(m)) for m in modules]
        self._hooks = [(m, set(m._forward_hooks) | set(m._forward_pre_hooks), _made_of(m)) for m in model.modules()]
        values = [
            v for _, attributes, buffers, _ in self._modules for v in (*_own(attributes).values(), *buffers.values())
        ]
        self._contents = [(v, _copy(v)) for v in values if isinstance(v, (list, dict)) or _holds_tensors(v)]

    def restore(self) -> None:
        """Put everything back: other objects than before, and other contents of the same objects."""
        for module, hooks, made_of in self._hooks:
            if _made_of(module) == made_of:
                _take_away_hooks(module, hooks)
        for module, attributes, buffers, made_of in self._modules:
            kept = _holds_tensors if _made_of(module) != made_of else _is_state
            for name, value in _own(vars(module)).items():
                if name not in attributes and kept(value):
                    delattr(module, name)
                elif value is not attributes.get(name) and (kept(value) or kept(attributes.get(name))):
                    setattr(module, name, attributes[name])
            for name, value in dict(module.named_buffers(recurse=False)).items():
                if value is not buffers.get(name, value):
                    setattr(module, name, buffers[name])
        for value, content in self._contents:
            if not _is_state(value) and not _is_state(content):
                continue
            if isinstance(value, dict):
                value.clear()
                value.update(content)
            elif isinstance(value, list):
                value[:] = content
            elif isinstance(value, Tensor) and not torch.equal(value, content):
                value.detach().copy_(content)


def _take_away_hooks(module: nn.Module, but: set[int]) -> None:
    """Remove the hooks of a module's forward pass that are neither among some, by their number, nor of this package."""
    for hooks in (module._forward_hooks, module._forward_pre_hooks):
        for number, hook in list(hooks.items()):
            if number not in but and not str(getattr(hook, "__module__", "")).startswith(f"{__package__}."):
                del hooks[number]


def _own(attributes: dict[str, Any]) -> dict[str, Any]:
    """A module's attributes without those that every module has."""
    return {name: value for name, value in attributes.items() if name not in _OF_ALL_MODULES}


def _holds_tensors(value: Any) -> bool:
    """Whether a value is a tensor, but no parameter, or a list, tuple or dict with one in it."""
    if isinstance(value, (list, tuple)):
        return any(map(_holds_tensors, value))
    if isinstance(value, dict):
        return any(map(_holds_tensors, value.values()))
    return isinstance(value, Tensor) and not isinstance(value, nn.Parameter)


def _is_state(value: Any) -> bool:
    """Whether a value is a tensor, a plain one such as a number, or a list, tuple or dict of such values or with a tensor."""
    if isinstance(value, (list, tuple)):
        return all(map(_is_state, value)) or _holds_tensors(value)
    if isinstance(value, dict):
        return all(map(_is_state, value.values())) or _holds_tensors(value)
    return value is None or isinstance(value, _PLAIN) or _holds_tensors(value)


def _made_of(module: nn.Module) -> tuple[list[str], list[str]]:
    """Names of a module's own parameters and modules."""
    return list(dict(module.named_parameters(recurse=False))), list(dict(module.named_children()))


def _copy(value: Any) -> Any:
    """A copy that later changes of the value do not reach; tensors inside of containers are not copied."""
    if isinstance(value, Tensor):
        return value.detach().clone()
    return value.copy() if isinstance(value, (list, dict)) else value


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


def uncompiled() -> AbstractContextManager:
    """Inside, what ``torch.compile`` has compiled runs as it was written, for it would compile each of our hooks as well."""
    loaded = "torch._dynamo" in sys.modules  # without it nothing is compiled, and its import takes a second
    return torch.compiler.set_stance("force_eager") if loaded else nullcontext()


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
