"""Square crops around a box, and the way back from a crop to the image (arXiv:2503.08703).

Boxes are (x, y, w, h) in pixels: the left upper corner and the size.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..events.arrays import are_pixels

TEMPLATE_FACTOR, SEARCH_FACTOR = 2.0, 4.0  # side of the crop over the square root of the box's area
LARGEST = 2**14  # pixels of the square's side; a larger one is of a box in another unit
MARGIN = 10  # pixels of a tracked box that stay inside the image, and its smallest side

Box = Sequence[float] | NDArray[np.floating]


class Crop(NamedTuple):
    """A square part of an image, resized.

    Args:
        pixels: (size, size, C), or (T, size, size, C) of an image with T sub-slices.
        scale: pixels of the crop per pixel of the image.
        outside: bool (size, size), where the crop leaves the image; these pixels are 0.
    """

    pixels: np.ndarray
    scale: float
    outside: np.ndarray


def check_box(box: Box, image: tuple[int, ...], what: str) -> None:
    """Raise ``ValueError`` unless a box has sides of at least a pixel, and some of it is in the image.

    Args:
        box: (x, y, w, h) in pixels.
        image: (height, width).
        what: the box's name in the message.
    """
    x, y, w, h = map(float, box)
    height, width = image
    inside = x < width and y < height and x + w > 0 and y + h > 0
    if not (w >= 1 and h >= 1 and inside and are_pixels(box)):
        raise ValueError(
            f"{what} is {x:g} {y:g} {w:g} {h:g} (x, y, w, h); it must have a width and height of at least a pixel, and lie in "
            f"{width} x {height} pixels."
        )


def square_crop(image: np.ndarray, box: Box, factor: float, size: int) -> Crop:
    """Cut a square around a box and resize it bilinearly.

    As in the release, the image's last row and column count as outside wherever the square reaches them.

    Args:
        image: uint8 (H, W, C), or (T, H, W, C).
        box: what the square is centred on.
        factor: the square's side over the square root of the box's area.
        size: side of the result in pixels.

    Raises:
        ValueError: the box has no area, or the square no pixel, or far too many.
    """
    import cv2

    x, y, w, h = map(float, box)
    length = math.sqrt(max(w, 0) * max(h, 0)) * factor if are_pixels((x, y, w, h)) else math.inf
    if not 0 < length <= LARGEST:
        raise ValueError(
            f"`box` is {(x, y, w, h)}, and the square around it would have a side of {length:.0f} pixels; it must be from 1 to "
            f"{LARGEST:,}: boxes are x, y, w, h in pixels of the image."
        )
    side, slices = math.ceil(length), image if image.ndim == 4 else image[None]
    height, width = slices.shape[1:3]
    left, top = round(x + w / 2 - side / 2), round(y + h / 2 - side / 2)
    columns, rows = _inside(left, side, width), _inside(top, side, height)
    square = np.zeros((len(slices), side, side, slices.shape[-1]), np.uint8)
    outside = np.ones((side, side), np.uint8)
    if rows.start < rows.stop and columns.start < columns.stop:
        there = slice(rows.start - top, rows.stop - top), slice(columns.start - left, columns.stop - left)
        square[:, there[0], there[1]] = slices[:, rows, columns]
        outside[there] = 0
    pixels = np.stack([cv2.resize(one, (size, size)).reshape(size, size, -1) for one in square])
    mask = cv2.resize(outside.astype(np.float64), (size, size)).astype(bool)
    return Crop(pixels if image.ndim == 4 else pixels[0], size / side, mask)


def _inside(start: int, side: int, length: int) -> slice:
    """The part of [start, start + side) that lies in an image's row or column of this length, without its last pixel."""
    stop = start + side
    return slice(max(0, start), stop - max(0, stop - length + 1))


def box_in_crop(box: Box, around: Box, scale: float, size: int) -> np.ndarray:
    """A box of the image in the crop around another one, (x, y, w, h) over the crop's side.

    The crop's centre is taken to be the other box's, although a crop starts at a whole pixel.
    """
    box, around = (np.asarray(b, np.float64) for b in (box, around))
    centre = (size - 1) / 2 + scale * ((box[:2] + box[2:] / 2) - (around[:2] + around[2:] / 2))
    return np.concatenate([centre - scale * box[2:] / 2, scale * box[2:]]) / size


def box_in_image(decoded: Box, state: Box, scale: float, size: int, shape: tuple[int, int]) -> np.ndarray:
    """The next state of a tracker: a decoded box, mapped back to the image and clipped.

    Args:
        decoded: centre x, centre y, width, height over the search crop's side, as ``centre_head.decode`` gives them.
        state: the box around which the crop was cut.
        scale: pixels of the crop per pixel of the image.
        size: side of the crop in pixels.
        shape: (height, width) of the image.

    Returns:
        (x, y, w, h) in pixels.
    """
    decoded, state = np.asarray(decoded, np.float64) * size / scale, np.asarray(state, np.float64)
    centre = decoded[:2] + state[:2] + state[2:] / 2 - size / scale / 2
    limits = np.array(shape[::-1], np.float64)
    start = np.clip(centre - decoded[2:] / 2, 0, limits - MARGIN)
    stop = np.clip(centre + decoded[2:] / 2, MARGIN, limits)
    return np.concatenate([start, np.maximum(stop - start, MARGIN)])
