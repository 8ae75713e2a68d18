"""Receptive fields at several image sizes."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..checks import entries, size_pair
from .compute import compute_erf
from .numbers.number import Number, columns
from .result import ERFResult

Size = tuple[int, int]  # (H, W)


def sweep_sizes(
    model: nn.Module,
    inputs: Tensor | Callable[[Size], Any],
    sizes: Iterable[int | Size],
    layers: str | Iterable[str] | None = None,
    **options: Any,
) -> dict[Size, ERFResult]:
    """Compute the receptive fields of some layers at several image sizes.

    Args:
        model: any module that takes images of these sizes.
        inputs: images (N, C, H, W) or (T, N, C, H, W), which are resized (bilinearly, with antialiasing); or a function
            that is given a size (H, W) and returns what ``compute_erf`` takes.
        sizes: the sizes: (H, W), or one number for both.
        layers: as in ``compute_erf``.
        **options: other arguments of ``compute_erf``.

    Returns:
        Size -> result, from the smallest image to the largest.

    Raises:
        TypeError, ValueError: no sizes, or as from ``compute_erf``, such as for a size that the model does not take.
    """
    if not (isinstance(inputs, Tensor) or callable(inputs)):
        raise TypeError(
            f"`inputs` is a {type(inputs).__name__}; give a tensor of images, which are resized, or a function of a "
            f"size (H, W) that gives them."
        )
    axes = options.get("axes")
    if isinstance(inputs, Tensor) and isinstance(axes, str) and not axes.endswith("HW"):
        raise ValueError(
            f"`axes` is {axes!r}, and a tensor is resized along its last two axes, which must be rows and columns; give a "
            f"function of a size (H, W) that returns the inputs."
        )
    checked = [size_pair("sizes", size) for size in entries("sizes", sizes)]
    if not checked:
        raise ValueError("`sizes` is empty; give at least one image size.")

    def images(size: Size) -> Any:
        return resized(inputs, size) if isinstance(inputs, Tensor) else inputs(size)

    order = sorted(set(checked), key=lambda s: (s[0] * s[1], s))
    return {size: compute_erf(model, images(size), layers, **options) for size in order}


def resized(images: Tensor, size: tuple[int, ...]) -> Tensor:
    """Images (..., C, H, W) at another size, bilinearly and with antialiasing."""
    if images.shape[-2:] == size:
        return images
    flat = images.reshape(-1, *images.shape[-3:])
    # There is no such kernel for most other types.
    exact = flat if flat.dtype in (torch.float32, torch.float64) else flat.float()
    found = F.interpolate(exact, size, mode="bilinear", antialias=True).reshape(*images.shape[:-2], *size)
    return (found if images.is_floating_point() else found.round()).to(images.dtype)


def sweep_rows(results: Mapping[Size, ERFResult]) -> list[dict[str, Any]]:
    """One dict per size and layer, with the 90 % area as a share and in pixels, and r90 in pixels, each with its error."""
    rows = []
    for (h, w), result in results.items():
        for layer in result.layers:
            numbers = result.numbers(layer)
            area, radius = numbers["area_90"], numbers["r90"]
            pixels = Number(area.value * h * w, area.error * h * w)
            row: dict[str, Any] = dict(height=h, width=w, layer=layer)
            rows.append(row | columns(dict(area_90=area, area_90_pixels=pixels, r90=radius)))
    return rows
