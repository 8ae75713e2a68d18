"""Why a layer has no field: its gradients are not finite or all zero, or its output is in another order than it seems."""

import re

import numpy as np

from ..numbers.metrics import cell_edges, cell_masses, mass_at

# A field's maximum, below which the numbers of float32 are too small to be exact: the least is 1e-45, and has one bit.
_LEAST = 1e-35


def flaw(layer: str, kind: str, value: np.ndarray) -> str | None:
    """What is wrong with a field that is not finite, zero everywhere, or next to zero, with the likely cause."""
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
            f"normalisation over channels, whose sum is constant (use channels='per-channel'), gradients that are negative "
            f"everywhere, of which reduce='relu' and the protocols with it keep nothing, gradients too small for "
            f"float32, or, of several inputs, one that the layer does not see."
        )
    if np.abs(value).max() < _LEAST:
        return (
            f"layer {layer!r}: gradients of at most {np.abs(value).max():.0e} are too small for float32, which rounds them to "
            f"nothing or nearly so. Likely causes: small random weights, and norms that do not have the statistics of these inputs "
            f"(give calibrate=True). To look all the same, pass as `layout` a function that makes (B, C, h, w) of the output, "
            f"times 1e20."
        )
    return None


def near_target(field: np.ndarray, size: tuple[int, ...], at: tuple[int, ...]) -> bool:
    """Whether a field is densest around its target, so that the target is clearly where it is looked for.

    Args:
        field: (H, W).
        size: (h, w) of the layer's output.
        at: row and column of the target in it.
    """
    field = np.abs(field)
    pixel = np.unravel_index(field.argmax(), field.shape)
    row, column = (
        int(np.searchsorted(cell_edges(n, cells), i, side="right")) - 1
        for i, n, cells in zip(pixel, field.shape, size, strict=True)
    )
    here = mass_at(field, size, at)
    return here > 2 and here > 0.5 * mass_at(field, size, (row, column))


def densest_at(field: np.ndarray, size: tuple[int, ...], at: tuple[int, ...]) -> bool:
    """Whether no cell of the output has more of a field than the target's; else its tokens may be shifted by one."""
    mass = cell_masses(np.abs(field), size)
    return bool(mass[at] >= mass.max())


def elsewhere(field: np.ndarray, size: tuple[int, ...], at: tuple[int, ...]) -> bool:
    """Whether more than half of a field's mass lies in a single cell of the output, and none to speak of in the target's.

    So it is where tokens are shifted by a few, as by those that come behind the patches and count as if they came before.
    """
    mass = cell_masses(np.abs(field), size)
    return bool(mass.max() > 0.5 * mass.sum() and mass[at] < 0.1 * mass.max())


def misread(layer: str, size: tuple[int, ...]) -> str:
    """Why an output has no field that changes elsewhere than the image does; ``size`` is that of its map."""
    module = re.split(r"[\[#]", layer)[0]
    return (
        f"layer {layer!r}: its map of {'x'.join(map(str, size))} changes elsewhere than the input does: its tokens are not in "
        f"the order of rows and columns, are queries, or its axes are others than they seem, as those of a matrix over "
        f"tokens. Pass layout={{{module!r}: function}} with a function that makes (B, C, h, w) of its output, or name a "
        f"later layer or the block around it; if the order is right, pass grid={{{module!r}: {size}}}."
    )
