"""Run a model without a trace: its state and the process's random states and settings are restored afterwards."""

import random
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
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


@contextmanager
def hooked(handles: Iterable[Any]) -> Iterator[None]:
    """Inside, the hooks of these handles, as PyTorch returns them for each, are at work; afterwards they are removed."""
    handles = list(handles)
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def stateful(model: nn.Module) -> list[Any]:
    """Neurons that keep a state between calls.

    SpikingJelly's have ``reset()`` and ``named_memories()``; snnTorch's have ``reset_mem()`` and ``init_hidden``, and begin with
    the state of their last call even where that is ``False``, unless they are given another one.
    """
    return [m for m in model.modules() if _of_spikingjelly(m) or _of_snntorch(m)]


def _of_spikingjelly(module: Any) -> bool:
    kind = type(module)  # whose attributes are found faster than those of a module
    return hasattr(kind, "named_memories") and hasattr(kind, "reset")


def _of_snntorch(module: Any) -> bool:
    return hasattr(type(module), "reset_mem") and hasattr(module, "init_hidden")


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
    """What the modules of a model keep between calls, besides parameters: tensors, plain values, and what holds these.

    These are buffers and attributes, such as the membrane potentials of neurons, the state of a recurrent cell, a counter of
    steps, or a table of positions and the size that it was made for, which belong together; they may be in lists, dicts,
    dataclasses and other objects, or in modules in a list that is no ``ModuleList``. The statistics of norms do not
    belong to them: a forward pass in eval mode leaves them alone. Of a module that has made itself parameters or modules in
    its first call, plain values stay as that call left them, for they may say that it has. Hooks that a model has given its
    modules in its first call are taken away, as the note that it has is: Hugging Face's models collect hidden states so.
    """

    def __init__(self, model: nn.Module):
        listed = list(model.modules())
        values = [v for m in listed if not has_statistics(m) for v in _held(m)]
        held = list(_changeable(values, but=listed))
        unlisted = [v for v in held if isinstance(v, nn.Module)]
        modules = [m for m in (*listed, *unlisted) if not has_statistics(m)]
        self._made_of = {m: _made_of(m) for m in (*listed, *unlisted)}
        self._modules = [(m, dict(vars(m)), dict(m._buffers)) for m in modules]
        self._hooks = [(m, set(m._forward_hooks) | set(m._forward_pre_hooks)) for m in listed]
        direct = {id(v) for v in values}  # of what these hold, only what has tensors is a state
        self._contents = [
            (v, _copy(v), _is_state if id(v) in direct else _holds_tensors)
            for v in held
            if not isinstance(v, nn.Module)
        ]

    def restore(self) -> None:
        """Put everything back: other objects than before, and other contents of the same objects."""
        grown = {module for module, made_of in self._made_of.items() if _made_of(module) != made_of}
        for module, hooks in self._hooks:
            if module not in grown:
                _take_away_hooks(module, hooks)
        for module, attributes, buffers in self._modules:
            _put_back_attributes(module, attributes, _holds_tensors if module in grown else _is_state)
            for name, value in list(module._buffers.items()):
                if name not in buffers:
                    delattr(module, name)
                elif value is not buffers[name]:
                    setattr(module, name, buffers[name])
        for value, content, kept in self._contents:
            _put_back(value, content, kept)


def _take_away_hooks(module: nn.Module, but: set[int]) -> None:
    """Remove the hooks of a module's forward pass that are neither among some, by their number, nor of this package."""
    for hooks in (module._forward_hooks, module._forward_pre_hooks):
        for number, hook in list(hooks.items()):
            if number not in but and not str(getattr(hook, "__module__", "")).startswith(f"{__package__}."):
                del hooks[number]


def _put_back_attributes(owner: Any, before: dict[str, Any], kept: Callable[[Any], bool]) -> None:
    """Let an object have those attributes again that it had before, as far as either value is one that is ``kept``."""
    now = vars(owner)
    for name in now.keys() - _OF_ALL_MODULES:
        value = now[name]
        if name not in before and kept(value):
            delattr(owner, name)
        elif name in before and value is not before[name] and (kept(value) or kept(before[name])):
            setattr(owner, name, before[name])


