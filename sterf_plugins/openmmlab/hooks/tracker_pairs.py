"""What hooks measure a tracker on: pairs of its data set around labelled boxes, instead of images."""

from typing import Any

from torch import Tensor, nn

from ...tracking.fields import labelled_pairs
from ...tracking.sd_track import SDTrack


def is_tracker(model: nn.Module) -> bool:
    """Whether a model's ``network`` takes pairs of a template and a search region."""
    return isinstance(getattr(model, "network", None), SDTrack)


def tracker_pairs(model: nn.Module, dataset: Any, count: int) -> list[dict[str, Tensor]]:
    """``labelled_pairs`` of a tracker's data set, in the sizes of its regions and on the model's device."""
    device = next(model.parameters()).device
    pairs = labelled_pairs(dataset.sequences, count, dataset.sizes)
    return [{name: region.to(device) for name, region in pair.items()} for pair in pairs]
