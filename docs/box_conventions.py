"""How far conventions of boxes move a tracker's numbers, on a small example: the table in ``docs/tracking.md``.

    python docs/box_conventions.py

An object of 24 x 18 pixels comes in from the left, so that its first labels touch the border, and moves on by 0.9 pixels an image.
A tracker looks too far to the right as long as it sees a part of it, by 40 pixels at first. Then it follows with an error of about
2 pixels and 8 % of the size; its boxes do not leave the image.
"""

import numpy as np

from sterf_plugins.tracking.box_metrics import curves

FRAMES = 100


def example() -> tuple[np.ndarray, np.ndarray]:
    """Predictions and labels, (frames, 4): x, y, w, h."""
    i = np.arange(FRAMES)
    labels = np.stack([0.9 * i - 8, 40 + 0.3 * i, np.full(FRAMES, 24.0), np.full(FRAMES, 18.0)], 1)
    grown = 1 + 0.08 * np.sin(i / 11)
    size = labels[:, 2:] * grown[:, None]
    centre = labels[:, :2] + labels[:, 2:] / 2 + np.stack([2 * np.sin(i / 5) + 40 * np.exp(-i / 12), 1.5 * np.cos(i / 7)], 1)
    start, stop = centre - size / 2, centre + size / 2
    start[:, 0] = np.maximum(start[:, 0], 0)
    return np.concatenate([start, stop - start], 1), labels


def table() -> str:
    """A Markdown table of AUC and PR, in per cent."""
    boxes, labels = example()
    inside, one = (labels > 0).all(1), np.array([0, 0, 1, 1])
    cases = {
        "exact boxes, every label counts (`ostrack`)": curves(boxes, labels, protocol="ostrack"),
        "boxes cut to integers": curves(np.trunc(boxes), labels, protocol="ostrack"),
        "right edge x + w − 1, and no + 1 in the overlap": curves(boxes - one, labels - one, protocol="ostrack"),
        "areas (w + 1)(h + 1)": curves(boxes + one, labels + one, protocol="ostrack"),
        f"`toolkit`: {(~inside).sum()} labels touch the left border, a miss in AUC and a hit in PR": curves(boxes, labels),
        "those images left out": curves(boxes[inside], labels[inside]),
        "`toolkit`, boxes cut to integers, as published": curves(np.trunc(boxes), labels),
    }
    rows = [
        f"| {name} | {numbers['AUC']:.2f} | {numbers['PR']:.2f} | {numbers['NPR']:.2f} | {numbers['OP75']:.2f} |"
        for name, numbers in ((name, case.numbers()) for name, case in cases.items())
    ]
    return "\n".join(["| convention | AUC | PR | NPR | OP75 |", "|---|---|---|---|---|", *rows])


if __name__ == "__main__":
    print(table())
