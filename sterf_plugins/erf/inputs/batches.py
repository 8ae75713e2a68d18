"""Turn inputs of any supported form into batches."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any

import torch
from torch import Tensor

from .axes import Axes

_KEYS = ("inputs", "image", "images", "img", "pixel_values")
_DEFAULT_AXES = {4: Axes("NCHW"), 5: Axes("TNCHW")}

Key = str | int  # name or index of an entry of a batch


@dataclass(frozen=True)
class Batch:
    """Some inputs, in the form in which the model takes them.

    Attributes:
        entries: the parts of the batch by name or index; the only part of a batch that is a tensor has the index 0.
        form: what the user gave: a ``Tensor``, ``tuple``, ``list`` or ``dict``.
        axes: the axes of the entries that get maps, by name or index.
    """

    entries: dict[Key, Any]
    form: type
    axes: dict[Key, Axes]

    def __len__(self) -> int:
        key = next(iter(self.axes))
        return self.entries[key].shape[self.axes[key].batch]

    def axis(self, key: Key) -> int:
        """The batch axis of a tensor: that of the entries with maps if it has as many axes, else the first."""
        known = [a.batch for k, a in self.axes.items() if k == key or len(a) == self.entries[key].ndim]
        return known[0] if known else 0

    @property
    def several(self) -> bool:
        """Whether several entries may be images, such as a template and a search region, whether or not they get maps."""
        ranks = {len(axes) for axes in self.axes.values()}
        return (
            sum(isinstance(v, Tensor) and v.is_floating_point() and v.ndim in ranks for v in self.entries.values()) > 1
        )

    def shapes(self) -> dict[str, list[int]]:
        """Shapes of all tensors, without their batch axes, those with maps first."""
        tensors = [k for k, v in self.entries.items() if isinstance(v, Tensor)]
        keys = [*self.axes, *(k for k in tensors if k not in self.axes)]
        return {str(k): [n for i, n in enumerate(self.entries[k].shape) if i != self.axis(k)] for k in keys}

    @property
    def sizes(self) -> list[tuple[int, ...]]:
        """Rows and columns, and slices before them if there are any, of the entries with maps."""
        ordered = [(axes.ordered(self.entries[key]), axes.timed) for key, axes in self.axes.items()]
        return [tuple(x.shape[3:] if timed else x.shape[2:]) for x, timed in ordered]

    @property
    def steps(self) -> int | None:
        """T, if the inputs have time steps."""
        key, axes = next(iter(self.axes.items()))
        return self.entries[key].shape[axes.letters.index("T")] if axes.timed else None

    def apply(self, function: Callable[[Key, Tensor], Tensor]) -> "Batch":
        """The batch with what the function makes of each tensor."""
        entries = {k: function(k, v) if isinstance(v, Tensor) else v for k, v in self.entries.items()}
        return replace(self, entries=entries)

    def narrow(self, start: int, count: int) -> "Batch":
        """The batch of ``count`` inputs from number ``start`` on."""
        return self.apply(lambda key, x: x.narrow(self.axis(key), start, count))

    def to(self, device: torch.device, dtype: torch.dtype | None) -> "Batch":
        """The batch on a device, its floating-point numbers in the given type."""
        return self.apply(lambda key, x: x.to(device, dtype if x.is_floating_point() else None))

    @classmethod
    def joined(cls, parts: Sequence["Batch"]) -> "Batch":
        """Several batches of equal shapes as one."""
        if len(parts) == 1:
            return parts[0]
        return parts[0].apply(lambda key, x: torch.cat([p.entries[key] for p in parts], parts[0].axis(key)))

    def leaves(self, dtype: torch.dtype) -> dict[Key, Tensor]:
        """What gradients are taken of: copies of the entries with maps, as floats, their axes in order (``Axes.ordered``)."""
        entries = {key: axes.ordered(self.entries[key].detach()) for key, axes in self.axes.items()}
        return {k: (x if x.is_floating_point() else x.to(dtype)).clone().requires_grad_() for k, x in entries.items()}

    def for_model(self, leaves: Mapping[Key, Tensor]) -> tuple[Any, list[tuple[Tensor, Tensor]]]:
        """What the model is given: the batch in the user's form; and the integer tensors in it, with floats of the leaves.

        The model gets copies, which it may change in place.
        """
        entries = {k: v.detach().clone() if isinstance(v, Tensor) else v for k, v in self.entries.items()}
        integers = []
        for key, leaf in leaves.items():
            value = self.axes[key].restored(leaf).clone()
            if entries[key].is_floating_point():
                entries[key] = value
            else:
                integers.append((entries[key], value))
        if self.form in (tuple, list):
            return self.form(entries.values()), integers
        return entries[0] if self.form is Tensor else entries, integers


@dataclass(frozen=True)
class Reading:
    """How inputs are read: arguments of ``compute_erf``.

    Attributes:
        wrt: the entries that get maps, or ``None`` for all that can be images.
        axes: their axes; ``None`` for (N, C, H, W) or (T, N, C, H, W).
        steps: T; inputs without time steps are repeated this many times. ``None`` leaves them as they are.
        whole: whether tuples, lists and dicts that a loader yields go to the model as they are.
    """

    wrt: tuple[Key, ...] | None = None
    axes: Axes | None = None
    steps: int | None = None
    whole: bool = False

    @classmethod
    def of(cls, wrt: Key | Iterable[Key] | None, axes: str | None, steps: int | None, forward: Any) -> "Reading":
        """What these arguments of ``compute_erf`` ask for: a function ``forward`` of the user, and ``wrt``, take batches whole."""
        keys = None if wrt is None else (wrt,) if isinstance(wrt, (str, int)) else tuple(wrt)
        return cls(
            keys, None if axes is None else Axes.parse(axes), steps, whole=forward is not None or wrt is not None
        )

    def batch(self, value: Any, single: bool = True) -> Batch:
        """A batch of what the user gave.

        Args:
            value: a tensor, tuple, list or dict.
            single: whether a tensor may be one input without a batch axis.
        """
        form = next((f for f in (Tensor, tuple, list) if isinstance(value, f)), dict)
        entries = {0: value} if form is Tensor else dict(value) if form is dict else dict(enumerate(value))
        for key, entry in entries.items():
            if not isinstance(entry, (Tensor, str, int, float, type(None))):
                raise TypeError(
                    f"entry {key!r} of `inputs` is a {type(entry).__name__}; give tensors and plain values, and let a "
                    f"function `forward` make what the model takes of them."
                )
        axes: dict[Key, Axes] = {}
        for key in self._wrt(entries, form):
            x = entries[key]
            found = self.axes or _DEFAULT_AXES.get(x.ndim + (single and form is Tensor and x.ndim == 3))
            if found is not None and single and form is Tensor and x.ndim == len(found) - 1:
                x = x.unsqueeze(found.batch)
            if found is None or x.ndim != len(found) or not x.shape[found.batch]:
                wanted = f"axes {self.axes.letters}" if self.axes else "(N, C, H, W) or (T, N, C, H, W)"
                raise ValueError(
                    f"`inputs`{'' if form is Tensor else f' entry {key!r}'} has shape {tuple(x.shape)}; give images {wanted} "
                    f"with N >= 1, or name the axes, such as axes='NCL' or axes='NCTHW'."
                )
            entries[key], axes[key] = self._with_time(x, found)
        if len({a.letters for a in axes.values()}) > 1:
            raise ValueError(
                f"the entries that get maps have different axes, {', '.join(a.letters for a in axes.values())}; choose one by "
                f"`wrt`."
            )
        batch = Batch(entries, form, axes)
        for key, entry in entries.items():
            if isinstance(entry, Tensor) and (not entry.ndim or entry.shape[batch.axis(key)] != len(batch)):
                raise ValueError(
                    f"entry {key!r} of `inputs` has shape {tuple(entry.shape)}, which has no batch axis of {len(batch)}; pass "
                    f"what is the same for all inputs inside a function `forward`."
                )
        return batch

    def _wrt(self, entries: dict[Key, Any], form: type) -> list[Key]:
        """The entries of a batch that get maps: those that were asked for, else all images."""
        tensors = {k: v for k, v in entries.items() if isinstance(v, Tensor)}
        if self.wrt is not None:
            if not self.wrt:
                raise ValueError("`wrt` is empty; name entries of a batch, or leave it out for all images.")
            for key in self.wrt:
                if key not in tensors:
                    raise ValueError(
                        f"`wrt` names {key!r}, and the tensors of a batch are {', '.join(map(repr, tensors)) or 'none'}."
                    )
            return list(self.wrt)
        if form is Tensor:
            return [0]
        ranks = (len(self.axes),) if self.axes else tuple(_DEFAULT_AXES)
        numbers = [k for k, v in tensors.items() if v.is_floating_point() or v.dtype == torch.uint8]
        images = [k for k in numbers if tensors[k].ndim in ranks]
        if not images:
            raise ValueError(
                f"no entry of a batch is an image; its tensors: {_listed(tensors)}. Name entries by `wrt`, and their axes by "
                f"`axes`."
            )
        return images

    def _with_time(self, x: Tensor, axes: Axes) -> tuple[Tensor, Axes]:
        if self.steps is None:
            return x, axes
        if axes.timed:
            if x.shape[0] != self.steps:
                raise ValueError(f"`time_steps` is {self.steps}, but `inputs` have {x.shape[0]} time steps already.")
            return x, axes
        return x.expand(self.steps, *x.shape), axes.with_time()


def _listed(tensors: Mapping[Key, Tensor]) -> str:
    parts = [f"{key!r} {tuple(x.shape)} {str(x.dtype).removeprefix('torch.')}" for key, x in tensors.items()]
    return ", ".join(parts) or "none"


def batches(inputs: Any, reading: Reading) -> Iterator[Batch]:
    """Yield the inputs in their own batches.

    Args:
        inputs: one batch, as a tensor, a tuple (positional arguments of the model) or a dict (keyword arguments); or an
            iterable of batches, or of single images. Of a tuple, list or dict that an iterable yields, the first entry or
            the one under a key such as ``inputs`` or ``image`` is taken, unless the model is to get it whole.
        reading: how they are read.

    Raises:
        TypeError: the inputs are, or hold, something that is no image tensor.
        ValueError: a tensor has the wrong axes, holds no images, or has other time steps than asked for.
    """
    if isinstance(inputs, (Tensor, tuple, Mapping)):
        yield reading.batch(inputs, single=False)
        return
    if isinstance(inputs, (str, bytes)) or not isinstance(inputs, Iterable):
        raise TypeError(
            f"`inputs` is a {type(inputs).__name__}; give images (N, C, H, W), a tuple or dict of tensors, a DataLoader or "
            f"an iterable of such batches."
        )
    for item in inputs:
        if not reading.whole and isinstance(item, Mapping):
            item = next((item[k] for k in _KEYS if k in item), None)
        elif not reading.whole and isinstance(item, (list, tuple)):
            item = item[0] if item else None
        if not isinstance(item, (Tensor, Mapping, list, tuple)):
            raise TypeError(f"`inputs` holds {type(item).__name__}; give image tensors (N, C, H, W) or (C, H, W).")
        yield reading.batch(item)


def check_shapes(first: dict[str, list[int]], other: dict[str, list[int]]) -> None:
    """Raise ``ValueError`` unless inputs have the shapes that the first ones have; see ``Batch.shapes``."""
    if first == other:
        return
    shown = (
        ", ".join(f"{key} {tuple(shape)}" if len(shapes) > 1 else str(tuple(shape)) for key, shape in shapes.items())
        for shapes in (first, other)
    )
    raise ValueError(f"inputs differ in shape: {' and '.join(shown)}; resize them to one size.")


def peek(stream: Iterator[Batch], count: int) -> tuple[Batch | None, Iterator[Batch]]:
    """The first ``count`` inputs of a stream of batches, as far as they have one shape, and the whole stream."""
    taken: list[Batch] = []
    for batch in stream:
        taken.append(batch)
        if sum(map(len, taken)) >= count:
            break
    if not taken:
        return None, stream
    sample = Batch.joined([b for b in taken if b.shapes() == taken[0].shapes()])
    return sample.narrow(0, min(count, len(sample))), chain(taken, stream)
