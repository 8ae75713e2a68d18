"""The ERF hook in real training runs."""

import json
import re
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import sterf_plugins

sterf_plugins.setup()

from mmengine.hooks import EMAHook  # noqa: E402
from mmengine.optim import OptimWrapper  # noqa: E402
from mmengine.registry import OPTIM_WRAPPERS  # noqa: E402
from mmengine.runner import Runner  # noqa: E402

from sterf_plugins.erf import ERFResult  # noqa: E402
from sterf_plugins.openmmlab.configs.data_checks import datasets  # noqa: E402
from sterf_plugins.openmmlab.configs.reading import load_config  # noqa: E402

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.usefixtures("shallow")


def config_for(shapes, work_dir, task="mask-rcnn", iterations=4, val_interval=2, **erf):
    """The shipped shapes config, a few iterations long, with or without the hook."""
    name = {"mask-rcnn": "mask-rcnn_sdtv3-t-srb_fpn_shapes.py", "fpn": "fpn_sdtv3-t-srb_shapes.py"}[task]
    config = load_config(str(ROOT / "configs" / "shapes" / name))
    for _, dataset in datasets(config, "train", "val", "test"):
        dataset.data_root = f"{shapes / 'ade' if task == 'fpn' else shapes}/"
    if task == "mask-rcnn":
        for evaluator in (config.val_evaluator, config.test_evaluator):
            evaluator.ann_file = f"{shapes}/annotations/instances_val2017.json"
        config.log_processor = dict(by_epoch=False)
        config.model.train_cfg.rcnn.sampler.num = 16
    config.val_dataloader.dataset.indices = 2
    for loader in (config.train_dataloader, config.val_dataloader):
        loader.batch_size = 2
    config.train_cfg = dict(type="IterBasedTrainLoop", max_iters=iterations, val_interval=val_interval)
    config.param_scheduler = None
    config.default_hooks.checkpoint = dict(type="CheckpointHook", by_epoch=False, interval=2)
    config.default_hooks.pop("erf")
    # With and without the ERF hook alike: validation itself must not touch the training's randomness.
    config.default_hooks.random_state = dict(type="sterf_plugins.RandomStateHook")
    if erf:
        config.default_hooks.erf = dict(type="sterf_plugins.ERFHook", num_samples=2, input_size=64) | erf
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
@pytest.mark.slow
def test_weights_are_bit_identical_with_and_without_the_hook(shapes, tmp_path, task):
    """The hook computes fields before the first iteration and between the two."""
    short = dict(task=task, iterations=2, val_interval=1)
    train(config_for(shapes, tmp_path / "without", **short))
    train(config_for(shapes, tmp_path / "with", **short, interval=1, at_start=True, layers="backbone.stages.4"))
    without, with_hook = weights(tmp_path / "without", 2), weights(tmp_path / "with", 2)
    assert without.keys() == with_hook.keys()
    assert all(torch.equal(without[k], with_hook[k]) for k in without)


TRAININGS = {
    "amp": dict(optim_wrapper=dict(type="mmengine.Bfloat16OptimWrapper")),
    "accumulation": dict(optim_wrapper=dict(accumulative_counts=2)),
    "ema": dict(custom_hooks=[dict(type="EMAHook", momentum=0.01)]),
    "checkpointing": dict(model=dict(backbone=dict(with_cp=True))),
}


class Bfloat16OptimWrapper(OptimWrapper):
    """Mixed precision on a CPU; mmengine's own wrapper wants a GPU."""

    @contextmanager
    def optim_context(self, model):
        with super().optim_context(model), torch.autocast("cpu", torch.bfloat16):
            yield


OPTIM_WRAPPERS.register_module(module=Bfloat16OptimWrapper, force=True)


