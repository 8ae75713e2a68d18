"""Users' commonest mistakes: found before anything is built, told in one line, and mended by what the line advises."""

import argparse
import io
import logging
import re
import shlex
from pathlib import Path

import pytest
import torch

import sterf_plugins

sterf_plugins.setup()

from mmengine.config import Config  # noqa: E402
from mmengine.logging import MMLogger  # noqa: E402

from sterf_plugins.cli import training as cli  # noqa: E402
from sterf_plugins.cli.cfg_options import Settings  # noqa: E402
from sterf_plugins.openmmlab.configs.loop_checks import warn_of_rates  # noqa: E402
from sterf_plugins.openmmlab.configs.reading import PACKAGES, check_names, config_root, load_config, merge_options  # noqa: E402
from sterf_plugins.openmmlab.configs.resume_checks import check_resume  # noqa: E402

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


def checkpoint_of(config, folder: Path) -> Path:
    """A checkpoint whose training had this config, without weights."""
    path = folder / "epoch_1.pth"
    meta = dict(cfg=load_config(str(config)).pretty_text, seed=0)
    states = [dict(last_step=0, end=20), dict(last_step=0, end=10**9)]
    torch.save(dict(state_dict={}, meta=meta, optimizer={}, param_schedulers=states), path)
    return path


CHANGED = {
    "optim_wrapper.optimizer.type=SGD": "optim_wrapper.optimizer.type was 'AdamW', now 'SGD'",
    "optim_wrapper.optimizer.lr=0.1": "optim_wrapper.optimizer.lr was 0.003, now 0.1",
    "optim_wrapper.paramwise_cfg=dict(norm_decay_mult=0)": "optim_wrapper.paramwise_cfg was None, now {'norm_decay_mult': 0}",
    "optim_wrapper.constructor=Other": "optim_wrapper.constructor was None, now 'Other'",
    "param_scheduler=None": "param_scheduler had LinearLR, CosineAnnealingLR, now none",
}
UNCHANGED = {
    "optim_wrapper.clip_grad=dict(max_norm=35)": "",
    "optim_wrapper.type=AmpOptimWrapper": "",
    "train_cfg.max_iters=1000": "trains until train_cfg.max_iters=1000 instead of 700. The schedules stay those of the checkpoint, "
    "which end at 20: after its last change the learning rate stays",
    "param_scheduler.1.end=1000": "goes on with the checkpoint's schedules, whatever the config says: param_scheduler.1.end",
}


@pytest.mark.parametrize("setting", CHANGED)
def test_resume_with_another_optimizer(setting, shapes, tmp_path, forked):
    path = checkpoint_of(SEGMENTOR, tmp_path)
    settings = [*data(SEGMENTOR, shapes), setting]
    done = forked(TOOL, SEGMENTOR, "--work-dir", tmp_path / "w", "--resume", path, "--cfg-options", *settings)
    assert done.returncode == 2 and "Traceback" not in done.stderr, done.stderr[-2000:]
    assert CHANGED[setting] in done.stderr
    assert f"--cfg-options load_from={path} without --resume" in done.stderr


@pytest.fixture
def logged():
    """What mmengine's logger says."""
    handler = logging.StreamHandler(io.StringIO())
    logger = MMLogger.get_current_instance()
    logger.addHandler(handler)
    yield handler.stream
    logger.removeHandler(handler)


def test_rates_of_no_parameter_are_a_warning(logged):
    keys = {"0.weight": dict(lr_mult=0.1), "absolute_pos_embed": dict(decay_mult=0.0)}
    model = torch.nn.Sequential(torch.nn.Linear(1, 1))
    warn_of_rates(Config(dict(optim_wrapper=dict(paramwise_cfg=dict(custom_keys=keys)))), model)
    assert "no parameter has 'absolute_pos_embed' in its name; these settings have no effect" in logged.getvalue()
    assert "0.weight" not in logged.getvalue()
    warn_of_rates(Config(dict(optim_wrapper=dict(type="OptimWrapper"))), model)
    assert len(logged.getvalue().splitlines()) == 1


