"""Stock detectors on event recordings, trained, tested and looked at by the tools."""

import inspect
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.registry import MODELS, init_default_scope

from sterf_plugins.openmmlab.configs.image_checks import LOADING, NORMALISED, WINDOWS, other_images
from sterf_plugins.openmmlab.configs.model_checks import check_events, check_fills, check_time
from sterf_plugins.openmmlab.configs.reading import load_config
from sterf_plugins.openmmlab.events import EventDataPreprocessor, EventDetDataset, LoadEvents

ROOT = Path(__file__).resolve().parents[3]
CONFIGS = ROOT / "configs" / "event_detection"


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.py")), ids=lambda p: p.stem)
def test_channels_and_steps_of_the_configs_fit(path):
    config = load_config(str(path))
    init_default_scope("mmdet")
    check_events(config, "train", "val")
    channels = config.model.backbone.in_channels
    config.model.backbone.in_channels = 3
    with pytest.raises(
        ValueError, match=rf"in {channels} channels.* takes in_channels=3: .*backbone.in_channels={channels}"
    ):
        check_events(config, "train")
    config.model.backbone.in_channels = channels
    config.model.data_preprocessor.time_steps = 2
    with pytest.raises(ValueError, match="makes time_steps=2 of them"):
        check_events(config, "train")


def test_gaps_are_not_filled_with_grey():
    """As mmdet's own pipelines do, also in the wrapper that mixes images."""
    config = load_config(str(CONFIGS / "rtmdet-t_qkformer_event-shapes.py"))
    check_fills(config, "train", "val", "test")
    inner = config.train_dataloader.dataset
    config.train_dataloader.dataset = dict(
        type="MultiImageMixDataset", dataset=inner, pipeline=[dict(type="RandomAffine")]
    )
    with pytest.raises(ValueError, match=r"RandomAffine in train_dataloader fills gaps with a grey.*set border_val=0"):
        check_fills(config, "train")
    config.train_dataloader.dataset.pipeline[0].border_val = 0
    check_fills(config, "train")
    inner.pipeline[0].type = "LoadImageFromFile"
    config.train_dataloader.dataset.pipeline.append(dict(type="MixUp"))
    check_fills(config, "train")


def test_stock_necks_know_no_time():
    config = load_config(str(CONFIGS / "retinanet_qkformer_fpn_event-shapes.py"))
    check_time(config)
    config.model.backbone.keep_time = True
    with pytest.raises(
        ValueError, match=r"keep_time=True .* model.neck is FPN, which takes \(B, C, H, W\): .*keep_time=False"
    ):
        check_time(config)
    config.model.neck.type = "sterf_plugins.SpikeFPN"
    with pytest.raises(ValueError, match=r"model.bbox_head is RetinaHead, which takes"):
        check_time(config)
    config.model.bbox_head.type = "sterf_plugins.SpikeRTMDetSepBNHead"
    check_time(config)
    config.model.neck.type = "EventPreprocessorOfMine"  # of which nothing is known: it may take the mean
    config.model.bbox_head.type = "RetinaHead"
    check_time(config)


def test_defaults_by_which_images_are_compared_are_those_of_the_classes():
    for made, expected in ((EventDetDataset, WINDOWS), (LoadEvents, LOADING), (EventDataPreprocessor, NORMALISED)):
        parameters = {**inspect.signature(made.__mro__[1]).parameters, **inspect.signature(made).parameters}
        assert {name: parameters[name].default for name in expected} == expected, made


def test_events_drawn_otherwise_than_in_the_training_are_told():
    config = load_config(str(CONFIGS / "rtmdet-t_qkformer_event-shapes.py"))
    checkpoint = dict(meta=dict(cfg=config.pretty_text))
    assert not other_images(config, checkpoint)
    dataset = config.test_dataloader.dataset
    window = dataset.window
    dataset.window, dataset.pipeline[0].representation, dataset.pipeline[0].parts = 2 * window, "time_surface", 2
    config.model.data_preprocessor.time_steps = 2
    assert [re.search(r"with (\S+)=", line)[1] for line in other_images(config, checkpoint)] == [
        "data_preprocessor.time_steps",
        "window",
        "LoadEvents.representation",
        "LoadEvents.parts",
    ]
    del config.test_dataloader.dataset  # of which the config says nothing
    assert len(other_images(config, checkpoint)) == 1


