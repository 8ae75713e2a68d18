"""How well predicted boxes follow an object: success and precision curves, and the numbers that are read off them.

Two protocols differ in what they do with labels that say nothing. "toolkit" is the MATLAB toolkit behind the published numbers
of FE108 and VisEvent: a label with any of x, y, w, h not above 0 counts as missed in overlap and as *hit* in precision.
"ostrack" is the Python toolkit of OSTrack and its descendants: a label without area counts as missed in overlap and precision,
and as hit in normalised precision. Both measure boxes as whole pixels: their right edge is x + w - 1.

Boxes of whole numbers often lie exactly at a threshold, where rounding decides. So numbers are added and divided in the toolkits'
order, and the thresholds are theirs to the last bit.

Boxes are (x, y, w, h) in pixels.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..checks import one_of

PROTOCOLS = ("toolkit", "ostrack")
OVERLAPS = np.linspace(0, 1, 21)
# 0:0.05:1 of MATLAB, which counts the upper half down from 1: its 0.65 is a little less, so that an overlap of 0.65 is above it.
MATLAB_OVERLAPS = np.concatenate([OVERLAPS[:11], 1 - 0.05 * np.arange(9, -1, -1)])
PIXELS = np.arange(51.0)
SIZES = np.arange(51) / 100
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Curves:
    """Shares of a sequence's frames, by threshold.

    Args:
        success: frames whose overlap is above 0, 0.05, …, 1; (21,).
        precision: frames whose centre is off by at most 0, 1, …, 50 pixels; (51,).
        norm_precision: the same in units of the label's width and height, 0, 0.01, …, 0.5; (51,).
    """

    success: Floats
    precision: Floats
    norm_precision: Floats

    def numbers(self) -> dict[str, float]:
        """AUC, PR (at 20 pixels), NPR (at 0.2), OP50 and OP75, in per cent."""
        return {
            "AUC": 100 * float(self.success.mean()),
            "PR": 100 * float(self.precision[20]),
            "NPR": 100 * float(self.norm_precision[20]),
            "OP50": 100 * float(self.success[10]),
            "OP75": 100 * float(self.success[15]),
        }


def curves(
    predicted: ArrayLike, labels: ArrayLike, absent: ArrayLike | None = None, protocol: str = "toolkit"
) -> Curves:
    """The curves of one sequence.

    The first prediction is taken to be the label. Predictions after the last label do not count. One that is no box repeats
    the one before: with "toolkit" any with NaN or without area; with "ostrack" one of size 0; lines that are missing are boxes
    of size 0 at the left upper corner there. Where the label is NaN a prediction stays.

    Args:
        predicted: (frames, 4).
        labels: (frames, 4).
        absent: for each frame whether the object is not there, which "toolkit" leaves out of the hits; ``None``: never.
        protocol: "toolkit" or "ostrack".

    Raises:
        ValueError: the arrays have other shapes, no label has an area, "toolkit" lacks predictions, or "ostrack" finds one that
            is negative or NaN.
    """
    one_of("protocol", protocol, PROTOCOLS)
    boxes, truth = _boxes("predicted", predicted), _boxes("labels", labels)
    if not (truth[:, 2:] > 0).all(1).any():
        raise ValueError(
            f"none of {len(truth)} labels is a box with an area; such a sequence says nothing: leave it out."
        )
    boxes = _with_boxes_replaced(boxes[: len(truth)], truth, protocol)
    boxes[0] = truth[0]
    with np.errstate(divide="ignore", invalid="ignore"):  # of labels without area, which are replaced below
        overlap, error, norm_error = _overlap(boxes, truth), _error(boxes, truth, False), _error(boxes, truth, True)
    unclear = ~(truth > 0 if protocol == "toolkit" else truth[:, 2:] > 0).all(1)
    overlap[unclear], norm_error[unclear] = -1, -1
    error[unclear] = -1 if protocol == "toolkit" else np.inf
    there = np.ones(len(truth), bool)
    if absent is not None and protocol == "toolkit":
        there = np.asarray(absent).reshape(-1) == 0
        if len(there) != len(truth):
            raise ValueError(f"`absent` has {len(there)} entries, and there are {len(truth)} labels.")

    def shares(hits: NDArray[np.bool_]) -> Floats:
        return hits[there].sum(0) / len(truth)

    return Curves(
        shares(overlap[:, None] > (MATLAB_OVERLAPS if protocol == "toolkit" else OVERLAPS)),
        shares(error[:, None] <= PIXELS),
        shares(norm_error[:, None] <= SIZES),
    )


def mean_curves(sequences: Iterable[Curves], protocol: str = "toolkit") -> Curves:
    """The mean over sequences. "toolkit" leaves those in which nothing was hit out of a curve; "ostrack" counts them as zero.

    Raises:
        ValueError: there are none; the protocol is unknown.
    """
    one_of("protocol", protocol, PROTOCOLS)
    every = list(sequences)
    if not every:
        raise ValueError("there is no sequence to take the mean of.")

    def mean(name: str) -> Floats:
        stacked = np.stack([getattr(one, name) for one in every])
        hit = stacked.any(1) | (protocol == "ostrack")
        return stacked[hit].mean(0) if hit.any() else stacked.mean(0)

    return Curves(mean("success"), mean("precision"), mean("norm_precision"))


def _boxes(name: str, values: ArrayLike) -> Floats:
    """Boxes as an array (frames, 4).

    Raises:
        ValueError: they have another shape.
    """
    boxes: Floats = np.array(values, np.float64)
    if boxes.ndim != 2 or boxes.shape[1] != 4:
        raise ValueError(f"`{name}` has shape {boxes.shape}; it must be (frames, 4): x, y, w, h.")
    return boxes


def _with_boxes_replaced(boxes: Floats, truth: Floats, protocol: str) -> Floats:
    """The predictions with those replaced that are no boxes."""
    frames = len(truth)
    if protocol == "ostrack":
        wrong = np.flatnonzero(np.isnan(boxes).any(1) | (boxes[:, 2:] < 0).any(1))
        if len(wrong):
            raise ValueError(
                f"prediction {wrong[0]} is {boxes[wrong[0]].tolist()}; it must be finite and have a size >= 0."
            )
        empty = (boxes[:, 2:] == 0).any(1)
    else:
        if len(boxes) < frames:
            raise ValueError(f"there are {len(boxes)} predictions for {frames} labels; run the test to its end.")
        empty = np.isnan(boxes).any(1) | (boxes[:, 2:] <= 0).any(1)
    empty &= ~np.isnan(truth[: len(boxes)]).any(1)
    for i in np.flatnonzero(empty[1:]) + 1:
        boxes[i] = boxes[i - 1]
    return np.concatenate([boxes, np.zeros((frames - len(boxes), 4))])  # these "ostrack" does not replace


def _overlap(a: Floats, b: Floats) -> Floats:
    """Intersection over union of boxes of whole pixels."""
    start = np.maximum(a[:, :2], b[:, :2])
    stop = np.minimum(a[:, :2] + a[:, 2:] - 1, b[:, :2] + b[:, 2:] - 1)
    common = np.maximum(stop - start + 1, 0).prod(1)
    return common / (a[:, 2:].prod(1) + b[:, 2:].prod(1) - common)


def _error(a: Floats, b: Floats, normalised: bool) -> Floats:
    """Distance of the centres, in pixels, or in units of the label's width and height."""
    centres = [box[:, :2] + (box[:, 2:] - 1) / 2 for box in (a, b)]
    first, second = (centre / b[:, 2:] for centre in centres) if normalised else centres
    return np.asarray(np.sqrt(((first - second) ** 2).sum(1)))
