"""The hooks that watch firing rates in a training."""

import json
import re
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_the_hook(shapes, tmp_path):
    import sterf_plugins

    sterf_plugins.setup()
    from mmengine.runner import Runner

    from sterf_plugins.openmmlab.configs.data_checks import datasets
    from sterf_plugins.openmmlab.configs.reading import load_config

    states = []
    for name, hooks in (
        ("without", []),
        ("with", [dict(type="sterf_plugins.FiringRateHook", num_samples=2)]),
        ("watched", [dict(type="sterf_plugins.SilenceHook", after=1)]),
        ("silent", [dict(type="sterf_plugins.SilenceHook", after=1)]),
    ):
        config = load_config(str(ROOT / "configs" / "shapes" / "fpn_sdtv3-t-srb_shapes.py"))
        for _, dataset in datasets(config, "train", "val", "test"):
            dataset.data_root = f"{shapes}/ade"
        config.train_dataloader.batch_size = 2
        config.val_dataloader.dataset.indices = 2
        config.train_cfg = dict(type="IterBasedTrainLoop", max_iters=2, val_interval=1)
        config.default_hooks.pop("erf")
        config.default_hooks.random_state = dict(type="sterf_plugins.RandomStateHook")
        config.custom_hooks = hooks
        config.model.backbone.norm_hidden = name != "silent"
        config.work_dir = str(tmp_path / name)
        config.experiment_name = config.visualizer.name = f"rate-{name}-{tmp_path.name}"
        runner = Runner.from_cfg(config)
        runner.train()
        states.append({k: v.clone() for k, v in runner.model.state_dict().items()})
    for watched in states[1:3]:
        assert all(torch.equal(states[0][k], watched[k]) for k in states[0])
    text = next((tmp_path / "watched").glob("2*/*.log")).read_text()
    line = r"iteration 1: all 88 spike layers fire, at rates from 0\.\d+ to 0\.\d+; not run: backbone.head_spike$"
    assert re.search(line, text, re.M)
    text = next((tmp_path / "silent").glob("2*/*.log")).read_text()
    for iteration in (1, 2):
        assert f"iteration {iteration}: 4 of 88 spike layers are silent" in text
    assert "backbone.stages.0.blocks.0.mixer.spike2" in text and "norm_hidden=True" in text
    logs = next((tmp_path / "with").glob("2*"))
    record = json.loads((logs / "vis_data" / "firing_rate" / "2.json").read_text())
    line = json.loads((logs / "vis_data" / "scalars.json").read_text().splitlines()[-1])
    assert line["firing_rate"] == pytest.approx(record["firing_rate"]) and 0 < record["firing_rate"] < 1
    assert (
        line["energy_mj"] == pytest.approx(record["energy_mj"])
        and record["energy_mj"] > 0
        and record["num_inputs"] == 2
    )
    assert re.search(r"spikes at 2: .*; not run: backbone.head_spike -> ", next(logs.glob("*.log")).read_text())
    first = record["layers"]["backbone.stages.0.blocks.0.mixer.spike1"]
    assert sum(first["histogram"]) == 2 * 8 * 64**2  # images, channels, and half of the segmentor's crops of 128 pixels
