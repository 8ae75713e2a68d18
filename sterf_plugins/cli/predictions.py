"""Predictions of a detector or segmentor for image files: computed, drawn by the library's visualizer, and as JSON."""

from pathlib import Path
from typing import Any

import mmcv
import numpy as np
from mmengine.dataset import Compose
from mmengine.registry import DATASETS, VISUALIZERS
from mmengine.structures import BaseDataElement
from torch import Tensor, no_grad

from ..files import replacing
from ..openmmlab.configs.types import type_name
from .loading import Loaded

SIDES = 1000  # mmdet's ids of panoptic segments are label + SIDES * number


class Predictor:
    """Runs a model on image files as mmdet's ``inference_detector`` and mmseg's ``inference_model`` do, one at a time.

    Both prepare an image by the test pipeline of the config. Here the prepared image is given back too, for receptive
    fields, and one class serves both libraries.

    Args:
        loaded: a model with its config.

    Raises:
        ValueError: the config has no test data set, from which the pipeline and the names of classes come.
    """

    def __init__(self, loaded: Loaded):
        dataset = loaded.test_dataset
        while dataset and "pipeline" not in dataset and "dataset" in dataset:  # wrapped, as by RepeatDataset
            dataset = dataset["dataset"]
        if not dataset or "pipeline" not in dataset:
            raise ValueError(
                f"config {loaded.label!r} has no test_dataloader.dataset with a pipeline, which prepares the images; add it."
            )
        self.model: Any = loaded.model
        self.pipeline = Compose([t for t in dataset["pipeline"] if not type_name(t).endswith("Annotations")])
        meta = DATASETS.build(dict(dataset, lazy_init=True, pipeline=[])).metainfo
        self.meta = {**meta, **{key.lower(): value for key, value in loaded.dataset_meta.items()}}
        kind = "SegLocalVisualizer" if loaded.config.get("default_scope") == "mmseg" else "DetLocalVisualizer"
        settings = dict(loaded.config.get("visualizer") or dict(type=kind), vis_backends=None, name="predictions")
        self.visualizer: Any = VISUALIZERS.build(settings)
        self.visualizer.dataset_meta = self.meta

    def predict(self, path: Path) -> tuple[Tensor, BaseDataElement]:
        """The image as the network sees it (1, C, H, W), and the library's data sample with the predictions."""
        data = self.pipeline(dict(img_path=str(path), img_id=0))
        batch = dict(inputs=[data["inputs"]], data_samples=[data["data_samples"]])
        with no_grad():
            batch = self.model.data_preprocessor(batch, False)
            inputs = batch["inputs"].clone()
            return inputs, self.model(**batch, mode="predict")[0].cpu()

    def draw(self, path: Path, sample: BaseDataElement, threshold: float, to: Path) -> None:
        """Write the image with its predictions; detections below the threshold are left out."""
        options: dict[str, Any] = dict(pred_score_thr=threshold) if hasattr(sample, "pred_instances") else {}
        image = mmcv.imread(str(path), channel_order="rgb")
        if hasattr(sample, "pred_panoptic_seg") and not _segments(sample, self.meta["classes"]):
            sample = sample.new()
            del sample.pred_panoptic_seg  # mmdet's visualizer fails where there are none
        with replacing(to) as partial:
            self.visualizer.add_datasample(
                to.name, image, sample, draw_gt=False, show=False, out_file=str(partial), **options
            )


def check_image(path: Path) -> None:
    """Raise ``ValueError`` if a file is no image."""
    from PIL import Image, UnidentifiedImageError

    from ..events.readers import FORMATS

    if path.suffix.lower() in FORMATS:
        raise ValueError(
            f"{path} is a recording of events, and no image. For pictures of detections on a data set of recordings: "
            f"sterf test CONFIG CHECKPOINT --show-dir DIR; to follow one object: sterf track."
        )
    try:
        with Image.open(path) as image:
            image.verify()
    except (UnidentifiedImageError, OSError, SyntaxError) as error:
        raise ValueError(f"{path} is no readable image ({error}); remove it or give others.") from error


def class_name(label: int, classes: tuple[str, ...]) -> str:
    """A label's class; ``ValueError`` if the data set has none of that number."""
    if label >= len(classes):
        raise ValueError(
            f"the model predicts label {label}, and the config's test data set has {len(classes)} classes; give the right "
            f"ones: --cfg-options test_dataloader.dataset.metainfo.classes=\"('NAME','NAME')\""
        )
    return classes[label]


def detections(sample: BaseDataElement, classes: tuple[str, ...]) -> list[dict[str, Any]]:
    """The detections of a data sample, the highest score first, as JSON can hold them.

    Each has ``label``, ``class``, ``score``, ``box`` (left, top, right, bottom, in pixels of the image file), and
    ``mask`` (COCO's run lengths) where the model has masks. Without boxes, as in SOLO, the box is that of the mask.
    """
    from mmdet.structures.bbox import get_box_tensor
    from mmdet.structures.mask import encode_mask_results, mask2bbox

    found = getattr(sample, "pred_instances", None)
    if found is None:
        return []
    found = found[found.scores.argsort(descending=True)]
    masks = found.get("masks")
    boxes: Any = get_box_tensor(found.bboxes) if "bboxes" in found else None
    if masks is not None and (boxes is None or not boxes.any()):
        boxes = mask2bbox(masks)
    runs = encode_mask_results(masks.numpy()) if masks is not None else []
    rows = []
    for i, label in enumerate(found.labels.tolist()):
        row = {
            "label": label,
            "class": class_name(label, classes),
            "score": float(found.scores[i]),
            "box": boxes[i].tolist(),
        }
        if masks is not None:
            row["mask"] = dict(runs[i], counts=runs[i]["counts"].decode())
        rows.append(row)
    return rows


def label_map(sample: BaseDataElement, classes: tuple[str, ...]) -> tuple[np.ndarray, dict[str, Any]] | None:
    """What a segmentor or panoptic model says of each pixel, as a picture and in words; ``None`` of any other model.

    Returns:
        Of a segmentor the labels (H, W), and the share of pixels of each class that is there. Of a panoptic model COCO's
        picture (H, W, 3), whose colours are the segments' ids r + 256 g + 65536 b, and the class of each.
    """
    if hasattr(sample, "pred_sem_seg"):
        labels = sample.pred_sem_seg.data[0].numpy()
        present, counts = np.unique(labels, return_counts=True)
        shares = {
            class_name(k, classes): n / labels.size for k, n in zip(present.tolist(), counts.tolist(), strict=True)
        }
        return labels.astype(np.uint8 if len(classes) < 256 else np.uint16), {"classes": shares}
    if hasattr(sample, "pred_panoptic_seg"):
        ids = sample.pred_panoptic_seg.sem_seg[0].numpy()
        picture = np.stack([ids % 256, ids // 256 % 256, ids // 65536], -1).astype(np.uint8)
        return picture, {"segments": _segments(sample, classes)}
    return None


def _segments(sample: Any, classes: tuple[str, ...]) -> list[dict[str, Any]]:
    """The segments of a panoptic prediction; pixels of none have the number of classes as their label."""
    ids = np.unique(sample.pred_panoptic_seg.sem_seg[0].numpy()).tolist()
    return [{"id": i, "class": classes[i % SIDES]} for i in ids if i % SIDES < len(classes)]
