"""Scores for the scenes that ``tools/dataset_tools/make_shapes.py`` renders: AP50 and IoU by class, and names of the twins."""

import contextlib
import io
import json
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval


@dataclass
class Scores:
    """AP50 of one kind ("bbox" or "segm"), by class."""

    by_class: dict[str, float]

    def plain(self) -> float:
        """Mean over the plain classes, which are all but the twins."""
        return plain_mean(self.by_class)

    def all(self) -> float:
        """Mean over all classes."""
        return float(np.nanmean(list(self.by_class.values())))


def plain_mean(by_class: dict[str, float]) -> float:
    """Mean over the classes of objects that need no look at a mark far away."""
    return float(np.nanmean([v for k, v in by_class.items() if k != "background" and not k.startswith("twin")]))


def quiet_coco(build):
    """What ``build()`` returns, without what pycocotools prints meanwhile."""
    with contextlib.redirect_stdout(io.StringIO()):
        return build()


def average_precision(truth: COCO, results: Path, kind: str) -> Scores:
    """AP at IoU 0.5 of each class, from a COCO result file; ``kind`` is "bbox" or "segm"."""

    def evaluate():
        evaluation = COCOeval(truth, truth.loadRes(str(results)), kind)
        evaluation.params.iouThrs = np.array([0.5])
        evaluation.evaluate()
        evaluation.accumulate()
        return evaluation

    precision = quiet_coco(evaluate).eval["precision"]  # (1, recall, class, area, max detections)
    values = {}
    for i, category in enumerate(truth.loadCats(truth.getCatIds())):
        curve = precision[0, :, i, 0, -1]
        values[category["name"]] = float(curve[curve > -1].mean()) if (curve > -1).any() else float("nan")
    return Scores(values)


def box_iou(a, b) -> float:
    """Intersection over union of two boxes (x, y, width, height)."""
    width = min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0])
    height = min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1])
    inter = max(width, 0) * max(height, 0)
    return inter / (a[2] * a[3] + b[2] * b[3] - inter)


def twin_accuracy(truth: COCO, results: Path) -> list[tuple[float, int, int, int]]:
    """How often the twins that were found (IoU 0.5) got the right one of their two names.

    Returns:
        For each distance of the mark in pixels: the distance, the number of twins, of those found, and of those that
        were found and named right.
    """
    names = {c["id"]: c["name"] for c in truth.dataset["categories"]}
    detections: dict[int, list] = {}
    for detection in json.loads(results.read_text()):
        if names[detection["category_id"]].startswith("twin"):
            detections.setdefault(detection["image_id"], []).append(detection)
    rows: dict[float, list[int]] = {}
    for annotation in truth.dataset["annotations"]:
        if "mark_distance" not in annotation:
            continue
        row = rows.setdefault(round(annotation["mark_distance"]), [0, 0, 0])
        row[0] += 1
        near = [d for d in detections.get(annotation["image_id"], []) if box_iou(d["bbox"], annotation["bbox"]) >= 0.5]
        if near:
            row[1] += 1
            row[2] += max(near, key=lambda d: d["score"])["category_id"] == annotation["category_id"]
    return [(distance, twins, found, right) for distance, (twins, found, right) in sorted(rows.items())]


def intersection_over_union(maps: Path, labels: Path, classes: list[str]) -> dict[str, float]:
    """IoU by class over all pixels whose label is not 0 (ignored)."""
    count = len(classes)
    confusion = np.zeros((count, count), np.int64)
    for path in sorted(labels.glob("*.png")):
        truth = read_image(path, cv2.IMREAD_GRAYSCALE).astype(np.int64) - 1
        predicted = read_prediction(maps, path)
        valid = (truth >= 0) & (truth < count)
        confusion += np.bincount(truth[valid] * count + predicted[valid], minlength=count**2).reshape(count, count)
    hits = np.diag(confusion)
    union = confusion.sum(0) + confusion.sum(1) - hits
    return {name: float(hits[i] / union[i]) if union[i] else float("nan") for i, name in enumerate(classes)}


def read_prediction(maps: Path, label: Path) -> np.ndarray:
    """Predicted class indices; mmseg writes them shifted by one where label 0 is ignored."""
    return np.clip(read_image(maps / label.name, cv2.IMREAD_GRAYSCALE).astype(np.int64) - 1, 0, None)


def read_image(path: Path, mode: int = cv2.IMREAD_COLOR) -> np.ndarray:
    """An image file as OpenCV reads it; ``ValueError`` if it cannot be read."""
    image = cv2.imread(str(path), mode)
    if image is None:
        raise ValueError(f"{path} cannot be read as an image.")
    return image
