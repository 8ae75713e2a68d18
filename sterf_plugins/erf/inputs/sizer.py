"""How many inputs go through a model at once: as many as memory holds."""

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .batches import Batch

# Bytes that no activation of several inputs should exceed on a CPU: larger ones leave the caches, and need fresh memory
# pages in each pass. One or two inputs of 224x224 stay below.
_CPU_TENSOR_LIMIT = 3_300_000


class Sizer:
    """Decides how many inputs go through the model at once.

    Args:
        batch_size: a number, or ``None`` to measure: the first pass takes two inputs on a GPU and one on a CPU, and counts
            the bytes that autograd keeps for them; later passes take as many inputs as half of the free memory holds, but
            at most 64 on a GPU and 8 on a CPU, where the activations of several inputs also stay below 3.3 MB. In both
            cases, a pass that runs out of memory is done again in halves.
        device: the device that the model is on.
        weights: the model's parameters, which are none of what autograd keeps for an input.

    Attributes:
        size: how many inputs the next pass takes.
        extra: bytes that the results of one input take in addition.
        steps: number of time steps, which no pass has as its number of inputs: so their axes are never mistaken.
    """

    def __init__(self, batch_size: int | None, device: torch.device, weights: Iterable[Tensor] = ()):
        self.size = batch_size or (2 if device.type == "cuda" else 1)
        self._weights = {w.untyped_storage().data_ptr() for w in weights}
        self.extra = 0
        self.steps: int | None = None
        self._measure = batch_size is None
        self._device = device

    def regroup(self, stream: Iterable[Batch]) -> Iterator[Batch]:
        """Join consecutive small batches of equal shapes up to the present size; larger ones pass unchanged."""
        waiting: list[Batch] = []
        for batch in stream:
            if waiting and waiting[0].shapes() != batch.shapes():
                yield Batch.joined(waiting)
                waiting = []
            waiting.append(batch)
            if sum(map(len, waiting)) >= self.size:
                yield Batch.joined(waiting)
                waiting = []
        if waiting:
            yield Batch.joined(waiting)

    def run(self, batch: Batch, work: Callable[[Batch], Any]) -> Iterator[tuple[int, Any]]:
        """Do some work on a batch in parts of at most the present size, which is halved when memory runs out.

        Args:
            batch: the inputs.
            work: the function that is called with each part.

        Yields:
            For each part, in order, the number of inputs in it and the result of ``work``.

        Raises:
            MemoryError: a single input does not fit into memory.
        """
        start = 0
        while start < len(batch):
            count = min(self.size, len(batch) - start)
            count -= count == self.steps and count > 1
            part = batch.narrow(start, count)
            try:
                result = self._measured(part, count, work) if self._measure else work(part)
            except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
                if not out_of_memory(error):
                    raise
                if count == 1:
                    raise MemoryError(
                        f"out of memory with a single input of shape {', '.join(map(str, part.shapes().values()))}; use "
                        f"smaller inputs or fewer layers."
                    ) from error
                self.size, self._measure = max(1, count // 2), False
                if self._device.type == "cuda":
                    torch.cuda.empty_cache()
                continue
            yield count, result
            start += count

    def _measured(self, part: Batch, count: int, work: Callable[[Batch], Any]) -> Any:
        """Do the work on a part of ``count`` inputs, and set the size from the memory that autograd kept for it."""
        saved: dict[int, int] = {}  # bytes of each storage that autograd keeps, by its address

        def pack(tensor: Tensor) -> Tensor:
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in self._weights:
                saved[storage.data_ptr()] = storage.nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            result = work(part)
        bytes_per_input = max(1, sum(saved.values()) // count + self.extra)
        limit = 64
        if self._device.type != "cuda":
            limit = max(1, min(8, _CPU_TENSOR_LIMIT * count // max(saved.values(), default=1)))
        self.size, self._measure = max(1, min(limit, _free_memory(self._device) // 2 // bytes_per_input)), False
        return result


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out, be it Python's, PyTorch's or one of the CUDA libraries'."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    signs = ("not enough memory", "out of memory", "ALLOC_FAILED", "unable to find an engine", "valid cuDNN algorithm")
    return any(sign in str(error) for sign in signs)


def _free_memory(device: torch.device) -> int:
    """Bytes that are free on a device; 4 GiB where a CPU's system does not say."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        return next(int(line.split()[1]) << 10 for line in lines if line.startswith("MemAvailable"))
    except (OSError, StopIteration):  # there is such a file on Linux alone
        return 4 << 30
