"""The tools as users run them: stock ones and ours, resume, two processes, and what goes wrong."""

import importlib.util
import json
import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from shapes_options import DETECTOR, ROOT, SEGMENTOR, SHORT, SMALL_FIELDS, detection_data, segmentation_data

import sterf_plugins

CLASSES = "('disc','square','triangle','twin_a','twin_b')"


def stock_tool(package: str) -> Path:
    return Path(importlib.util.find_spec(package).origin).parent / ".mim" / "tools" / "train.py"


@pytest.fixture
def run(forked):
    """``run(tool, *arguments, **options)``: run a tool, which must end well; options become --cfg-options."""

    def call(tool, *arguments, cwd=None, fresh=False, **options):
        settings = [f"{k.replace('__', '.')}={v}" for k, v in options.items()]
        result = forked(tool, *arguments, *(["--cfg-options", *settings] if settings else []), cwd=cwd, fresh=fresh)
        assert result.returncode == 0, result.stdout[-2000:] + result.stderr[-3000:]
        return result

    return call


# two images to train on and one to test on, few regions, and a narrow head
LITTLE = {f"{p}_dataloader__dataset__indices": n for p, n in (("train", 2), ("val", 1), ("test", 1))}
FEW_REGIONS = {
    "model__train_cfg__rpn_proposal__nms_pre": 50,
    "model__test_cfg__rpn__nms_pre": 50,
    "model__roi_head__bbox_head__fc_out_channels": 32,
}


def scalars(work_dir) -> list[dict]:
    path = max(work_dir.glob("2*/vis_data/scalars.json"))
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.slow
def test_stock_mmdet_tool_with_a_config_of_two_lines(run, shapes, tmp_path):
    """Where mmcv has no compiled ops, mmdet needs the import before anything else."""
    config = tmp_path / "two_lines.py"
    config.write_text(
        "_base_ = 'mmdet::mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py'\n"
        "custom_imports = dict(imports=['sterf_plugins.openmmlab'])\n"
    )
    run(
        stock_tool("mmdet"),
        config,
        "--work-dir",
        tmp_path / "out",
        cwd=tmp_path,
        fresh=True,
        **detection_data(shapes),
        **{f"{p}_dataloader__dataset__metainfo__classes": CLASSES for p in ("train", "val", "test")},
        **{f"{p}_dataloader__num_workers": 0 for p in ("train", "val")},
        **{f"{p}_dataloader__persistent_workers": False for p in ("train", "val")},
        **{f"{p}_dataloader__dataset__pipeline__{i}__scale": "(96,96)" for p, i in (("train", 2), ("val", 1))},
        model__backbone___delete_=True,
        model__backbone__type="sterf_plugins.SDTV3",
        model__backbone__arch="nano",
        model__backbone__mixer="srb",
        model__neck__in_channels="[24,48,96,128]",
        train_cfg__max_epochs=1,
        optim_wrapper__optimizer__lr=0.001,
        default_hooks__erf__type="sterf_plugins.ERFHook",
        **LITTLE,
        **FEW_REGIONS,
        **SMALL_FIELDS,
    )
    assert (tmp_path / "out" / "epoch_1.pth").is_file()
    assert any("erf/backbone[3]" in line for line in scalars(tmp_path / "out"))


