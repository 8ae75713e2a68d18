"""A small data set in the folders of FE108 and VisEvent."""

import cv2
import numpy as np


def make(root, layout, split, names, frames=40, T=1):
    """Images whose red channel is their number, with a box that moves to the right."""
    labels, first = {"fe108": ("groundtruth_rect.txt", 1), "visevent": ("groundtruth.txt", 0)}[layout]
    boxes = np.stack([np.arange(frames) + 10.0, np.full(frames, 20.0), np.full(frames, 16.0), np.full(frames, 12.0)], 1)
    boxes[7:8, 2:] = 0
    for name in names:
        folder = root / split / name / f"inter{T}_stack_3008"
        folder.mkdir(parents=True)
        for i in range(frames):
            for k in range(T):
                image = np.zeros((60, 80, 3), np.uint8)
                image[..., 2] = i  # OpenCV's order is blue, green, red
                image[20:32, 10 + i : 26 + i, 0] = 100 + k
                cv2.imwrite(str(folder / f"{first + i:04d}_{k + 1}.png"), image)
        np.savetxt(folder.parent / labels, boxes, "%.1f", ",")
    return boxes
