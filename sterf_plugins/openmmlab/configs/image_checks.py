"""Compare the images that a config makes with those on which a checkpoint's weights were trained."""

from collections.abc import Mapping
from typing import Any

from mmengine.config import Config

from .data_checks import datasets
from .literals import read_assignments
from .tracking_checks import TRACKING
from .types import type_name

# What says how images are made, with defaults: preprocessors; of events a tracker's regions, or EventDetDataset and LoadEvents.
NORMALISED = dict(mean=None, std=None, bgr_to_rgb=False, rgb_to_bgr=False, time_steps=1)
REGIONS = dict(template_size=128, search_size=256)
WINDOWS = dict(window=None, count=None)
LOADING = dict(representation="histogram", parts=1)


def other_images(config: Config, checkpoint: Mapping[str, Any]) -> list[str]:
    """A line for each setting with which images of the config's test are made otherwise than where a checkpoint was trained.

    They are normalised otherwise, events are drawn otherwise, or a tracker's regions have another size. mmengine's checkpoints
    tell it; there are no lines of others.
    """
    try:
        old = Config(read_assignments(checkpoint["meta"]["cfg"], ("model", "train_dataloader")))
        trained, own = _normalised(old), _normalised(config)
        events, own_events = _events(old, "train"), _events(config, "test")
    except (KeyError, TypeError, ValueError, SyntaxError, AttributeError):
        return []
    if events and own_events:  # otherwise one of both does not say it
        trained, own = trained | events, own | own_events
    return [
        f"the weights were trained with {name}={trained.get(name)}, and the config has {own.get(name)}: results will be others "
        f"than in the training"
        for name in dict.fromkeys((*trained, *own))
        if _plain(trained.get(name)) != _plain(own.get(name))
    ]


def _normalised(config: Config) -> dict[str, Any]:
    """What a model's preprocessor does to images, whose model may be in the wrapper of test-time augmentation."""
    preprocessor = (config.model.get("module") or config.model).get("data_preprocessor") or {}
    return {f"data_preprocessor.{name}": preprocessor.get(name, default) for name, default in NORMALISED.items()}


def _events(config: Config, phase: str) -> dict[str, Any]:
    """How the first data set of a phase makes images of events; nothing of other data sets."""
    dataset: Mapping[str, Any] = next((found for _, found in datasets(config, phase)), {})
    if type_name(dataset) in TRACKING:
        return {name: dataset.get(name, default) for name, default in REGIONS.items()}
    step = next((step for step in dataset.get("pipeline") or [] if type_name(step) == "LoadEvents"), None)
    if step is None:
        return {}
    loading = {f"LoadEvents.{name}": value for name, value in {**LOADING, **step}.items() if name != "type"}
    return {name: dataset.get(name, default) for name, default in WINDOWS.items()} | loading


def _plain(value: Any) -> Any:
    """A value in which lists are tuples, and what is not there is as good as ``False``."""
    return tuple(value) if isinstance(value, (list, tuple)) else value or None