@pytest.mark.slow
@pytest.mark.parametrize("name", TRAININGS)
@pytest.mark.sweep
def test_weights_are_bit_identical_in_other_trainings(shapes, tmp_path, name):
    """Re-entrant checkpointing (mmdet's `with_cp`) forbids autograd.grad; the hook must go round it."""
    layer = "backbone.layer4" if name == "checkpointing" else "backbone.stages.4"
    for folder, erf in (("without", {}), ("with", dict(interval=1, at_start=True, layers=layer))):
        config = config_for(shapes, tmp_path / folder, "fpn", iterations=2, val_interval=1, **erf)
        if name == "checkpointing":
            backbone = dict(type="ResNet", depth=18, norm_cfg=dict(type="BN"), _delete_=True)
            config.merge_from_dict(dict(model=dict(backbone=backbone, neck=dict(in_channels=[64, 128, 256, 512]))))
            config.model.decode_head.feature_strides = [4, 8, 16, 32]
        config.merge_from_dict(TRAININGS[name])
        runner = train(config)
    assert name != "checkpointing" or runner.model.backbone.layer1[0].with_cp
    first, second = (torch.load(tmp_path / folder / "iter_2.pth", weights_only=False) for folder in ("without", "with"))
    for key in ("state_dict", "ema_state_dict"):
        for entry, value in first.get(key, {}).items():
            assert torch.equal(torch.as_tensor(value), torch.as_tensor(second[key][entry])), entry
    assert len(list((tmp_path / "with").glob("2*/vis_data/erf/*.npz"))) == 3


@pytest.mark.slow
def test_two_processes_share_the_images_and_train_the_same_weights(forked, shapes, tmp_path):
    """Ranks with gloo between them; the field is that of all images, computed in halves."""
    config = ROOT / "configs" / "shapes" / "fpn_sdtv3-t-srb_shapes.py"
    options = [f"{p}_dataloader.dataset.data_root={shapes}/ade" for p in ("train", "val", "test")]
    options += ["train_dataloader.batch_size=2", "val_dataloader.batch_size=2", "train_cfg.max_iters=2"]
    options += ["train_cfg.val_interval=2", "default_hooks.checkpoint.interval=2", "randomness.seed=3"]
    without = tmp_path / "without.py"
    nothing = dict(_delete_=True, type="EmptyCacheHook")
    without.write_text(f"_base_ = {str(config)!r}\ndefault_hooks = dict(erf={nothing!r})\n")
    sizes = [
        "default_hooks.erf.num_samples=5",
        "default_hooks.erf.input_size=64",
        "default_hooks.erf.layers=backbone.stages.4",
    ]
    for folder, path, extra in (("without", without, []), ("with", config, sizes)):
        command = [ROOT / "tools" / "train.py", path, "--launcher", "pytorch", "--work-dir", tmp_path / folder]
        result = forked(*command, "--cfg-options", *options, *extra, processes=2)
        assert result.returncode == 0, result.stderr[-3000:]
    without, with_hook = weights(tmp_path / "without", 2), weights(tmp_path / "with", 2)
    assert all(torch.equal(without[k], with_hook[k]) for k in without)
    assert ERFResult.load(next((tmp_path / "with").glob("2*/vis_data/erf/2.npz"))).info["num_inputs"] == 5


@pytest.mark.slow
def test_epochs_and_the_evolution(shapes, tmp_path):
    """An epoch-based loop: files are named by epoch, and the end of training shows all of them."""
    config = config_for(shapes, tmp_path, "fpn", interval=1, layers="backbone.stages.2", at_start=True)
    config.train_cfg = dict(type="EpochBasedTrainLoop", max_epochs=2, val_interval=1)
    config.train_dataloader.sampler = dict(type="DefaultSampler", shuffle=True)
    config.train_dataloader.dataset.indices = 4
    config.default_hooks.checkpoint = dict(type="CheckpointHook", interval=2)
    config.default_hooks.logger = dict(type="LoggerHook", interval=1)
    config.log_processor = dict(by_epoch=True)
    train(config)
    logs = next(tmp_path.glob("2*"))
    folder = logs / "vis_data" / "erf"
    assert {p.name for p in folder.iterdir()} == {
        "0.npz", "1.npz", "2.npz", "evolution.gif", "evolution.pdf", "evolution.png",
    }  # fmt: skip
    from PIL import Image

    with Image.open(folder / "evolution.gif") as animation:
        assert animation.n_frames == 3  # each names its step
    assert (logs / "vis_data" / "vis_image" / "erf-evolution_2.png").is_file()