def losses(folder: Path) -> list[float]:
    lines = [json.loads(line) for line in max(folder.glob("2*/vis_data/scalars.json")).read_text().splitlines()]
    return [line["loss"] for line in lines if "loss" in line]


@pytest.mark.slow
@pytest.mark.parametrize("config", [p.stem for p in sorted(CONFIGS.glob("*.py"))])
@pytest.mark.sweep
def test_detectors_train_and_test(run, config, tmp_path):
    """Two epochs of the shipped configs. RetinaNet's loss falls; RTMDet's grows first, as more and more boxes are found."""
    result = run(
        "train.py", config, "--work-dir", tmp_path, train_dataloader__batch_size=2, default_hooks__logger__interval=5,
        train_dataloader__dataset__names="('shapes000','shapes001')",
        train_cfg__val_interval=2, val_dataloader__dataset__names="('shapes000',)",
    )  # fmt: skip
    assert result.returncode == 0, result.stdout[-1000:] + result.stderr[-3000:]
    found = losses(tmp_path)
    assert len(found) == 8 and np.isfinite(found).all() and (found[-1] < 0.8 * found[0] or "rtmdet" in config)
    # So short a training may give no box that is likely enough, and mmdet would measure nothing.
    checkpoint, likely = (
        tmp_path / "epoch_2.pth",
        dict(model__test_cfg__score_thr=0, test_dataloader__dataset__names="('shapes000',)"),
    )
    tested = run("test.py", config, checkpoint, "--work-dir", tmp_path / "test", **likely)
    assert tested.returncode == 0, tested.stderr[-3000:]
    assert re.search(r"coco/bbox_mAP: \d", tested.stdout + tested.stderr)


@pytest.mark.slow
@pytest.mark.parametrize("backbone", ["spikformer_8_384", "sdtv3_nano"])
def test_any_backbone_goes_into_them(run, backbone, tmp_path):
    options = dict(
        train_cfg__max_epochs=1,
        train_dataloader__dataset__names="('shapes000',)",
        val_dataloader__dataset__names="('shapes000',)",
        val_evaluator__box_filter="dict(skip_time=100000)",
    )
    options |= dict(model__data_preprocessor__time_steps=4 if backbone.startswith("spik") else 1)
    options |= {"model__backbone__depth": 1} if backbone.startswith("spik") else {"model__backbone__in_channels": 8}
    result = run(
        "train.py", "retinanet_qkformer_fpn_event-shapes", "--backbone", backbone, "--work-dir", tmp_path, **options
    )
    assert result.returncode == 0, result.stdout[-1000:] + result.stderr[-3000:]


@pytest.mark.slow
def test_mistakes_end_in_one_line(run, tmp_path):
    for options, message in (
        (dict(model__backbone__in_channels=5), "takes in_channels=5: --cfg-options model.backbone.in_channels=2"),
        (dict(train_dataloader__dataset__ann_file="nowhere"), "nowhere does not exist"),
        (dict(train_dataloader__dataset__window=10**7), "`window` is 10000000 µs, and the events of"),
    ):
        result = run("train.py", "retinanet_qkformer_fpn_event-shapes", "--work-dir", tmp_path, **options)
        assert result.returncode == 2 and message in result.stderr and "Traceback" not in result.stderr, result.stderr[
            -2000:
        ]


def test_the_config_of_the_docs_loads(tmp_path):
    text = (ROOT / "docs" / "events.md").read_text()
    block = next(b for b in re.findall(r"```python\n(.*?)```", text, re.DOTALL) if "_base_" in b)
    path = tmp_path / "mine.py"
    path.write_text(block.replace("sterf_plugins::event_detection", str(CONFIGS)))
    config = load_config(str(path))
    assert [config[f"{p}_dataloader"].dataset.ann_file for p in ("train", "val", "test")] == ["train", "test", "test"]
    assert config.val_dataloader.dataset.test_mode and config.train_dataloader.dataset.names is None
    assert config.test_evaluator.box_filter == "gen1" and config.model.bbox_head.anchor_generator.octave_base_scale == 8


