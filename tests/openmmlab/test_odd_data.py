"""Images and annotations that drawn data sets do not have, through the real pipelines, losses and metrics."""

import json
import math
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

import sterf_plugins

sterf_plugins.setup()

from mmengine.config import Config  # noqa: E402

from sterf_plugins.cli import training as cli  # noqa: E402
from sterf_plugins.openmmlab.configs.reading import load_config, merge_options  # noqa: E402

pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parents[2]
DETECTOR = ROOT / "configs" / "shapes" / "mask-rcnn_sdtv3-t-srb_fpn_shapes.py"
SEGMENTOR = ROOT / "configs" / "shapes" / "fpn_sdtv3-t-srb_shapes.py"
PHASES = ("train", "val")


def picture(height: int, width: int, kind: str = "colour") -> np.ndarray:
    """An image of noise: colour, grey, 16-bit grey, or with a fourth band."""
    shape = {
        "colour": (height, width, 3),
        "grey": (height, width),
        "16-bit": (height, width),
        "rgba": (height, width, 4),
    }
    kinds = np.uint16 if kind == "16-bit" else np.uint8
    return np.random.default_rng(height + width).integers(0, np.iinfo(kinds).max, shape[kind], dtype=kinds)


def run(folder: Path, config: Config, settings: dict, validate: bool = True) -> dict[str, float]:
    """Two iterations, and a validation, after the checks of the tool; returns losses and metrics."""
    common = {
        "work_dir": str(folder / "work"),
        "experiment_name": f"odd{abs(hash(folder))}",
        "launcher": "none",
        "train_cfg": dict(_delete_=True, type="IterBasedTrainLoop", max_iters=2, val_interval=2),
        "param_scheduler": None,
        # The default sampler ends after each batch of all images, and mmengine waits for two seconds before the next.
        "train_dataloader.sampler": dict(_delete_=True, type="InfiniteSampler", shuffle=True),
        "default_hooks.logger": dict(_delete_=True, type="LoggerHook", interval=1, log_metric_by_epoch=False),
        "default_hooks.checkpoint": None,
        "log_processor": dict(_delete_=True, by_epoch=False),
    }
    phases = PHASES if validate else PHASES[:1]
    unused = ("test",) if validate else ("val", "test")
    common |= {f"{phase}_{part}": None for phase in unused for part in ("cfg", "dataloader", "evaluator")}
    merge_options(config, {**settings, **common})
    del config.default_hooks["erf"]
    cli.check_config(config, *phases)
    runner = cli.build_runner(config)
    runner.train()
    scalars = {name: values.current() for name, values in runner.message_hub.log_scalars.items()}
    assert math.isfinite(scalars["train/loss"])
    assert all(torch.isfinite(p).all() for p in runner.model.parameters())
    return scalars


def segmentation(folder: Path, images: list[np.ndarray], maps: list[np.ndarray], **settings) -> tuple[Config, dict]:
    """A segmentor's config on images and label maps (0 is ignored), the same ones for training and validation."""
    for phase in ("training", "validation"):
        for kind in ("images", "annotations"):
            (folder / kind / phase).mkdir(parents=True)
        for i, (image, labels) in enumerate(zip(images, maps, strict=True)):
            cv2.imwrite(str(folder / "images" / phase / f"{i}.png"), image)
            cv2.imwrite(str(folder / "annotations" / phase / f"{i}.png"), labels.astype(np.uint8))
    common = {f"{phase}_dataloader.dataset.data_root": str(folder) for phase in PHASES}
    common |= {f"{phase}_dataloader.dataset.img_suffix": ".png" for phase in PHASES}
    common |= {"train_dataloader.batch_size": len(images), "val_dataloader.batch_size": 1}
    return load_config(str(SEGMENTOR)), {**common, **settings}


def labels_like(image: np.ndarray, classes: int = 6) -> np.ndarray:
    return np.random.default_rng(0).integers(0, classes + 1, image.shape[:2])


@pytest.mark.parametrize("kind", ["grey", "16-bit", "rgba"])
@pytest.mark.sweep
def test_segmentation_of_other_pixels(kind, tmp_path):
    images = [picture(96, 96, kind), picture(70, 96, kind)]
    scalars = run(tmp_path, *segmentation(tmp_path / "data", images, [labels_like(i) for i in images]))
    assert 0 <= scalars["val/mIoU"] <= 100


