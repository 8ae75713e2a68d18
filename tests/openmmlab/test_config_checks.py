"""No check of a config speaks up about a stock config as it is: what they find is a mistake."""

import importlib.util
from pathlib import Path

import pytest

import sterf_plugins

sterf_plugins.setup()

from mmengine.config import Config  # noqa: E402

from sterf_plugins.openmmlab.configs.data_checks import check_data  # noqa: E402
from sterf_plugins.openmmlab.configs.loop_checks import (  # noqa: E402
    check_complete,
    check_epochs,
    check_numbers,
    check_rates_by_layers,
    check_workers,
)
from sterf_plugins.openmmlab.configs.model_checks import check_model  # noqa: E402
from sterf_plugins.openmmlab.configs.reading import load_config  # noqa: E402

# Each of another kind: cascades, panoptic and instance heads of one architecture, stuff heads, class-agnostic and
# point heads, wrapped data sets and detectors, videos, texts, one sigmoid output, border heads, repeated data sets.
KINDS = [
    "mmdet/cascade_rcnn/cascade-mask-rcnn_r50_fpn_1x_coco.py",
    "mmdet/htc/htc_r50_fpn_1x_coco.py",
    "mmdet/scnet/scnet_r50_fpn_1x_coco.py",
    "mmdet/panoptic_fpn/panoptic-fpn_r50_fpn_1x_coco.py",
    "mmdet/mask2former/mask2former_r50_8xb2-lsj-50e_coco-panoptic.py",
    "mmdet/mask2former/mask2former_r50_8xb2-lsj-50e_coco.py",
    "mmdet/point_rend/point-rend_r50-caffe_fpn_ms-1x_coco.py",
    "mmdet/yolact/yolact_r50_1xb8-55e_coco.py",
    "mmdet/lvis/mask-rcnn_r50_fpn_sample1e-3_ms-1x_lvis-v1.py",
    "mmdet/seesaw_loss/mask-rcnn_r50_fpn_seesaw-loss_random-ms-2x_lvis-v1.py",
    "mmdet/pascal_voc/faster-rcnn_r50_fpn_1x_voc0712.py",
    "mmdet/openimages/faster-rcnn_r50_fpn_32xb2-1x_openimages.py",
    "mmdet/cityscapes/mask-rcnn_r50_fpn_1x_cityscapes.py",
    "mmdet/soft_teacher/soft-teacher_faster-rcnn_r50-caffe_fpn_180k_semi-0.1-coco.py",
    "mmdet/deepsort/deepsort_faster-rcnn_r50_fpn_8xb2-4e_mot17halftrain_test-mot17halfval.py",
    "mmdet/glip/glip_atss_swin-t_a_fpn_dyhead_pretrain_obj365.py",
    "mmdet/rpn/rpn_r50_fpn_1x_coco.py",
    "mmdet/faster_rcnn/faster-rcnn_r50_fpn_fcos-rpn_1x_coco.py",
    "mmseg/stdc/stdc1_4xb12-80k_cityscapes-512x1024.py",
    "mmseg/point_rend/pointrend_r50_4xb2-80k_cityscapes-512x1024.py",
    "mmseg/unet/unet-s5-d16_fcn_4xb4-40k_drive-64x64.py",
    "mmseg/san/san-vit-b16_voc12aug-640x640.py",
    "mmseg/mask2former/mask2former_r50_8xb2-90k_cityscapes-512x1024.py",
    "mmseg/bisenetv1/bisenetv1_r50-d32_4xb4-160k_coco-stuff164k-512x512.py",
]
# Released configs with a mistake: crops of 512 are padded to 640 and 1280; six means, of which mmengine takes one or
# three; trainings without data (a base of other configs, and one that is not complete).
TRUE_ALARMS = (
    "knet-s3_swin-l_upernet_8xb2-adamw-80k_ade20k-640x640.py",
    "deeplabv3plus_r50-d8_4xb2-300k_mapillay_v1_65-1280x1280.py",
    "swin-tiny-patch4-window7_upernet_1xb8-20k_levir-256x256.py",
    "qdtrack_faster-rcnn_r50_fpn_4e_base.py",
    "clrnet.py",
)


def folder(package: str) -> Path:
    return Path(importlib.util.find_spec(package).origin).parent / ".mim" / "configs"


def check(path: Path) -> None:
    config = Config.fromfile(path, import_custom_modules=False)
    if not config.get("model"):
        return
    check_model(config, "train", "val", "test")
    check_complete(config)
    check_epochs(config)
    check_rates_by_layers(config)
    for phase in ("train", "val", "test"):
        check_workers(config, f"{phase}_dataloader")


@pytest.mark.parametrize("name", KINDS)
def test_stock_configs_of_every_kind_pass(name):
    package, _, path = name.partition("/")
    check(folder(package) / path)


@pytest.mark.slow
@pytest.mark.parametrize("package", ["mmdet", "mmseg"])
def test_the_last_stock_config_of_every_family_passes(package):
    families: dict[str, Path] = {}
    for path in sorted(folder(package).rglob("*.py")):
        relative = path.relative_to(folder(package))
        if relative.parts[0] != "_base_" and path.name not in TRUE_ALARMS:
            families[relative.parts[0]] = path
    for path in families.values():
        try:
            check(path)
        except ModuleNotFoundError as error:  # of a package that is not installed
            assert "mmpretrain" in str(error), path
        except ValueError as error:
            pytest.fail(f"{path}: {error}")


def test_the_released_config_that_pads_its_crops():
    with pytest.raises(
        ValueError, match=r"crops images to \(512, 512\), and model.data_preprocessor.size pads them to \(640"
    ):
        check(folder("mmseg") / "knet" / TRUE_ALARMS[0])


def test_a_folder_of_images_by_a_text(tmp_path):
    """mmpretrain's data sets give their folder as a text, where those of mmdet and mmseg give a dict."""
    dataset = dict(type="CustomDataset", data_root=str(tmp_path), data_prefix="images")
    config = Config(dict(train_dataloader=dict(dataset=dataset)))
    with pytest.raises(ValueError, match=r"train_dataloader.dataset: .*images does not exist"):
        check_data(config, "train")
    (tmp_path / "images" / "a").mkdir(parents=True)
    check_data(config, "train")


def test_a_phase_that_is_needed_is_there():
    config = Config(dict(val_dataloader=dict(), val_cfg=dict(), val_evaluator=dict()))
    check_complete(config, "val")
    with pytest.raises(ValueError, match="no test: set test_cfg, test_dataloader and test_evaluator, for instance"):
        check_complete(config, "test")


@pytest.mark.parametrize(
    ("setting", "value", "allowed"),
    [
        ("train_dataloader.batch_size", 0, "a whole number >= 1"),
        ("train_dataloader.batch_size", 2.5, "a whole number >= 1"),
        ("train_dataloader.num_workers", -1, "a whole number >= 0"),
        ("train_cfg.max_epochs", "12", "a whole number >= 1"),
        ("train_cfg.val_interval", 0, "a whole number >= 1"),
        ("optim_wrapper.optimizer.lr", "abc", "a number >= 0"),
        ("optim_wrapper.optimizer.lr", -0.1, "a number >= 0"),
    ],
)
def test_numbers_that_cannot_be_are_named(setting, value, allowed):
    config = load_config("mmdet::retinanet/retinanet_r18_fpn_1x_coco.py")
    check_numbers(config, "train", "val")
    config.merge_from_dict({setting: value})
    with pytest.raises((ValueError, TypeError), match=rf"`{setting}` is {value!r}.*; it must be {allowed}"):
        check_numbers(config, "train", "val")
