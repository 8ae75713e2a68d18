"""Objects drawn on a picture: masks, outlines, and labels that can be read and do not cover each other."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from matplotlib import get_data_path
from PIL import Image, ImageDraw, ImageFont

_LETTER = 20  # pixels of a label's letters
Rectangle = tuple[float, float, float, float]  # left, top, right, bottom


@dataclass(frozen=True)
class Drawn:
    """An object of a picture.

    Attributes:
        mask: (H, W) bool.
        box: left, top, width and height in pixels of the picture.
        text: its label.
        color: RGB, of 0 to 255.
    """

    mask: np.ndarray
    box: Sequence[float]
    text: str
    color: tuple[int, int, int]


def paint(image: np.ndarray, mask: np.ndarray, color, strength: float = 0.5) -> None:
    """Mix a colour into the pixels of an image where the mask is true, in place."""
    image[mask] = (1 - strength) * image[mask] + strength * np.array(color)


def draw_objects(image: np.ndarray, objects: Sequence[Drawn], enlarge: int = 1) -> np.ndarray:
    """The RGB image, so often enlarged, with the objects on it; labels of the first ones find a place first."""
    big = cv2.resize(image, None, fx=enlarge, fy=enlarge, interpolation=cv2.INTER_LINEAR)
    for item in objects:
        mask = cv2.resize(item.mask.astype(np.uint8), None, fx=enlarge, fy=enlarge, interpolation=cv2.INTER_NEAREST)
        paint(big, mask.astype(bool), item.color, 0.45)
        contours, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
        big = cv2.drawContours(np.ascontiguousarray(big), contours, -1, item.color, 3)
    picture = Image.fromarray(big)
    pen = ImageDraw.Draw(picture)
    font = ImageFont.truetype(str(Path(get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"), _LETTER)
    taken: list[Rectangle] = []
    for item in objects:
        _, _, width, height = pen.textbbox((0, 0), item.text, font)
        label = label_place([enlarge * v for v in item.box], (width + 8, height + 6), picture.size, taken)
        taken.append(label)
        pen.rectangle(label, fill=item.color)
        pen.text((label[0] + 4, label[1] + 2), item.text, fill=(0, 0, 0), font=font)
    return np.asarray(picture)


def label_place(
    box: Sequence[float], size: tuple[float, float], image: tuple[int, int], taken: Sequence[Rectangle]
) -> Rectangle:
    """Where a label goes: near its box, inside the image, and on no other label if there is room.

    Args:
        box: left, top, width and height of the object.
        size: width and height of the label.
        image: width and height of the image.
        taken: places of other labels.
    """
    left, top, width, height = box
    rows = (top - size[1], top + height, top, top + height - size[1], top + (height - size[1]) / 2)
    columns = (left, left + width - size[0], left - size[0], left + width)
    places = []
    for x, y in ((x, y) for y in rows for x in columns):
        x, y = (min(max(v, 0), available - part) for v, part, available in zip((x, y), size, image, strict=True))
        places.append((x, y, x + size[0], y + size[1]))
    return min(places, key=lambda place: sum(common_area(place, other) for other in taken))


def common_area(a: Rectangle, b: Rectangle) -> float:
    """Area that two rectangles share."""
    return max(min(a[2], b[2]) - max(a[0], b[0]), 0) * max(min(a[3], b[3]) - max(a[1], b[1]), 0)
