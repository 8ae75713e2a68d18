"""Follow one object through the event images of a recording with a trained ``SDTrack``."""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..checks import check_module, entries, positive_int
from .centre_head import decode
from .crops import SEARCH_FACTOR, TEMPLATE_FACTOR, Box, box_in_image, check_box, square_crop
from .sd_track import SDTrack, as_input


class Step(NamedTuple):
    """Where the object is in one image.

    Args:
        box: float64 (4,), (x, y, w, h) in pixels.
        score: float32 (h, w), the score of each cell of the search region.
        search: (x, y, side) of the search region in pixels of the image.
    """

    box: np.ndarray
    score: np.ndarray
    search: tuple[float, float, float]


class Follower:
    """Runs a tracker image by image: the template is cut once, from the first image.

    Args:
        network: the tracker; it is put into eval mode.
        image: the first event image, uint8 (H, W, 3) in the network's order of channels (trajectory, negative, positive), or
            (T, H, W, 3) of a network with time.
        box: the object in it, (x, y, w, h) in pixels.
        template_size: side of the template in pixels.
        search_size: side of the search region in pixels.

    Raises:
        TypeError, ValueError: the image, the box or a size cannot be used.
    """

    def __init__(self, network: SDTrack, image: np.ndarray, box: Box, template_size: int = 128, search_size: int = 256):
        check_module("network", network)
        sizes = positive_int("template_size", template_size), positive_int("search_size", search_size)
        numbers = entries("box", box)
        if len(numbers) != 4:
            raise ValueError(f"`box` is {box!r}; it must be four numbers x, y, w, h.")
        self.network, self.search_size = network.eval(), sizes[1]
        self.box = np.array(numbers, np.float64)
        self.shape = np.shape(image)
        image = self._checked(image)
        check_box(numbers, image.shape[-3:-1], "`box`")
        self.template = self._tensor(square_crop(image, numbers, TEMPLATE_FACTOR, sizes[0]).pixels)

    @torch.no_grad()
    def step(self, image: np.ndarray) -> Step:
        """Find the object in the next image, of the shape of the first one.

        Raises:
            ValueError: the image cannot be used, or the network gives NaN.
        """
        crop = square_crop(self._checked(image), self.box, SEARCH_FACTOR, self.search_size)
        maps = self.network(self.template, self._tensor(crop.pixels))
        centre, side = self.box[:2] + self.box[2:] / 2, self.search_size / crop.scale
        decoded = decode(maps)[0].double().cpu().numpy()
        if not np.isfinite(decoded).all():
            raise ValueError(
                f"the network gives the box {decoded.tolist()}: its weights have diverged; take an earlier checkpoint."
            )
        self.box = box_in_image(decoded, self.box, crop.scale, self.search_size, image.shape[-3:-1])
        return Step(self.box, maps.score[0, 0].float().cpu().numpy(), (*(centre - side / 2).tolist(), side))

    def _checked(self, image: np.ndarray) -> np.ndarray:
        time = self.network.T
        if (
            not isinstance(image, np.ndarray)
            or image.dtype != np.uint8
            or image.shape[-1] != 3
            or image.ndim != (3 if time == 1 else 4)
        ):
            axes = "(H, W, 3)" if time == 1 else f"({time}, H, W, 3)"
            kind = f"{image.dtype} {image.shape}" if isinstance(image, np.ndarray) else f"a {type(image).__name__}"
            raise ValueError(f"`image` is {kind}; this tracker takes uint8 {axes}.")
        if image.shape != self.shape:
            raise ValueError(
                f"`image` is of shape {image.shape}, and the first one of {self.shape}; all must be of one size."
            )
        return image

    def _tensor(self, pixels: np.ndarray) -> Tensor:
        """(1, 3, S, S) or (T, 1, 3, S, S) of the network's type; the values stay 0 to 255."""
        return as_input(pixels).to(next(self.network.parameters()))
