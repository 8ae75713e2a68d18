"""The tools on files as they come from COCO and ADE20K: large images of many sizes, crowds, 80 and 150 classes."""

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
DETECTOR = ROOT / "configs" / "mask_rcnn" / "mask-rcnn_sdtv3-t-srb_fpn_1x_coco.py"
SEGMENTOR = ROOT / "configs" / "semantic_fpn" / "fpn_sdtv3-t-srb_8xb4-160k_ade20k-512x512.py"


@pytest.fixture(scope="module")
def tool(forked):
    """``tool(name, *arguments, options)``: run a tool, which must end well; returns its output."""

    def run(name: str, *arguments, options: dict) -> str:
        settings = [f"{key}={value}" for key, value in options.items()]
        result = forked(ROOT / "tools" / name, *arguments, "--cfg-options", *settings)
        assert result.returncode == 0, result.stdout[-2000:] + result.stderr[-3000:]
        return result.stdout + result.stderr

    return run


def small(shipped: Path, folder: str, root: Path) -> Path:
    """A config that trains a shipped one on small images of this data set; the path has a space."""
    loaders = [f"{phase}_dataloader = dict(dataset=dict(data_root={folder!r}), num_workers=0, persistent_workers=False)"
               for phase in ("train", "val", "test")]  # fmt: skip
    config = root / shipped.name
    config.write_text("\n".join([f"_base_ = {str(shipped)!r}", *loaders]) + "\n")
    return config


SMALL = {f"{phase}_dataloader.dataset.pipeline.1.scale": "(160,96)" for phase in ("val", "test")}
SMALL |= {"train_dataloader.dataset.pipeline.2.scale": "(160,96)", "default_hooks.erf": None}
COCO = SMALL | {"train_dataloader.batch_size": 1, "default_hooks.logger.interval": 1}
# So short a training finds nothing above the usual threshold, and without one a hundred objects with a mask each.
COCO |= {"model.test_cfg.rcnn.score_thr": 0, "model.test_cfg.rcnn.max_per_img": 10}
# Few regions, and a narrow head.
COCO |= {"model.train_cfg.rpn_proposal.nms_pre": 50, "model.test_cfg.rpn.nms_pre": 50}
COCO |= {"model.roi_head.bbox_head.fc_out_channels": 32}
ADE = SMALL | {"train_dataloader.batch_size": 2, "default_hooks.logger.interval": 1, "train_cfg.val_interval": 2}
ADE |= {"train_dataloader.dataset.pipeline.3.crop_size": "(64,64)", "model.data_preprocessor.size": "(64,64)"}
ADE |= {"default_hooks.checkpoint.interval": 2}
ONE = {"test_dataloader.dataset.indices": 1}


@pytest.fixture(scope="module")
def coco(real_images, tmp_path_factory) -> Path:
    config = small(DETECTOR, f"{real_images}/coco/", tmp_path_factory.mktemp("config"))
    annotations = f"{real_images}/coco/annotations/instances_val2017.json"
    with config.open("a") as file:
        file.writelines(f"{phase}_evaluator = dict(ann_file={annotations!r})\n" for phase in ("val", "test"))
    return config


@pytest.fixture(scope="module")
def ade(real_images, tmp_path_factory) -> Path:
    return small(SEGMENTOR, f"{real_images}/ade/ADEChallengeData2016", tmp_path_factory.mktemp("config"))


@pytest.fixture(scope="module")
def detector(tool, coco, tmp_path_factory) -> Path:
    """Work directory of a detector after an epoch."""
    out = tmp_path_factory.mktemp("work") / "a detector"
    log = tool("train.py", coco, "--work-dir", out, options=COCO | {"train_cfg.max_epochs": 1})
    assert "coco/segm_mAP" in log and (out / "epoch_1.pth").is_file()
    return out


@pytest.fixture(scope="module")
def segmentor(tool, ade, tmp_path_factory) -> Path:
    """Work directory of a segmentor after two iterations."""
    out = tmp_path_factory.mktemp("work") / "a segmentor"
    log = tool("train.py", ade, "--work-dir", out, options=ADE | {"train_cfg.max_iters": 2})
    assert "mIoU" in log and (out / "iter_2.pth").is_file()
    return out


def losses(work_dir: Path) -> list[float]:
    lines = [
        line for path in sorted(work_dir.glob("2*/vis_data/scalars.json")) for line in path.read_text().splitlines()
    ]
    return [entry["loss"] for entry in map(json.loads, lines) if "loss" in entry]