@pytest.mark.slow
def test_stock_mmseg_tool_with_a_stock_config(run, shapes, tmp_path):
    config = (
        Path(importlib.util.find_spec("mmseg").origin).parent
        / ".mim/configs/sem_fpn/fpn_r50_4xb4-160k_ade20k-512x512.py"
    )
    run(
        stock_tool("mmseg"),
        config,
        "--work-dir",
        tmp_path,
        cwd=tmp_path,
        fresh=True,
        **segmentation_data(shapes),
        **{f"{p}_dataloader__num_workers": 0 for p in ("train", "val")},
        **{f"{p}_dataloader__persistent_workers": False for p in ("train", "val")},
        train_dataloader__dataset__pipeline__2__scale="(96,96)",
        train_dataloader__dataset__pipeline__3__crop_size="(64,64)",
        val_dataloader__dataset__pipeline__1__scale="(96,96)",
        model__pretrained=None,
        model__data_preprocessor__size="(64,64)",
        model__backbone___delete_=True,
        model__backbone__type="sterf_plugins.SDTV3",
        model__backbone__arch="nano",
        model__backbone__mixer="mlpixer",
        model__neck__in_channels="[24,48,96,128]",
        model__decode_head__norm_cfg__type="BN",
        model__decode_head__feature_strides="[4,8,16,16]",
        train_cfg__max_iters=1,
        train_cfg__val_interval=1,
        default_hooks__checkpoint__interval=1,
        default_hooks__erf__type="sterf_plugins.ERFHook",
        **LITTLE,
        **SMALL_FIELDS,
    )
    assert (tmp_path / "iter_1.pth").is_file()
    assert any("erf/backbone[3]" in line for line in scalars(tmp_path))


@pytest.mark.slow
def test_a_stock_resnet_mask_rcnn_trains_through_the_torchvision_ops(run, shapes, tmp_path):
    run(
        ROOT / "tools" / "train.py",
        "mmdet::mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py",
        "--work-dir",
        tmp_path,
        "--erf",
        **detection_data(shapes),
        **{f"{p}_dataloader__dataset__metainfo__classes": CLASSES for p in ("train", "val", "test")},
        **{f"{p}_dataloader__num_workers": 0 for p in ("train", "val")},
        **{f"{p}_dataloader__persistent_workers": False for p in ("train", "val")},
        **{f"{p}_dataloader__dataset__pipeline__{i}__scale": "(96,96)" for p, i in (("train", 2), ("val", 1))},
        model__backbone__init_cfg=None,
        model__backbone__depth=18,
        model__neck__in_channels="[64,128,256,512]",
        model__roi_head__bbox_head__num_classes=5,
        model__roi_head__mask_head__num_classes=5,
        train_cfg__max_epochs=1,
        **LITTLE,
        **FEW_REGIONS,
        **SMALL_FIELDS,
    )
    assert (tmp_path / "epoch_1.pth").is_file()


@pytest.mark.filterwarnings("ignore:The show is True")  # of mmdet and mmseg: nothing is stored then
@pytest.mark.parametrize("config", [DETECTOR, SEGMENTOR])
def test_pictures_stay_in_a_window_as_long_as_asked(config, monkeypatch):
    from mmengine.registry import HOOKS, DefaultScope
    from mmengine.visualization import Visualizer

    from sterf_plugins.openmmlab.configs.reading import load_config

    sterf_plugins.setup()
    Visualizer.get_instance("pictures")  # a hook that shows pictures asks for the present one
    tool = runpy.run_path(str(ROOT / "tools" / "test.py"))
    monkeypatch.setattr(sys, "argv", ["test.py", str(config), "last.pth", "--show", "--wait-time", "0.5"])
    read = load_config(str(config))
    tool["prepare"](read, tool["parse_args"]())
    with DefaultScope.overwrite_default_scope(read.default_scope):
        hook = HOOKS.build(read.default_hooks.visualization)
    assert hook.show is True and hook.wait_time == 0.5 and hook.draw is True
    if config == SEGMENTOR:
        monkeypatch.setattr(sys, "argv", [*sys.argv, "--show-dir", "shown"])
        with pytest.raises(ValueError, match=r"--show and --show-dir: .*; give one of them"):
            tool["prepare"](read, tool["parse_args"]())


@pytest.mark.slow
def test_train_then_test_then_pictures(run, trained, tmp_path):
    record, checkpoint = trained("det")  # the complete config, whose work directory is its own folder
    written = record.read_text()
    options = ("--out", tmp_path / "out.pkl", "--show-dir", "two-shown")
    result = run(
        ROOT / "tools" / "test.py", record, checkpoint, *options, fresh=True, test_dataloader__dataset__indices=2
    )
    assert "coco/bbox_mAP_50" in result.stdout + result.stderr
    assert record.read_text() == written
    assert (tmp_path / "out.pkl").is_file()
    assert len(list(record.parent.rglob("two-shown/*.jpg"))) == 2


