"""Pictures of a tracker at work: the event image with the box, and the scores beside it."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from .follow import Step
from .sequences import have_area

# Blue, green, red, as OpenCV has them.
BOX, LABEL, REGION, TEXT = (0, 200, 255), (90, 220, 90), (200, 200, 200), (255, 255, 255)
FAR = 2**15  # pixels, beyond all pictures; OpenCV refuses numbers that are much larger


def draw_step(
    image: NDArray[np.uint8],
    step: Step | None,
    box: NDArray[np.floating],
    words: str,
    label: NDArray[np.floating] | None = None,
) -> NDArray[np.uint8]:
    """The event image with the box and the search region at the left, the score map at the right, in OpenCV's order of colours.

    Args:
        image: uint8 (H, W, 3), or (T, H, W, 3), of which the last part is drawn.
        step: what the tracker found; ``None`` for the first image.
        box: (x, y, w, h) in pixels.
        words: what is written below.
        label: where the object is, if that is known; one without an area is not drawn.
    """
    import cv2

    height = image.shape[-3]
    scale = max(1, round(480 / height))
    whole = image[-1] if image.ndim == 4 else image
    whole = (255 * np.sqrt(whole / 255)).astype(np.uint8)  # a single event is 30 of 255, which is hardly seen
    left = cv2.resize(np.ascontiguousarray(whole[..., ::-1]), None, fx=scale, fy=scale, interpolation=cv2.INTER_NEAREST)

    def rectangle(corner: np.ndarray, size: np.ndarray, colour: tuple[int, int, int], line: int) -> None:
        points = np.round(scale * np.stack([corner, corner + size])).clip(-FAR, FAR)
        start, stop = (tuple(point.tolist()) for point in points.astype(int))
        cv2.rectangle(left, start, stop, colour, line)

    right: Any = np.zeros((height * scale, height * scale, 3), np.uint8)
    if step is not None:
        *corner, side = step.search
        rectangle(np.array(corner), np.array([side, side]), REGION, 1)
        score: Any = (255 * step.score / max(float(step.score.max()), 1e-9)).astype(np.uint8)
        score = cv2.resize(score, right.shape[:2], interpolation=cv2.INTER_NEAREST)
        right = cv2.applyColorMap(score, cv2.COLORMAP_VIRIDIS)
    if label is not None and have_area(label[None])[0]:
        rectangle(label[:2], label[2:], LABEL, 1)
    rectangle(np.asarray(box[:2]), np.asarray(box[2:]), BOX, 2)
    picture = np.concatenate([left, right], 1)
    below = np.zeros((28, picture.shape[1], 3), np.uint8)
    cv2.putText(below, words, (6, 20), cv2.FONT_HERSHEY_SIMPLEX, 0.5, TEXT, 1, cv2.LINE_AA)
    picture = np.concatenate([picture, below])
    return picture[: len(picture) // 2 * 2, : picture.shape[1] // 2 * 2]  # encoders want even sides
