"""Images of an OpenMMLab dataset as a model sees them."""

from collections.abc import Iterable, Iterator

import torch
from mmengine.dataset import pseudo_collate
from torch import Tensor
from torch.nn import functional as F


def spread(count: int, dataset) -> list[int]:
    """Indices of ``count`` entries, evenly spread over a dataset (all of a smaller one)."""
    count = min(count, len(dataset))
    return [i * len(dataset) // count for i in range(count)]


def from_dataset(dataset, preprocessor, indices: Iterable[int], size: tuple[int, ...]) -> Iterator[Tensor]:
    """Images at ``indices``, normalised by the model's preprocessor, resized to ``size`` (H, W).

    Each is (1, C, H, W), or (T, 1, C, H, W) where the preprocessor makes time steps.
    """
    for index in indices:
        batch = pseudo_collate([dataset[index]])
        with torch.no_grad():
            image = preprocessor(batch, False)["inputs"]
        yield resized(image.float(), size)


def resized(images: Tensor, size: tuple[int, ...]) -> Tensor:
    """Images (..., C, H, W) of another (H, W)."""
    flat = images.flatten(0, -4)
    return F.interpolate(flat, size, mode="bilinear", antialias=True).unflatten(0, images.shape[:-3])
