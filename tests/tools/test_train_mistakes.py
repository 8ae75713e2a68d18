"""What goes wrong in a training or a test is one clear line: settings, data, checkpoints and folders."""

import shutil

import pytest
import torch
from shapes_options import DETECTOR, ROOT, SEGMENTOR, SHORT, detection_data, segmentation_data


@pytest.fixture
def failing(shapes, tmp_path, forked):
    """One clear line on stderr, exit code 2, nothing written but logs."""

    def fail(config=SEGMENTOR, arguments=(), tool="train.py", **options) -> str:
        data = segmentation_data(shapes) if config == SEGMENTOR else detection_data(shapes)
        options = {**(SHORT if config == SEGMENTOR else {}), **data, **options}
        arguments = list(arguments)
        if "--work-dir" not in arguments:
            arguments += ["--work-dir", tmp_path / "work"]
        options = [f"{k.replace('__', '.')}={v}" for k, v in options.items()]
        result = forked(ROOT / "tools" / tool, config, *arguments, "--cfg-options", *options)
        assert result.returncode == 2, result.stderr[-2000:]
        assert "Traceback" not in result.stderr
        assert not list((tmp_path / "work").glob("*.pth"))
        return result.stderr

    return fail


BAD = {
    "backbone": (dict(arguments=("--backbone", "sdtv3_tiny_srbb")), "near names: sdtv3_tiny_srb"),
    "mixer": (dict(model__backbone__mixer="srbb"), "unknown mixer 'srbb'; known: conv, mlpixer, srb"),
    "levels": (dict(model__backbone__levels=0), "`levels` is 0; it must be an int >= 1"),
    "out_index": (dict(model__backbone__out_indices="(1,9)"), "give ascending feature levels"),
    "channels": (dict(model__backbone__in_chans=4), "cannot be applied to images of 4 channels"),
    "layer": (dict(default_hooks__erf__layers="backbone.stagez.*"), "matches no module"),
    "interface": (dict(arguments=("--interface", "stock")), "says how --backbone NAME is adapted; give that, too"),
    "exact": (
        dict(config="mmdet::ssd/ssd300_coco.py", arguments=("--backbone", "resnet18", "--interface", "exact")),
        "--interface exact: the neck is SSDNeck, not FPN, PAFPN or ChannelMapper; give --interface stock, or auto",
    ),
    "does_not_run": (
        dict(
            config="mmdet::fcos/fcos_r50-caffe_fpn_gn-head_1x_coco.py",
            arguments=("--backbone", "resnet18"),
            model__bbox_head__in_channels=8,
        ),
        "the adapted model does not run (loss: RuntimeError: Given groups=1, weight of size [256, 8, 3, 3]",
    ),
    "no_config": (dict(config="nowhere.py"), "no config file 'nowhere.py'"),
    "no_data": (
        dict(train_dataloader__dataset__data_root="/nowhere/ade"),
        "/nowhere/ade/images/training does not exist",
    ),
    "nan": (
        dict(
            optim_wrapper__optimizer__lr="1e30",
            train_cfg__max_iters=20,
            param_scheduler=None,
            default_hooks__checkpoint__interval=20,
            default_hooks__erf=None,
        ),
        "has diverged",
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("case", BAD)
def test_bad_input_gets_one_clear_message(failing, case):
    options, message = BAD[case]
    assert message in failing(**options)


def test_missing_data_says_what_is_expected_where_and_how_to_make_it(failing):
    message = failing(DETECTOR, train_dataloader__dataset__data_root="/nowhere/coco/")
    assert "/nowhere/coco/annotations/instances_train2017.json does not exist" in message
    assert "CocoDataset reads annotations/instances_train2017.json, train2017/ in /nowhere/coco/" in message
    assert "--cfg-options train_dataloader.dataset.data_root=FOLDER" in message
    assert "`sterf make-shapes data/shapes`" in message


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("not json", "it is not JSON"),
        ('{"images": []}', "it has no list 'annotations', 'categories'"),
        ("[1, 2]", "it has no list 'images'"),
        ('{"images": [], "annotations": [], "categories": []}', "lists no images; the data set is empty"),
        (
            '{"images": [{"id": 1}], "annotations": [], "categories": [{"id": 1, "name": "cat"}]}',
            "has the categories cat, and the classes of CocoDataset are disc",
        ),
    ],
)
def test_annotation_files_that_are_no_coco_files(failing, shapes, tmp_path, content, message):
    broken = tmp_path / "broken"
    shutil.copytree(shapes, broken)
    (broken / "annotations" / "instances_train2017.json").write_text(content)
    assert message in failing(DETECTOR, train_dataloader__dataset__data_root=f"{broken}/")


def test_empty_image_folder(failing, shapes, tmp_path):
    broken = tmp_path / "broken"
    shutil.copytree(shapes / "ade", broken)
    shutil.rmtree(broken / "images" / "training")
    (broken / "images" / "training").mkdir()
    assert "is empty" in failing(train_dataloader__dataset__data_root=str(broken))


@pytest.mark.slow
def test_checkpoint_with_other_keys(failing, tmp_path):
    other = tmp_path / "other.pth"
    torch.save({"state_dict": {"layer1.weight": torch.ones(2)}, "meta": {}}, other)
    message = failing(arguments=(other,), tool="test.py")
    assert "does not fit the model" in message and "Give the config that the checkpoint was trained with" in message
    other.write_bytes(b"not a checkpoint")
    assert "cannot be read" in failing(arguments=(other,), tool="test.py")
    assert "cannot be read" in failing(arguments=(tmp_path / "none.pth",), tool="test.py")


def test_checkpoint_with_other_keys_for_test_time_augmentation(shapes, tmp_path, forked):
    torch.save(dict(state_dict={"backbone.conv1.weight": torch.ones(1)}, meta={}), tmp_path / "other.pth")
    settings = [f"test_dataloader.dataset.data_root={shapes}/ade", "tta_model.type=SegTTAModel", "tta_pipeline=[]"]
    tool, arguments = ROOT / "tools" / "test.py", ("--work-dir", tmp_path, "--tta", "--cfg-options", *settings)
    done = forked(tool, SEGMENTOR, tmp_path / "other.pth", *arguments)
    assert done.returncode == 2 and "other.pth does not fit the model" in done.stderr, done.stderr[-2000:]
    done = forked(tool, SEGMENTOR, tmp_path / "other.pth", *arguments[:-1])
    assert done.returncode == 2 and "this one lacks tta_pipeline;" in done.stderr, done.stderr[-2000:]


def test_work_dir_that_cannot_be_written(failing, tmp_path):
    (tmp_path / "file").write_text("")
    message = failing(arguments=("--work-dir", tmp_path / "file" / "inside"))
    assert "cannot be written" in message and "give a folder where you may write" in message
