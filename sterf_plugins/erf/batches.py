"""Inputs in whatever form they come, as batches that fit into memory."""

import os
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor

_KEYS = ("inputs", "image", "images", "img", "pixel_values")


def batches(inputs: Tensor | Iterable, time_steps: int | None) -> Iterator[Tensor]:
    """(N, C, H, W) or (T, N, C, H, W) tensors, as they come.

    Args:
        inputs: a tensor of either shape, or an iterable of such tensors, of single images (C, H, W), of tuples whose
            first entry is one, or of dicts with a key such as ``inputs`` or ``image``.
        time_steps: repeat images without a time axis this many times.

    Raises:
        TypeError, ValueError: not image tensors.
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


def _with_time(images: Tensor, time_steps: int | None) -> Tensor:
    if time_steps is None:
        return images
    if images.ndim == 5:
        if images.shape[0] != time_steps:
            raise ValueError(f"`time_steps` is {time_steps}, but `inputs` have {images.shape[0]} time steps already.")
        return images
    return images.expand(time_steps, *images.shape)


def batch_axis(images: Tensor) -> int:
    """1 with a leading time axis, else 0."""
    return images.ndim - 4


class Sizer:
    """How many inputs go through the model at once.

    Args:
        batch_size: a number, or ``None`` to measure: the first pass takes two inputs and counts what autograd keeps
            for them; later passes take what half of the free memory holds, 8 at most on a CPU (more gives no speed
            there) and 64 on a GPU. Either way a pass that runs out of memory is done again in halves.
    """

    def __init__(self, batch_size: int | None, device: torch.device):
        self.size = batch_size or 2
        self._measure = batch_size is None
        self._device = device

    def run(self, images: Tensor, work: Callable[[Tensor], Any]) -> Iterator[tuple[int, Any]]:
        """``work`` of all parts of a batch, in order, with the number of inputs of each."""
        axis, start = batch_axis(images), 0
        while start < images.shape[axis]:
            part = images.narrow(axis, start, min(self.size, images.shape[axis] - start))
            count = part.shape[axis]
            try:
                result = self._measured(part, count, work) if self._measure else work(part)
            except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
                if not _out_of_memory(error):
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
        kept: dict[int, int] = {}

        def pack(tensor: Tensor) -> Tensor:
            storage = tensor.untyped_storage()
            kept[storage.data_ptr()] = storage.nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            result = work(part)
        each = max(1, sum(kept.values()) // count)
        most = 64 if self._device.type == "cuda" else 8
        self.size, self._measure = max(1, min(most, _free_memory(self._device) // 2 // each)), False
        return result


def _out_of_memory(error: BaseException) -> bool:
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return "not enough memory" in str(error) or "out of memory" in str(error)


def _free_memory(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError, AttributeError):  # not Linux
        return 4 << 30
