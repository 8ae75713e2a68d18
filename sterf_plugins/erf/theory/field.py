"""A layer's theoretical receptive field, what of it is used, and what follows for depth and image size."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from math import isfinite
from typing import Any

from ...checks import size_pair
from ..numbers.number import Number
from ..result import ERFResult


@dataclass(frozen=True)
class TheoreticalField:
    """What a layer's output can depend on; pairs are (vertical, horizontal).

    Attributes:
        size: extent in pixels, gaps included; infinite where it grows with the image, as behind attention and global
            pooling.
        stride: input pixels from one output to the next; where the size is infinite, how many pixels more make one output more.
        padding: how far the field of the output (0, 0) reaches out of the image at its upper and left edges; NaN where
            the size is infinite.
        area: share of the image's pixels that the output in the middle depends on; what lies outside is cut off, and
            gaps do not count.
    """

    size: tuple[float, float]
    stride: tuple[float, float]
    padding: tuple[float, float]
    area: float

    @property
    def centre(self) -> tuple[float, float]:
        """Row and column of the middle of the field of the output (0, 0), in pixels of the input."""
        (h, w), (top, left) = self.size, self.padding
        return (h - 1) / 2 - top, (w - 1) / 2 - left

    @property
    def side(self) -> float:
        """The longer side of the field in pixels."""
        return max(self.size)

    def __str__(self) -> str:
        return "whole image" if not isfinite(self.side) else f"{self.size[0]:g}x{self.size[1]:g}"


def theoretical_numbers(field: TheoreticalField, area_90: Number | None = None) -> dict[str, Number]:
    """The numbers of a field by name, for tables.

    Args:
        field: a layer's field.
        area_90: its effective area at 90 % of the mass, as a share of the image; with it, ``used_90`` is what this is
            of the theoretical area.
    """
    numbers = {
        "theory_rows": field.size[0],
        "theory_columns": field.size[1],
        "theory_stride": field.stride[0],
        "theory_padding": field.padding[0],
        "theory_area": field.area,
    }
    exact = {name: Number(float(value), 0.0) for name, value in numbers.items()}
    if area_90 is not None and field.area > 0:
        exact["used_90"] = Number(area_90.value / field.area, area_90.error / field.area, area_90.dof)
    return exact


def add_theory(result: ERFResult, fields: Mapping[str, TheoreticalField]) -> None:
    """Put theoretical fields beside the effective ones: ``result.info["theory"]``, and the columns of its numbers.

    Of a result by all protocols they stand beside our own, ``layer@st-erf``.
    """
    names = {layer: layer.removesuffix("@st-erf") for layer in result.layers}
    result.info["theory"] = {layer: asdict(fields[name]) for layer, name in names.items() if name in fields}
    for layer in result.info["theory"]:
        numbers = result.numbers(layer)
        numbers.update(theoretical_numbers(fields[names[layer]], numbers.get("area_90")))


def theory_of(result: ERFResult) -> dict[str, TheoreticalField]:
    """The theoretical fields that ``add_theory`` has put into a result; empty without it."""
    entries: dict[str, Any] = result.info.get("theory", {})
    return {
        layer: TheoreticalField(tuple(e["size"]), tuple(e["stride"]), tuple(e["padding"]), e["area"])
        for layer, e in entries.items()
    }


def advice(fields: Mapping[str, TheoreticalField], image_size: int | tuple[int, int]) -> list[str]:
    """What the fields say about depth and image size, one line each.

    After receptive-field analysis (Richter et al. 2021, arXiv:2106.12307): a layer whose input already sees more than the
    whole image cannot add context, and in their experiments the accuracy did not come from such layers.

    Args:
        fields: layer -> field, in order of execution.
        image_size: (H, W) of the images, or one number for both.

    Raises:
        TypeError, ValueError: ``image_size`` is no size.
    """
    lines = []
    names = list(fields)
    height, width = size_pair("image_size", image_size)
    endless = [n for n in names if not isfinite(fields[n].side)]
    finite = [n for n in names if n not in endless]
    previous = dict(zip(finite[1:], finite, strict=False))  # what sees all says nothing of those beside it
    beyond = [n for n in finite if _exceeds(fields[n].size, (height, width))]
    if beyond:
        lines.append(f"From {beyond[0]} on, the field ({fields[beyond[0]]}) exceeds the image ({height}x{width}).")
    if endless:
        lines.append(f"From {endless[0]} on, every output depends on the whole image, however large.")
    late = [n for n in beyond if previous.get(n) in beyond]
    if late:
        lines.append(
            f"{', '.join(late)}: the layer before sees more than the image already, so they add depth but no context; "
            f"leave them out, stride less, or use larger images."
        )
    idle = [n for n, before in previous.items() if fields[n].size == fields[before].size]
    if idle:
        lines.append(f"{', '.join(idle)}: the same field as the layer before; no context is added.")
    if len(finite) > 1:
        least = fields[previous[finite[-1]]]
        lines.append(
            f"Smallest useful image: {least.side:g} pixels a side; in a smaller one the input of {finite[-1]} sees more than "
            f"the whole image already."
        )
    return lines


def _exceeds(size: tuple[float, float], image: tuple[int, int]) -> bool:
    """Whether a field covers an image and reaches beyond it."""
    return all(s >= n for s, n in zip(size, image, strict=True)) and size != image
