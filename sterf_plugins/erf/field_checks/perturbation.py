"""Copies of inputs in which one patch is changed: occluded, taken from another input, made noisy, or one spike flipped."""

import numbers
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...checks import positive_int, size_pair, whole_number
from ..inputs.batches import Batch

_ALLOWED = "'mean', 'other', 'flip', a number above 0 for noise of so many standard deviations, or None"


class Perturbation:
    """Divides inputs into patches and changes one of them at a time.

    Args:
        by: what a patch is changed to. "mean": the mean of the inputs in each channel. "other": the same patch of other
            inputs. A number: the patch plus normal noise of so many standard deviations of each channel, the same in all
            time steps. "flip": the patch with one of its spikes flipped, in inputs (T, N, C, H, W) of zeros and ones.
            ``None``: nothing.
        sample: the first inputs, (N, C, H, W) or (T, N, C, H, W), for means, standard deviations and other patches.
        cells: (rows, columns) of the grid of patches, or one number for both; ``None`` for the finest that ``budget``
            allows, but at most 16 by 16.
        budget: copies of each input that may be made; what is left of it goes into more draws for each patch.
        seed: seed of noise and flips, which depend on an input's number, but not on the batch that it is in.

    Attributes:
        by: as above, numbers as those of Python.
        grid: (rows, columns) of the grid of patches.
        patches: rows and columns of each patch, as slices.
        draws: copies for each patch, or as many as a patch has spikes to flip, if these are fewer.
        changes: whether anything is changed.

    Raises:
        TypeError, ValueError: bad arguments, or inputs that cannot be changed in this way.
    """

    def __init__(
        self, by: str | float | None, sample: Tensor, cells: int | tuple[int, int] | None, budget: int, seed: int
    ):
        self.by, self._sample, self._seed = _checked(by, sample), sample, whole_number("seed", seed) % 2**64
        height, width = sample.shape[-2:]
        budget = positive_int("budget", budget)
        if cells is None:
            side = min(int(budget**0.5), 16)
            self.grid = (min(side, height), min(side, width))
        else:
            self.grid = size_pair("cells", cells)
        count = self.grid[0] * self.grid[1]
        if self.grid[0] > height or self.grid[1] > width:
            raise ValueError(f"`cells` is {cells!r}, but inputs of {height}x{width} have not so many rows or columns.")
        if count > budget:
            raise ValueError(
                f"`cells` is {cells!r}: {count} forward passes for each input, and `budget` is {budget}; raise it, or "
                f"take fewer cells."
            )
        self.patches = [(r, c) for r in _spans(height, self.grid[0]) for c in _spans(width, self.grid[1])]
        self.draws = 1 if by == "mean" else budget // count
        self.changes = by is not None
        dims = [i for i in range(sample.ndim) if i != sample.ndim - 3]
        std, mean = torch.std_mean(sample.double(), dims, correction=0)
        self._mean, self._std = mean[:, None, None], std[:, None, None]

    def scale(self, cell: int) -> float:
        """What the mean over a patch's copies is multiplied by: its number of pixels, of which a flip changes one."""
        rows, columns = self.patches[cell]
        return float((rows.stop - rows.start) * (columns.stop - columns.start)) if self.by == "flip" else 1.0

    def copies(self, images: Tensor, first: int, cell: int) -> Iterator[Tensor]:
        """Copies of a batch whose patch ``cell`` is changed, one for each draw; ``first`` is the first input's number."""
        rows, columns = self.patches[cell]
        axis = images.ndim - 4
        numbers = [first + i for i in range(images.shape[axis])]
        generators = [np.random.default_rng([self._seed, n, cell]) for n in numbers]
        shape = images.select(axis, 0)[..., rows, columns].shape
        size = shape.numel()
        orders = [g.permutation(size) for g in generators] if self.by == "flip" else []
        for draw in range(min(self.draws, size) if self.by == "flip" else self.draws):
            copy = images.clone()
            patch = copy[..., rows, columns]
            if self.by == "mean":
                patch.copy_(self._mean)
            elif self.by == "other":
                count = self._sample.shape[axis]
                others = [(n + 1 + draw % (count - 1)) % count for n in numbers]
                patch.copy_(self._sample[..., rows, columns].index_select(axis, torch.tensor(others)))
            elif self.by == "flip":
                for i, order in enumerate(orders):
                    t, *pixel = np.unravel_index(order[draw], shape)
                    patch[(t, i, *pixel)] = 1 - patch[(t, i, *pixel)]
            else:
                noise = np.stack([g.standard_normal(shape[-3:]) for g in generators])
                patch.add_((torch.from_numpy(noise) * self._std * self.by).to(images))
            yield copy


def image_of(batch: Batch) -> Tensor:
    """The entry of a batch whose patches are changed, (N, C, H, W) or (T, N, C, H, W)."""
    if len(batch.axes) > 1:
        raise ValueError(
            f"the entries {', '.join(map(repr, batch.axes))} of `inputs` could be changed; choose one by `wrt`."
        )
    ((key, axes),) = batch.axes.items()
    x = batch.entries[key]
    if not x.is_floating_point() or len(batch.sizes[0]) != 2:
        raise ValueError(
            f"entry {key!r} of `inputs` is {x.dtype} of shape {tuple(x.shape)}; patches are changed in floating-point images "
            f"and signals."
        )
    return axes.ordered(x)


def with_image(batch: Batch, x: Tensor) -> Batch:
    """The batch with a changed image."""
    ((key, axes),) = batch.axes.items()
    return replace(batch, entries=batch.entries | {key: axes.restored(x)})


def _checked(by: Any, sample: Tensor) -> Any:
    number = isinstance(by, numbers.Real) and not isinstance(by, bool)
    if by not in (None, "mean", "other", "flip") and not (number and 0 < by < float("inf")):
        raise ValueError(f"`by` is {by!r}; allowed: {_ALLOWED}.")
    if by == "other" and sample.shape[sample.ndim - 4] < 2:
        raise ValueError("`by` is 'other', and there is a single input; give more, or by='mean'.")
    if by == "flip" and (sample.ndim != 5 or not ((sample == 0) | (sample == 1)).all()):
        raise ValueError(
            f"`by` is 'flip', which needs event frames (T, N, C, H, W) of zeros and ones; `inputs` have shape "
            f"{tuple(sample.shape)} and values from {sample.min():.3g} to {sample.max():.3g}. Use 'mean', 'other' or a number."
        )
    return float(by) if number and not isinstance(by, int) else by  # a file holds no numbers of NumPy's


def _spans(length: int, count: int) -> list[slice]:
    """An axis in ``count`` parts of nearly equal length."""
    return [slice(length * i // count, length * (i + 1) // count) for i in range(count)]
