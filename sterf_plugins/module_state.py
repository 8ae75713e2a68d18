"""What the modules of a model keep between calls besides parameters, and how all of it is put back."""

import random
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from .checks import has_statistics

_PLAIN = (int, float, complex, str, np.generic, torch.dtype, torch.device)
_HOLDERS = (list, dict, set, deque)
_GENERATORS = (torch.Generator, np.random.Generator, np.random.RandomState, random.Random)
# Libraries whose objects keep no state of a model; `types`, `collections` and `queue` have namespaces, lists and queues that do.
_OTHERS = {*sys.stdlib_module_names, "torch", "numpy"} - {"types", "collections", "queue"}
_DEPTH = 6  # how far lists, dicts and other objects are looked into
_OF_ALL_MODULES = frozenset(vars(nn.Module()))


class ModuleState:
    """What the modules of a model keep between calls, besides parameters: tensors, plain values, and what holds these.

    These are buffers and attributes, such as the membrane potentials of neurons, the state of a recurrent cell, a counter of
    steps, a random generator, or a table of positions and the size that it was made for, which belong together; they may be in
    lists, dicts, dataclasses and other objects, of a module or of its class, or in modules in a list that is no ``ModuleList``.
    The statistics of norms are put back in the end alone, since they may be calibrated in between. Parameters that are ``frozen``
    are put back as buffers are, for some models keep a state in one; of others, in which each value would take as much memory
    again, those that the model has replaced are. Of a module that has made itself parameters or modules in its first call, plain
    values stay as that call left them, for they may say that it has. Hooks that a model has given its modules in its first call
    are taken away, as the note that it has is: Hugging Face's models collect hidden states so.
    """

    def __init__(self, model: nn.Module, frozen: Iterable[nn.Parameter] = ()):
        listed = list(model.modules())
        values = [v for m in listed if not has_statistics(m) for v in _contents(m)]
        found = list(_changeable(values, but=listed))
        unlisted = [v for v in found if isinstance(v, nn.Module)]
        modules = [m for m in (*listed, *unlisted) if not has_statistics(m)]
        self._made_of = {m: _made_of(m) for m in (*listed, *unlisted)}
        own = {m: {} if isinstance(m, torch.jit.ScriptModule) else dict(m._parameters) for m in modules}
        self._modules = [(m, dict(vars(m)), dict(m._buffers), own[m]) for m in modules]
        plain = [p for p in model.parameters() if not is_lazy(p) and type(p.data) is Tensor]
        self._data = [(p, p.data) for p in plain]
        self._statistics = [(b, b.clone()) for m in listed if has_statistics(m) for b in m.buffers(recurse=False)]
        self._hooks = [(m, set(m._forward_hooks) | set(m._forward_pre_hooks)) for m in listed]
        direct = {id(v) for v in values}  # of what these hold, only what has tensors is a state
        self._copies = [
            (v, _copy(v), _is_state if id(v) in direct else _holds_tensors)
            for v in (*found, *frozen)
            if not isinstance(v, nn.Module)
        ]

    def restore(self, statistics: bool = False) -> None:
        """Put everything back: other objects than before, and other contents of the same objects; of norms with ``statistics``."""
        grown = {module for module, made_of in self._made_of.items() if _made_of(module) != made_of}
        for module, hooks in self._hooks:
            if module not in grown:
                _remove_new_hooks(module, hooks)
        for module, attributes, buffers, parameters in self._modules:
            _put_back_attributes(module, attributes, _holds_tensors if module in grown else _is_state)
            for name, value in list(module._buffers.items()):
                if name not in buffers:
                    delattr(module, name)
                elif value is not buffers[name]:
                    setattr(module, name, buffers[name])
            for name, value in parameters.items():
                if value is not None and module._parameters[name] is not value:
                    module._parameters[name] = value
        for parameter, data in self._data:  # of another type while `in_type` is at work
            if parameter.dtype == data.dtype and parameter.data_ptr() != data.data_ptr():
                parameter.data = data
        for value, content, kept in self._copies:
            _put_back(value, content, kept)
        for value, content in self._statistics if statistics else ():
            _put_back(value, content, _is_state)


def _remove_new_hooks(module: nn.Module, but: set[int]) -> None:
    """Remove the hooks of a module's forward pass that are neither among some, by their number, nor of this package."""
    for hooks in (module._forward_hooks, module._forward_pre_hooks):
        for number, hook in list(hooks.items()):
            if number not in but and not str(getattr(hook, "__module__", "")).startswith(f"{__package__}."):
                del hooks[number]


def _put_back_attributes(owner: Any, before: dict[str, Any], kept: Callable[[Any], bool]) -> None:
    """Let an object have those attributes again that it had before, as far as either value is one that is ``kept``."""
    now = vars(owner)
    for name in (now.keys() | before) - _OF_ALL_MODULES:
        if name not in before:
            if kept(now[name]):
                delattr(owner, name)
        elif name not in now or (now[name] is not before[name] and (kept(now[name]) or kept(before[name]))):
            setattr(owner, name, before[name])


