"""What a training or a test begins with, on a few lines: model, data, device, what was adapted, and the spike layers."""

import platform
from collections.abc import Sequence
from typing import Any

import torch
from mmengine.config import ConfigDict
from mmengine.dist import get_world_size
from mmengine.hooks import Hook
from mmengine.runner import EpochBasedTrainLoop
from torch import nn

from ..firing import neuron_layers
from ..openmmlab.configs.types import type_name


class Banner(Hook):
    """Logs the lines when everything is built and loaded.

    Args:
        adapted: what was adapted in the config, line by line.
    """

    priority = "HIGHEST"

    def __init__(self, adapted: Sequence[str] = ()):
        self.adapted = list(adapted)

    def before_train(self, runner) -> None:
        """The banner of a training."""
        loop = runner.train_loop
        length = _number(loop.max_iters, "iteration")
        if isinstance(loop, EpochBasedTrainLoop):
            length = f"{_number(loop.max_epochs, 'epoch')} of {_number(len(runner.train_dataloader), 'iteration')}"
        phases = ["train"] if runner.val_loop is None else ["train", "val"]
        self._show(runner, f"training of {length}", phases, start=runner.iter)

    def before_test(self, runner) -> None:
        """The banner of a test."""
        self._show(runner, "test", ["test"])

    def _show(self, runner, title: str, phases: list[str], start: int = 0) -> None:
        model = getattr(runner.model, "module", runner.model)
        config = runner.cfg
        rows = {"model": [_model(model, config)]}
        rows |= {f"{p} data": [_data(getattr(runner, f"{p}_dataloader"), config[f"{p}_dataloader"])] for p in phases}
        rows["device"] = [_device(model, config)]
        if config.get("load_from"):
            rows["weights"] = [f"{config.load_from}{f', from iteration {start} on' * bool(start)}"]
        rows["adapted"] = self.adapted or ["nothing"]
        rows["spikes"] = [_spikes(model)]
        rows["log file"] = [f"{runner.logger.log_file}, which has the whole set-up"]
        lines = [f"  {name * (not i):10} {text}" for name, texts in rows.items() for i, text in enumerate(texts)]
        runner.logger.info("\n".join([title, *lines]))


def _model(model: nn.Module, config: ConfigDict) -> str:
    """Its class and size, those of its backbone, and how much of it is trained."""
    parameters = list(model.parameters())
    total, trained = sum(p.numel() for p in parameters), sum(p.numel() for p in parameters if p.requires_grad)
    text = f"{type(model).__name__}, {_count(total)} parameters"
    if trained < total:
        text += f", of which {_count(trained)} are trained"
    backbone = getattr(model, "backbone", None)
    if backbone is not None:
        settings: Any = config.model.get("backbone") or {}
        name = settings.get("model_name") or type_name(settings) or type(backbone).__name__
        text += f"; backbone {name}, {_count(sum(p.numel() for p in backbone.parameters()))}"
    return text


def _count(number: int) -> str:
    return f"{number / 1e6:.2f} M"


def _number(number: int, of: str) -> str:
    return f"{number} {of}{'s' * (number != 1)}"


def _data(loader: Any, config: ConfigDict) -> str:
    """How many samples of which data set, and how many at a time."""
    inner = loader.dataset
    while hasattr(inner, "dataset"):  # of RepeatDataset and its kind
        inner = inner.dataset
    folder = getattr(inner, "data_root", None)
    processes = get_world_size()
    return (
        f"{len(loader.dataset)} samples of {type(inner).__name__}{f' in {folder}' * bool(folder)}, "
        f"{config.get('batch_size', 'several')} at a time{f' in each of {processes} processes' * (processes > 1)}"
    )


def _device(model: nn.Module, config: ConfigDict) -> str:
    """What computes, and with which precision."""
    device = next(model.parameters()).device
    if device.type == "cuda":
        text = f"{device}, {torch.cuda.get_device_name(device)}"
    else:
        text = f"{device}, {platform.machine()}, {_number(torch.get_num_threads(), 'thread')}"
    mixed = type_name(config.get("optim_wrapper") or {}) == "AmpOptimWrapper"
    return f"{text}, {'mixed precision' if mixed else 'float32'}; torch {torch.__version__}"


def _spikes(model: nn.Module) -> str:
    """The spike layers; which of them fire is what ``SilenceHook`` says after the first iteration."""
    layers = neuron_layers(model)
    levels = sorted({levels for _, levels, _ in layers.values()})
    return f"{_number(len(layers), 'layer')} with D={', '.join(map(str, levels))}" if layers else "none"
