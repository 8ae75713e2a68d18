"""Checks of a config's data sets that give one clear line before training starts."""

import json
from collections.abc import Iterator
from pathlib import Path

from mmengine.config import Config, ConfigDict

MAKE_SHAPES = "python tools/dataset_tools/make_shapes.py data/shapes"
# Larger annotation files are not checked, since reading them twice takes long.
PROBE_BYTES = 64 * 2**20


def datasets(config: Config, *phases: str) -> Iterator[tuple[str, ConfigDict]]:
    """Each data set of the phases' dataloaders, as (name of the dataloader, config of the data set).

    Wrappers such as ``RepeatDataset`` and ``ConcatDataset`` are replaced by the data sets inside.
    """
    for phase in phases:
        loader = config.get(f"{phase}_dataloader")
        stack = [loader.dataset] if loader and loader.get("dataset") else []
        while stack:
            dataset = stack.pop()
            inner = dataset.get("datasets") or ([dataset.dataset] if dataset.get("dataset") else [])
            stack.extend(inner)
            if not inner:
                yield f"{phase}_dataloader", dataset


def check_data(config: Config, *phases: str) -> None:
    """Raise ``ValueError`` if a data set of the phases is missing, empty or no COCO file where one is expected."""
    for loader, dataset in datasets(config, *phases):
        root = Path(dataset.get("data_root") or "")
        annotation = dataset.get("ann_file")
        if annotation:
            path = _under(root, annotation)
            _check_exists(path, loader, dataset)
            if path.suffix == ".json" and "Coco" in str(dataset.type):
                _check_coco(path, dataset)
        for prefix in (dataset.get("data_prefix") or {}).values():
            path = _under(root, prefix)
            _check_exists(path, loader, dataset)
            if path.is_dir() and next(path.iterdir(), None) is None:
                raise ValueError(f"{loader}: the folder {path} is empty. {_fix(dataset)}")


def _under(root: Path, path: str) -> Path:
    """Join as the data set classes do: a relative path lies under the root."""
    return Path(path) if Path(path).is_absolute() else root / path


def _check_exists(path: Path, loader: str, dataset: ConfigDict) -> None:
    if "://" not in str(path) and not path.exists():
        raise ValueError(f"{loader}: {path} does not exist. {_fix(dataset)}")


def _fix(dataset: ConfigDict) -> str:
    """What an error message tells the user to do: the files that the data set expects, and a small data set to try."""
    kind = str(dataset.type).split(".")[-1]
    root = dataset.get("data_root") or "the paths of the config"
    expected = (
        "annotations/{training,validation}/*.png beside images/{training,validation}/*.jpg"
        if (dataset.get("data_prefix") or {}).get("seg_map_path")
        else "annotations/instances_{train,val}2017.json beside train2017/ and val2017/"
    )
    return (
        f"{kind} expects {expected} in {root}; link your copy there or set the data_root of the config. "
        f"A small data set for a try: `{MAKE_SHAPES}`, for the configs in configs/shapes/."
    )


def _check_coco(path: Path, dataset: ConfigDict) -> None:
    """Raise ``ValueError`` unless the file is a COCO annotation file with images and a class that the config names."""
    if path.stat().st_size > PROBE_BYTES:
        return
    try:
        document = json.loads(path.read_text())
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path} is no COCO annotation file: it is not JSON ({error}).") from error
    keys = ("images", "annotations", "categories")
    missing = [k for k in keys if not isinstance(document, dict) or not isinstance(document.get(k), list)]
    if missing:
        raise ValueError(f"{path} is no COCO annotation file: it has no list {', '.join(map(repr, missing))}.")
    if not document["images"]:
        raise ValueError(f"{path} lists no images; the data set is empty. {_fix(dataset)}")
    classes = (dataset.get("metainfo") or {}).get("classes")
    names = {c.get("name") for c in document["categories"]}
    if classes and not names & set(classes):
        raise ValueError(
            f"{path} has the categories {', '.join(sorted(map(str, names)))}, and the config's metainfo.classes are "
            f"{', '.join(classes)}: none in common. Set metainfo=dict(classes=...) of the data sets."
        )
