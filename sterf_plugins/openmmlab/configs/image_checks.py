"""Compare the images that a config makes with those on which a checkpoint's weights were trained."""

from collections.abc import Mapping
from typing import Any

from mmengine.config import Config

from .literals import read_assignments

COMPARED = ("mean", "std", "bgr_to_rgb", "rgb_to_bgr")


def other_images(config: Config, checkpoint: Mapping[str, Any]) -> list[str]:
    """A line if mmengine's checkpoint was trained on images that were normalised in another way; none if it does not tell."""
    try:
        model = read_assignments(checkpoint["meta"]["cfg"], ("model",))["model"]
        trained = dict(model.get("data_preprocessor") or {})
    except (KeyError, TypeError, ValueError, SyntaxError, AttributeError):
        return []
    own = config.model.get("data_preprocessor") or {}
    changed = [name for name in COMPARED if _plain(trained.get(name)) != _plain(own.get(name))]
    return [
        f"the weights were trained with data_preprocessor.{name}={trained.get(name)}, and the config has {own.get(name)}: results "
        f"will be others than in the training"
        for name in changed
    ]


def _plain(value: Any) -> Any:
    """A value in which lists are tuples, and what is not there is as good as ``False``."""
    return tuple(value) if isinstance(value, (list, tuple)) else value or None
