"""Why a layer has no field: its gradients are not finite or all zero, or lie elsewhere than its target."""

import numpy as np

from .metrics import mass_at


def flaw(layer: str, kind: str, value: np.ndarray) -> str | None:
    """What is wrong with a field that is not finite, or zero everywhere, with the likely cause."""
    if not np.isfinite(value).all():
        share = 1 - np.isfinite(value).mean()
        return (
            f"layer {layer!r}: {share:.1%} of the gradients are not finite; look for NaN weights, NaN inputs or a diverged "
            f"training, and for overflow of 16-bit parameters."
        )
    if not value.any():
        return (
            f"layer {layer!r}: all gradients are zero{'' if kind == 'spatial' else f' ({kind})'}. Likely causes: a spiking "
            f"neuron without a surrogate gradient in eval mode, a detached or `no_grad` branch, a dead layer, a "
            f"normalisation over channels, whose sum is constant (use channels='per-channel'), or, of several inputs, one that "
            f"the layer does not see."
        )
    return None


def misplaced(layer: str, field: np.ndarray, size: tuple[int, int] | None, at: tuple[int, int] | None) -> str | None:
    """Why a field cannot be that of the target, if it lies elsewhere.

    Args:
        layer: its name, for the message.
        field: (H, W).
        size: (h, w) of the layer's output; ``None``, as the next one, where there is no single target.
        at: row and column of the target in it.
    """
    if size is None or at is None:
        return None
    field = np.abs(field)
    row, column = (int(n) for n in np.unravel_index(field.argmax(), field.shape))
    peak = (row * size[0] // field.shape[0], column * size[1] // field.shape[1])
    here, there = mass_at(field, size, at), mass_at(field, size, peak)
    if here > 0.5 or (here > 0.1 and there < 20 * here):  # the second is attention that looks elsewhere
        return None
    height, width = field.shape
    wanted = tuple(int((i + 0.5) * n / m) for i, n, m in zip(at, (height, width), size, strict=True))
    return (
        f"layer {layer!r}: its field lies around pixel ({row}, {column}), its target at {wanted} of {height}x{width}: "
        f"its tokens are not in the order of rows and columns. Pass layout={{{layer!r}: function}} with a function that "
        f"makes (B, C, h, w) of its output, or name a later layer; if the order is right, and the layer does look elsewhere, "
        f"pass grid={{{layer!r}: {size}}}."
    )