@pytest.mark.slow
def test_fields_in_time(shapes, tmp_path):
    """A backbone with a time axis: mean lags are logged beside the areas."""
    from mmengine.registry import MODELS

    from sterf_plugins.backbones import SpikingCNN

    if "TimedCNN" not in MODELS:

        @MODELS.register_module()
        class TimedCNN(SpikingCNN):
            def forward(self, x):
                y = super().forward(x)
                return (y,) if x.ndim == 5 else (y.mean(0),)

    config = config_for(shapes, tmp_path, "fpn", iterations=2, interval=1, layers="backbone.layers.*", time_steps=3)
    config.model.backbone = dict(
        type="mmengine.TimedCNN", depth=2, channels=8, in_chans=3, neuron="lif", T=3, mean=0.0, std=0.5
    )
    config.model.neck = None
    config.model.decode_head = dict(
        type="FCNHead", in_channels=8, in_index=0, channels=8, num_convs=1, num_classes=6, norm_cfg=dict(type="BN")
    )
    train(config)
    logs = next(tmp_path.glob("2*"))
    result = ERFResult.load(logs / "vis_data" / "erf" / "2.npz")
    assert result.temporal["backbone.layers.1"].shape == (3,)
    line = json.loads((logs / "vis_data" / "scalars.json").read_text().splitlines()[-1])
    assert line["erf_lag/backbone.layers.1"] == pytest.approx(result.numbers("backbone.layers.1")["mean_lag"].value)


def test_sharded_models_are_refused():
    from sterf_plugins.openmmlab.hooks import ERFHook

    class MMFullyShardedDataParallel(torch.nn.Module):
        pass

    class Runner:
        model = MMFullyShardedDataParallel()

    with pytest.raises(ValueError, match=r"cannot run under FSDP.*a checkpoint with sterf erf"):
        ERFHook().before_train(Runner())


@pytest.mark.parametrize(("hooks", "validation"), [([], object()), ([EMAHook()], None)])
def test_averaged_weights_that_are_not_there_are_refused(hooks, validation):
    from sterf_plugins.openmmlab.hooks import ERFHook

    runner = SimpleNamespace(hooks=hooks, val_loop=validation)
    with pytest.raises(ValueError, match="weights='ema', but averaged weights are in a model at validations"):
        ERFHook(weights="ema").before_train(runner)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(kinds="depth"), "`kinds` is 'depth'; allowed: 'spatial'"),
        (dict(kinds=3), r"`kinds` is 3 \(int\)"),
        (dict(time_steps=0), "`time_steps` is 0"),
        (dict(time="mean"), "`time` is 'mean'; allowed: 'sum', 'each'"),
        (dict(target="stage"), "`target` is 'stage'; allowed: 'module', 'block'"),
        (dict(aggregate="max"), "`aggregate` is 'max'; allowed: 'mean', 'median'"),
        (dict(calibrate="yes"), "`calibrate` is 'yes'; allowed: 'auto', True, False"),
        (dict(at_start="no"), "`at_start` is 'no'"),
        (dict(layout="CHW"), "`layout` is 'CHW'; allowed"),
        (dict(layout={"stage": "BCHW"}), "`layout` has the pattern 'stage', which fits no module"),
        (dict(grid=7), r"`grid` is 7; give \(rows, columns\)"),
    ],
)
def test_what_compute_erf_refuses_is_refused_before_the_training(options, message):
    """It ended trainings at their first validation."""
    from sterf_plugins.openmmlab.hooks import ERFHook

    runner = SimpleNamespace(model=torch.nn.Sequential(torch.nn.Conv2d(3, 2, 1)), val_loop=object(), iter=0)
    with pytest.raises((TypeError, ValueError), match=message):
        ERFHook("0", **options).before_train(runner)


def test_a_word_is_no_answer_to_whether_operations_are_counted():
    from sterf_plugins.openmmlab.hooks import FiringRateHook

    with pytest.raises(TypeError, match="`operations` is 'no'"):
        FiringRateHook(operations="no")


