"""Compare the images that a config makes with those on which a checkpoint's weights were trained."""

from collections.abc import Mapping
from typing import Any

from mmengine.config import Config

from .literals import read_assignments
from .tracking_checks import TRACKING
from .types import type_name

COMPARED = ("mean", "std", "bgr_to_rgb", "rgb_to_bgr")
REGIONS = dict(template_size=128, search_size=256)  # of trackers, with their defaults
SETS = ("test_dataloader", "train_dataloader")


def other_images(config: Config, checkpoint: Mapping[str, Any]) -> list[str]:
    """Lines if mmengine's checkpoint was trained on images that were normalised in another way, or a tracker's on regions of
    other sizes; none if it does not tell.
    """
    try:
        old = read_assignments(checkpoint["meta"]["cfg"], ("model", "train_dataloader"))
        trained = dict(old["model"].get("data_preprocessor") or {})
    except (KeyError, TypeError, ValueError, SyntaxError, AttributeError):
        return []
    own = config.model.get("data_preprocessor") or {}
    changed = [name for name in COMPARED if _plain(trained.get(name)) != _plain(own.get(name))]
    lines = [
        f"the weights were trained with data_preprocessor.{name}={trained.get(name)}, and the config has {own.get(name)}: results "
        f"will be others than in the training"
        for name in changed
    ]
    tested = _regions(config)
    for name, size in _regions(old).items():
        if tested.get(name, size) != size:
            lines.append(
                f"the weights were trained with {name}={size}, and test_dataloader.dataset.{name} is {tested[name]}: the object "
                f"has another size than in the training"
            )
    return lines


def _regions(config: Mapping[str, Any]) -> dict[str, int]:
    """Sizes of a tracker's regions in its test data, of a checkpoint in those it was trained on; none of other models."""
    dataset = next((d for key in SETS if (d := (config.get(key) or {}).get("dataset"))), {})
    return {name: dataset.get(name, size) for name, size in REGIONS.items()} if type_name(dataset) in TRACKING else {}


def _plain(value: Any) -> Any:
    """A value in which lists are tuples, and what is not there is as good as ``False``."""
    return tuple(value) if isinstance(value, (list, tuple)) else value or None