@pytest.mark.parametrize("setting", UNCHANGED)
def test_resume_with_what_may_change(setting, tmp_path, logged):
    options = settings_of(setting)
    check_resume(load_config(str(SEGMENTOR), options), str(checkpoint_of(SEGMENTOR, tmp_path)))
    said = logged.getvalue()
    assert UNCHANGED[setting] in said and ("schedules" in said) == bool(UNCHANGED[setting])


def test_resume_of_a_training_that_has_ended(tmp_path, logged):
    path = checkpoint_of(SEGMENTOR, tmp_path)
    saved = torch.load(path)
    torch.save(saved | dict(meta=saved["meta"] | dict(iter=700)), path)
    check_resume(load_config(str(SEGMENTOR)), str(path))
    assert "nothing is left to train, since train_cfg.max_iters is 700" in logged.getvalue()


def test_resume_from_a_checkpoint_that_is_not_whole(tmp_path):
    path = checkpoint_of(SEGMENTOR, tmp_path)
    config, whole = load_config(str(SEGMENTOR)), torch.load(path)
    for name in ("meta", "optimizer", "param_schedulers"):
        torch.save({key: value for key, value in whole.items() if key != name}, path)
        with pytest.raises(ValueError, match=f"epoch_1.pth has no {name}, .* give --cfg-options load_from="):
            check_resume(config, str(path))
    torch.save(whole | {"ema_state_dict": {}}, path)
    with pytest.raises(ValueError, match="has the averaged weights of an EMAHook"):
        check_resume(config, str(path))
    config.custom_hooks = [dict(type="EMAHook")]
    check_resume(config, str(path))


def test_resume_from_a_checkpoint_without_a_config(tmp_path, logged):
    torch.save(dict(state_dict={}, meta={}, optimizer={}, param_schedulers=[]), tmp_path / "a.pth")
    check_resume(load_config(str(SEGMENTOR)), str(tmp_path / "a.pth"))
    assert "its optimizer is not compared" in logged.getvalue()


def settings_of(*texts: str) -> dict:
    """What ``--cfg-options`` makes of its arguments."""
    parser = argparse.ArgumentParser(exit_on_error=False)
    parser.add_argument("--cfg-options", nargs="+", action=Settings)
    return parser.parse_args(["--cfg-options", *texts]).cfg_options


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1", 1),
        ("1,2", [1, 2]),
        ("(1,2)", (1, 2)),
        ("(disc)", ("disc",)),
        ("[a,b]", ["a", "b"]),
        ("true", True),
        ("None", None),
        ("data/{name}.json", "data/{name}.json"),
        ("/my data (1)/shapes", "/my data (1)/shapes"),
        ("a, b", ["a", "b"]),
        ("('traffic light', 'dog')", ("traffic light", "dog")),
        ("dict(max_norm=35)", {"max_norm": 35}),
        ("{'a.b': dict(lr_mult=0.1)}", {"a.b": {"lr_mult": 0.1}}),
        ("[dict(type='RandomFlip', prob=(0.5, None)), dict()]", [{"type": "RandomFlip", "prob": (0.5, None)}, {}]),
    ],
)
def test_values_of_settings(text, value):
    assert settings_of(f"a.b={text}", "c=1") == {"a.b": value, "c": 1}


@pytest.mark.parametrize(
    "text", ["f(1,2)", "[dict(type=RandomFlip)]", "dict(a=__import__('os').getcwd())", "dict(**{'a': 1})", "['a',b]"]
)
def test_values_that_cannot_be_read(text):
    with pytest.raises(argparse.ArgumentError, match="cannot be read; write all strings inside brackets in quotes"):
        settings_of(f"a={text}")


@pytest.mark.parametrize("before", [None, {"max_norm": 1}])
@pytest.mark.parametrize("text", ["optim_wrapper.clip_grad.max_norm=35", "optim_wrapper.clip_grad=dict(max_norm=35)"])
def test_clipping_can_be_switched_on(text, before):
    """Stock segmentors have ``clip_grad=None``."""
    config = Config(dict(optim_wrapper=dict(type="OptimWrapper", clip_grad=before)))
    merge_options(config, settings_of(text))
    assert config.optim_wrapper == dict(type="OptimWrapper", clip_grad=dict(max_norm=35))


