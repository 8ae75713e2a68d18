"""Theoretical receptive fields: size, stride and padding of each layer, from what its output can depend on.

Definitions after Araujo et al. 2019 (doi:10.23915/distill.00021): the output at index i depends on the input pixels from
``i * stride - padding`` to ``i * stride - padding + size - 1``, along rows and along columns.
"""

from contextlib import suppress
from fractions import Fraction
from math import ceil, inf, isfinite, nan
from typing import Any

import numpy as np
import torch
from torch import nn

from ...checks import check_module, one_of, size_pair
from ..compute import compute_erf
from ..outputs.targets import match_layers, unwrapped
from ..passes.preparation import check_weights
from ..result import ERFResult
from .dependence import dependence
from .field import TheoreticalField

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
    check_module("model", model)
    check_weights(model)
    modules = [model.get_submodule(name) for name in match_layers(model, layers, options.get("target"))]

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
    longer = length + _LONGER * ceil(length / _LONGER)

    def at(places: list[float], size: tuple[int, int]) -> list[ERFResult]:
        if axis == 1:
            size = size[::-1]
        return [measure(size, tuple((p / size[axis], 0.5)[:: 1 if axis == 0 else -1])) for p in places]

    # Outputs that lie on the grids of all strides as the one in the middle of the image does: near both ends, and between them.
    start = length / 2 % _PERIOD + 0.5
    last = start + (longer - start) // _PERIOD * _PERIOD
    places, long = [start, last, last - (longer - length) / 2], []
    for narrow in (min(across, _NARROW), across):
        with suppress(ValueError):
            long = at(places, (longer, narrow))
            break
    ends: list[float] = [0.5, length - 0.5, length / 2]
    short: list[ERFResult] = []
    found = {}
    for name in middle.layers:
        cells, more = (r.info["map_size"].get(name, (1, 1))[axis] for r in (middle, (long or [middle])[0]))
        if more > cells:
            field = _outputs(long, places, name, axis, longer, Fraction(longer - length, more - cells))
        else:  # of a model that takes images of one size alone, or behind adaptive pooling
            short = short or [*at(ends[:2], (length, across)), middle]
            field = _outputs(short, ends, name, axis, length, Fraction(length, cells))
        begin, end = _span(middle.spatial[name], axis)
        seen = (float(end - begin), field[1], cells // 2 * field[1] - begin)
        inside = begin > 0 and end < length
        # In a small image, padding inside the network cuts off more; windows of an attention hold less at the edges.
        if isfinite(field[0]) and (more > cells or not inside):
            found[name] = max(seen, field, key=lambda f: f[0])
        else:
            found[name] = seen if inside else (inf, field[1] if more > cells or not long else inf, nan)
    return found


def _outputs(
    results: list[ERFResult], places: list[float], name: str, axis: int, length: int, ratio: Fraction
) -> tuple[float, float, float]:
    """Size, stride and padding of a layer's field by outputs near both ends of an image, and in its middle.

    Args:
        results: of the layer with the target at each place.
        places: where the targets are, in pixels.
        name: of the layer.
        axis: along which it is looked at.
        length: of the image.
        ratio: how many pixels more make one output more.
    """
    stride = float(ratio)
    spans = [_span(result.spatial[name], axis) for result in results if name in result.spatial]
    if len(spans) < len(places):
        return inf, stride, nan
    cells = results[0].info["map_size"].get(name, (1, 1))[axis]
    indices = [min(int(p / length * cells), cells - 1) for p in places]
    (_, far), (near, _), (begin, end) = spans
    if begin > 0 and indices[1] > indices[2]:
        # The fields of neighbours behind an upsampling lie unevenly, and these two outputs may not be alike; and the image may
        # not be longer by a whole number of strides. Either shows in a fraction of large numbers.
        measured = Fraction(near - begin, indices[1] - indices[2])
        stride = float(min((f for f in (measured, ratio) if f > 0), key=lambda f: f.numerator + f.denominator))
    if begin > 0 and end < length:
        return float(end - begin), stride, indices[2] * stride - begin
    if far == length or near == 0:
        return inf, stride, nan
    padding = indices[1] * stride - near
    return far - indices[0] * stride + padding, stride, padding


def _span(field: np.ndarray, axis: int) -> tuple[int, int]:
    """First pixel of a field along an axis, and the one behind its last."""
    some = np.flatnonzero((field != 0).any(1 - axis))
    return int(some[0]), int(some[-1]) + 1