def _put_back(value: Any, content: Any, kept: Callable[[Any], bool]) -> None:
    """Let what ``_changeable`` names have the content again of which ``_copy`` made a copy, if either is ``kept``."""
    if isinstance(value, Tensor):
        if value.shape != content.shape:
            value.data = content.clone()
        elif not torch.equal(value, content.to(value.dtype)):
            value.detach().copy_(content)
    elif isinstance(value, np.ndarray):
        if not np.array_equal(value, content):
            value[...] = content
    elif isinstance(value, _GENERATORS):
        _set_random_state(value, content)
    elif not isinstance(value, _HOLDERS):
        if not _same_entries(vars(value), content) and (
            kept is _is_state or _holds_tensors(value) or _holds_tensors(content)
        ):
            _put_back_attributes(value, content, _is_state)
    elif not _same_entries(value, content) and (kept(value) or kept(content)):
        value.clear()
        add = value.update if isinstance(value, (dict, set)) else value.extend
        add(content)


def _changeable(values: list[Any], but: list[nn.Module]) -> Iterator[Any]:
    """The tensors, lists, dicts and other objects that some values are or hold, each once; ``but`` are the model's modules."""
    seen = {id(module) for module in but}
    for _ in range(_DEPTH):
        values = list({id(v): v for v in values if id(v) not in seen}.values())
        seen |= {id(v) for v in values}
        yield from (v for v in values if isinstance(v, (*_HOLDERS, *_GENERATORS)) or _is_record(v) or _is_array(v))
        values = [inner for v in values for inner in _contents(v)]


def _same_entries(value: Any, content: Any) -> bool:
    """Whether a list, dict or other holder has the very entries that a copy of it has."""
    if isinstance(value, dict):
        value, content = [*value.keys(), *value.values()], [*content.keys(), *content.values()]
    return len(value) == len(content) and all(a is b for a, b in zip(value, content, strict=True))


def _contents(value: Any) -> list[Any]:
    """What a list, dict or other object holds."""
    if isinstance(value, (list, tuple, set, deque)):
        return list(value)
    if isinstance(value, dict):
        return list(value.values())
    if not _is_record(value):
        return []
    registered = [*value.buffers(recurse=False), *value.children()] if isinstance(value, nn.Module) else []
    own = [inner for name, inner in vars(value).items() if name not in _OF_ALL_MODULES]
    return [*registered, *own, *_of_class(type(value))]


def _of_class(kind: type) -> list[Any]:
    """The lists, dicts and tensors of a class and its bases, which all of its objects share."""
    classes = [c for c in kind.__mro__ if _library(c) not in _OTHERS]
    entries = [entry for c in classes for entry in vars(c).items()]
    return [v for name, v in entries if not name.startswith("__") and (isinstance(v, _HOLDERS) or _is_array(v))]


def _library(kind: type) -> str:
    return kind.__module__.partition(".")[0]


def _is_record(value: Any) -> bool:
    """Whether a value is an object with attributes that a model's author may have made to keep a state."""
    if isinstance(value, nn.Module):
        return True
    return hasattr(value, "__dict__") and not isinstance(value, type) and _library(type(value)) not in _OTHERS


def _is_array(value: Any) -> bool:
    """Whether a value is a tensor, but no parameter, or an array of NumPy."""
    return isinstance(value, (Tensor, np.ndarray)) and not isinstance(value, nn.Parameter)


def _holds_tensors(value: Any, depth: int = _DEPTH) -> bool:
    """Whether a value is a tensor, but no parameter, or holds one; ``depth`` says how far to look."""
    if isinstance(value, (Tensor, np.ndarray)):
        return _is_array(value)
    return depth > 0 and any(_holds_tensors(v, depth - 1) for v in _contents(value))


def _is_state(value: Any) -> bool:
    """Whether a value is a tensor, a plain one such as a number, or holds such values alone, or a tensor."""
    if isinstance(value, (tuple, *_HOLDERS)):
        return all(map(_is_state, _contents(value))) or _holds_tensors(value)
    return value is None or isinstance(value, (*_PLAIN, *_GENERATORS)) or _holds_tensors(value)


def _made_of(module: nn.Module) -> list[list[str]]:
    """Names of a module's own parameters and modules."""
    own = (module._parameters, module._modules)
    return [[name for name, value in entries.items() if value is not None] for entries in own]


def _copy(value: Any) -> Any:
    """A copy that later changes of the value do not reach, of an object that of its attributes; what it holds is not copied."""
    if isinstance(value, Tensor):
        return value.detach().clone()
    if isinstance(value, np.ndarray):
        return value.copy()
    if isinstance(value, _GENERATORS):
        return _random_state(value)
    if isinstance(value, dict):
        return dict(value)
    return list(value) if isinstance(value, _HOLDERS) else dict(vars(value))


def _random_state(generator: Any) -> Any:
    """The state of a random generator of PyTorch, NumPy or Python."""
    if isinstance(generator, np.random.Generator):
        return generator.bit_generator.state
    return generator.getstate() if isinstance(generator, random.Random) else generator.get_state()


def _set_random_state(generator: Any, state: Any) -> None:
    """Let a random generator have a state again that ``_random_state`` gave."""
    if isinstance(generator, np.random.Generator):
        generator.bit_generator.state = state
    elif isinstance(generator, random.Random):
        generator.setstate(state)
    else:
        generator.set_state(state)