def same_weights(a, b) -> bool:
    states = [torch.load(p, weights_only=False)["state_dict"] for p in (a, b)]
    return all(torch.equal(v, states[1][k]) for k, v in states[0].items())


@pytest.mark.slow
@pytest.mark.parametrize("task", ["seg", "det"])
def test_resume_continues_bit_exactly(run, shapes, tmp_path, task):
    """Iteration-based (seg) and epoch-based (det); validation lies between the halves."""
    if task == "seg":
        config, short = SEGMENTOR, {**SHORT, **segmentation_data(shapes), "train_cfg__max_iters": 4}
        short["val_dataloader__dataset__indices"] = 1
        first, last, half = "iter_2.pth", "iter_4.pth", {"train_cfg__max_iters": 2}
        short["default_hooks__checkpoint__max_keep_ckpts"] = -1
        short["param_scheduler__1__end"] = 100  # the schedule must not depend on where the first run ends
    else:
        config, short = DETECTOR, {**detection_data(shapes), **LITTLE, "train_cfg__max_epochs": 2}
        short["train_dataloader__dataset__indices"] = 4
        first, last, half = "epoch_1.pth", "epoch_2.pth", {"train_cfg__max_epochs": 1}
        short["param_scheduler__1__end"] = 50
    tool = ROOT / "tools" / "train.py"
    short = {k: v for k, v in short.items() if k not in SMALL_FIELDS} | {"default_hooks__erf": None}
    # Dropout and random flips make the result depend on every random state.
    short["model__backbone__drop_rate"] = 0.2
    run(tool, config, "--work-dir", tmp_path / "through", **short)
    run(tool, config, "--work-dir", tmp_path / "halves", **{**short, **half})
    assert same_weights(tmp_path / "through" / first, tmp_path / "halves" / first)
    run(tool, tmp_path / "halves" / config.name, "--resume", **short)  # as written down by the first half
    assert same_weights(tmp_path / "through" / last, tmp_path / "halves" / last)


@pytest.mark.slow
@pytest.mark.parametrize("task", ["mask-rcnn", "fpn"])
def test_a_published_row_learns(run, task, shapes, tmp_path):
    """The tiny SRB row with spiking neck and heads, on two images of shapes."""
    config = ROOT / "configs" / "shapes" / f"{task}_sdtv3-t-srb_spikefpn_shapes.py"
    options = detection_data(shapes) if task == "mask-rcnn" else segmentation_data(shapes)
    options |= {"default_hooks__logger__interval": 1, "train_cfg__val_interval": 100}
    options |= {"train_cfg__max_epochs": 9} if task == "mask-rcnn" else {"train_cfg__max_iters": 9}
    options |= {"default_hooks__erf": None, "default_hooks__checkpoint__interval": 9}
    options |= {"param_scheduler__0__end": 5, "train_dataloader__dataset__indices": 2}
    run(ROOT / "tools" / "train.py", config, "--work-dir", tmp_path, **options)
    # The detector's loss of boxes grows while more proposals lie on an object; those of classes are of as many all the time.
    parts = ("loss_rpn_cls", "loss_cls") if task == "mask-rcnn" else ("loss",)
    losses = [sum(entry[part] for part in parts) for entry in scalars(tmp_path) if "loss" in entry]
    assert len(losses) == 9
    assert sum(losses[-3:]) < 0.85 * sum(losses[:3]), losses


def two_processes(shapes) -> list[str]:
    """Options of a training of one iteration whose learning rate depends on the number of processes."""
    options = {**SHORT, **segmentation_data(shapes), **LITTLE, "model__decode_head__norm_cfg__type": "SyncBN"}
    options |= {f"train_cfg__{name}": 1 for name in ("max_iters", "val_interval")}
    options |= {"auto_scale_lr__base_batch_size": 1, "train_dataloader__dataset__indices": 4}
    options["default_hooks__logger__interval"] = 1
    return ["--auto-scale-lr", "--cfg-options", *(f"{k.replace('__', '.')}={v}" for k, v in options.items())]


