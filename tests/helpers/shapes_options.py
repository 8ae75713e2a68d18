"""The shipped configs of the small data set of shapes, and options for short trainings of them."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DETECTOR = ROOT / "configs" / "shapes" / "mask-rcnn_sdtv3-t-srb_fpn_shapes.py"
SEGMENTOR = ROOT / "configs" / "shapes" / "fpn_sdtv3-t-srb_shapes.py"


def segmentation_data(shapes) -> dict:
    options = {f"{p}_dataloader__dataset__data_root": f"{shapes}/ade" for p in ("train", "val", "test")}
    return {**options, "train_dataloader__batch_size": 2, "val_dataloader__batch_size": 2}


def detection_data(shapes) -> dict:
    options = {f"{p}_dataloader__dataset__data_root": f"{shapes}/" for p in ("train", "val", "test")}
    annotations = f"{shapes}/annotations/instances_val2017.json"
    options |= {f"{p}_evaluator__ann_file": annotations for p in ("val", "test")}
    # as little work as data
    options |= {"model__train_cfg__rcnn__sampler__num": 32, "model__test_cfg__rcnn__max_per_img": 10}
    return {**options, "train_dataloader__batch_size": 2}


SMALL_FIELDS = {"default_hooks__erf__num_samples": 2, "default_hooks__erf__input_size": 64}
SHORT = {
    "train_cfg__max_iters": 2,
    "train_cfg__val_interval": 2,
    "default_hooks__checkpoint__interval": 1,
    **SMALL_FIELDS,
}
