"""Training pairs of a tracker: the object as it was, and a search region in which it is (arXiv:2503.08703)."""

from collections.abc import Sequence as Several

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from ..checks import positive_int, whole_number
from .crops import SEARCH_FACTOR, TEMPLATE_FACTOR, Crop, box_in_crop, square_crop
from .sd_track import STRIDE
from .sequences import Sequence

LARGEST_GAP = 200  # images between template and search region
WIDER = 5  # by which the gap grows where nothing is found
LEAST_VALID, LEAST_LENGTH = 5, 20  # images of a sequence that is trained on
CENTRE_JITTER, SIZE_JITTER = 3.0, 0.25
ATTEMPTS = 100


class TrackingPairs(Dataset):
    """Pairs that are drawn at random, always the same ones for a seed, an epoch and an index.

    Args:
        sequences: where they are drawn from.
        samples: pairs of an epoch.
        template_size: side of the template in pixels.
        search_size: side of the search region in pixels.
        seed: seed of everything that is drawn; the number of worker processes does not matter.

    Item: dict(template uint8 (3, Z, Z) or (T, 3, Z, Z), search likewise, box float32 (4,): x, y, w, h over the search region's
    side).

    Raises:
        ValueError: no sequence is long enough, or none gives a pair that can be used.
    """

    def __init__(
        self,
        sequences: Several[Sequence],
        samples: int,
        template_size: int = 128,
        search_size: int = 256,
        seed: int = 0,
    ):
        self.sequences = [s for s in sequences if len(s) >= LEAST_LENGTH and s.valid.sum() >= LEAST_VALID]
        if not self.sequences:
            raise ValueError(
                f"none of {len(sequences)} sequences has {LEAST_LENGTH} images and {LEAST_VALID} boxes with an area. Labels are "
                f"x, y, w, h; those of NaN, or with w or h of 0 and below, do not count."
            )
        self.samples = positive_int("samples", samples)
        self.sizes = positive_int("template_size", template_size), positive_int("search_size", search_size)
        self.seed, self.epoch = whole_number("seed", seed), 0
        if self.seed < 0:
            raise ValueError(f"`seed` is {seed}; it must be an int >= 0.")

    def set_epoch(self, epoch: int) -> None:
        """Draw the pairs of this epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.samples

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        if not 0 <= index < self.samples:
            raise IndexError(index)
        rng = np.random.default_rng((self.seed, self.epoch, index))
        for _ in range(ATTEMPTS):
            sequence = self.sequences[rng.integers(len(self.sequences))]
            pair = self._pair(sequence, *draw_frames(sequence.valid, rng), rng)
            if pair is not None:
                return pair
        raise ValueError(
            f"{ATTEMPTS} pairs in a row could not be used, the last of sequence {sequence.name}: boxes outside their images, or "
            f"images without some of their parts. Labels are x, y, w, h in pixels of the images."
        )

    def _pair(self, sequence: Sequence, first: int, later: int, rng: np.random.Generator) -> dict[str, Tensor] | None:
        """The crops and the target, or ``None`` if a part of an image is missing, or a crop has nothing of the image in it."""
        around = jittered(sequence.boxes[later], rng)
        template_box, box = sequence.boxes[first], sequence.boxes[later]
        if min(*template_box[2:], *around[2:]) <= 0:
            return None
        if not (sequence.is_whole(first) and sequence.is_whole(later)):
            return None
        images = sequence.image(first), sequence.image(later)
        try:
            template = square_crop(images[0], template_box, TEMPLATE_FACTOR, self.sizes[0])
            search = square_crop(images[1], around, SEARCH_FACTOR, self.sizes[1])
        except ValueError as error:
            raise ValueError(f"images {first} and {later} of sequence {sequence.name}: {error}") from error
        if _empty(template) or _empty(search):
            return None
        target = box_in_crop(box, around, search.scale, self.sizes[1])
        return dict(
            template=_channels_first(template), search=_channels_first(search), box=torch.from_numpy(target).float()
        )


def draw_frames(valid: np.ndarray, rng: np.random.Generator) -> tuple[int, int]:
    """Two images with a box: the template's, and one after it at most ``LARGEST_GAP`` later, or a little more if need be."""
    frames, gap = np.flatnonzero(valid), LARGEST_GAP
    first = frames[frames < len(valid) - 1]
    while True:
        template = rng.choice(first)
        later = frames[(frames > template) & (frames < template + gap)]
        if len(later):
            return int(template), int(rng.choice(later))
        gap += WIDER


def jittered(box: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A box of another size, whose centre is off by up to 1.5 times the square root of its area."""
    size = box[2:] * np.exp(SIZE_JITTER * rng.standard_normal(2))
    centre = box[:2] + box[2:] / 2 + CENTRE_JITTER * np.sqrt(size.prod()) * (rng.random(2) - 0.5)
    return np.concatenate([centre - size / 2, size])


def _empty(crop: Crop) -> bool:
    """Whether all of a crop lies outside the image, or all of it as ``interpolate`` reduces it to one pixel for each token."""
    return bool(crop.outside[::STRIDE, ::STRIDE].all())


def _channels_first(crop: Crop) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(np.moveaxis(crop.pixels, -1, -3)))
