"""Programs that have never heard of this package, where its wheel is installed: mmdet's and mmseg's own ways to use it."""

import importlib.util
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path

import pytest

import sterf_plugins

Config = pytest.importorskip("mmengine").Config
pytest.importorskip("mmdet")
pytest.importorskip("mmseg")
pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parents[2]


def test_this_environment_has_the_entry_point():
    """An editable install reads ``setup.cfg`` when it is made: `make install` after a change of the file."""
    assert [e.value for e in entry_points(group="torch.backends", name="sterf_plugins")] == [
        "sterf_plugins.import_hooks:install"
    ]


DETECTOR = """
import sys
weights, image, *configs = sys.argv[1:]
from mmdet.apis import DetInferencer, inference_detector, init_detector
for i, config in enumerate(configs):
    found = inference_detector(init_detector(config, weights, device="cpu"), image).pred_instances
    inferencer = DetInferencer(config, weights, device="cpu", show_progress=False)
    result = inferencer(image, out_dir=f"seen{i}", no_save_pred=False)
    assert result["predictions"][0]["scores"] == found.scores.tolist() and len(found)
"""
SEGMENTOR = """
import sys
weights, image, *configs = sys.argv[1:]
from mmseg.apis import MMSegInferencer, inference_model, init_model
for i, config in enumerate(configs):
    found = inference_model(init_model(config, weights, device="cpu"), image).pred_sem_seg.data[0]
    result = MMSegInferencer(config, weights, device="cpu")(image, out_dir=f"seen{i}")
    assert (result["predictions"] == found.numpy()).all() and found.shape == (96, 96)
"""


@pytest.mark.parametrize(("task", "code", "ours_first"), [("det", DETECTOR, True), ("seg", SEGMENTOR, False)])
def test_inference(installed, trained, shapes, tmp_path, task, code, ours_first):
    """The libraries' inferencers and functions, on a config of ours and on the one that a training writes down.

    Each of the two kinds is once the first that a process reads.
    """
    written, checkpoint = trained(task)
    configs = [ROOT / "configs" / "shapes" / written.name, written]
    image = next(shapes.rglob("val2017/*.jpg"))
    result = installed(code, checkpoint, image, *(configs if ours_first else configs[::-1]), cwd=tmp_path)
    assert result.returncode == 0, result.stderr[-3000:]
    assert all((tmp_path / f"seen{i}" / "vis" / image.name).is_file() for i in range(2))


def test_what_pytorch_calls_costs_nothing(installed, tmp_path):
    """PyTorch calls the hook, which loads nothing of OpenMMLab and none of our other modules."""
    code = """
import sys, torch
print(*sorted(m for m in sys.modules if m.split(".")[0] in ("sterf_plugins", "mmengine", "mmcv", "torchvision")))
"""
    result = installed(code, cwd=tmp_path)
    assert result.stdout.split() == ["sterf_plugins", "sterf_plugins.import_hooks"], result.stderr


@pytest.mark.parametrize(
    ("library", "first"),
    [("mmdet", "from mmdet.utils import register_all_modules; register_all_modules()"), ("mmseg", "import mmengine")],
)
def test_config_bases(installed, tmp_path, library, first):
    """`_base_ = 'sterf_plugins::…'`, whatever is imported first; ours in turn start from `mmdet::…`."""
    for base in ("mask-rcnn_sdtv3-t-srb_fpn_shapes.py", "fpn_sdtv3-t-srb_shapes.py"):
        (tmp_path / base).write_text(f"_base_ = 'sterf_plugins::shapes/{base}'\n")
    code = (
        f"{first}\nimport {library}.apis, sys\nfrom mmengine import Config\nfor c in sys.argv[1:]: Config.fromfile(c)"
    )
    result = installed(code, *sorted(p.name for p in tmp_path.iterdir()), cwd=tmp_path)
    assert result.returncode == 0, result.stderr[-3000:]


@pytest.mark.parametrize("task", ["det", "seg"])
def test_the_stock_test_tool(installed, trained, shapes, tmp_path, task):
    """The library's own tools/test.py with a config that starts from one of ours by its package."""
    config, checkpoint = trained(task)
    library, data = {"det": ("mmdet", f"{shapes}/"), "seg": ("mmseg", f"{shapes}/ade")}[task]
    text = f"_base_ = 'sterf_plugins::shapes/{config.name}'\ntest_dataloader = dict(dataset=dict(data_root={data!r}))\n"
    if task == "det":
        text += f"test_evaluator = dict(ann_file='{shapes}/annotations/instances_val2017.json')\n"
    sterf_plugins.setup()
    (tmp_path / "mine.py").write_text(text)
    tool = Path(importlib.util.find_spec(library).origin).parent / ".mim" / "tools" / "test.py"
    result = installed(tool, "mine.py", checkpoint, "--work-dir", "out", cwd=tmp_path)
    assert result.returncode == 0, result.stderr[-3000:]
    assert {"det": "coco/bbox_mAP", "seg": "mIoU"}[task] in result.stdout + result.stderr


def test_without_autoloading_one_import_does_the_same(tmp_path):
    """`import sterf_plugins.openmmlab` before mmdet, where PyTorch is told not to call extensions."""
    code = "import sterf_plugins.openmmlab\nimport mmdet.apis"
    environment = {"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin", "TORCH_DEVICE_BACKEND_AUTOLOAD": "0"}
    result = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr[-3000:]


def test_our_configs_are_found_where_the_installation_is_editable(tmp_path, monkeypatch):
    """The metadata of an editable install lies in another folder than the package."""
    info = tmp_path / "site" / "sterf_plugins-9.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: sterf-plugins\nVersion: 9.0\n")
    (info / "top_level.txt").write_text("sterf_plugins\n")
    monkeypatch.syspath_prepend(str(info.parent))
    sterf_plugins.setup()
    (tmp_path / "mine.py").write_text("_base_ = 'sterf_plugins::shapes/fpn_sdtv3-t-srb_shapes.py'\n")
    assert Config.fromfile(tmp_path / "mine.py").model.type == "EncoderDecoder"