def check_two_processes(said: str, work_dir: Path) -> None:
    assert "SyncBN settings of the model become BN" in said
    assert (work_dir / "iter_1.pth").is_file()
    rates = [entry["lr"] for entry in scalars(work_dir) if "lr" in entry]
    assert rates == [pytest.approx(4 * 0.02 * 3e-3)]  # two processes of two images, for a rate of one image; warm-up
    assert len(list(work_dir.glob("2*/vis_data/erf/*.npz"))) == 2  # rank 0 alone computes: start and end


@pytest.mark.slow
def test_two_processes_train_the_same_config(forked, shapes, tmp_path):
    """With gloo; SyncBN of the config becomes BN and is mentioned."""
    command = [ROOT / "tools" / "train.py", SEGMENTOR, "--work-dir", tmp_path, "--launcher", "pytorch"]
    result = forked(*command, *two_processes(shapes), processes=2)
    assert result.returncode == 0, result.stderr[-3000:]
    check_two_processes(result.stdout + result.stderr, tmp_path)


@pytest.mark.slow
@pytest.mark.whole
def test_two_processes_of_torchrun_train_the_same_config(shapes, tmp_path):
    """As above, started by the script for several processes."""
    command = ["bash", ROOT / "tools" / "dist_train.sh", SEGMENTOR, "2", "--work-dir", tmp_path, *two_processes(shapes)]
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = {**os.environ, "PORT": "29611", "OMP_NUM_THREADS": "1", "PATH": path}
    result = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=500)
    assert result.returncode == 0, result.stderr[-3000:]
    check_two_processes(result.stdout + result.stderr, tmp_path)


# Runs a program, and presses Ctrl-C as soon as there is a file.
INTERRUPT = """
import os, runpy, signal, sys, threading, time
from pathlib import Path

def interrupt(file):
    while not file.is_file():
        time.sleep(0.05)
    os.kill(os.getpid(), signal.SIGINT)

threading.Thread(target=interrupt, args=(Path(sys.argv[1]),), daemon=True).start()
sys.argv = sys.argv[2:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.mark.slow
def test_an_interrupted_training_says_how_to_go_on_and_leaves_whole_files(forked, shapes, tmp_path):
    options = {**segmentation_data(shapes), "train_cfg__max_iters": 10000, "train_cfg__val_interval": 10000}
    options |= {"default_hooks__checkpoint__interval": 1, "default_hooks__erf": None}
    command = ["-c", INTERRUPT, tmp_path / "iter_2.pth", ROOT / "tools" / "train.py", SEGMENTOR, "--work-dir", tmp_path]
    done = forked(*command, "--cfg-options", *(f"{k.replace('__', '.')}={v}" for k, v in options.items()))
    assert done.returncode == 130, done.stderr[-2000:]
    assert "interrupted; go on with the same command and --resume" in done.stderr
    assert not list(tmp_path.glob("*.partial")) + list(tmp_path.glob(".*.partial*"))
    for checkpoint in tmp_path.glob("*.pth"):
        torch.load(checkpoint, weights_only=False)


@pytest.mark.parametrize(
    "tool", ["train.py", "test.py", "dataset_tools/make_shapes.py", "make_environment.py", "demo.py"]
)
def test_help(tool, forked):
    result = forked(ROOT / "tools" / tool, "--help")
    assert result.returncode == 0, result.stderr[-2000:]
    assert "usage:" in result.stdout


@pytest.mark.parametrize("script", ["dist_train.sh", "dist_test.sh", "slurm_train.sh"])
def test_shell_tools_explain_themselves(script):
    result = subprocess.run(["bash", str(ROOT / "tools" / script)], capture_output=True, text=True)
    assert result.returncode == 2
    assert f"tools/{script}" in result.stdout
