"""Users' commonest mistakes: found before anything is built, told in one line, and mended by what the line advises."""

import argparse
import re
import shlex
from pathlib import Path

import pytest
import torch

import sterf_plugins

sterf_plugins.setup()

from mmengine.config import Config  # noqa: E402

from sterf_plugins.cli import training as cli  # noqa: E402
from sterf_plugins.openmmlab.configs.loop_checks import warn_of_rates  # noqa: E402

ROOT = Path(__file__).resolve().parents[2]
TOOL = ROOT / "tools" / "train.py"
DETECTOR = ROOT / "configs" / "shapes" / "mask-rcnn_sdtv3-t-srb_fpn_shapes.py"
SEGMENTOR = ROOT / "configs" / "shapes" / "fpn_sdtv3-t-srb_shapes.py"
STOCK_DETECTOR = "mmdet::mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py"
CASCADE = "mmdet::cascade_rcnn/cascade-mask-rcnn_r50_fpn_1x_coco.py"
PANOPTIC = "mmdet::panoptic_fpn/panoptic-fpn_r50_fpn_1x_coco.py"
STOCK_SEGMENTOR = "mmseg::sem_fpn/fpn_r50_4xb4-160k_ade20k-512x512.py"
SHAPES = "('disc', 'square', 'triangle', 'twin_a', 'twin_b')"
PHASES = ("train", "val")


def data(config, shapes: Path) -> list[str]:
    """Settings that put the small data set into a config."""
    if config == SEGMENTOR or str(config).startswith("mmseg::"):
        return [f"{phase}_dataloader.dataset.data_root={shapes}/ade" for phase in PHASES]
    roots = [f"{phase}_dataloader.dataset.data_root={shapes}/" for phase in PHASES]
    return [*roots, f"val_evaluator.ann_file={shapes}/annotations/instances_val2017.json"]


def named(classes: str) -> list[str]:
    return [f"{phase}_dataloader.dataset.metainfo=dict(classes={classes})" for phase in PHASES]


ADE_AS_SHAPES = [f"{p}_dataloader.dataset=dict(type='BaseSegDataset', reduce_zero_label=True)" for p in PHASES]