def test_segmentation_of_four_bands(tmp_path):
    images = [picture(96, 96, "rgba"), picture(96, 96, "rgba")]
    settings = {f"{phase}_dataloader.dataset.pipeline.0.color_type": "unchanged" for phase in PHASES}
    backbone = dict(model_name="sdtv3_nano_srb", in_channels=4, out_indices=(1, 2, 3, 4))
    settings |= {"model.backbone": dict(_delete_=True, type="sterf_plugins.TIMMBackbone", **backbone)}
    settings |= {"model.neck.in_channels": [24, 48, 96, 128], "model.data_preprocessor.bgr_to_rgb": False}
    settings |= {"model.data_preprocessor.mean": [127.5], "model.data_preprocessor.std": [57.0]}
    run(tmp_path, *segmentation(tmp_path / "data", images, [labels_like(i) for i in images], **settings))


@pytest.mark.parametrize("size", [(3, 3), (13, 501), (501, 13)], ids=str)
@pytest.mark.sweep
def test_segmentation_of_tiny_and_narrow_images(size, tmp_path):
    images = [picture(*size), picture(96, 96)]
    run(tmp_path, *segmentation(tmp_path / "data", images, [labels_like(i) for i in images]))


def test_binary_segmentation_with_one_output(tmp_path):
    images = [picture(96, 96), picture(96, 96)]
    settings = {"model.decode_head.num_classes": 2, "model.decode_head.out_channels": 1}
    settings |= {"model.decode_head.threshold": 0.5}
    config, settings = segmentation(tmp_path / "data", images, [labels_like(i, 2) for i in images], **settings)
    config.model.decode_head.loss_decode = dict(type="CrossEntropyLoss", use_sigmoid=True)
    for phase in PHASES:
        config[f"{phase}_dataloader"].dataset.metainfo = dict(
            classes=("ground", "shape"), palette=[[0, 0, 0], [255, 0, 0]]
        )
    scalars = run(tmp_path, config, settings)
    assert scalars["train/decode.loss_ce"] == pytest.approx(math.log(2), abs=0.4)


def test_labels_that_are_all_ignored(tmp_path):
    """A batch of them gives the loss 0, not NaN."""
    images = [picture(96, 96), picture(96, 96)]
    config, settings = segmentation(tmp_path / "data", images, [np.zeros(i.shape[:2]) for i in images])
    scalars = run(tmp_path, config, settings, validate=False)
    assert scalars["train/decode.loss_ce"] == 0


def detection(folder: Path, images: list[np.ndarray], annotations: list[list[dict]], ids=(1, 2, 3, 4, 5), **settings):
    """A detector's config on images and COCO annotations, the same ones for training and validation."""
    document: dict = dict(images=[], annotations=[], categories=[])
    for number, (image, found) in enumerate(zip(images, annotations, strict=True)):
        height, width = image.shape[:2]
        document["images"].append(dict(id=number, file_name=f"{number}.png", height=height, width=width))
        for annotation in found:
            document["annotations"].append({**annotation, "id": len(document["annotations"]) + 1, "image_id": number})
    names = ("disc", "square", "triangle", "twin_a", "twin_b")
    document["categories"] = [dict(id=i, name=name) for i, name in zip(ids, names, strict=True)]
    (folder / "annotations").mkdir(parents=True)
    for phase in PHASES:
        (folder / f"{phase}2017").mkdir()
        (folder / "annotations" / f"instances_{phase}2017.json").write_text(json.dumps(document))
        for number, image in enumerate(images):
            cv2.imwrite(str(folder / f"{phase}2017" / f"{number}.png"), image)
    common = {f"{phase}_dataloader.dataset.data_root": f"{folder}/" for phase in PHASES}
    common |= {"val_evaluator.ann_file": f"{folder}/annotations/instances_val2017.json"}
    common |= {"train_dataloader.batch_size": len(images), "val_dataloader.batch_size": 1}
    common |= {"model.train_cfg.rcnn.sampler.num": 16, "train_dataloader.dataset.filter_cfg.min_size": 0}
    return load_config(str(DETECTOR)), {**common, **settings}


def box(x: float, y: float, width: float, height: float, category: int) -> dict:
    outline = [x, y, x + width, y, x + width, y + height, x, y + height]
    return dict(
        bbox=[x, y, width, height], area=width * height, segmentation=[outline], category_id=category, iscrowd=0
    )


