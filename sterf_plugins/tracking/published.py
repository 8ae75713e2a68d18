"""Published weights for an ``SDTrack``: whole trackers, and the classifiers from whose weights a training starts."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from ..checkpoints.sd_track import convert_tracker, variants_of
from .sd_track import SDTrack

CLASSIFIER = "backbone.head."  # entries of a linear head that nothing reads


def published_weights(
    network: SDTrack, checkpoint: Mapping[str, Any], path: object
) -> tuple[dict[str, Tensor], list[str]]:
    """A published checkpoint's entries for ``network.load_state_dict``, and the names of those that it has no place for.

    A classifier has no entries of the centre head, and all of the backbone's; the classifier's own layer is left out.

    Args:
        network: the tracker that they are for.
        checkpoint: as ``read_checkpoint`` returns it.
        path: its file, for messages.

    Raises:
        ValueError: it is of another variant, or an entry is missing, unknown or of another shape.
    """
    possible = variants_of(checkpoint)
    if network.variant not in possible:
        raise ValueError(
            f"checkpoint {path} is of an SDTrack of variant {' or '.join(possible)}, and this one is of variant "
            f"{network.variant}; give another checkpoint, or variant={possible[0]!r}."
        )
    converted, own = convert_tracker(checkpoint), network.state_dict()
    left_out = [key for key in converted if key.startswith(CLASSIFIER) and key not in own]
    entries = {key: value for key, value in converted.items() if key not in left_out}
    if not any(key.startswith("head.") for key in entries):
        own = {key: value for key, value in own.items() if not key.startswith(("head.", CLASSIFIER))}
    wrong = [key for key in own if key not in entries or own[key].shape != entries[key].shape]
    wrong += [key for key in entries if key not in own]
    if wrong:
        raise ValueError(
            f"checkpoint {path} does not fit this SDTrack: {len(wrong)} entries are missing, of another shape or without a "
            f"place, such as {wrong[0]!r}; change arch, mixer, ratio, norm_hidden, sep_conv or head_width."
        )
    return entries, left_out