@pytest.mark.slow
def test_pictures_of_detections_and_files_that_are_no_images(run, forked, data, tmp_path):
    name = "retinanet_sdtv3-n-srb_fpn_event-shapes"
    config = CONFIGS / f"{name}.py"
    init_default_scope("mmdet")
    torch.save(dict(state_dict=MODELS.build(load_config(str(config)).model).state_dict()), tmp_path / "w.pth")
    found = run(
        "test.py", name, tmp_path / "w.pth", "--work-dir", tmp_path, "--show-dir", "shown", model__test_cfg__score_thr=0
    )
    assert found.returncode == 0, found.stderr[-3000:]
    pictures = sorted(tmp_path.glob("*/shown/*.png"))
    assert len(pictures) == 2 * 20 and pictures[0].name == "shapes000_td-0.png"
    import cv2

    assert len({cv2.imread(str(p)).tobytes() for p in pictures}) == 40
    (tmp_path / "photo.png").write_bytes(pictures[0].read_bytes())
    for file, message in (
        (data / "test" / "shapes000_td.h5", "is a recording of events, and no image. For pictures of detections"),
        (tmp_path / "photo.png", "LoadEvents takes the windows of an EventDetDataset, and not the file"),
    ):
        options = ["--config", config, "--checkpoint", tmp_path / "w.pth", "--out", tmp_path / "seen"]
        refused = forked(ROOT / "tools" / "infer.py", file, *options)
        assert refused.returncode == 2 and message in refused.stderr, refused.stderr[-1500:]


@pytest.mark.slow
def test_stock_yolox_trains_two_iterations_on_events(forked, data, tmp_path):
    """The model of mmdet's own config with another number of classes and channels; a spiking backbone replaces CSPDarknet."""
    config = load_config(str(CONFIGS / "retinanet_qkformer_fpn_event-shapes.py"))
    model = load_config("mmdet::yolox/yolox_tiny_8xb8-300e_coco.py").model
    del model["data_preprocessor"]
    model.bbox_head.num_classes = 3
    config.model = model | dict(data_preprocessor=dict(type="sterf_plugins.EventDataPreprocessor", pad_size_divisor=32))
    config.train_cfg = dict(type="IterBasedTrainLoop", max_iters=2, val_interval=2)
    config.param_scheduler = []
    for phase in ("train", "val", "test"):
        loader = config[f"{phase}_dataloader"]
        loader.dataset.data_root, loader.num_workers, loader.persistent_workers = str(data), 2, True
    config.default_hooks.logger.interval = 1
    config.dump(tmp_path / "yolox.py")
    command = [ROOT / "tools" / "train.py", tmp_path / "yolox.py", "--work-dir", tmp_path / "work"]
    done = forked(*command, "--backbone", "sdtv3_nano_srb", "--cfg-options", "model.backbone.in_channels=8")
    assert done.returncode == 0, done.stdout[-1500:] + done.stderr[-3000:]
    found = losses(tmp_path / "work")
    assert len(found) == 2 and np.isfinite(found).all() and found[0] != found[1]


@pytest.mark.slow
def test_fields_of_a_detector_with_time_steps_on_a_recording(forked, data, tmp_path):
    """Drawn as the config says."""
    from sterf_plugins.erf import ERFResult

    config = load_config(str(CONFIGS / "retinanet_qkformer_fpn_event-shapes.py"))
    config.model.backbone.update(dim=32, num_heads=2)
    config.model.neck.in_channels = [8, 16, 32]
    config.dump(tmp_path / "small.py")
    options = ["--num", 1, "--input-size", 64, 96, "--temporal", "--out", tmp_path / "fields", "--layers", "backbone"]
    recording = data / "test" / "shapes000_td.h5"
    options += ["--vector", "none"]
    result = forked(ROOT / "tools" / "erf.py", tmp_path / "small.py", "--images", recording, *options)
    assert result.returncode == 0, result.stdout[-1000:] + result.stderr[-3000:]
    (file,) = (tmp_path / "fields").glob("**/*.npz")
    found = ERFResult.load(file)
    assert next(iter(found.temporal.values())).shape[-1] == 4 and found.info["num_inputs"] == 1
