"""Keep integer spikes for the backward pass as 8-bit values.

A spiking layer keeps three float tensors for its gradients: the membrane (for the mask of the straight-through
gradient), the spikes (for the weights' gradient) and the convolution's output (for BatchNorm's). Inside
``packed_spikes()`` the first two become one byte each: the mask is kept instead of the membrane, and whatever saves
a tensor of spikes (convolution, linear, product) keeps its levels instead. The numbers are the same.

Levels are unpacked where a gradient needs them. Operations are not changed or replaced: autograd's saved-tensor hooks
recognise the memory of a tensor of spikes. The region must not contain activation checkpointing, which saves nothing
worth packing.
"""

from collections.abc import Iterator
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
    """Which storage holds spikes, for as long as it lives."""

    def __init__(self) -> None:
        self.entries: dict[int, tuple[StorageWeakRef, Tensor, float]] = {}

    def add(self, spikes: Tensor, levels: Tensor, norm: float) -> None:
        storage = spikes.untyped_storage()
        self.entries[storage.data_ptr()] = (StorageWeakRef(storage), levels, norm)
        if len(self.entries) > 64:  # spikes that are gone: the levels that something saved live on by themselves
            self.entries = {k: e for k, e in self.entries.items() if not e[0].expired()}

    def pack(self, tensor: Tensor) -> Tensor | _Packed:
        entry = self.entries.get(tensor.untyped_storage().data_ptr())
        if entry is None or entry[0].expired() or not tensor.is_floating_point():
            return tensor
        _, levels, norm = entry
        return _Packed(levels.as_strided(tensor.shape, tensor.stride(), tensor.storage_offset()), norm, tensor.dtype)


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
    before = getattr(_active, "registry", None)
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
    return getattr(_active, "registry", None) is not None and levels <= MAX_LEVELS


def keep_counts(spikes: Tensor, counts: Tensor, norm: float) -> None:
    """Let whatever saves these spikes in this region save their counts, which are bytes, instead."""
    _active.registry.add(spikes, counts, norm)


class PackedFire(torch.autograd.Function):
    """``integer_fire`` that keeps a byte per element.

    All passes are vectorised ones of PyTorch: on a CPU, comparing and multiplying with booleans takes 5 to 10 times as
    long as what stands here instead.
    """

    @staticmethod
    def forward(ctx, x: Tensor, levels: int, norm: float) -> Tensor:
        y = x.clamp(0, levels)
        outside = torch.sub(x, y).sign_().to(torch.int8)  # x - clamp(x) is exactly 0 in [0, levels] and nowhere else
        ctx.save_for_backward(outside.abs_().neg_().add_(1))
        y.round_()  # half to even
        keep_counts(y, y.to(count_dtype(levels)), norm)
        ctx.norm = norm
        return y if norm == 1 else y.div_(norm)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad: Tensor):
        (inside,) = ctx.saved_tensors
        out = inside.to(grad.dtype).mul_(restrided(grad, inside.stride()))
        return out if ctx.norm == 1 else out.div_(ctx.norm), None, None
