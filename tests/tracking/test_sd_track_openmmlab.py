"""SDTrack through the real tools: training, resuming, and a test that follows whole sequences."""

import json
from pathlib import Path

import numpy as np
import pytest
from tracking_data import make

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = sorted((ROOT / "configs" / "sd_track").glob("*.py"))
SMALL = {
    "model.arch": "dict(embed_dims=[8,8,16,16],num_heads=2)",
    "model.head_width": 16,
    "train_dataloader.batch_size": 2,
    "train_dataloader.num_workers": 0,
    "train_dataloader.persistent_workers": False,
    "train_cfg.max_iters": 2,
    "default_hooks.logger.interval": 1,
    "default_hooks.checkpoint.interval": 1,
}
for _loader in ("train", "test"):
    SMALL |= {f"{_loader}_dataloader.dataset.template_size": 64, f"{_loader}_dataloader.dataset.search_size": 128}


def options(root, **more) -> list[str]:
    values = SMALL | {f"{k}_dataloader.dataset.data_root": str(root) for k in ("train", "test")} | more
    return ["--cfg-options", *(f"{k}={v}" for k, v in values.items())]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["1x4_conv_visevent", "2x2_conv_fe108", "4x1_srb-e4_fe108"])
def test_train_resume_and_test(forked, tmp_path, name):
    layout, steps = name.rsplit("_", 1)[1], int(name[0])
    for split in ("train", "test"):
        boxes = make(tmp_path / "data", layout, split, ["a", "b"], T=steps)
    config = ROOT / "configs" / "sd_track" / f"sdtrack-tiny-{name}.py"
    train = ["tools/train.py", config, "--work-dir", tmp_path / "work"]
    done = forked(ROOT / train[0], *train[1:], *options(tmp_path / "data"))
    assert done.returncode == 0, done.stderr[-3000:]
    (log,) = (tmp_path / "work").glob("*/vis_data/scalars.json")
    rows = [json.loads(line) for line in log.read_text().splitlines()]
    assert all({"loss_giou", "loss_l1", "loss_focal", "iou", "grad_norm"} <= row.keys() for row in rows)
    assert rows[0]["grad_norm"] > 0 and rows[0]["loss"] != rows[1]["loss"]
    done = forked(ROOT / train[0], *train[1:], "--resume", *options(tmp_path / "data", **{"train_cfg.max_iters": 3}))
    assert done.returncode == 0 and (tmp_path / "work" / "iter_3.pth").is_file(), done.stderr[-3000:]

    results = tmp_path / "results"
    both = {"test_evaluator.results": results, "test_dataloader.dataset.results": results}
    test = [config, tmp_path / "work" / "iter_3.pth", "--work-dir", tmp_path / "tested"]
    done = forked(ROOT / "tools" / "test.py", *test, *options(tmp_path / "data", **both))
    assert done.returncode == 0, done.stderr[-3000:]
    written = {path.name: np.loadtxt(path) for path in results.glob("*.txt")}
    assert set(written) == {"a.txt", "b.txt"} and all(w.shape == boxes.shape for w in written.values())
    assert np.array_equal(written["a.txt"][0], boxes[0]) and "AUC" in done.stdout + done.stderr
    (results / "a.txt").unlink()
    (results / "b.txt").write_text("\n".join(",".join(map(str, row)) for row in boxes))  # a perfect result is kept
    done = forked(ROOT / "tools" / "test.py", *test, *options(tmp_path / "data", **both))
    assert done.returncode == 0 and np.array_equal(np.loadtxt(results / "a.txt"), written["a.txt"])
    assert np.array_equal(np.loadtxt(results / "b.txt", delimiter=","), boxes)


BN = 2 * (32 + 64 + 128 + 128)  # in the mixers, times the ratio; the published counts have none, and a classifier
PARAMETERS = {
    "conv": 19_607_693,
    "conv-sep": 22_280_525,
    "mlpixer-e4": 20_213_173 - 361_000 + 4 * BN,
    "mlpixer-e6": 22_987_925 - 361_000 + 6 * BN,
    "srb-e4": 21_426_293 - 361_000 + 4 * BN,
}


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.stem)
def test_configs_are_the_published_settings(path):
    import torch

    import sterf_plugins

    sterf_plugins.setup()
    from sterf_plugins.openmmlab.configs import load_config
    from sterf_plugins.registry import MODELS

    config = load_config(str(path))
    steps, pairs = int(path.stem.split("-")[2][0]), 60_000 if path.stem.endswith("fe108") else 30_000
    batch = 4 * config.train_dataloader.batch_size
    assert batch == 4 * {1: 42, 2: 16, 4: 8}[steps]
    assert config.train_cfg.max_iters == 100 * (pairs // batch)
    assert config.param_scheduler.milestones == [80 * (pairs // batch)]
    assert config.train_dataloader.dataset.T == config.test_dataloader.dataset.T == steps
    assert config.train_dataloader.dataset.samples == 100 * pairs
    with torch.device("meta"):
        net = MODELS.build(config.model).network
    assert steps == net.T
    assert sum(p.numel() for p in net.parameters()) == PARAMETERS[path.stem.split("_")[1]]