# Name -> config, settings (`{shapes}` stands for the data), and what the line says.
MISTAKES = {
    "classes of one head": (
        DETECTOR,
        ["model.roi_head.mask_head.num_classes=80"],
        "model.roi_head.mask_head.num_classes is 80, and train_dataloader.dataset (CocoDataset) has 5 such classes: disc,",
        "--cfg-options model.roi_head.mask_head.num_classes=5;",
    ),
    "a metric whose package is missing": (
        DETECTOR,
        ["val_evaluator.type=FasterCocoMetric"],
        "needs the package faster-coco-eval: pip install it, or --cfg-options val_evaluator.type=CocoMetric.",
    ),
    "classes of all heads": (
        STOCK_DETECTOR,
        named(SHAPES),
        "--cfg-options model.roi_head.bbox_head.num_classes=5 model.roi_head.mask_head.num_classes=5;",
    ),
    "classes of a cascade": (
        CASCADE,
        named(SHAPES),
        "model.roi_head.bbox_head.0.num_classes=5 model.roi_head.bbox_head.1.num_classes=5",
    ),
    "classes of the validation": (
        DETECTOR,
        ["val_dataloader.dataset.metainfo=dict(classes=('disc',))"],
        "model.roi_head.bbox_head.num_classes is 5, and val_dataloader.dataset (CocoDataset) has 1 such classes: disc.",
    ),
    "classes of a decode head": (
        SEGMENTOR,
        ["model.decode_head.num_classes=5"],
        "model.decode_head.num_classes is 5, and train_dataloader.dataset (BaseSegDataset) has 6 such classes: background,",
    ),
    "one class without a comma": (
        DETECTOR,
        ["train_dataloader.dataset.metainfo.classes=disc"],
        "train_dataloader.dataset.metainfo.classes=('disc',)",
    ),
    "classes of another data set": (
        STOCK_DETECTOR,
        [],
        "and the classes of CocoDataset are person, bicycle, car, motorcycle, airplane, bus, … (80 in all): none in common",
        f"metainfo.classes={SHAPES}",
    ),
    "images of another folder": (
        DETECTOR,
        ["train_dataloader.dataset.data_prefix.img=annotations/"],
        "{shapes}/annotations/000000000001.jpg does not exist",
        "CocoDataset reads annotations/instances_train2017.json, annotations/ in {shapes}/",
    ),
    "images smaller than the filter": (
        DETECTOR,
        ["train_dataloader.dataset.filter_cfg.min_size=500"],
        "filter_cfg leaves none of the 12 images",
        "min_size=500 leaves out 12 with a smaller side",
        "--cfg-options train_dataloader.dataset.filter_cfg.min_size=0",
    ),
    "panoptic annotations": (
        PANOPTIC,
        [],
        "{shapes}/annotations/panoptic_train2017.json does not exist",
        "CocoPanopticDataset reads annotations/panoptic_train2017.json, train2017/, annotations/panoptic_train2017/ in",
    ),
    "crops without their padding": (
        STOCK_SEGMENTOR,
        [
            "train_dataloader.dataset.pipeline.3.crop_size=(64,64)",
            "model.decode_head.num_classes=6",
            *ADE_AS_SHAPES,
            *named("('background', 'disc', 'square', 'triangle', 'twin_a', 'twin_b')"),
        ],
        "crops images to (64, 64), and model.data_preprocessor.size pads them to (512, 512)",
        '--cfg-options "model.data_preprocessor.size=(64,64)"',
    ),
    "a variable of the config file": (
        STOCK_SEGMENTOR,
        ["crop_size=(64,64)"],
        "--cfg-options crop_size=(64, 64) changes nothing",
        "Set that: --cfg-options 'train_dataloader.dataset.pipeline.3.crop_size=(64, 64)'",
    ),
    "a setting of a variable": (
        STOCK_SEGMENTOR,
        ["data_preprocessor.size=(64,64)"],
        "Set that: --cfg-options 'model.data_preprocessor.size=(64, 64)'",
    ),
    "channels of the mean": (
        DETECTOR,
        ["model.backbone.in_channels=4"],
        "model.data_preprocessor.mean, std, bgr_to_rgb cannot be applied to images of 4 channels",
        "model.data_preprocessor.mean=[114.495] model.data_preprocessor.std=[57.63] model.data_preprocessor.bgr_to_rgb=False",
    ),
    "order of one channel": (
        DETECTOR,
        ["model.backbone.in_channels=1", "model.data_preprocessor.mean=[0]", "model.data_preprocessor.std=[1]"],
        "--cfg-options model.data_preprocessor.bgr_to_rgb=False",
    ),
    "workers that stay": (
        DETECTOR,
        ["train_dataloader.persistent_workers=True"],
        "--cfg-options train_dataloader.persistent_workers=False",
    ),
    "an epoch without an end": (
        DETECTOR,
        ["train_dataloader.sampler.type=InfiniteSampler"],
        "--cfg-options train_dataloader.sampler.type=DefaultSampler",
    ),
    "a schedule that never acts": (
        SEGMENTOR,
        ["param_scheduler.1.by_epoch=True"],
        "--cfg-options param_scheduler.1.by_epoch=False",
    ),
    "learning rates by layers of another backbone": (
        SEGMENTOR,
        [
            "optim_wrapper.constructor=LearningRateDecayOptimizerConstructor",
            "optim_wrapper.paramwise_cfg=dict(num_layers=6,decay_rate=0.9)",
        ],
        "which knows the layers of ConvNeXt, and in mmseg of BEiT and MAE, and model.backbone is SDTV3: --cfg-options",
    ),
    "a mistyped optimizer": (
        DETECTOR,
        ["optim_wrapper.optimizer.type=AdamWw"],
        "optim_wrapper.optimizer.type is 'AdamWw', and there is no such optimizer; near: AdamW",
    ),
    "half of a validation": (
        DETECTOR,
        ["val_cfg=None"],
        "--cfg-options val_cfg=None val_dataloader=None val_evaluator=None",
    ),
    "annotations of a metric": (
        DETECTOR,
        ["val_evaluator.ann_file=nowhere.json"],
        "val_evaluator.ann_file: nowhere.json does not exist",
        "--cfg-options val_evaluator.ann_file={shapes}/annotations/instances_val2017.json",
    ),
    "a metric of other images": (
        DETECTOR,
        ["val_evaluator.ann_file={shapes}/annotations/instances_train2017.json"],
        "with 12 images, and val_dataloader.dataset has the 6 images of",
    ),
    "images of another suffix": (
        SEGMENTOR,
        ["train_dataloader.dataset.img_suffix=.tif"],
        "ends in '.tif'; there are 12 .jpg",
        "--cfg-options train_dataloader.dataset.img_suffix=.jpg",
    ),
    "label maps of another suffix": (
        SEGMENTOR,
        ["train_dataloader.dataset.seg_map_suffix=.tif"],
        "has no label map",
    ),
    "labels that are no classes": (
        SEGMENTOR,
        ["train_dataloader.dataset.metainfo=dict(_delete_=True, classes=('a', 'b', 'c'))"],
        "BaseSegDataset has 3 classes, 0 to 2 (and 255, which is ignored)",
    ),
    "zero labels of data set and transform": (
        SEGMENTOR,
        ["train_dataloader.dataset.reduce_zero_label=False"],
        "--cfg-options train_dataloader.dataset.reduce_zero_label=True",
    ),
}


