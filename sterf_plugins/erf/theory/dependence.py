"""Which inputs an output depends on by the way a network is built, whatever its weights and activations are.

Inside of ``dependence`` every backward pass carries positive random marks instead of gradients: each node of the graph
gives what it computes with them, and that is made positive again where it is not zero. So nothing cancels, nothing
underflows, and a gradient is not zero exactly where there is a way through the graph. What an activation, a maximum or a
product passes on depends on values; those nodes have rules (``marks.py``), and pass marks on to all that they look at. Zeros
of a constant are a mask, unless it has been computed from the input, as the condition of a rectifier that somebody wrote by hand.

A NaN in an input would be the other way to ask. It does not pass a comparison, such as that of a spike, and it does pass
weights of zero, as in masks and in resizing; and it needs a forward pass for every input pixel.
"""

import re
import weakref
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from ...undisturbed import recurrent_steps, tensors_in
from ..outputs.graph import nodes_behind
from .marks import chosen, forget_noise, marked, picked, rule_of


@contextmanager
def dependence(model: nn.Module, layers: Iterable[nn.Module]) -> Iterator[None]:
    """Inside, gradients of some layers of a model are positive where they depend on the input, and zero elsewhere.

    Parameters that are zero have small random values inside, so that layers that start at zero count. Masks are kept
    where they stand in buffers, in a softmax, or in constants.
    """
    seen: set[Any] = set()
    handles: list[Any] = []
    choices = _Choices()

    def mark_graph(module: nn.Module, arguments: Any, result: Any) -> None:
        outputs = tensors_in(result)
        starts = [t.grad_fn for t in outputs if t.grad_fn is not None]
        handles.extend(node.register_prehook(lambda grads: marked(grads, ())) for node in starts)
        for node in nodes_behind(outputs, seen):
            by_value = chosen if node in choices.nodes else picked(node) if node in choices.picks else None
            if (rule := by_value or rule_of(node)) is not None:
                handles.append(node.register_hook(rule))

    handles += [m.register_forward_hook(mark_graph) for m in layers if not isinstance(m, torch.jit.ScriptModule)]
    before = {p: p.detach().clone() for p in model.parameters() if p.is_floating_point() and (p == 0).any()}
    generator = torch.Generator().manual_seed(0)
    try:
        with torch.no_grad():
            for p in before:
                scale = float(p.abs().mean()) or 0.1 / max(1, p[0].numel() if p.ndim else 1) ** 0.5
                p.copy_(torch.where(p == 0, scale * torch.randn(p.shape, generator=generator).to(p), p))
        # In one node for all steps of a recurrent layer, gradients underflow.
        with choices, recurrent_steps(model):
            yield
    finally:
        for handle in handles:
            handle.remove()
        forget_noise()
        with torch.no_grad():
            for p, value in before.items():
                p.copy_(value)


class _Choices(TorchFunctionMode):
    """Finds what goes element by element through a product or a choice with a constant that has been computed from the input.

    Attributes:
        nodes: nodes of the graph.
        picks: nodes that take elements at indices that have been computed from the input.
    """

    def __init__(self) -> None:
        super().__init__()
        self.nodes: set[Any] = set()
        self.picks: set[Any] = set()
        self._computed: dict[int, weakref.ref[Tensor]] = {}  # tensors without a graph, by their ids

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        result = function(*args, **kwargs)
        arguments = tensors_in([*args, *kwargs.values()])
        computed = any((ref := self._computed.get(id(t))) and ref() is t for t in arguments)
        for t in tensors_in(
            arguments[:1] if result is None else result
        ):  # nothing: an assignment to a part of a tensor
            if t.grad_fn is not None:
                if computed and re.match("Where|MaskedFill|IndexPut|Mul|Div", t.grad_fn.name()):
                    self.nodes.add(t.grad_fn)
                elif computed and re.match("(Gather|Index|IndexSelect|Take|MaskedSelect)Backward", t.grad_fn.name()):
                    self.picks.add(t.grad_fn)
            elif computed or any(x.requires_grad for x in arguments):
                self._computed[id(t)] = weakref.ref(t)
        return result