@pytest.mark.slow
def test_a_coco_detector_is_tested_and_resumed(tool, coco, detector, tmp_path):
    tool("train.py", coco, "--work-dir", detector, "--resume", options=COCO | {"train_cfg.max_epochs": 2})
    assert len(losses(detector)) == 4 and np.isfinite(losses(detector)).all()
    out = tmp_path / "predictions.pkl"
    arguments = ("--work-dir", tmp_path / "t", "--out", out, "--show-dir", "shown")
    log = tool("test.py", coco, detector / "epoch_2.pth", *arguments, options=COCO)
    assert "coco/bbox_mAP" in log and "coco/segm_mAP" in log
    predictions = pickle.loads(out.read_bytes())
    assert [p["ori_shape"] for p in predictions] == [(427, 640), (360, 640)]
    for prediction in predictions:
        assert (prediction["pred_instances"]["labels"] < 80).all()
    assert len(list((tmp_path / "t").rglob("shown/*"))) == 2


@pytest.mark.slow
def test_test_time_augmentation_of_masks_is_refused(forked, coco, detector, tmp_path):
    """mmdet merges boxes only; it would end with an assertion after the first image."""
    result = forked(ROOT / "tools" / "test.py", coco, detector / "epoch_1.pth", "--work-dir", tmp_path, "--tta")
    assert result.returncode == 2
    assert "--tta: mmdet merges boxes, not masks" in result.stderr


@pytest.mark.slow
def test_an_ade_segmentor_is_tested_and_resumed(tool, ade, segmentor, tmp_path):
    tool("train.py", ade, "--work-dir", segmentor, "--resume", options=ADE | {"train_cfg.max_iters": 4})
    assert len(losses(segmentor)) == 4 and np.isfinite(losses(segmentor)).all()
    arguments = ("--work-dir", tmp_path / "t", "--out", tmp_path / "maps", "--show-dir", "shown")
    log = tool("test.py", ade, segmentor / "iter_4.pth", *arguments, options=ADE)
    assert "mIoU" in log
    maps = {path.stem: np.array(Image.open(path)) for path in (tmp_path / "maps").iterdir()}
    assert {name: m.shape for name, m in maps.items()} == {
        "ADE_val_00000001": (512, 683), "ADE_val_00000002": (364, 500), "ADE_val_00000003": (300, 400)
    }  # fmt: skip
    assert all(m.max() <= 150 for m in maps.values())
    assert len([path for path in (tmp_path / "t").rglob("*") if path.suffix in (".png", ".jpg")]) == 3


@pytest.mark.slow
def test_an_ade_segmentor_with_test_time_augmentation(tool, ade, segmentor, tmp_path):
    scales = [dict(type="Resize", scale_factor=factor, keep_ratio=True) for factor in (0.1, 0.2)]
    flips = [dict(type="RandomFlip", prob=float(flip), direction="horizontal") for flip in (False, True)]
    transforms = [scales, flips, [dict(type="LoadAnnotations")], [dict(type="PackSegInputs")]]
    options = ADE | ONE | {"tta_pipeline.1.transforms": transforms}
    log = tool("test.py", ade, segmentor / "iter_2.pth", "--work-dir", tmp_path, "--tta", options=options)
    assert "mIoU" in log


@pytest.mark.slow
def test_windows_larger_than_the_image_are_the_image(tool, ade, segmentor, tmp_path):
    maps = {}
    for name, crop, stride in (("whole", None, None), ("larger", 512, 341), ("higher", 128, 96), ("smaller", 64, 48)):
        slide = {"model.test_cfg.mode": "slide", "model.test_cfg.crop_size": f"({crop},{crop})"}
        slide |= {"model.test_cfg.stride": f"({stride},{stride})"}
        arguments = ("--work-dir", tmp_path / "t", "--out", tmp_path / name)
        tool("test.py", ade, segmentor / "iter_2.pth", *arguments, options=ADE | ONE | (slide if crop else {}))
        maps[name] = [np.array(Image.open(path)) for path in sorted((tmp_path / name).iterdir())]
        assert len(maps[name]) == 1
    for whole, larger in zip(maps["whole"], maps["larger"], strict=True):
        # The two ways keep logits in other memory layouts, so that they are rounded otherwise before they are compared.
        assert (whole != larger).mean() < 1e-4