def found(config, settings: list[str], work_dir: Path) -> str:
    """What is said about the settings by the functions that the tool calls before it builds anything; "" if nothing."""
    parser = argparse.ArgumentParser(exit_on_error=False)
    parser.add_argument("config")
    cli.add_config_options(parser)
    try:
        complete = cli.read_config(
            parser.parse_args([str(config), "--work-dir", str(work_dir), "--cfg-options", *settings])
        )
        cli.check_config(complete, *(PHASES if complete.get("val_cfg") else PHASES[:1]))
    except ValueError as error:
        return str(error)
    return ""


def advice(message: str) -> list[str]:
    """The settings after ``--cfg-options`` in a message, as a shell would hand them over."""
    *_, text = message.rpartition("--cfg-options ")
    settings = re.match(r"""((?:"[^"]+"|'[^']+'|[^\s"';,]+=[^\s"';,]*[^\s"';,.]) ?)+""", text)
    return shlex.split(settings[0]) if settings else []


def filled(texts, shapes: Path) -> list[str]:
    return [text.replace("{shapes}", str(shapes)) for text in texts]


@pytest.mark.parametrize("case", MISTAKES)
def test_a_mistake_is_found_and_the_advice_mends_it(case, shapes, tmp_path):
    config, changes, *parts = MISTAKES[case]
    settings = [*data(config, shapes), *filled(changes, shapes)]
    message = found(config, settings, tmp_path)
    assert "\n" not in message
    for part in filled(parts, shapes):
        assert part in message
    remedy = advice(message)
    if remedy and "FOLDER" not in message:
        again = found(config, [*settings, *remedy], tmp_path)
        assert again != message and again.split(":")[0] != message.split(":")[0], again


@pytest.mark.parametrize("text", ["", "model = None", "model = dict()"])
def test_a_config_without_a_model(text, tmp_path):
    config = tmp_path / "empty.py"
    config.write_text(text)
    assert found(config, ["a=1"], tmp_path / "work") == f"config {str(config)!r} has no `model`."


def test_the_advice_is_read_as_a_shell_reads_it():
    assert advice("None in common: --cfg-options \"a.b=('x', 'y z')\" c.d=5; else …") == ["a.b=('x', 'y z')", "c.d=5"]
    assert advice("Set it: --cfg-options 'a.0.b=(6, 4)' c.d=/x/y.json.") == ["a.0.b=(6, 4)", "c.d=/x/y.json"]
    assert advice("no advice") == []


@pytest.mark.slow
@pytest.mark.parametrize("case", MISTAKES)
def test_a_mistake_ends_the_tool_with_one_line(case, shapes, tmp_path, forked):
    config, changes, *parts = MISTAKES[case]
    settings = [*data(config, shapes), *filled(changes, shapes)]
    done = forked(TOOL, config, "--work-dir", tmp_path, "--cfg-options", *settings)
    assert done.returncode == 2, done.stderr[-2000:]
    (line,) = [line for line in done.stderr.splitlines() if "error: " in line]
    assert "Traceback" not in done.stderr
    for part in filled(parts, shapes):
        assert part in line
    assert not list(tmp_path.glob("*.pth"))


@pytest.mark.parametrize("config", [DETECTOR, SEGMENTOR])
def test_sound_settings_pass(config, shapes, tmp_path):
    assert found(config, data(config, shapes), tmp_path) == ""


def test_rates_of_no_parameter_are_a_warning(logged):
    keys = {"0.weight": dict(lr_mult=0.1), "absolute_pos_embed": dict(decay_mult=0.0)}
    model = torch.nn.Sequential(torch.nn.Linear(1, 1))
    warn_of_rates(Config(dict(optim_wrapper=dict(paramwise_cfg=dict(custom_keys=keys)))), model)
    assert "no parameter has 'absolute_pos_embed' in its name; these settings have no effect" in logged.getvalue()
    assert "0.weight" not in logged.getvalue()
    warn_of_rates(Config(dict(optim_wrapper=dict(type="OptimWrapper"))), model)
    assert len(logged.getvalue().splitlines()) == 1
