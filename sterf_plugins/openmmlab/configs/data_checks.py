"""Checks of a config's data sets that give one clear line before training starts."""

import json
from collections.abc import Iterator
from pathlib import Path

from mmengine.config import Config, ConfigDict
from mmengine.registry import DATASETS

from .types import registered, type_name

MAKE_SHAPES = "`sterf make-shapes data/shapes`, for the configs in configs/shapes/"
MAKE_EVENTS = "`sterf make-event-detection data/event_shapes`, for those in configs/event_detection/"
# Larger annotation files are not checked, since reading them twice takes long.
PROBE_BYTES = 64 * 2**20


def datasets(config: Config, *phases: str) -> Iterator[tuple[str, ConfigDict]]:
    """Each data set of the phases' dataloaders, as (its key in the config, its config).

    Wrappers such as ``RepeatDataset`` and ``ConcatDataset`` are replaced by the data sets inside.
    """
    for phase in phases:
        loader = config.get(f"{phase}_dataloader")
        stack = [(f"{phase}_dataloader.dataset", loader.dataset)] if loader and loader.get("dataset") else []
        while stack:
            key, dataset = stack.pop()
            inner = [(f"{key}.datasets.{i}", d) for i, d in enumerate(dataset.get("datasets") or [])]
            if dataset.get("dataset"):
                inner.append((f"{key}.dataset", dataset.dataset))
            stack.extend(inner)
            if not inner:
                yield key, dataset


def check_data(config: Config, *phases: str) -> None:
    """Raise ``ValueError`` if a data set of the phases is missing, is empty, or is no COCO file where one is expected.

    Data sets with ``backend_args`` are left out: their paths need not be those of files.
    """
    for key, dataset in datasets(config, *phases):
        _check_class_names(key, dataset)
        if dataset.get("backend_args"):
            continue
        annotations = full_path(dataset, dataset.ann_file) if dataset.get("ann_file") else None
        if annotations:
            _check_exists(annotations, key, dataset)
        for prefix in _prefixes(dataset).values():
            folder = full_path(dataset, prefix)
            _check_exists(folder, key, dataset)
            if folder.is_dir() and next(folder.iterdir(), None) is None:
                raise ValueError(f"{key}: the folder {folder} is empty. {_fix(key, dataset)}")
        if annotations and annotations.suffix == ".json" and is_kind_of(dataset, "CocoDataset", config):
            _check_coco(annotations, key, dataset, class_names(dataset, config))


def is_kind_of(dataset: ConfigDict, name: str, config: Config) -> bool:
    """Whether a data set is of a class of this bare name, or of one that inherits from it."""
    kind = registered(dataset, DATASETS, config)
    return isinstance(kind, type) and name in (base.__name__ for base in kind.__mro__)


def class_names(dataset: ConfigDict, config: Config, group: str = "classes") -> list[str] | None:
    """Names of a data set's classes: those of its ``metainfo``, else those that its type has; ``None`` if neither has any.

    Args:
        dataset: config of the data set.
        config: the whole config.
        group: "classes", or a panoptic data set's "thing_classes" or "stuff_classes".
    """
    own = (dataset.get("metainfo") or {}).get(group)
    if isinstance(own, str) and Path(own).is_file():
        return Path(own).read_text().splitlines()
    classes = own or getattr(registered(dataset, DATASETS, config), "METAINFO", {}).get(group)
    return list(classes) if classes else None


def _check_class_names(key: str, dataset: ConfigDict) -> None:
    """Raise ``ValueError`` for one class that is a string instead of a tuple: its letters would be the classes."""
    names = (dataset.get("metainfo") or {}).get("classes")
    if isinstance(names, str) and not Path(names).is_file():
        raise ValueError(
            f"{key}.metainfo.classes is the string {names!r}, neither a file nor a tuple of names: --cfg-options "
            f"\"{key}.metainfo.classes=('{names}',)\"."
        )


def full_path(dataset: ConfigDict, path: str) -> Path:
    """Join as the data set classes do: a relative path lies under the root."""
    return Path(path) if Path(path).is_absolute() else Path(dataset.get("data_root") or "") / path


