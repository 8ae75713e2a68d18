"""Theoretical receptive fields: size, stride and padding of each layer, from what its output can depend on.

Definitions after Araujo et al. 2019 (doi:10.23915/distill.00021): the output at index i depends on the input pixels from
``i * stride - padding`` to ``i * stride - padding + size - 1``, along rows and along columns.
"""

from math import ceil, inf, isfinite, nan
from typing import Any

import numpy as np
import torch
from torch import nn

from ..checks import one_of, size_pair
from .compute import compute_erf
from .dependence import dependence
from .result import ERFResult
from .targets import enclosing_blocks, match_layers, unwrapped
from .theoretical_field import TheoreticalField

# Pixels that an image gets for fields beyond it, or a multiple of so many: half of it is a multiple of 64, 3 and 7.
_LONGER = 2688
_PERIOD = 64  # pixels between outputs that lie alike on the grids of all strides up to it
_NARROW = 32  # width of the long images


def theoretical_rf(
    model: nn.Module,
    image_size: tuple[int, int],
    layers: Any = None,
    *,
    in_channels: int = 3,
    time_steps: int | None = None,
    axes: str | None = None,
    **options: Any,
) -> dict[str, TheoreticalField]:
    """The theoretical receptive fields of some layers of a model.

    They follow from the graph of the model's own operations, so dilation, padding, shared layers, branches, pooling,
    upsampling and attention are in them (see ``dependence.py``). Fields that the image is too small for are measured on
    longer, narrow images, of about 2700 pixels more, if the model takes them; beyond 5000 pixels, or if it does not
    take them and the field of neither end of the image leaves out anything, they are infinite.

    Args:
        model: any module.
        image_size: (H, W) of the images; (1, L) of signals.
        layers: as in ``compute_erf``.
        in_channels: number of channels of the images.
        time_steps: T; the images are repeated T times, and the model gets (T, N, C, H, W).
        axes: "NCL" for models of signals (N, C, L), whose fields have one row; ``None`` for images.
        **options: ``forward``, ``target``, ``grid``, ``layout``, ``calls`` or ``device`` of ``compute_erf``.

    Returns:
        Layer -> its field, in order of execution; layers whose layout is unclear are left out.

    Raises:
        TypeError, ValueError: as from ``compute_erf``.
    """
    height, width = size_pair("image_size", image_size)
    one_of("axes", axes, (None, "NCHW", "NCL"))
    signal = axes == "NCL"
    if signal and height != 1:
        raise ValueError(f"`image_size` is {image_size!r}; signals (axes='NCL') have one row: give (1, length).")
    generator = torch.Generator().manual_seed(0)

    model = unwrapped(model)
    names = match_layers(model, layers)
    if options.get("target") == "block":
        names = enclosing_blocks(model, names)
    modules = [model.get_submodule(name) for name in names]

    def measure(size: tuple[int, int], position: Any = "center") -> ERFResult:
        image = torch.randn(1, in_channels, *size[signal:], generator=generator)
        with dependence(model, modules):
            return compute_erf(
                model, image, layers, position=position, channels="sum", kinds="spatial", calibrate=False, batch_size=1,
                time_steps=time_steps, axes=axes, **options,
            )  # fmt: skip

    middle = measure((height, width))
    columns = _along(1, (height, width), middle, measure)
    rows = dict.fromkeys(columns, (1.0, 1.0, 0.0)) if signal else _along(0, (height, width), middle, measure)
    found = {}
    for name in middle.layers:
        size, stride, padding = zip(rows[name], columns[name], strict=True)
        found[name] = TheoreticalField(size, stride, padding, float((middle.spatial[name] > 0).mean()))
    return found


def _along(axis: int, image: tuple[int, int], middle: ERFResult, measure: Any) -> dict[str, tuple[float, float, float]]:
    """Layer -> size, stride and padding along one axis."""
    length, across = image[axis], image[1 - axis]
    extra = _LONGER * ceil(length / _LONGER)
    for longer, narrow in ((length + extra, min(across, _NARROW)), (length + extra, across), (length, across)):
        size = (longer, narrow) if axis == 0 else (narrow, longer)
        # Outputs that lie on the grids of all strides as the one in the middle of the image does.
        start = length / 2 % _PERIOD + 0.5
        places = [start, start + (longer - start) // _PERIOD * _PERIOD] if longer > length else [0.5, length - 0.5]
        places += [places[1] - extra / 2] if longer > length else []
        try:
            results = [measure(size, tuple((p / longer, 0.5)[:: 1 if axis == 0 else -1])) for p in places]
            break
        except ValueError:
            if longer == length:
                raise
    found = {}
    for name in middle.layers:
        cells, more = (result.info["map_size"].get(name, (1, 1))[axis] for result in (middle, results[0]))
        indices = [min(int(p / longer * more), more - 1) for p in places]
        spans = [_span(result.spatial[name], axis) for result in results if name in result.spatial]
        stride = length / cells  # of a model that takes images of one size alone
        if longer > length:
            stride = extra / (more - cells) if more > cells else inf
        if len(spans) == 3 and spans[2][0] > 0 and indices[1] > indices[2]:
            stride = (spans[1][0] - spans[2][0]) / (indices[1] - indices[2])
        begin, end = _span(middle.spatial[name], axis)
        if begin > 0 and end < length:
            index = cells // 2
            found[name] = (float(end - begin), stride, index * stride - begin)
            continue
        found[name] = (inf, stride, nan)
        if isfinite(stride) and len(spans) == len(places):
            (_, far), (near, _) = spans[:2]
            if far < longer and near > 0:
                padding = indices[1] * stride - near
                found[name] = (far - indices[0] * stride + padding, stride, padding)
                if found[name][0] < end - begin:  # windows of an attention, of which those at the edges hold less
                    found[name] = (float(end - begin), stride, cells // 2 * stride - begin)
    return found


def _span(field: np.ndarray, axis: int) -> tuple[int, int]:
    """First pixel of a field along an axis, and the one behind its last."""
    some = np.flatnonzero((field != 0).any(1 - axis))
    return int(some[0]), int(some[-1]) + 1
