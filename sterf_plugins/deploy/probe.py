"""One forward pass that tells in which order the layers of a model run, and on what."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves


@dataclass
class Call:
    """One call of a module. Tensors are kept, so that no address is used twice; others may overwrite them later."""

    name: str
    module: nn.Module
    input: Tensor
    output: Tensor
    writes: tuple[int, int]  # how often input and output had been written to


def example_for(model: nn.Module, example: Tensor | None) -> Tensor:
    """The given example, or a random image for one of our backbones.

    Raises:
        ValueError: the model does not say how many channels it takes.
    """
    if example is not None:
        return example
    channels = getattr(model, "in_chans", None)
    if not isinstance(channels, int):
        raise ValueError(f"give `example`, an input of the model: {type(model).__name__} does not tell its channels.")
    like = next(model.parameters())
    generator = torch.Generator().manual_seed(0)
    return torch.randn(1, channels, 64, 64, generator=generator).to(like.device, like.dtype)


def calls_of(model: nn.Module, example: Tensor, kinds: tuple[type, ...]) -> list[Call]:
    """Calls of modules of some kinds, in order, in eval mode and without gradients."""
    calls: list[Call] = []

    def record(name: str) -> Callable:
        def hook(module: nn.Module, arguments: tuple, output: Tensor) -> None:
            calls.append(Call(name, module, arguments[0], output, (arguments[0]._version, output._version)))

        return hook

    handles = [m.register_forward_hook(record(n)) for n, m in model.named_modules() if isinstance(m, kinds)]
    try:
        with torch.no_grad():
            model(example)
    finally:
        for handle in handles:
            handle.remove()
    return calls


def called_once(calls: list[Call]) -> list[Call]:
    """Calls of the modules that run once in a forward pass, in order."""
    counts = Counter(call.name for call in calls)
    return [call for call in calls if counts[call.name] == 1]


def readers_of(model: nn.Module, example: Tensor, kinds: tuple[type, ...]) -> dict[str, int]:
    """How many operations read the output of each module of some kinds, and whether the model returns it (one more).

    Autograd's graph tells, in eval mode. Modules that it does not reach, behind a cut gradient, are left out.
    """
    nodes: dict[object, str] = {}

    def record(name: str) -> Callable:
        def hook(module: nn.Module, arguments: tuple, output: Tensor) -> None:
            if output.grad_fn is not None:
                nodes[output.grad_fn] = name

        return hook

    handles = [m.register_forward_hook(record(n)) for n, m in model.named_modules() if isinstance(m, kinds)]
    try:
        with torch.enable_grad():
            outputs = model(example.detach().requires_grad_(example.is_floating_point()).clone())
    finally:
        for handle in handles:
            handle.remove()
    returned = [y.grad_fn for y in tree_leaves(outputs) if isinstance(y, Tensor) and y.grad_fn is not None]
    readers: dict[str, int] = {}
    waiting, seen = list(dict.fromkeys(returned)), set(returned)
    read = list(returned)
    while waiting:
        following = [node for node, _ in waiting.pop().next_functions if node is not None]
        read += following
        waiting += [node for node in dict.fromkeys(following) if node not in seen]
        seen.update(following)
    for node in read:
        if node in nodes:
            readers[nodes[node]] = readers.get(nodes[node], 0) + 1
    return readers


def replace(model: nn.Module, name: str, module: nn.Module) -> None:
    """Put a module in the place of another."""
    parent, _, last = name.rpartition(".")
    setattr(model.get_submodule(parent), last, module)


def largest_error(ours: object, theirs: object) -> float:
    """Largest difference of two outputs (a tensor or a sequence of them), over the largest absolute value."""
    if isinstance(ours, Tensor) and isinstance(theirs, Tensor):
        return float((ours - theirs).abs().max() / theirs.abs().max().clamp_min(1e-12))
    return max(largest_error(a, b) for a, b in zip(ours, theirs, strict=True))  # type: ignore[call-overload]
