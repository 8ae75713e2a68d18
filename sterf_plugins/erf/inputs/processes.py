"""Several processes that have a share of the inputs each."""

from collections.abc import Callable, Iterator
from typing import Any

import torch

from .batches import Batch, peek


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
    stream: Iterator[Batch], count: int, gather: Callable[[Any], list] | None
) -> tuple[Batch | None, Iterator[Batch]]:
    """The first ``count`` inputs, for statistics, the same in all processes, and this process's whole stream."""
    if gather is None:
        return peek(stream, count)
    peeked: list[Any] = []

    def own() -> Batch | None:
        peeked[:] = peek(stream, count)
        return None if peeked[0] is None else peeked[0].to(torch.device("cpu"), None)

    samples = [s for s in everywhere(own, gather) if s is not None]
    return Batch.joined(samples) if samples else None, peeked[1]
