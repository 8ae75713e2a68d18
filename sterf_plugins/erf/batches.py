"""Turn inputs of any supported form into batches of image tensors that fit into memory."""

from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

_KEYS = ("inputs", "image", "images", "img", "pixel_values")


def batches(inputs: Tensor | Iterable, time_steps: int | None) -> Iterator[Tensor]:
    """Yield the inputs as tensors (N, C, H, W) or (T, N, C, H, W), in their own batches.

    Args:
        inputs: a tensor of either shape, or an iterable of such tensors, of single images (C, H, W), of tuples whose
            first entry is one, or of dicts with one under a key such as ``inputs`` or ``image``.
        time_steps: T; images without a time axis are repeated this many times. ``None`` leaves them as they are.

    Raises:
        TypeError: the inputs are, or hold, something that is no image tensor.
        ValueError: a tensor has the wrong number of axes, holds no images, or has other time steps than ``time_steps``.
    """
    if isinstance(inputs, Tensor):
        if inputs.ndim not in (4, 5) or not inputs.shape[inputs.ndim - 4]:
            raise ValueError(
                f"`inputs` has shape {tuple(inputs.shape)}; give images (N, C, H, W) or (T, N, C, H, W) with N >= 1."
            )
        yield _with_time(inputs, time_steps)
        return
    if isinstance(inputs, (str, bytes, dict)) or not isinstance(inputs, Iterable):
        raise TypeError(
            f"`inputs` is a {type(inputs).__name__}; give images (N, C, H, W), a DataLoader or an iterable of tensors."
        )
    for item in inputs:
        if isinstance(item, dict):
            item = next((item[k] for k in _KEYS if k in item), None)
        elif isinstance(item, (list, tuple)):
            item = item[0] if item else None
        if not isinstance(item, Tensor) or item.ndim not in (3, 4, 5):
            shape = f" of shape {tuple(item.shape)}" if isinstance(item, Tensor) else ""
            raise TypeError(
                f"`inputs` holds {type(item).__name__}{shape}; give image tensors (N, C, H, W) or (C, H, W)."
            )
        yield _with_time(item if item.ndim > 3 else item[None], time_steps)


def peek(stream: Iterator[Tensor], count: int) -> tuple[Tensor | None, Iterator[Tensor]]:
    """The first ``count`` inputs of a stream of batches, as far as they have one shape, and the whole stream."""
    taken: list[Tensor] = []
    for images in stream:
        taken.append(images)
        if sum(t.shape[batch_axis(t)] for t in taken) >= count:
            break
    if not taken:
        return None, stream
    axis = batch_axis(taken[0])
    sample = torch.cat([t for t in taken if single_shape(t) == single_shape(taken[0])], axis)
    return sample.narrow(axis, 0, min(count, sample.shape[axis])), chain(taken, stream)


def _with_time(images: Tensor, time_steps: int | None) -> Tensor:
    if time_steps is None:
        return images
    if images.ndim == 5:
        if images.shape[0] != time_steps:
            raise ValueError(f"`time_steps` is {time_steps}, but `inputs` have {images.shape[0]} time steps already.")
        return images
    return images.expand(time_steps, *images.shape)


def batch_axis(images: Tensor) -> int:
    """Index of the batch axis: 1 behind a leading time axis, else 0."""
    return images.ndim - 4


# Bytes that no tensor should exceed on a CPU: the C allocator asks the system for fresh memory pages at each use of a
# larger one, and touching new pages costs more than the arithmetic on them.
_CPU_TENSOR_LIMIT = 32 * 2**20


class Sizer:
    """Decides how many inputs go through the model at once.

    Args:
        batch_size: a number, or ``None`` to measure: the first pass takes two inputs and counts the bytes that
            autograd keeps for them; later passes take as many inputs as half of the free memory holds, but at most 64
            on a GPU and 8 on a CPU, where tensors also stay below 32 MB. In both cases, a pass that runs out of memory
            is done again in halves.
        device: the device that the model is on.
        extra: bytes that the results of one input take in addition.
    """

    def __init__(self, batch_size: int | None, device: torch.device, extra: int = 0):
        self.size = batch_size or 2
        self.extra = extra
        self._measure = batch_size is None
        self._device = device

    def regroup(self, stream: Iterable[Tensor]) -> Iterator[Tensor]:
        """Join consecutive small batches of equal shape up to the present size; larger ones pass unchanged."""
        waiting: list[Tensor] = []
        for images in stream:
            axis = batch_axis(images)
            if waiting and single_shape(waiting[0]) != single_shape(images):
                yield torch.cat(waiting, batch_axis(waiting[0]))
                waiting = []
            waiting.append(images)
            if sum(w.shape[axis] for w in waiting) >= self.size:
                yield torch.cat(waiting, axis) if len(waiting) > 1 else images
                waiting = []
        if waiting:
            yield torch.cat(waiting, batch_axis(waiting[0]))

    def run(self, images: Tensor, work: Callable[[Tensor], Any]) -> Iterator[tuple[int, Any]]:
        """Do some work on a batch in parts of at most the present size, which is halved when memory runs out.

        Args:
            images: (N, C, H, W) or (T, N, C, H, W).
            work: the function that is called with each part.

        Yields:
            For each part, in order, the number of inputs in it and the result of ``work``.

        Raises:
            MemoryError: a single input does not fit into memory.
        """
        axis, start = batch_axis(images), 0
        while start < images.shape[axis]:
            part = images.narrow(axis, start, min(self.size, images.shape[axis] - start))
            count = part.shape[axis]
            try:
                result = self._measured(part, count, work) if self._measure else work(part)
            except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
                if not out_of_memory(error):
                    raise
                if count == 1:
                    raise MemoryError(
                        f"out of memory with a single input of shape {tuple(part.shape)}; use smaller inputs or fewer "
                        f"layers."
                    ) from error
                self.size, self._measure = max(1, count // 2), False
                if self._device.type == "cuda":
                    torch.cuda.empty_cache()
                continue
            yield count, result
            start += count

    def _measured(self, part: Tensor, count: int, work: Callable[[Tensor], Any]) -> Any:
        """Do the work on a part of ``count`` inputs, and set the size from the memory that autograd kept for it."""
        kept: dict[int, int] = {}  # bytes of each storage that autograd keeps, by its address

        def pack(tensor: Tensor) -> Tensor:
            storage = tensor.untyped_storage()
            kept[storage.data_ptr()] = storage.nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            result = work(part)
        bytes_per_input = max(1, sum(kept.values()) // count + self.extra)
        limit = 64
        if self._device.type != "cuda":
            limit = max(2, min(8, _CPU_TENSOR_LIMIT * count // max(kept.values(), default=1)))
        self.size, self._measure = max(1, min(limit, _free_memory(self._device) // 2 // bytes_per_input)), False
        return result


def single_shape(images: Tensor) -> tuple[int, ...]:
    """Shape of a single input of a batch: (C, H, W) or (T, C, H, W)."""
    return tuple(images.shape[:-4] + images.shape[-3:])


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
    except (OSError, StopIteration):  # not Linux
        return 4 << 30
