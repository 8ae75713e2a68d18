"""Check of a tracker's data sets: a training takes pairs of images, and a test whole sequences."""

from mmengine.config import Config

from .data_checks import datasets
from .types import type_name

TRACKING = ("TrackingDataset", "FE108Dataset", "VisEventDataset")
GIVES = dict(train="pairs of images", test="whole sequences")


def check_tracking_data(config: Config, *phases: str) -> None:
    """Raise ``ValueError`` if a training has the split of a test, or the other way round: PyTorch says what it cannot stack."""
    for phase in phases:
        for key, dataset in datasets(config, phase):
            split, needed = dataset.get("split", "train"), "train" if phase == "train" else "test"
            if type_name(dataset) in TRACKING and split in GIVES and split != needed:
                raise ValueError(
                    f"{key}.split is {split!r}, which gives {GIVES[split]}, and this takes {GIVES[needed]}: --cfg-options "
                    f"{key}.split={needed}. For the sequences of DATA/{split}: a folder whose {needed}/ is a link to it, as "
                    f"data_root."
                )