def test_settings_of_one_part_add_up_in_any_order():
    for texts in (("a.b.c=1", "a.b=dict(d=2)"), ("a.b=dict(d=2)", "a.b.c=1")):
        config = Config(dict(a=dict(b=dict(c=0, e=3))))
        merge_options(config, settings_of(*texts))
        assert config.a.b == dict(c=1, d=2, e=3)


def test_settings_that_contradict_each_other():
    with pytest.raises(ValueError, match=r"a=None and a.b=1 contradict each other"):
        merge_options(Config(dict(a=dict(b=0))), settings_of("a=None", "a.b=1"))


def test_elements_of_lists():
    """Such as the scales inside test-time augmentation, a list of lists; elements that are dicts are merged."""
    config = Config(dict(a=[dict(type="A", b=[[1, 2], 3])], c=(1, 2)))
    merge_options(config, settings_of("a.0.b.0=[dict(d=1)]", "a.0.b.1=7", "a.0.type=B"))
    assert config.a == [dict(type="B", b=[[dict(d=1)], 7])]
    with pytest.raises(ValueError, match=r"a.0.b.2=1: a.0.b has 2 elements, from 0 to 1"):
        merge_options(config, settings_of("a.0.b.2=1"))
    with pytest.raises(ValueError, match=r"c.0=5: c is the tuple \(1, 2\); set it as a whole"):
        merge_options(config, settings_of("c.0=5"))


ADVISED = re.compile(r"--cfg-options ((?:[\w.]+=[^\s`'\"(){},;]+[^\s`'\"(){},;.] ?)+)")


def test_settings_that_documents_and_messages_advise_can_be_typed():
    """Each ``--cfg-options KEY=VALUE`` of docs, READMEs and sources; what stands in braces is filled in at run time."""
    files = [p for folder in ("docs", "configs", "sterf_plugins", "tools") for p in (ROOT / folder).rglob("*.*")]
    files = [p for p in [*files, ROOT / "README.md"] if p.suffix in (".py", ".md") and ".mim" not in p.parts]
    advised = {text for path in files for text in ADVISED.findall(path.read_text())}
    assert len(advised) >= 3
    for text in advised:
        settings = settings_of(*text.split())
        config = load_config(STOCK_SEGMENTOR)
        merge_options(config, settings)
        for key, value in settings.items():
            *parents, last = key.split(".")
            node = config
            for name in parents:
                node = node[name]
            assert last == "_delete_" or node[last] == value


def test_a_variable_whose_value_settings_hold_under_other_names():
    config = load_config(str(ROOT / "configs/sd_track_rendered/sdtrack-small-1x4_conv_rendered.py"))
    with pytest.raises(ValueError, match=r"iterations=3 changes nothing.*500 is now .*train_cfg\.max_iters"):
        merge_options(config, settings_of("iterations=3"))
    merge_options(config, settings_of("train_cfg.max_iters=3"))
    assert config.train_cfg.max_iters == 3


@pytest.mark.parametrize(
    ("name", "meant"), [("optim_wraper", "optim_wrapper"), ("train_cgf", "train_cfg"), ("val_cf", "val_cfg")]
)
def test_a_misspelt_setting_is_named_before_a_training_goes_on_without_it(name, meant):
    """From ``--cfg-options`` or in the file."""
    with pytest.raises(ValueError, match=f"{name} is no setting, and would change nothing; {meant} is meant"):
        cli.check_config(load_config(str(DETECTOR), {f"{name}.optimizer.lr": 0.1}))


def test_no_variable_of_a_shipped_or_stock_config_is_taken_for_a_misspelt_setting():
    files = [path for package in PACKAGES for path in config_root(package).rglob("*.py")]
    names = {name for path in files for name in re.findall(r"^(\w+)\s*=", path.read_text(), re.MULTILINE)}
    assert len(names) > 100
    check_names(
        Config(dict.fromkeys(names - {"filename", "text", "env_variables"}))
    )  # words that Config keeps for itself