@pytest.mark.parametrize("hook", ["ERFHook", "FiringRateHook"])
def test_a_resumed_training_measures_at_the_steps_of_a_whole_one(hook, monkeypatch):
    """Every second of five validations and the last one, wherever the run starts; and each outside of a training."""
    from mmengine.runner import EpochBasedTrainLoop

    from sterf_plugins.openmmlab import hooks

    steps: list[int] = []
    monkeypatch.setattr(getattr(hooks, hook), "measure", lambda self, runner, step: steps.append(step))
    loop = object.__new__(EpochBasedTrainLoop)
    loop.val_interval = 1
    model = sterf_plugins.openmmlab.backbones.SDTV3()
    for done in (0, 1):  # epochs of an earlier run
        measuring = getattr(hooks, hook)(interval=2)
        runner = SimpleNamespace(model=model, hooks=[], val_loop=object(), train_loop=loop, max_epochs=5, iter=done)
        measuring.before_train(runner)
        for runner.epoch in range(done + 1, 6):
            measuring.after_val_epoch(runner)
        assert steps == [2, 4, 5]
        steps.clear()
    measuring._training = False
    measuring.after_val_epoch(runner)
    assert steps == [0]


@pytest.mark.slow
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
    assert pictures == {"erf_4.png"}
    text = next(logs.glob("*.log")).read_text()
    assert text.count("ERF at 4 (share of pixels with half of the mass)") == 1


@pytest.mark.slow
def test_scalars_reach_tensorboard(shapes, tmp_path):
    config = config_for(shapes, tmp_path, "fpn", interval=1, source="noise", layers="backbone.stages.2")
    config.visualizer.vis_backends = [dict(type="TensorboardVisBackend")]
    train(config)
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    folder = next(tmp_path.glob("2*/vis_data"))
    events = EventAccumulator(str(folder)).Reload()
    assert [e.step for e in events.Scalars("erf/backbone.stages.2")] == [2, 4]
    assert "erf" in events.Tags()["images"]


@pytest.mark.slow
def test_default_layers_are_the_backbones_outputs_and_the_start_is_there(shapes, tmp_path):
    train(config_for(shapes, tmp_path, "fpn", iterations=2, at_start=True, input_size=None))
    results = sorted(tmp_path.glob("2*/vis_data/erf/*.npz"))
    assert [p.stem for p in results] == ["0", "2"]
    start, end = (ERFResult.load(p) for p in results)
    assert start.info["input_shape"] == [3, 128, 128]  # the crops of the training
    assert start.layers == [f"backbone[{i}]" for i in range(4)]
    assert not np.array_equal(start.spatial["backbone[3]"], end.spatial["backbone[3]"])
    logged = next(tmp_path.glob("2*/*.log")).read_text()
    assert re.search(r"ERF at 2 .*backbone\[0\] \(stage \d, stride \d\) 0\.\d+, backbone\[1\] \(stage", logged)


@pytest.mark.slow
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
        (dict(reduce="max"), "`reduce` is 'max'; allowed"),
        (dict(position="corner"), "`position` is 'corner'; allowed"),
        (dict(reduced="abs"), "`argument of ERFHook` is 'reduced'; allowed: 'reduce'"),
        (dict(protocol="replknet", reduce="abs"), "`reduce` is 'abs', but protocol 'replknet'"),
        (dict(weights="best"), "`weights` is 'best'; allowed: 'raw', 'ema'"),
    ],
)
@pytest.mark.slow
def test_bad_arguments_are_found_before_training(shapes, tmp_path, erf, message):
    config = config_for(shapes, tmp_path, "fpn", **{"interval": 1, **erf})
    with pytest.raises(ValueError, match=message):
        train(config)
    assert not list(tmp_path.glob("*.pth"))


def test_images_have_the_size_of_the_training():
    """That of a segmentor's crops; a detector's is what its pipeline gives, padded as its preprocessor does it."""
    from mmdet.models import DetDataPreprocessor
    from mmdet.structures import DetDataSample
    from mmseg.models import SegDataPreProcessor

    from sterf_plugins.openmmlab.runtime.dataset_images import image_size

    sample = DetDataSample(metainfo=dict(img_shape=(70, 90)))
    dataset = [dict(inputs=torch.zeros(3, 70, 90, dtype=torch.uint8), data_samples=sample)]
    assert image_size(DetDataPreprocessor(pad_size_divisor=32), dataset) == (96, 96)
    assert image_size(SegDataPreProcessor(size=(64, 128)), dataset) == (64, 128)
