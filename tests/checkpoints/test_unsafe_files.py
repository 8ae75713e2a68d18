"""A checkpoint that runs code when it is loaded: every tool refuses it, by the name of what it would call."""

import shutil
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]
DETECTOR = ROOT / "configs" / "shapes" / "mask-rcnn_sdtv3-t-srb_fpn_shapes.py"
SEGMENTOR = ROOT / "configs" / "shapes" / "fpn_sdtv3-t-srb_shapes.py"
STOCK = "mmseg::sem_fpn/fpn_r50_4xb4-160k_ade20k-512x512.py"


class Copies:
    """Pickles as a call that copies a file, so that a loader that runs it leaves a trace."""

    def __init__(self, target: Path):
        self.target = target

    def __reduce__(self):
        return shutil.copyfile, (__file__, str(self.target))


@pytest.fixture
def malicious(tmp_path) -> tuple[Path, Path]:
    """A checkpoint file that runs code, and the file that then exists."""
    path, trace = tmp_path / "malicious.pth", tmp_path / "ran"
    torch.save(dict(state_dict={"head.bias": torch.zeros(1)}, meta={}, hook=Copies(trace)), path)
    torch.load(path, weights_only=False)
    assert trace.is_file()  # so it does run where nothing refuses it
    trace.unlink()
    return path, trace


def data(shapes) -> list[str]:
    return [f"{phase}_dataloader.dataset.data_root={shapes}/ade" for phase in ("train", "val", "test")]


WAYS = {
    "resume": lambda f, s, t: ("train.py", SEGMENTOR, "--work-dir", t, "--resume", f, "--cfg-options", *data(s)),
    "load_from": lambda f, s, t: ("train.py", SEGMENTOR, "--work-dir", t, "--cfg-options", f"load_from={f}", *data(s)),
    "our backbone": lambda f, s, t: (
        "train.py", SEGMENTOR, "--work-dir", t, "--cfg-options", *data(s),
        "model.backbone.init_cfg.type=Pretrained", f"model.backbone.init_cfg.checkpoint={f}",
    ),
    "a stock backbone": lambda f, s, t: (
        "train.py", STOCK, "--work-dir", t, "--cfg-options", f"model.pretrained={f}", *data(s),
        "train_dataloader.num_workers=0", "train_dataloader.persistent_workers=False",
        "val_dataloader.num_workers=0", "val_dataloader.persistent_workers=False",
    ),
    "a timm backbone": lambda f, s, t: (
        "train.py", STOCK, "--backbone", "resnet18", "--work-dir", t, "--cfg-options", *data(s), "model.pretrained=None",
        "model.backbone.init_cfg.type=Pretrained", f"model.backbone.init_cfg.checkpoint={f}",
        "train_dataloader.num_workers=0", "train_dataloader.persistent_workers=False",
        "val_dataloader.num_workers=0", "val_dataloader.persistent_workers=False",
    ),
    "test": lambda f, s, t: ("test.py", SEGMENTOR, f, "--work-dir", t, "--cfg-options", *data(s)),
    "test with augmentation": lambda f, s, t: (
        "test.py", SEGMENTOR, f, "--tta", "--work-dir", t, "--cfg-options", *data(s),
        "tta_model.type=SegTTAModel", "tta_pipeline=[]",
    ),
    "erf": lambda f, s, t: ("erf.py", "resnet18", f, "--out", t),
    "get_sops": lambda f, s, t: ("analysis_tools/get_sops.py", "resnet18", f),
    "deploy": lambda f, s, t: ("model_converters/deploy.py", "resnet18", f, "--out", t),
    "card": lambda f, s, t: ("model_converters/card.py", "resnet18", f, "--out", t / "new", "--repo-id", "me/mine"),
    "convert": lambda f, s, t: ("model_converters/convert.py", f, t / "out.pth"),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
def test_no_tool_runs_code_from_a_checkpoint(way, malicious, shapes, forked, tmp_path):
    path, trace = malicious
    (tmp_path / "work").mkdir()
    tool, *arguments = WAYS[way](path, shapes, tmp_path / "work")
    done = forked(ROOT / "tools" / tool, *arguments)
    assert not trace.exists()
    assert done.returncode == 2, done.stderr[-2000:]
    assert "is refused: it wants to call shutil.copyfile" in done.stderr
    assert "--allow-in-checkpoint shutil.copyfile" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_name_that_the_user_allows_is_called(malicious, forked, tmp_path):
    path, trace = malicious
    tool = ROOT / "tools" / "erf.py"
    done = forked(tool, "resnet18", path, "--out", tmp_path / "a", "--allow-in-checkpoint", "shutil.copyfile")
    assert trace.is_file() and "does not fit" in done.stderr  # it is read, and has not the weights of a resnet18
    done = forked(tool, "resnet18", path, "--out", tmp_path / "a", "--allow-in-checkpoint", "shutil.nothing")
    assert done.returncode == 2 and "'shutil.nothing' cannot be imported" in done.stderr


def test_torch_load_of_any_library_is_safe_inside_a_tool(malicious, forked, tmp_path):
    path, trace = malicious
    tool = tmp_path / "tool.py"
    tool.write_text(
        "import torch\nfrom sterf_plugins.cli.console import run_tool\n"
        f"def main():\n    torch.load({str(path)!r}, weights_only=False)\nrun_tool(main)\n"
    )
    done = forked(tool)
    assert done.returncode == 1 and "shutil.copyfile" in done.stderr
    assert not trace.exists()


@pytest.mark.slow
def test_a_resumed_checkpoint_does_not_run_its_config(shapes, tmp_path, forked):
    """mmengine runs the text of a config that a checkpoint holds under this name, when it resumes."""
    options = [
        *data(shapes), "train_dataloader.batch_size=2", "train_cfg.val_interval=9", "default_hooks.erf=None",
        "default_hooks.checkpoint.interval=1", "param_scheduler=None",
    ]  # fmt: skip
    command = (ROOT / "tools" / "train.py", SEGMENTOR, "--work-dir", tmp_path)
    done = forked(*command, "--cfg-options", *options, "train_cfg.max_iters=1")
    assert done.returncode == 0, done.stderr[-2000:]
    path = tmp_path / "iter_1.pth"
    checkpoint = torch.load(path, weights_only=False)
    trace = tmp_path / "ran"
    checkpoint["meta"]["config"] = f"import pathlib\npathlib.Path({str(trace)!r}).touch()\n"
    torch.save(checkpoint, path)
    done = forked(*command, "--resume", "--cfg-options", *options, "train_cfg.max_iters=2")
    assert done.returncode == 0, done.stderr[-2000:]
    assert (tmp_path / "iter_2.pth").is_file()
    assert not trace.exists()


def test_mmengine_reads_addresses_by_our_reader(tmp_path, malicious, monkeypatch):
    """A file of the folder of downloads stands in for one that is fetched."""
    import sterf_plugins

    sterf_plugins.setup()
    from mmengine.runner import CheckpointLoader

    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path))
    (tmp_path / "checkpoints").mkdir()
    path, trace = malicious
    path.rename(tmp_path / "checkpoints" / "bad.pth")
    torch.save(dict(state_dict={"a": torch.ones(2)}), tmp_path / "checkpoints" / "good.pth")
    loaded = CheckpointLoader.load_checkpoint("https://nowhere.invalid/good.pth", map_location="cpu")
    assert torch.equal(loaded["state_dict"]["a"], torch.ones(2))
    with pytest.raises(ValueError, match=r"shutil\.copyfile"):
        CheckpointLoader.load_checkpoint("https://nowhere.invalid/bad.pth", map_location="cpu")
    assert not trace.exists()
