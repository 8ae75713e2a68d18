"""Several processes that have a share of the inputs each."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from .batches import batch_axis, peek


def everywhere(function: Callable[[], Any], gather: Callable[[Any], list]) -> list:
    """What ``function`` returns in each process; an error in one of them is raised in all, so that none waits."""
    try:
        own = function()
    except Exception as error:
        own = error if isinstance(error, (ValueError, TypeError)) else RuntimeError(f"{type(error).__name__}: {error}")
    parts = gather(own)
    for part in [own, *parts]:
        if isinstance(part, Exception):
            raise part
    return parts


def first_inputs(
    stream: Iterator[Tensor], count: int, gather: Callable[[Any], list] | None
) -> tuple[Tensor | None, Iterator[Tensor]]:
    """The first ``count`` inputs, for statistics, the same in all processes, and this process's whole stream."""
    if gather is None:
        return peek(stream, count)
    peeked: list[Any] = []

    def own() -> Tensor | None:
        peeked[:] = peek(stream, count)
        return None if peeked[0] is None else peeked[0].cpu()

    samples = [s for s in everywhere(own, gather) if s is not None]
    return torch.cat(samples, batch_axis(samples[0])) if samples else None, peeked[1]