def _put_back(value: Any, content: Any, kept: Callable[[Any], bool]) -> None:
    """Let what ``_changeable`` names have the content again of which ``_copy`` made a copy, if either is ``kept``."""
    if isinstance(value, Tensor):
        if not torch.equal(value, content):
            value.detach().copy_(content)
    elif not isinstance(value, _HOLDERS):
        if not _same_entries(vars(value), content) and (_holds_tensors(value) or _holds_tensors(content)):
            _put_back_attributes(value, content, _is_state)
    elif not _same_entries(value, content) and (kept(value) or kept(content)):
        value.clear()
        add = value.update if isinstance(value, (dict, set)) else value.extend
        add(content)


_HOLDERS = (list, dict, set, deque)
_DEPTH = 6  # how far lists, dicts and other objects are looked into


def _changeable(values: list[Any], but: list[nn.Module]) -> Iterator[Any]:
    """The tensors, lists, dicts and other objects that some values are or hold, each once; ``but`` are the model's modules."""
    seen = {id(module) for module in but}
    for _ in range(_DEPTH):
        values = list({id(v): v for v in values if id(v) not in seen}.values())
        seen |= {id(v) for v in values}
        yield from (v for v in values if isinstance(v, _HOLDERS) or _is_record(v) or _is_tensor(v))
        values = [inner for v in values for inner in _held(v)]


def _same_entries(value: Any, content: Any) -> bool:
    """Whether a list, dict or other holder has the very entries that a copy of it has."""
    if isinstance(value, dict):
        value, content = [*value.keys(), *value.values()], [*content.keys(), *content.values()]
    return len(value) == len(content) and all(a is b for a, b in zip(value, content, strict=True))


def _held(value: Any) -> list[Any]:
    """What a list, dict or other object holds."""
    if isinstance(value, (list, tuple, set, deque)):
        return list(value)
    if isinstance(value, dict):
        return list(value.values())
    if not _is_record(value):
        return []
    registered = [*value.buffers(recurse=False), *value.children()] if isinstance(value, nn.Module) else []
    return [*registered, *_own(vars(value)).values()]


def _is_record(value: Any) -> bool:
    """Whether a value is an object with attributes that a model's author may have made to keep a state."""
    library = type(value).__module__.partition(".")[0]
    if isinstance(value, nn.Module):
        return True
    return (
        hasattr(value, "__dict__")
        and not callable(value)
        and library not in {*sys.stdlib_module_names, "torch", "numpy"}
    )


def _is_tensor(value: Any) -> bool:
    """Whether a value is a tensor, but no parameter."""
    return isinstance(value, Tensor) and not isinstance(value, nn.Parameter)


def _own(attributes: dict[str, Any]) -> dict[str, Any]:
    """An object's attributes without those that every module has."""
    return {name: value for name, value in attributes.items() if name not in _OF_ALL_MODULES}


def _holds_tensors(value: Any, depth: int = _DEPTH) -> bool:
    """Whether a value is a tensor, but no parameter, or holds one; ``depth`` says how far to look."""
    if isinstance(value, Tensor):
        return _is_tensor(value)
    return depth > 0 and any(_holds_tensors(v, depth - 1) for v in _held(value))


def _is_state(value: Any) -> bool:
    """Whether a value is a tensor, a plain one such as a number, or holds such values alone, or a tensor."""
    if isinstance(value, (tuple, *_HOLDERS)):
        return all(map(_is_state, _held(value))) or _holds_tensors(value)
    return value is None or isinstance(value, _PLAIN) or _holds_tensors(value)


def _made_of(module: nn.Module) -> list[list[str]]:
    """Names of a module's own parameters and modules."""
    own = (module._parameters, module._modules)
    return [[name for name, value in entries.items() if value is not None] for entries in own]


def _copy(value: Any) -> Any:
    """A copy that later changes of the value do not reach, of an object that of its attributes; what it holds is not copied."""
    if isinstance(value, Tensor):
        return value.detach().clone()
    if isinstance(value, dict):
        return dict(value)
    return list(value) if isinstance(value, _HOLDERS) else dict(vars(value))


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