def _prefixes(dataset: ConfigDict) -> dict[str, str]:
    """A data set's folders by what is in them; mmpretrain's data sets take a single text, which is that of the images."""
    prefixes = dataset.get("data_prefix") or {}
    return dict(img=prefixes) if isinstance(prefixes, str) else prefixes


def _check_exists(path: Path, key: str, dataset: ConfigDict) -> None:
    if "://" not in str(path) and not path.exists():
        raise ValueError(f"{key}: {path} does not exist. {_fix(key, dataset)}")


def _fix(key: str, dataset: ConfigDict) -> str:
    """What an error message tells the user to do: where the data set looks for what, and a small data set to try."""
    parts = [dataset.get("ann_file"), *_prefixes(dataset).values()]
    return (
        f"{type_name(dataset)} reads {', '.join(p for p in parts if p)} in {dataset.get('data_root') or 'this folder'}; "
        f"link your copy there, or name its folder: --cfg-options {key}.data_root=FOLDER. "
        f"A small data set for a try: {MAKE_EVENTS if type_name(dataset) == 'EventDetDataset' else MAKE_SHAPES}."
    )


def _check_coco(path: Path, key: str, dataset: ConfigDict, classes: list[str] | None) -> None:
    """Raise ``ValueError`` unless the file is a COCO annotation file with images to train on, and with a known class."""
    if path.stat().st_size > PROBE_BYTES:
        return
    try:
        document = json.loads(path.read_text())
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path} is no COCO annotation file: it is not JSON ({error}).") from error
    keys = ("images", "categories") if dataset.get("test_mode") else ("images", "annotations", "categories")
    missing = [k for k in keys if not isinstance(document, dict) or not isinstance(document.get(k), list)]
    if missing:
        raise ValueError(f"{path} is no COCO annotation file: it has no list {', '.join(map(repr, missing))}.")
    if not document["images"]:
        raise ValueError(f"{path} lists no images; the data set is empty. {_fix(key, dataset)}")
    first, folder = document["images"][0].get("file_name"), _prefixes(dataset).get("img")
    if first and folder and "LVIS" not in type_name(dataset):  # LVIS names files of several folders
        _check_exists(full_path(dataset, folder) / first, key, dataset)
    names = [str(c.get("name")) for c in document["categories"]]
    if classes and not set(names) & set(classes):
        raise ValueError(
            f"{key}: {path} has the categories {listed(names)}, and the classes of {type_name(dataset)} are "
            f"{listed(classes)}: none in common. Name the file's: --cfg-options "
            f'"{key}.metainfo.classes={tuple(names)}".'
        )
    if classes and dataset.get("filter_cfg") and not dataset.get("test_mode"):
        _check_filters(document, path, key, dataset, classes)


def _check_filters(document: dict, path: Path, key: str, dataset: ConfigDict, classes: list[str]) -> None:
    """Raise ``ValueError`` if ``filter_cfg`` leaves no image of a COCO file."""
    images, chosen = document["images"], {c["id"] for c in document["categories"] if c["name"] in classes}
    used = {  # panoptic files have the categories one level deeper
        annotation["image_id"]
        for annotation in document["annotations"]
        if chosen & {s["category_id"] for s in annotation.get("segments_info", [annotation])}
    }
    minimum = dataset.filter_cfg.get("min_size", 0)
    empty = {i["id"] for i in images if i["id"] not in used} if dataset.filter_cfg.get("filter_empty_gt") else set()
    small = {i["id"] for i in images if min(i["width"], i["height"]) < minimum}
    if len(empty | small) < len(images):
        return
    raise ValueError(
        f"{key}: filter_cfg leaves none of the {len(images)} images of {path}: filter_empty_gt=True leaves out "
        f"{len(empty)} without an annotation of the classes {listed(classes)}, and min_size={minimum} leaves out "
        f"{len(small)} with a smaller side. Change it: --cfg-options "
        f"{key}.filter_cfg.{'min_size=0' if small else 'filter_empty_gt=False'}."
    )


def listed(names: list[str]) -> str:
    """The first names of a list, and how many there are where some are left out."""
    return ", ".join(names) if len(names) <= 8 else f"{', '.join(names[:6])}, … ({len(names)} in all)"
