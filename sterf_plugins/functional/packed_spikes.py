"""Keep integer spikes for the backward pass as 8-bit values.

A spiking layer keeps three float tensors for its gradients: the membrane (for the mask of the straight-through
gradient), the spikes (for the weights' gradient) and the convolution's output (for BatchNorm's). Inside
``packed_spikes()`` the first two become one byte each: the mask is kept instead of the membrane, and whatever saves
a tensor of spikes (convolution, linear, product) keeps its levels instead. The numbers are the same.

Levels are unpacked where a gradient needs them. Operations are not changed or replaced: autograd's saved-tensor hooks
recognise the memory of a tensor of spikes. The region must not contain activation checkpointing, which saves nothing
worth packing.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import local

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef

from .strides import restrided

MAX_LEVELS = 255
_active = local()


class _Packed:
    """Levels of a view of a tensor of spikes, and how to get the spikes back."""

    def __init__(self, levels: Tensor, norm: float, dtype: torch.dtype):
        self.levels, self.norm, self.dtype = levels, norm, dtype

    def spikes(self) -> Tensor:
        y = self.levels.to(self.dtype)
        return y if self.norm == 1 else y.div_(self.norm)


class _Registry:
    """Which storage holds spikes, for as long as it lives and nobody writes into it."""

    def __init__(self) -> None:
        self.entries: dict[int, tuple[StorageWeakRef, int, Tensor, float]] = {}

    def add(self, spikes: Tensor, levels: Tensor, norm: float) -> None:
        storage = spikes.untyped_storage()
        self.entries[storage.data_ptr()] = (StorageWeakRef(storage), spikes._version, levels, norm)
        if len(self.entries) > 64:  # spikes that are gone: the levels that something saved live on by themselves
            self.entries = {k: e for k, e in self.entries.items() if not e[0].expired()}

    def find(self, tensor: Tensor) -> tuple[Tensor, float] | None:
        """Levels of a view of spikes, and what they are divided by."""
        entry = self.entries.get(tensor.untyped_storage().data_ptr())
        if entry is None or not tensor.is_floating_point():
            return None
        storage, version, levels, norm = entry
        if storage.expired() or tensor._version != version:
            return None
        return levels.as_strided(tensor.shape, tensor.stride(), tensor.storage_offset()), norm

    def pack(self, tensor: Tensor) -> Tensor | _Packed:
        found = self.find(tensor)
        return tensor if found is None else _Packed(*found, tensor.dtype)


def _unpack(saved: Tensor | _Packed) -> Tensor:
    return saved.spikes() if isinstance(saved, _Packed) else saved


@contextmanager
def packed_spikes(enabled: bool = True) -> Iterator[None]:
    """Inside, ``integer_fire`` and what uses its spikes keep bytes for the backward pass.

    Gradients of gradients are refused inside; levels above 255 are kept as they are. Nothing changes while gradients
    are off or a compiler traces. ``packed_spikes(False)`` is a region without packing inside one with it.
    """
    if not torch.is_grad_enabled() or torch.compiler.is_compiling():
        yield
        return
    before = _current()
    if not enabled:
        _active.registry = None
        try:
            yield
        finally:
            _active.registry = before
        return
    _active.registry = _Registry()
    try:
        with torch.autograd.graph.saved_tensors_hooks(_active.registry.pack, _unpack):
            yield
    finally:
        _active.registry = before


def count_dtype(levels: int) -> torch.dtype:
    """The 8-bit type of the counts: int8 where they fit, which a CPU converts several times faster than uint8."""
    return torch.int8 if levels <= torch.iinfo(torch.int8).max else torch.uint8


def packing(levels: int) -> bool:
    """Whether spikes of so many levels are packed here."""
    return _current() is not None and levels <= MAX_LEVELS


def _current() -> _Registry | None:
    """The region's registry; none outside of one, and none for a compiler, which keeps what it likes."""
    return None if torch.compiler.is_compiling() else getattr(_active, "registry", None)


def keep_counts(spikes: Tensor, counts: Tensor, norm: float) -> None:
    """Let whatever saves these spikes in this region save their counts, which are bytes, instead.

    Spikes that are changed afterwards are saved as they are.
    """
    _active.registry.add(spikes, counts, norm)


def rearranged(x: Tensor, rearrange: Callable[[Tensor], Tensor]) -> Tensor:
    """``rearrange(x)``, which may copy; a copy of spikes is saved as bytes in this region, too."""
    y = rearrange(x)
    registry = _current()
    if registry is None or not torch.is_grad_enabled():
        return y
    found = registry.find(x)
    if found is not None and registry.find(y) is None:
        registry.add(y, rearrange(found[0]), found[1])
    return y


def copied_as_bytes(x: Tensor) -> Tensor:
    """``x`` in its own order, for a product that would copy it and save the copy; as it is outside of such a region."""
    return x if _current() is None else rearranged(x, Tensor.contiguous)


def _inside(x: Tensor, clamped: Tensor) -> Tensor:
    """Where clamping changed nothing, in a byte per element.

    On a CPU, comparing and multiplying with booleans takes 5 to 10 times as long as PyTorch's vectorised passes.
    """
    if x.device.type != "cpu":
        return clamped == x
    outside = torch.sub(x, clamped).sign_().to(torch.int8)  # the difference is exactly 0 inside and nowhere else
    return outside.abs_().bitwise_xor_(1)


class PackedFire(torch.autograd.Function):
    """``integer_fire`` that keeps a byte per element."""

    @staticmethod
    def forward(ctx, x: Tensor, levels: int, norm: float) -> Tensor:
        y = x.clamp(0, levels)
        ctx.save_for_backward(_inside(x, y))
        counts = y.round_().to(count_dtype(levels))  # half to even
        if norm != 1:
            y.div_(norm)
        keep_counts(y, counts, norm)
        ctx.norm = norm
        return y

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad: Tensor):
        (inside,) = ctx.saved_tensors
        grad = restrided(grad, inside.stride())
        out = grad * inside if inside.dtype == torch.bool else inside.to(grad.dtype).mul_(grad)
        return out if ctx.norm == 1 else out.div_(ctx.norm), None, None
