"""Checks of a config that its dataloaders, loops, optimizer, schedules and metrics fit together."""

import difflib
import json
import logging
from collections.abc import Iterator
from functools import reduce
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from mmengine.config import Config, ConfigDict
from mmengine.logging import print_log
from mmengine.registry import OPTIMIZERS
from torch import nn

from ...checks import number
from .data_checks import PROBE_BYTES, datasets, full_path, is_kind_of
from .types import registered, type_name


def check_loops(config: Config, *phases: str) -> None:
    """Raise ``ValueError`` if a dataloader, a loop, a schedule or a metric does not fit the others."""
    check_complete(config, *phases)
    check_numbers(config, *phases)
    for phase in phases:
        check_workers(config, f"{phase}_dataloader")
        check_annotations_of_metrics(config, phase)
    if "train" in phases:
        check_epochs(config)
        check_optimizer(config)
        check_rates_by_layers(config)


def warn_of_rates(config: Config, model: nn.Module) -> None:
    """Log a warning if names in ``paramwise_cfg.custom_keys`` fit no parameter of the model, so that their rates have no effect.

    They may be mistyped, or names in the stock backbone that ``--backbone`` has replaced.
    """
    optimizer: Any = config.get("optim_wrapper") or {}
    keys = (optimizer.get("paramwise_cfg") or {}).get("custom_keys") or {}
    names = [name for name, _ in model.named_parameters()]
    lost = [key for key in keys if not any(key in name for name in names)]
    if lost:
        text = f"optim_wrapper.paramwise_cfg.custom_keys: no parameter has {' or '.join(map(repr, lost))} in its name"
        print_log(f"{text}; these settings have no effect", "current", logging.WARNING)


def check_complete(config: Config, *needed: str) -> None:
    """Raise ``ValueError`` if a phase is switched off by one of its three settings only, or a needed one is switched off."""
    for phase, third in (("train", "optim_wrapper"), ("val", "val_evaluator"), ("test", "test_evaluator")):
        names = (f"{phase}_cfg", f"{phase}_dataloader", third)
        present = [name for name in names if config.get(name) is not None]
        if phase in needed and not present:
            like = ", for instance test_dataloader = val_dataloader" if phase == "test" else ""
            raise ValueError(f"the config has no {phase}: set {', '.join(names[:2])} and {third}{like}.")
        if 0 < len(present) < 3:
            lacking = next(name for name in names if name not in present)
            raise ValueError(
                f"{lacking} is not set, and {' and '.join(present)} {'is' if len(present) == 1 else 'are'}: to leave out "
                f"{phase}, --cfg-options {' '.join(f'{name}=None' for name in names)}; else set all three."
            )


def check_numbers(config: Config, *phases: str) -> None:
    """Raise ``ValueError`` or ``TypeError`` for numbers of loaders and of a training that cannot be; PyTorch does not name them."""

    def check(section: str, name: str, least: int, whole: bool = True) -> None:
        value = reduce(lambda node, key: node.get(key) or {}, section.split("."), config).get(name)
        if value is not None:
            allowed = f"a {'whole ' if whole else ''}number >= {least}"
            number(f"{section}.{name}", value, lambda n: n >= least and (n.is_integer() or not whole), allowed)

    for phase in phases:
        check(f"{phase}_dataloader", "batch_size", 1)
        check(f"{phase}_dataloader", "num_workers", 0)
    if "train" in phases:
        for name in ("max_epochs", "max_iters", "val_interval"):
            check("train_cfg", name, 1)
        check("optim_wrapper.optimizer", "lr", 0, whole=False)


def check_workers(config: Config, key: str) -> None:
    """Raise ``ValueError`` for a dataloader that keeps or feeds worker processes that it does not have."""
    loader = config.get(key) or {}
    if loader.get("num_workers"):
        return
    for setting, value in (("persistent_workers", False), ("prefetch_factor", None)):
        if loader.get(setting):
            raise ValueError(
                f"{key}.{setting} is {loader[setting]}, and {key}.num_workers is 0: --cfg-options {key}.{setting}={value}."
            )


