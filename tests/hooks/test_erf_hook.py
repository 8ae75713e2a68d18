"""The ERF hook in real training runs."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import sterf_plugins

sterf_plugins.setup()

from mmengine.runner import Runner  # noqa: E402

from sterf_plugins.erf import ERFResult  # noqa: E402
from sterf_plugins.openmmlab.configs import datasets, load_config  # noqa: E402

ROOT = Path(__file__).resolve().parents[2]


def config_for(shapes, work_dir, task="mask-rcnn", iterations=4, **erf):
    """The shipped shapes config, a few iterations long, with or without the hook."""
    name = {"mask-rcnn": "mask-rcnn_sdtv3-t-srb_fpn_shapes.py", "fpn": "fpn_sdtv3-t-srb_shapes.py"}[task]
    config = load_config(str(ROOT / "configs" / "shapes" / name))
    for _, dataset in datasets(config, "train", "val", "test"):
        dataset.data_root = f"{shapes / 'ade' if task == 'fpn' else shapes}/"
    if task == "mask-rcnn":
        for evaluator in (config.val_evaluator, config.test_evaluator):
            evaluator.ann_file = f"{shapes}/annotations/instances_val2017.json"
        config.log_processor = dict(by_epoch=False)
    for loader in (config.train_dataloader, config.val_dataloader):
        loader.batch_size = 2
    config.train_cfg = dict(type="IterBasedTrainLoop", max_iters=iterations, val_interval=2)
    config.param_scheduler = None
    config.default_hooks.checkpoint = dict(type="CheckpointHook", by_epoch=False, interval=2)
    config.default_hooks.pop("erf")
    # With and without the ERF hook alike: validation itself must not touch the training's randomness.
    config.default_hooks.random_state = dict(type="sterf_plugins.RandomStateHook")
    if erf:
        config.default_hooks.erf = dict(type="sterf_plugins.ERFHook", num_samples=2, input_size=64, **erf)
    config.work_dir = str(work_dir)
    config.experiment_name = f"erf{abs(hash(str(work_dir)))}"
    config.visualizer.name = config.experiment_name  # mmengine keeps one visualizer per name and process
    return config


def train(config) -> Runner:
    runner = Runner.from_cfg(config)
    runner.train()
    return runner


def weights(work_dir, iteration=4):
    return torch.load(work_dir / f"iter_{iteration}.pth", weights_only=False)["state_dict"]


@pytest.mark.parametrize("task", ["mask-rcnn", "fpn"])
def test_weights_are_bit_identical_with_and_without_the_hook(shapes, tmp_path, task):
    train(config_for(shapes, tmp_path / "without", task))
    train(config_for(shapes, tmp_path / "with", task, interval=1, at_start=True))
    without, with_hook = weights(tmp_path / "without"), weights(tmp_path / "with")
    assert without.keys() == with_hook.keys()
    assert all(torch.equal(without[k], with_hook[k]) for k in without)


def test_what_is_logged_and_written(shapes, tmp_path):
    layers = ["backbone.stages.1", "backbone.stages.4"]
    train(config_for(shapes, tmp_path, "fpn", interval=2, layers=layers))  # validations at 2 and 4: the second is due
    logs = next(tmp_path.glob("2*"))
    result = ERFResult.load(logs / "vis_data" / "erf" / "4.npz")
    assert not (logs / "vis_data" / "erf" / "2.npz").exists()
    assert result.layers == layers
    assert result.spatial[layers[0]].shape == (64, 64)
    assert result.info["num_inputs"] == 2
    lines = [json.loads(line) for line in (logs / "vis_data" / "scalars.json").read_text().splitlines()]
    values = [line for line in lines if "erf/backbone.stages.1" in line]
    assert len(values) == 1 and values[0]["step"] == 4
    assert values[0]["erf/backbone.stages.1"] == pytest.approx(result.area_ratio(layers[0], 0.5))
    pictures = {p.name for p in (logs / "vis_data" / "vis_image").iterdir()}
    assert pictures == {"erf-backbone.stages.1_4.png", "erf-backbone.stages.4_4.png"}
    text = next(logs.glob("*.log")).read_text()
    assert text.count("ERF at 4 (share of pixels with half of the mass)") == 1


def test_scalars_reach_tensorboard(shapes, tmp_path):
    config = config_for(shapes, tmp_path, "fpn", interval=1, source="noise", layers="backbone.stages.2")
    config.visualizer.vis_backends = [dict(type="TensorboardVisBackend")]
    train(config)
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    folder = next(tmp_path.glob("2*/vis_data"))
    events = EventAccumulator(str(folder)).Reload()
    assert [e.step for e in events.Scalars("erf/backbone.stages.2")] == [2, 4]
    assert "erf-backbone.stages.2" in events.Tags()["images"]


def test_default_layers_are_the_backbones_outputs_and_the_start_is_there(shapes, tmp_path):
    train(config_for(shapes, tmp_path, "fpn", iterations=2, at_start=True))
    results = sorted(tmp_path.glob("2*/vis_data/erf/*.npz"))
    assert [p.stem for p in results] == ["0", "2"]
    start, end = (ERFResult.load(p) for p in results)
    assert start.layers == [f"backbone[{i}]" for i in range(4)]
    assert not np.array_equal(start.spatial["backbone[3]"], end.spatial["backbone[3]"])


def test_checkpointed_backbones_are_switched_for_the_pass(shapes, tmp_path):
    """Re-entrant checkpointing (mmdet's `with_cp`) forbids autograd.grad; the hook must go round it."""
    config = config_for(shapes, tmp_path, "fpn", iterations=2, interval=1)
    config.model.backbone = dict(type="ResNet", depth=18, with_cp=True, norm_cfg=dict(type="BN"))
    config.model.neck.in_channels = [64, 128, 256, 512]
    config.model.decode_head.feature_strides = [4, 8, 16, 32]
    runner = train(config)
    assert runner.model.backbone.layer1[0].with_cp
    assert next(tmp_path.glob("2*/vis_data/erf/2.npz"))


def test_ema_weights_can_be_looked_at(shapes, tmp_path):
    results = {}
    for which in ("raw", "ema"):
        config = config_for(shapes, tmp_path / which, "fpn", iterations=2, interval=1, weights=which)
        config.custom_hooks = [dict(type="EMAHook", momentum=0.0002)]
        config.optim_wrapper.optimizer.lr = 0.1
        train(config)
        results[which] = ERFResult.load(next((tmp_path / which).glob("2*/vis_data/erf/2.npz"))).spatial["backbone[3]"]
    assert not np.allclose(results["raw"], results["ema"], rtol=1e-3)


@pytest.mark.parametrize(
    ("erf", "message"),
    [
        (dict(layers="backbone.stage.*"), r"'backbone.stage.\*' matches no module; modules in 'backbone' are"),
        (dict(interval=0), "`interval` is 0"),
        (dict(source="test"), "`source` is 'test'; allowed: 'val', 'noise'"),
        (dict(weights="best"), "`weights` is 'best'; allowed: 'raw', 'ema'"),
    ],
)
def test_bad_arguments_are_found_before_training(shapes, tmp_path, erf, message):
    config = config_for(shapes, tmp_path, "fpn", **{"interval": 1, **erf})
    with pytest.raises(ValueError, match=message):
        train(config)
    assert not list(tmp_path.glob("*.pth"))
