"""Coverage of a circle, a square and a triangle, in closed form."""

from torch import Tensor

SHAPES = ("circle", "square", "triangle")


def raster(shape: str, x: Tensor, y: Tensor) -> Tensor:
    """1 inside, 0 outside, at coordinates in which the shape has size 1 and its centre is the origin; y down.

    The circle has diameter 1, the square side 1, the triangle height 1 with its tip upwards.
    """
    if shape == "circle":
        return (x * x + y * y <= 0.25).to(x.dtype)
    if shape == "square":
        return ((x.abs() <= 0.5) & (y.abs() <= 0.5)).to(x.dtype)
    if shape == "triangle":
        return ((y <= 0.5) & (2 * x.abs() <= y + 0.5)).to(x.dtype)
    raise ValueError(f"`shape` is {shape!r}; allowed: {', '.join(map(repr, SHAPES))}.")
