"""Which fields of a result are not those of the network at the target: rounding, leftover noise, or another place."""

from typing import Any

import numpy as np

from .metrics import mass_at
from .protocols import protocol_of

_UNSETTLED = 0.5  # share of a signed field's squares that is noise, from which on its numbers are those of the noise
_KINDS = ("spatial", "temporal", "frames")
_BESIDE = 0.01  # density of a field's mass around its target, below which it is called elsewhere; a flat field has 1


def channels_of(result: Any, layer: str) -> str | int | None:
    """How the channels of a layer's output entered its field."""
    protocol = protocol_of(result.info, layer)
    return protocol.channels if protocol else result.info.get("channels")


def is_noise(result: Any, layer: str) -> bool:
    """Whether a field is the rounding noise of the gradient of a constant sum of channels."""
    return layer in result.info.get("constant_sums", []) and channels_of(result, layer) == "sum"


def is_unsettled(result: Any, layer: str) -> bool:
    """Whether half of a signed field or more, of its sum of squares, is the noise that the mean over so few inputs leaves.

    Noise adds to all absolute values, most where the field is about zero, and no correction finds out how much. Fields of
    absolute or positive gradients are those of the noise, too.
    """
    protocol = protocol_of(result.info, layer)
    if (protocol.reduce if protocol else result.info.get("reduce")) != "signed":
        return False
    fields = [(getattr(result, k).get(layer), getattr(result, f"{k}_error").get(layer)) for k in _KINDS]
    return any(
        bool(np.square(error).sum() > _UNSETTLED * np.square(field).sum())
        for field, error in fields
        if field is not None and error is not None
    )


def is_elsewhere(result: Any, layer: str) -> bool:
    """Whether hardly any of a field lies around its target."""
    size, at = result.target(layer)
    field = result.spatial.get(layer)
    return size is not None and at is not None and field is not None and mass_at(np.abs(field), size, at) < _BESIDE
