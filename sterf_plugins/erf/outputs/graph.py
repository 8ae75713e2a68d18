"""The graph that autograd keeps of a forward pass."""

from collections.abc import Iterable, Iterator
from typing import Any

from torch import Tensor


def nodes_behind(outputs: Iterable[Tensor], seen: set[Any] | None = None) -> Iterator[Any]:
    """Each node of the graph of some tensors, once.

    Args:
        outputs: the tensors; those without a graph have no nodes.
        seen: nodes that are left out, with all that lies behind them alone; those that are found are added to it.
    """
    seen = set() if seen is None else seen
    waiting: list[Any] = [y.grad_fn for y in outputs]
    while waiting:
        node = waiting.pop()
        if node is not None and node not in seen:
            seen.add(node)
            waiting.extend(before for before, _ in node.next_functions)
            yield node
