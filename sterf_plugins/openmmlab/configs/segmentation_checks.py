"""Checks of mmseg's data sets: images with a label map each, whose labels are classes."""

import logging
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.config import Config, ConfigDict
from mmengine.logging import print_log
from mmengine.registry import DATASETS, TRANSFORMS

from .data_checks import class_names, datasets
from .types import registered, type_name

PROBED = 8  # label maps that are read


def check_segmentation_data(config: Config, *phases: str) -> None:
    """Raise ``ValueError`` if a data set of mmseg has no images, lacks label maps, or has labels that are no classes.

    Data sets that list their files in their own way, or read them from a server, are left out.
    """
    for key, dataset in datasets(config, *phases):
        listing = getattr(registered(dataset, DATASETS, config), "load_data_list", None)
        method = f"{getattr(listing, '__module__', '')}.{getattr(listing, '__qualname__', '')}"
        if method != "mmseg.datasets.basesegdataset.BaseSegDataset.load_data_list" or dataset.get("backend_args"):
            continue
        with DATASETS.switch_scope_and_registry(config.get("default_scope")) as registry:
            built = registry.build(dict(dataset, lazy_init=True, pipeline=[]))
        images = built.load_data_list()
        _check_files(key, built, images)
        _check_labels(key, dataset, built, images, config)


def _check_files(key: str, built: Any, images: list[dict]) -> None:
    """Raise ``ValueError`` if no image has the data set's suffix, or if one of the first images has no label map."""
    if not images:
        folder = Path(built.data_prefix["img_path"])
        suffixes = Counter(p.suffix for p in folder.rglob("*") if p.is_file())
        raise ValueError(
            f"{key}: no image in {folder} ends in {built.img_suffix!r}; there are "
            f"{', '.join(f'{count} {suffix}' for suffix, count in suffixes.most_common(3)) or 'no files'}: --cfg-options "
            f"{key}.img_suffix={next(iter(suffixes), '.png')}."
        )
    for image in images[:100]:
        if not Path(image["img_path"]).is_file():
            raise ValueError(f"{key}: {image['img_path']} does not exist, which {built.ann_file} names.")
        if image.get("seg_map_path") and not Path(image["seg_map_path"]).is_file():
            raise ValueError(
                f"{key}: {image['img_path']} has no label map {image['seg_map_path']}; label maps end in "
                f"{key}.seg_map_suffix, which is {built.seg_map_suffix!r}."
            )


def _check_labels(key: str, dataset: ConfigDict, built: Any, images: list[dict], config: Config) -> None:
    """Raise ``ValueError`` if one of a few label maps, as the pipeline reads them, has a label that is no class."""
    classes, steps = class_names(dataset, config), dataset.get("pipeline") or []
    index = next((i for i, step in enumerate(steps) if type_name(step) == "LoadAnnotations"), None)
    maps = [image for image in images if image.get("seg_map_path")]
    if index is None or not classes or not maps:
        return
    reduced = steps[index].get("reduce_zero_label")
    if reduced is not None and reduced != built.reduce_zero_label:
        raise ValueError(
            f"{key}.pipeline.{index}.reduce_zero_label is {reduced}, and that of the data set is "
            f"{built.reduce_zero_label}: --cfg-options {key}.reduce_zero_label={reduced}."
        )
    with TRANSFORMS.switch_scope_and_registry(config.get("default_scope")) as registry:
        read = registry.build({**steps[index], "reduce_zero_label": None})  # that of the data set
    found: set[int] = set()
    for image in (maps[i] for i in sorted({i * len(maps) // PROBED for i in range(PROBED)})):
        labels = set(np.unique(read({**image, "seg_fields": []})["gt_seg_map"]).tolist()) - {built.ignore_index}
        found |= labels
        if labels and max(labels) >= len(classes):
            raise ValueError(
                f"{key}: {image['seg_map_path']} has the label {max(labels)}, and {type_name(dataset)} has {len(classes)} "
                f"classes, 0 to {len(classes) - 1} (and {built.ignore_index}, which is ignored). Name all classes in "
                f"{key}.metainfo.classes, or, if the files count from 1, set reduce_zero_label=True there and in "
                f"{key}.pipeline.{index}."
            )
    if found == {0} and len(classes) == 2 and built.ignore_index == 255:
        print_log(
            f"{key}: the label maps that were looked at have the class {classes[0]} alone; a 255 in them is ignored, so "
            f"write {classes[1]} as 1",
            logger="current",
            level=logging.WARNING,
        )
