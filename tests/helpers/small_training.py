"""Short trainings of configs on the small data set of shapes."""

from math import isfinite
from pathlib import Path

import sterf_plugins

sterf_plugins.setup()

from mmengine.config import Config  # noqa: E402
from mmengine.registry import init_default_scope  # noqa: E402
from mmengine.runner import Runner  # noqa: E402

from sterf_plugins.openmmlab.configs.data_checks import datasets  # noqa: E402
from sterf_plugins.openmmlab.configs.reading import revert_sync_bn  # noqa: E402


def make_small(pipeline) -> None:
    for step in pipeline:
        for branch in step.get("transforms", []):
            make_small(branch)
        if step["type"] in ("Resize", "RandomResize"):
            step["scale"] = (96, 96)
        if step["type"] == "RandomChoiceResize":
            step["scales"] = [(96, 96)]
        if step["type"] == "RandomCrop":
            step["crop_size"] = (64, 64)
        if "img_scale" in step:  # Mosaic, MixUp
            step["img_scale"] = (96, 96)
        if step["type"] == "Pad" and step.get("size"):
            step["size"] = (96, 96)
        if step["type"] == "RandomAffine":
            step["border"] = (-48, -48)


def on_small_data(config: Config, shapes: Path, work_dir: Path) -> Config:
    """One iteration of the config as it is, on the small real data set."""
    segmentor = config.default_scope == "mmseg"
    root = shapes / "ade" if segmentor else shapes
    for _, dataset in datasets(config, "train", "val", "test"):
        dataset.data_root = f"{root}/"
        if not segmentor:
            dataset.metainfo = dict(classes=("disc", "square", "triangle", "twin_a", "twin_b"))
        make_small(dataset.pipeline)
    for loader in (config.train_dataloader, config.val_dataloader, config.test_dataloader):
        make_small(loader.dataset.get("pipeline", []))  # of a data set that mixes the images of another
        loader.update(batch_size=2, num_workers=0, pin_memory=False)
        loader.persistent_workers = False
    if segmentor:
        if config.model.data_preprocessor.get("size"):
            config.model.data_preprocessor.size = (96, 96)
    else:
        for evaluator in (config.val_evaluator, config.test_evaluator):
            evaluator.ann_file = f"{shapes}/annotations/instances_val2017.json"
        stages = (config.model.get("train_cfg") or {}).get("rcnn", [])
        for stage in stages if isinstance(stages, list) else [stages]:  # a cascade has several
            stage.sampler.num = 32  # as little work as data
    config.train_cfg = dict(type="IterBasedTrainLoop", max_iters=1, val_interval=100)
    config.val_cfg = config.val_dataloader = config.val_evaluator = None
    config.test_cfg = config.test_dataloader = config.test_evaluator = None
    config.param_scheduler = None
    config.default_hooks.pop("erf", None)
    config.default_hooks.checkpoint = None
    config.log_processor = dict(by_epoch=False)
    config.work_dir = str(work_dir)
    config.env_cfg.cudnn_benchmark = False
    revert_sync_bn(config)
    return config


def train_an_iteration(config: Config) -> Runner:
    """The loss and the weights after it are finite numbers."""
    config.default_scope and init_default_scope(config.default_scope)
    config.experiment_name = f"t{abs(hash(config.work_dir))}"
    runner = Runner.from_cfg(config)
    runner.train()
    (loss,) = (values for name, values in runner.message_hub.log_scalars.items() if name == "train/loss")
    assert loss.data[0].size == 1 and isfinite(loss.current())
    assert all(p.isfinite().all() for p in runner.model.parameters())
    return runner
