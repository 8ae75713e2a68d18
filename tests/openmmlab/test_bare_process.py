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
import runpy, sys
from mmdet.utils import register_all_modules
register_all_modules()
from mmdet.apis import DetInferencer, inference_detector, init_detector
tool, weights, image, *configs = sys.argv[1:]
for i, config in enumerate(configs):
    found = inference_detector(init_detector(config, weights, device="cpu"), image).pred_instances
    inferencer = DetInferencer(config, weights, device="cpu", show_progress=False)
    result = inferencer(image, out_dir=f"seen{i}", no_save_pred=False)
    assert result["predictions"][0]["scores"] == found.scores.tolist() and len(found)
sys.argv[1:] = ["mine.py", weights, "--work-dir", "out"]
runpy.run_path(tool, run_name="__main__")
"""
SEGMENTOR = """
import runpy, sys
tool, weights, image, *configs = sys.argv[1:]
sys.argv[1:] = ["mine.py", weights, "--work-dir", "out"]
runpy.run_path(tool, run_name="__main__")
from mmseg.apis import MMSegInferencer, inference_model, init_model
for i, config in enumerate(configs[::-1]):
    found = inference_model(init_model(config, weights, device="cpu"), image).pred_sem_seg.data[0]
    result = MMSegInferencer(config, weights, device="cpu")(image, out_dir=f"seen{i}")
    assert (result["predictions"] == found.numpy()).all() and found.shape == (96, 96)
"""
OTHER = """
from mmengine import Config
Config.fromfile("other.py")
"""


@pytest.mark.parametrize(
    ("library", "code", "metric"), [("mmdet", DETECTOR, "coco/bbox_mAP"), ("mmseg", SEGMENTOR, "mIoU")]
)
def test_inference(installed, trained, shapes, tmp_path, library, code, metric):
    """The libraries' inferencers, functions and test tools: on a config of ours, the one that a training writes down, a new one.

    The new one starts from ours by its package, which in turn starts from ``mmdet::…`` or ``mmseg::…``. In one process it is
    the first to be read, by the tool and before the library is imported; in the other one everything is registered before.
    """
    sterf_plugins.setup()
    tasks = {"mmdet": "det", "mmseg": "seg"}
    written, checkpoint = trained(tasks[library])
    text = f"_base_ = 'sterf_plugins::shapes/{written.name}'\n"
    data = f"test_dataloader = dict(dataset=dict(data_root='{shapes}/{'ade' if library == 'mmseg' else ''}'))\n"
    if library == "mmdet":
        data += f"test_evaluator = dict(ann_file='{shapes}/annotations/instances_val2017.json')\n"
    (tmp_path / "mine.py").write_text(text + data)
    others = {"mmdet": "fpn_sdtv3-t-srb_shapes.py", "mmseg": "mask-rcnn_sdtv3-t-srb_fpn_shapes.py"}
    (tmp_path / "other.py").write_text(f"_base_ = 'sterf_plugins::shapes/{others[library]}'\n")
    tool = Path(importlib.util.find_spec(library).origin).parent / ".mim" / "tools" / "test.py"
    image, ours = next(shapes.rglob("val2017/*.jpg")), ROOT / "configs" / "shapes" / written.name
    result = installed(code + OTHER, tool, checkpoint, image, ours, written, cwd=tmp_path)
    assert result.returncode == 0, result.stderr[-3000:]
    assert all((tmp_path / f"seen{i}" / "vis" / image.name).is_file() for i in range(2))
    assert metric in result.stdout + result.stderr


def test_what_pytorch_calls_costs_nothing(installed, tmp_path):
    """PyTorch calls the hook, which loads nothing of OpenMMLab and none of our other modules."""
    code = """
import sys, torch
print(*sorted(m for m in sys.modules if m.split(".")[0] in ("sterf_plugins", "mmengine", "mmcv", "torchvision")))
"""
    result = installed(code, cwd=tmp_path)
    assert result.stdout.split() == ["sterf_plugins", "sterf_plugins.import_hooks"], result.stderr


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
