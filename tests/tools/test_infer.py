"""``tools/infer.py``: pictures, JSON and receptive fields of real predictions, and the library's numbers in them."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

pytest.importorskip("mmdet")
pytest.importorskip("mmseg")
import sterf_plugins

sterf_plugins.setup()

from sterf_plugins.cli.erf.detection import LAYER, detection_field, level_of  # noqa: E402
from sterf_plugins.cli.images import named_images  # noqa: E402
from sterf_plugins.cli.predictions import detections, label_map  # noqa: E402
from sterf_plugins.erf import ERFResult  # noqa: E402

ROOT = Path(__file__).resolve().parents[2]
TOOL = ROOT / "tools" / "infer.py"


@pytest.fixture
def infer(forked, trained, tmp_path):
    """``infer(task, *arguments)``: the tool's result, with config and checkpoint of the task, in ``tmp_path``."""

    def run(task, *arguments):
        config, checkpoint = trained(task)
        options = ["--config", config, "--checkpoint", checkpoint, "--device", "cpu"]
        return forked(TOOL, *arguments, *options, cwd=tmp_path)

    return run


def picture(path: Path, size=(8, 6)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, "gray").save(path)


def test_files_folders_and_patterns(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("a/1.jpg", "a/deep/1.png", "b/1.jpg", "c.png", "out/1.png"):
        picture(tmp_path / name)
    out = Path("out")
    assert list(named_images(["a"], out)) == ["1", "deep/1"]
    assert {k: str(v) for k, v in named_images(["a", "b/*.jpg", "c.png", "a/1.jpg"], out).items()} == {
        "1": "a/1.jpg", "deep/1": "a/deep/1.png", "1-2": "b/1.jpg", "c": "c.png",
    }  # fmt: skip
    assert list(named_images(["."], out)) == ["a/1", "a/deep/1", "b/1", "c"]  # not what was written before
    with pytest.raises(ValueError, match=r"none/\*\.jpg: no image there"):
        named_images(["none/*.jpg"], out)


def test_the_level_of_a_box():
    """The rule of FPN (224 pixels at stride 16), by the RoI extractor where there is one."""
    from mmdet.models.roi_heads.roi_extractors import SingleRoIExtractor

    strides = [4, 8, 16, 32]
    layer = dict(type="RoIAlign", output_size=7)
    extractor = SingleRoIExtractor(layer, out_channels=8, featmap_strides=strides)
    two_stages = SimpleNamespace(roi_head=SimpleNamespace(bbox_roi_extractor=extractor))
    cascade = SimpleNamespace(roi_head=SimpleNamespace(bbox_roi_extractor=torch.nn.ModuleList([extractor])))
    for side, level in ((10, 0), (111, 0), (113, 1), (223, 1), (225, 2), (450, 3), (2000, 3)):
        box = (5, 7, 5 + side * 2, 7 + side / 2)
        assert level_of(two_stages, box, strides) == level_of(cascade, box, strides) == level
        assert level_of(SimpleNamespace(), box, strides) == level
    assert level_of(SimpleNamespace(), (0, 0, 120, 120), [8, 16, 32, 64, 128]) == 0
    assert level_of(SimpleNamespace(), (0, 0, 500, 500), [32]) == 0


def test_the_field_is_that_of_the_assigned_feature():
    """Convolutions of kernel = stride see exactly their own cell of the image, so the field is that cell."""

    class Detector(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.convs = torch.nn.ModuleList(torch.nn.Conv2d(3, 2, s, s) for s in (4, 8, 16))

        def extract_feat(self, x):
            return tuple(conv(x) for conv in self.convs)

    torch.manual_seed(0)
    field = detection_field(Detector(), torch.rand(1, 3, 160, 256), (60, 20, 180, 140))  # 120 pixels: stride 8
    assert (field.level, field.stride, field.place) == (1, (8, 8), (10, 15))
    expected = np.zeros((160, 256), bool)
    expected[80:88, 120:128] = True
    assert ((field.result.spatial[LAYER] > 0) == expected).all()
    edge = detection_field(
        Detector(), torch.rand(1, 3, 32, 32), (20, 31, 44, 33)
    )  # half outside: its last row and column
    assert edge.place == (7, 7)


def test_detections_as_json():
    """The best comes first; without boxes, as in SOLO, they are those of the masks; no detection is an empty list."""
    from mmdet.structures import DetDataSample
    from mmengine.structures import InstanceData
    from pycocotools.mask import decode

    masks = torch.zeros(2, 5, 6, dtype=torch.bool)
    masks[0, 1:3, 2:6] = masks[1, 4, 0] = True
    found = InstanceData(
        scores=torch.tensor([0.2, 0.9]), labels=torch.tensor([1, 0]), masks=masks, bboxes=torch.zeros(2, 4)
    )
    rows = detections(DetDataSample(pred_instances=found), ("cat", "dog"))
    assert [(r["class"], r["box"]) for r in rows] == [("cat", [0, 4, 1, 5]), ("dog", [2, 1, 6, 3])]
    assert (decode(json.loads(json.dumps(rows))[1]["mask"]) == masks[0].numpy()).all()
    assert detections(DetDataSample(pred_instances=found[:0]), ("cat", "dog")) == []
    with pytest.raises(ValueError, match="predicts label 1, and the config's test data set has 1 classes"):
        detections(DetDataSample(pred_instances=found), ("cat",))


def test_panoptic_segments_as_a_picture():
    """COCO's picture of ids, of which the last label is no class."""
    from mmdet.structures import DetDataSample
    from mmengine.structures import PixelData

    ids = torch.tensor([[[0, 1, 2], [70_000, 99_001, 2]]])
    picture, words = label_map(DetDataSample(pred_panoptic_seg=PixelData(sem_seg=ids)), ("cat", "dog"))
    assert (picture.astype(int) @ [1, 256, 65536] == ids[0].numpy()).all()
    assert words == {
        "segments": [{"id": i, "class": c} for i, c in ((0, "cat"), (1, "dog"), (70_000, "cat"), (99_001, "dog"))]
    }


@pytest.mark.slow
def test_detections(infer, trained, shapes, tmp_path):
    from mmdet.apis import inference_detector, init_detector

    folder = shapes / "val2017"
    result = infer("det", folder, "--out", "seen", "--erf", "--score-thr", "0.05")
    assert result.returncode == 0, result.stderr[-3000:]
    assert "6 images -> seen" in result.stdout and "6/6" in result.stderr  # progress
    path = min(folder.glob("*.jpg"))
    record = json.loads((tmp_path / "seen" / f"{path.stem}.json").read_text())
    assert record["image"] == str(path) and record["height"] == record["width"] == 96
    config, checkpoint = trained("det")
    theirs = inference_detector(init_detector(str(config), str(checkpoint), device="cpu"), str(path)).pred_instances
    assert [d["score"] for d in record["detections"]] == pytest.approx(sorted(theirs.scores.tolist(), reverse=True))
    best = record["detections"][0]
    at = int(theirs.scores.argmax())
    assert best["box"] == pytest.approx(theirs.bboxes[at].tolist()) and best["mask"]["size"] == [96, 96]
    assert best["class"] in ("disc", "square", "triangle", "twin_a", "twin_b")
    assert Image.open(tmp_path / "seen" / f"{path.stem}.png").size == (96, 96)
    field = record["field"]
    assert field["detection"] == 0 and field["level"] == 0 and 0 < field["area_50"] < 1
    left, top, right, bottom = best["box"]
    scale = 128 / 96  # the test pipeline's
    assert field["place"] == [int((top + bottom) / 2 * scale / 4), int((left + right) / 2 * scale / 4)]
    assert ERFResult.load(tmp_path / "seen" / f"{path.stem}-erf.npz").spatial[LAYER].shape == (128, 128)
    assert (tmp_path / "seen" / f"{path.stem}-erf.png").is_file()
    again = infer("det", path, "--out", "seen", "--detection", "3")  # its own files it may replace
    assert again.returncode == 0, again.stderr[-3000:]
    assert json.loads((tmp_path / "seen" / f"{path.stem}.json").read_text())["field"]["detection"] == 3


@pytest.mark.slow
def test_segmentation(infer, trained, shapes, tmp_path):
    from mmseg.apis import inference_model, init_model

    path = min((shapes / "val2017").glob("*.jpg"))
    result = infer("seg", path, "--out", "seen")
    assert result.returncode == 0, result.stderr[-3000:]
    config, checkpoint = trained("seg")
    theirs = inference_model(init_model(str(config), str(checkpoint), device="cpu"), str(path)).pred_sem_seg.data[0]
    assert (np.asarray(Image.open(tmp_path / "seen" / f"{path.stem}-map.png")) == theirs.numpy()).all()
    record = json.loads((tmp_path / "seen" / f"{path.stem}.json").read_text())
    assert sum(record["classes"].values()) == pytest.approx(1)
    assert (tmp_path / "seen" / f"{path.stem}.png").is_file() and "detections" not in record


@pytest.mark.slow
def test_another_backbone_and_options(forked, infer, trained, shapes, tmp_path):
    """A checkpoint of a stock config with ``--backbone`` needs the same options, and is refused without them."""
    from sterf_plugins.cli.loading import build_config
    from sterf_plugins.openmmlab.configs.adapt import swap_backbone
    from sterf_plugins.openmmlab.configs.reading import load_config

    stock = "mmdet::retinanet/retinanet_r18_fpn_1x_coco.py"
    config = load_config(stock)
    swap_backbone(config, "sdtv3_nano_srb")
    torch.save(dict(state_dict=build_config(config, stock).model.state_dict()), tmp_path / "weights.pth")
    options = ["--config", stock, "--checkpoint", "weights.pth", "--out", "seen", "--device", "cpu"]
    small = ["--cfg-options", "test_dataloader.dataset.pipeline.1.scale=(64,64)"]
    picture(tmp_path / "photo.png", (96, 64))
    result = forked(TOOL, "photo.png", *options, "--backbone", "sdtv3_nano_srb", *small, cwd=tmp_path)
    assert result.returncode == 0, result.stderr[-3000:]
    assert (tmp_path / "seen" / "photo.png").is_file()
    result = forked(TOOL, "photo.png", *options, cwd=tmp_path)
    assert result.returncode == 2 and "does not fit" in result.stderr


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of mmcv's attention
def test_a_panoptic_model_from_file_to_picture(forked, tmp_path):
    """Mask2Former with random weights finds no segment, at which mmdet's visualizer fails; with a low threshold it does."""
    from sterf_plugins.cli.loading import build_config
    from sterf_plugins.openmmlab.configs.adapt import swap_backbone
    from sterf_plugins.openmmlab.configs.reading import load_config

    stock = "mmdet::mask2former/mask2former_r50_8xb2-lsj-50e_coco-panoptic.py"
    options = {"model.panoptic_head.num_queries": 10, "test_dataloader.dataset.pipeline.1.scale": (64, 64)}
    config = load_config(stock)
    swap_backbone(config, "sdtv3_nano_srb")
    config.merge_from_dict(options)
    torch.manual_seed(0)
    torch.save(dict(state_dict=build_config(config, stock).model.state_dict()), tmp_path / "weights.pth")
    picture(tmp_path / "photo.png", (96, 64))
    command = [
        "photo.png",
        "--config",
        stock,
        "--checkpoint",
        "weights.pth",
        "--device",
        "cpu",
        "--backbone",
        "sdtv3_nano_srb",
    ]
    settings = ["--cfg-options", *(f"{key}={value}".replace(" ", "") for key, value in options.items())]
    for out, more, some in (
        ("none", [], False),
        (
            "some",
            ["model.test_cfg.object_mask_thr=0", "model.test_cfg.iou_thr=0", "model.test_cfg.filter_low_score=False"],
            True,
        ),
    ):
        result = forked(TOOL, *command, "--out", out, *settings, *more, cwd=tmp_path)
        assert result.returncode == 0, result.stderr[-3000:]
        assert bool(json.loads((tmp_path / out / "photo.json").read_text())["segments"]) == some
        assert (tmp_path / out / "photo.png").is_file() and (tmp_path / out / "photo-map.png").is_file()


@pytest.mark.slow
def test_mistakes_are_one_line_and_keep_files(infer, shapes, tmp_path):
    path = min((shapes / "val2017").glob("*.jpg"))
    (tmp_path / "broken.jpg").write_text("no image")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / f"{path.stem}.json").write_text("mine")
    for task, arguments, message in (
        ("det", ["nowhere", "--out", "seen"], "nowhere: no image there"),
        ("det", ["broken.jpg", "--out", "seen"], "broken.jpg is no readable image"),
        ("det", [path, "--out", "mine"], "which infer did not write there"),
        ("det", [path, "--out", "seen", "--detection", "-1"], "detections are counted from 0"),
        ("det", [path, "--out", "seen", "--score-thr", "30"], "--score-thr 30.0: scores lie between 0 and 1"),
        ("det", [path, "--out", "seen", "--detection", "999"], "no image has a detection 999"),
        ("seg", [path, "--out", "seen", "--erf"], "--erf needs a model that detects objects"),
        ("seg", [path, "--out", "seen", "--backbone", "nothing"], "nothing"),
    ):
        result = infer(task, *arguments)
        assert result.returncode == 2 and message in result.stderr, (message, result.stderr[-2000:])
        assert "Traceback" not in result.stderr
    assert (tmp_path / "mine" / f"{path.stem}.json").read_text() == "mine"
