"""Which points lie inside a circle, a square or a triangle, in closed form."""

from torch import Tensor

SHAPES = ("circle", "square", "triangle")


def raster(shape: str, x: Tensor, y: Tensor) -> Tensor:
    """Tell for each point whether it lies inside a shape of size 1 around the origin: 1 inside, 0 outside.

    The circle has diameter 1, the square side 1, the triangle base 1 and height 1 with its tip upwards.

    Args:
        shape: one of ``SHAPES``.
        x: horizontal coordinates of the points, of any shape that broadcasts with ``y``.
        y: vertical coordinates of the points, downwards.

    Raises:
        ValueError: there is no such shape.
    """
    if shape == "circle":
        return (x * x + y * y <= 0.25).to(x.dtype)
    if shape == "square":
        return ((x.abs() <= 0.5) & (y.abs() <= 0.5)).to(x.dtype)
    if shape == "triangle":
        return ((y <= 0.5) & (2 * x.abs() <= y + 0.5)).to(x.dtype)
    raise ValueError(f"`shape` is {shape!r}; allowed: {', '.join(map(repr, SHAPES))}.")
