"""Images of an OpenMMLab dataset as a model sees them."""

from collections.abc import Iterable, Iterator

import torch
from mmengine.dataset import pseudo_collate
from torch import Tensor

from ...erf.sweep import resized


def spread(count: int, dataset) -> list[int]:
    """Indices of ``count`` entries, evenly spread over a dataset (all of a smaller one)."""
    count = min(count, len(dataset))
    return [i * len(dataset) // count for i in range(count)]


def from_dataset(dataset, preprocessor, indices: Iterable[int], size: tuple[int, ...] | None) -> Iterator[Tensor]:
    """Images at ``indices``, normalised by the model's preprocessor, resized to ``size`` (H, W) if it is given.

    Each is (1, C, H, W), or (T, 1, C, H, W) where the preprocessor makes time steps, and of the frames of an event video.
    """
    for index in indices:
        batch = pseudo_collate([dataset[index]])
        with torch.no_grad():
            data = preprocessor(batch, False)
        image = data["inputs"] if "inputs" in data else torch.stack([*data["frames"]], 1)
        yield image.float() if size is None else resized(image.float(), size)


def image_size(preprocessor, dataset) -> tuple[int, int]:
    """(H, W) of the images that a model trains on: the crops that its preprocessor expects, else those of the first entry.

    Args:
        preprocessor: the model's; that of a segmentor has a ``size``.
        dataset: images as they are validated.
    """
    size = getattr(preprocessor, "size", None)
    if size is not None:
        return size[0], size[1]
    height, width = next(from_dataset(dataset, preprocessor, [0], None)).shape[-2:]
    return height, width