def check_epochs(config: Config) -> None:
    """Raise ``ValueError`` for epochs that never end, or a schedule by epochs in a training without epochs."""
    loop, loader = config.get("train_cfg") or {}, config.get("train_dataloader") or {}
    sampler = type_name(loader.get("sampler"))
    by_epoch = type_name(loop) == "EpochBasedTrainLoop" or (not loop.get("type") and loop.get("by_epoch"))
    if by_epoch and sampler == "InfiniteSampler":
        raise ValueError(
            "train_cfg counts epochs, and the InfiniteSampler of train_dataloader.sampler never ends one: --cfg-options "
            "train_dataloader.sampler.type=DefaultSampler."
        )
    if type_name(loop) != "IterBasedTrainLoop":
        return
    schedules = config.get("param_scheduler") or []
    for index, schedule in enumerate([schedules] if isinstance(schedules, dict) else schedules):
        if schedule.get("by_epoch", True) and not schedule.get("convert_to_iter_based"):
            where = "param_scheduler" if isinstance(schedules, dict) else f"param_scheduler.{index}"
            raise ValueError(
                f"{where} ({type_name(schedule)}) changes at the end of epochs, and train_cfg (IterBasedTrainLoop) has none: "
                f"--cfg-options {where}.by_epoch=False, with begin and end in iterations."
            )


def check_optimizer(config: Config) -> None:
    """Raise ``ValueError`` for an optimizer of a name that is not registered; mmengine's error does not name it."""
    wrapper: Any = config.get("optim_wrapper") or {}
    optimizer: Any = wrapper.get("optimizer") or {}
    if optimizer.get("type") and registered(optimizer, OPTIMIZERS, config) is None:
        near = difflib.get_close_matches(optimizer.type, list(OPTIMIZERS.module_dict), 5, 0.5) or ["AdamW", "SGD"]
        raise ValueError(
            f"optim_wrapper.optimizer.type is {optimizer.type!r}, and there is no such optimizer; near: {', '.join(near)}: "
            f"--cfg-options optim_wrapper.optimizer.type={near[0]}"
        )


def check_rates_by_layers(config: Config) -> None:
    """Raise ``ValueError`` for a constructor of learning rates by layers that does not know the backbone's."""
    optimizer: Any = config.get("optim_wrapper") or {}
    constructor = type_name(dict(type=optimizer.get("constructor", "")))
    backbone = type_name((config.get("model") or {}).get("backbone"))
    by_layers = ("LearningRateDecayOptimizerConstructor", "LayerDecayOptimizerConstructor")
    known = ("ConvNeXt", "BEiT", "MAE")  # they look for these in the name of the class
    if constructor in by_layers and not any(name in backbone for name in known):
        raise ValueError(
            f"optim_wrapper.constructor is {constructor}, which knows the layers of ConvNeXt, and in mmseg of BEiT and MAE, and "
            f"model.backbone is {backbone}: --cfg-options optim_wrapper.constructor=DefaultOptimWrapperConstructor "
            f"optim_wrapper.paramwise_cfg=None, or give rates by name, "
            f"optim_wrapper.paramwise_cfg=\"dict(custom_keys={{'backbone.stages.0': dict(lr_mult=0.5)}})\"."
        )


def check_annotations_of_metrics(config: Config, phase: str) -> None:
    """Raise ``ValueError`` if a metric lacks its package or its file, or the file has other images than the data set."""
    sets = [(key, dataset) for key, dataset in datasets(config, phase) if is_kind_of(dataset, "CocoDataset", config)]
    own = [full_path(dataset, dataset.ann_file) for _, dataset in sets if dataset.get("ann_file")]
    for key, metric in _metrics(config, phase):
        if type_name(metric) == "FasterCocoMetric" and find_spec("faster_coco_eval") is None:
            raise ValueError(
                f"{key}.type is FasterCocoMetric, which needs the package faster-coco-eval: pip install it, or --cfg-options "
                f"{key}.type=CocoMetric."
            )
        if not metric.get("ann_file") or metric.get("backend_args") or "://" in metric.ann_file:
            continue
        path = Path(metric.ann_file)
        hint = f" --cfg-options {key}.ann_file={own[0]}." if len(own) == 1 else ""
        if not path.exists():
            raise ValueError(f"{key}.ann_file: {path} does not exist.{hint}")
        if len(own) != 1 or path.resolve() == own[0].resolve():
            continue
        if max(path.stat().st_size, own[0].stat().st_size) > PROBE_BYTES:
            continue
        images, others = ({image["id"] for image in json.loads(p.read_text())["images"]} for p in (own[0], path))
        if images != others:
            raise ValueError(
                f"{key}.ann_file is {path} with {len(others)} images, and {sets[0][0]} has the {len(images)} images of "
                f"{own[0]}: the metric needs the same ones.{hint}"
            )


def _metrics(config: Config, phase: str) -> Iterator[tuple[str, ConfigDict]]:
    """Each metric of a phase, as (its key in the config, its config)."""
    key = f"{phase}_evaluator"
    evaluator = config.get(key) or []
    if isinstance(evaluator, dict) and "metrics" in evaluator:
        key, evaluator = f"{key}.metrics", evaluator["metrics"]
    if isinstance(evaluator, dict):
        yield key, evaluator
        return
    for index, metric in enumerate(evaluator):
        yield f"{key}.{index}", metric
