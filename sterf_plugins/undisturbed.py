"""Run a model without a trace: its state and the process's random states and settings are restored afterwards."""

import pickle
import random
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import numpy as np
import torch
import torch.utils.checkpoint
from torch import Tensor, nn

from .module_state import ModuleState

# Flags that make a model recompute its forward in the backward: re-entrant checkpointing forbids autograd.grad, and
# recomputing once per layer costs more than it saves.
_CHECKPOINT_FLAGS = ("with_cp", "grad_checkpointing", "use_checkpoint", "gradient_checkpointing", "memory_efficient")


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
    frozen = [p for p in model.parameters() if not p.requires_grad]

    with preserved_random_state(), changed(settings):
        state = ModuleState(model, frozen)

        def start_afresh() -> None:
            state.restore()
            for node in nodes:
                forget(node)

        try:
            yield start_afresh
        finally:
            state.restore(statistics=True)


@contextmanager
def changed(settings: list[tuple[Any, str, Any]]) -> Iterator[None]:
    """Inside, each attribute of the list of (owner, name, value) has that value; afterwards the one it had before."""
    before = [(owner, name, getattr(owner, name), name in vars(owner)) for owner, name, _ in settings]
    try:
        for owner, name, value in settings:
            setattr(owner, name, value)
        yield
    finally:
        for owner, name, value, own in before:
            setattr(owner, name, value)
            if not own and name in vars(owner):
                delattr(owner, name)  # it was its class's


def recurrent_steps(model: nn.Module) -> AbstractContextManager[None]:
    """Inside, recurrent layers of the model run step by step: the libraries' kernels for all steps at once are switched off."""
    libraries: tuple[Any, ...] = (torch.backends.mkldnn, torch.backends.cudnn)
    recurrent = any(isinstance(module, nn.RNNBase) for module in model.modules())
    return changed([(library, "enabled", False) for library in libraries if recurrent])


@contextmanager
def hooked(handles: Iterable[Any]) -> Iterator[None]:
    """Inside, the hooks of these handles, as PyTorch returns them for each, are at work; afterwards they are removed."""
    handles = list(handles)
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def tensors_in(value: object) -> list[Tensor]:
    """The tensors in a module's arguments or output: a tensor, or sequences and mappings of such values, in order."""
    if isinstance(value, Tensor):
        return [value]
    parts = value.values() if isinstance(value, Mapping) else value if isinstance(value, (list, tuple)) else ()
    return [tensor for part in parts for tensor in tensors_in(part)]


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


def in_backward_pass() -> bool:
    """Whether this code runs in a backward pass, in which recomputation runs modules, and their hooks, a second time."""
    return torch._C._current_graph_task_id() != -1


def random_states() -> list[bytes]:
    """The states of the random generators of torch, numpy and Python; other ones show that numbers have been drawn."""
    cpu, gpus, numpy_state, python_state = _present_states()
    return [*(state.numpy().tobytes() for state in (cpu, *gpus)), pickle.dumps(numpy_state), pickle.dumps(python_state)]


@contextmanager
def preserved_random_state() -> Iterator[None]:
    """Inside, random numbers may be drawn; afterwards the random states of torch, numpy and Python are as before."""
    back = random_start()
    try:
        yield
    finally:
        back()


def random_start() -> Callable[[], None]:
    """A function that sets the random generators of torch, numpy and Python back to where they are now."""
    cpu, gpus, numpy_state, python_state = _present_states()

    def back() -> None:
        torch.set_rng_state(cpu)
        if gpus:
            torch.cuda.set_rng_state_all(gpus)
        np.random.set_state(numpy_state)
        random.setstate(python_state)

    return back


def _present_states() -> tuple[Tensor, list[Tensor], Any, Any]:
    """The states of the random generators of torch on the CPU and on each GPU, of numpy and of Python."""
    gpus = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
    return torch.get_rng_state(), gpus, np.random.get_state(), random.getstate()


def transformed() -> bool:
    """Whether ``torch.func`` (grad, vmap, jvp, ...) or forward-mode differentiation is at work.

    Our short backward passes are for ordinary ``backward`` alone. Here ordinary operations run in their place, which
    PyTorch can transform in any way.
    """
    return torch._C._are_functorch_transforms_active() or torch.autograd.forward_ad._current_level >= 0