def crowd(height: int, width: int, category: int) -> dict:
    """The left half of an image, in uncompressed run lengths (by columns)."""
    left = height * (width // 2)
    counts = [0, left, height * width - left]
    run_lengths = dict(counts=counts, size=[height, width])
    bbox = [0, 0, width // 2, height]
    return dict(bbox=bbox, area=left, segmentation=run_lengths, category_id=category, iscrowd=1)


@pytest.mark.parametrize("kind", ["grey", "16-bit", "rgba"])
@pytest.mark.sweep
def test_detection_on_other_pixels(kind, tmp_path):
    images = [picture(96, 96, kind), picture(70, 96, kind)]
    found = [[box(10, 10, 40, 40, 1)], [box(5, 5, 30, 50, 2)]]
    scalars = run(tmp_path, *detection(tmp_path / "data", images, found))
    assert -1 <= scalars["val/coco/bbox_mAP"] <= 1


@pytest.mark.parametrize("size", [(3, 3), (13, 501), (501, 13)], ids=str)
@pytest.mark.sweep
def test_detection_on_tiny_and_narrow_images(size, tmp_path):
    images = [picture(*size), picture(96, 96)]
    found = [[box(1, 1, 2, 2, 1)], [box(5, 5, 30, 50, 2)]]
    run(tmp_path, *detection(tmp_path / "data", images, found))


def test_gaps_in_category_ids(tmp_path):
    """The labels of a model are positions among the categories, and the metric finds the ids again."""
    images, ids = [picture(96, 96), picture(96, 96)], (3, 17, 18, 44, 90)
    found = [[box(10, 10, 40, 40, 90)], [box(5, 5, 30, 50, 3)]]
    config, settings = detection(tmp_path / "data", images, found, ids)
    run(tmp_path, config, settings)
    from mmdet.registry import DATASETS

    dataset = DATASETS.build(dict(config.train_dataloader.dataset, pipeline=[]))
    labels = [instance["bbox_label"] for image in dataset for instance in image["instances"]]
    assert dataset.cat_ids == list(ids) and labels == [4, 0]


def test_a_batch_without_a_box(tmp_path):
    images = [picture(96, 96), picture(96, 96)]
    settings = {"train_dataloader.dataset.filter_cfg.filter_empty_gt": False}
    scalars = run(tmp_path, *detection(tmp_path / "data", images, [[], []], **settings), validate=False)
    assert scalars["train/loss_bbox"] == scalars["train/loss_mask"] == 0


def test_crowds(tmp_path):
    """An image with an object and a crowd, and one with a crowd alone."""
    images = [picture(96, 96), picture(96, 96)]
    found = [[box(60, 10, 30, 40, 1), crowd(96, 96, 1)], [crowd(96, 96, 2)]]
    settings = {"train_dataloader.dataset.filter_cfg.filter_empty_gt": False}
    run(tmp_path, *detection(tmp_path / "data", images, found, **settings))


@pytest.mark.parametrize(
    ("config", "phase"),
    [pytest.param(DETECTOR, "train", marks=pytest.mark.whole), (SEGMENTOR, "val")],
    ids=["detector", "segmentor"],
)
def test_paths_with_spaces_and_spawned_workers(config, phase, shapes, tmp_path, forked):
    """Through the tool: a spawned worker, for training or for validation, imports everything anew."""
    data = tmp_path / "my data (1)" / "shapes"
    shutil.copytree(shapes, data)
    root = data / "ade" if config == SEGMENTOR else data
    settings = [f"{phase}_dataloader.dataset.data_root={root}/" for phase in PHASES]
    settings += [
        "env_cfg.mp_cfg.mp_start_method=spawn",
        "default_hooks.erf=None",
        "model.train_cfg.rcnn.sampler.num=16",
    ]
    settings += [f"{phase}_dataloader.num_workers=1"]
    settings += ["val_evaluator.ann_file=" + f"{data}/annotations/instances_val2017.json"] if config == DETECTOR else []
    settings += ["train_cfg=dict(_delete_=True, type='IterBasedTrainLoop', max_iters=2, val_interval=2)"]
    settings += ["param_scheduler=None", "train_dataloader.batch_size=2"]
    work = tmp_path / "my work"
    command = [ROOT / "tools" / "train.py", config, "--work-dir", work, "--cfg-options", *settings]
    done = forked(*command)
    assert done.returncode == 0, done.stderr[-3000:]
    assert list(work.glob("*.pth"))
