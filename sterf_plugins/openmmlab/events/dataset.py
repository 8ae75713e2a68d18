"""Event recordings with boxes as a data set of mmdet."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from mmdet.datasets import BaseDetDataset
from tqdm import tqdm

from ...checks import as_path, entries, finite_number, one_of, positive_int, whole_number
from ...events.arrays import corners_beyond, sensor_size
from ...events.random_access import IndexedRecording, index_recording
from ...files import lines_of, spelling
from ...plugins import check_options
from ...registry import DATASETS
from .labels import UNITS, Labels, read_coco, read_prophesee


@DATASETS.register_module()
class EventDetDataset(BaseDetDataset):
    """Boxes of recordings; each labelled time gives an image of the events before it, which ``LoadEvents`` draws.

    Args:
        ann_file: a COCO json whose images have a recording's name as ``file_name`` and a time as ``t``, or a folder of Prophesee's
            structured arrays: ``NAME_bbox.npy`` with t, x, y, w, h and class_id for ``NAME_td.dat``, ``NAME.h5`` ….
        data_root: folder in front of relative paths.
        data_prefix: ``dict(img=FOLDER)`` with the recordings, of any format that ``events.open_recording`` reads.
        metainfo: ``dict(classes=(…))``: names of a COCO file's categories, or of the class_ids 0, 1, ….
        window: microseconds before a labelled time whose events are the image.
        count: number of events before a labelled time that are the image, instead of ``window``.
        names: recordings to take, by their names without suffix, or a text file with one a line; ``None`` for all.
        time_unit: unit of the labels' times: "us", "ms" or "s". Events are in microseconds.
        ignored_class_ids: class_ids of arrays whose boxes are left out.
        sensor: (height, width) of the sensor of all recordings, for files that do not say it; ``None`` for what each says, or
            the smallest that holds its events.
        cache: folder of copies of the recordings that can be read at any time, 13 bytes an event;
            ``None`` for ``event_cache`` in ``data_root``.
        **options: of mmdet's ``BaseDetDataset``: ``pipeline``, ``test_mode`` …. ``filter_cfg`` says as in ``CocoDataset`` what a
            training leaves out: times without a box (``filter_empty_gt=True``), images whose shorter side is below ``min_size``.

    Raises:
        ValueError: an argument is out of range, labels do not fit the recordings, or one of them cannot be read.
    """

    METAINFO: dict[str, Any] = dict(classes=())

    def __init__(
        self,
        *args: Any,
        window: int | None = None,
        count: int | None = None,
        names: Sequence[str] | str | None = None,
        time_unit: str = "us",
        ignored_class_ids: Sequence[int] = (),
        sensor: Sequence[int] | None = None,
        cache: str | None = None,
        **options: Any,
    ):
        if (window is None) == (count is None):
            raise ValueError(f"`window` is {window} and `count` is {count}; give one of them.")
        self.window = None if window is None else positive_int("window", window)
        self.count = None if count is None else positive_int("count", count)
        one_of("time_unit", time_unit, UNITS)
        self.names = names if names is None or isinstance(names, str) else entries("names", names)
        other = next((name for name in self.names or () if not isinstance(name, str)), None)
        if other is not None:
            raise TypeError(f"`names` has {other!r}; the names of recordings are texts, such as {str(other)!r}.")
        ignored = entries("ignored_class_ids", ignored_class_ids)
        self.time_unit, self.ignored_class_ids = time_unit, [whole_number("ignored_class_ids", i) for i in ignored]
        self.sensor = None if sensor is None else sensor_size(sensor, "sensor")
        self.cache = None if cache is None else as_path("cache", cache)
        prefix = options.get("data_prefix", {})
        if len(args) < 4 and not (isinstance(prefix, Mapping) and "img" in prefix):  # the fourth is `data_prefix`
            raise ValueError(
                f"`data_prefix` is {prefix!r}; it must name the folder of the recordings: data_prefix=dict(img='train')."
            )
        super().__init__(*args, **options)

    def load_data_list(self) -> list[dict]:
        """Read labels, and find the events that belong to each of their times."""
        check_options("`filter_cfg`", self.filter_cfg or (), ("filter_empty_gt", "min_size"))
        classes = self.metainfo["classes"]
        if not classes:
            raise ValueError("EventDetDataset needs the names of its classes: metainfo=dict(classes=('car', …)).")
        # Of a text each letter would be a class; a file that is there has been read.
        if isinstance(classes, str) or not isinstance(classes, Sequence):
            raise ValueError(f"`metainfo.classes` is {classes!r}; give a list of names, or a file that is there.")
        if len(set(classes)) < len(classes):
            raise ValueError(f"`metainfo.classes` has a name twice: {', '.join(map(str, classes))}.")
        boxes, folder = Path(self.ann_file or self.data_prefix["img"]), Path(self.data_prefix["img"])
        if boxes.suffix == ".json":
            labels = read_coco(boxes, folder, classes, self.time_unit)
        else:
            labels = read_prophesee(boxes, folder, classes, self.time_unit, self.ignored_class_ids)
        if not labels:
            raise ValueError(f"{boxes} has no labelled time, and so there is no image.")
        labels = sorted(self._chosen(labels), key=lambda label: (label.recording, label.time))
        groups = [(path, list(own)) for path, own in groupby(labels, key=lambda label: label.recording)]
        cache = Path(self.cache or Path(self.data_root or ".") / "event_cache")
        infos: list[dict] = []
        for path, own in tqdm(groups, desc="recordings", disable=None):
            infos += self._infos(index_recording(path, cache, self.sensor), path, own, len(infos))
        count = sum(len(label.boxes) for label in labels)
        taken = sum(len(info["instances"]) for info in infos)
        if 2 * taken < count:
            raise ValueError(
                f"{taken or 'none'} of {count} boxes of {boxes} has sides of at least a pixel, some of it in the image: the "
                f"first is {next(label.boxes[0].tolist() for label in labels if len(label.boxes))}. They must be x, y, w, h "
                f"in pixels of the recording's sensor."
            )
        boxes = np.concatenate([label.boxes for label in labels])
        sizes = [
            (info["width"], info["height"]) for info, label in zip(infos, labels, strict=True) for _ in label.boxes
        ]
        beyond = corners_beyond(boxes, sizes) if count else 0
        if beyond:
            raise ValueError(
                f"{beyond} of {count} boxes of {self.ann_file} reach beyond their images, and look like two corners; boxes are "
                f"x, y, w, h: write w = x2 - x1 and h = y2 - y1."
            )
        return infos

    def filter_data(self) -> list[dict]:
        """Without what ``filter_cfg`` leaves out; a test has all.

        Raises:
            ValueError: nothing is left.
        """
        options = self.filter_cfg or {}
        if self.test_mode or not options:
            return self.data_list
        shortest = finite_number("filter_cfg['min_size']", options.get("min_size", 0))
        remaining = [info for info in self.data_list if min(info["height"], info["width"]) >= shortest]
        if not remaining:
            raise ValueError(
                f"`filter_cfg` leaves out all {len(self.data_list)} images, whose shorter sides are below min_size={shortest:g} "
                f"pixels; give a smaller one."
            )
        if options.get("filter_empty_gt"):
            remaining = [info for info in remaining if info["instances"]]
        if not remaining:
            raise ValueError(
                f"none of {len(self.data_list)} labelled times of {self.ann_file} has a box, and `filter_cfg` leaves out all of "
                f"them; give other labels, or filter_empty_gt=False."
            )
        return remaining

    def _chosen(self, labels: list[Labels]) -> list[Labels]:
        """The labels of the recordings in ``names``."""
        if self.names is None:
            return labels
        names = self.names
        if isinstance(names, str):
            path = Path(names) if Path(names).is_absolute() else Path(self.data_root or "") / names
            if not path.is_file():
                raise ValueError(
                    f"`names` is {names!r}, and there is no file {path}; it has a recording's name a line."
                )
            names = tuple(lines_of(path))
        present: dict[str, set[Path]] = {}
        for label in labels:
            present.setdefault(_name(label.recording.with_suffix("")).name, set()).add(label.recording)
        wanted: set[Path] = set()
        missing = []
        for name in map(_name, map(Path, names)):
            found = present.get(name.name, set())
            if len(found) > 1:  # of one name in several folders
                found = {p for p in found if _name(p.with_suffix("")).parts[-len(name.parts) :] == name.parts}
            if len(found) > 1:
                raise ValueError(
                    f"`names` has {name}, which is the name of {', '.join(sorted(map(str, found)))}; name the folder, too."
                )
            if found & wanted:
                raise ValueError(f"`names` has the recording {name} twice; name each one once.")
            wanted |= found
            missing += [str(name)] * (not found)
        if missing or not wanted:
            raise ValueError(
                f"`names` has {', '.join(sorted(missing)) or 'nothing'}, of which there are no labels; there are "
                f"those of {', '.join(sorted(present)[:8])}{' …' * (len(present) > 8)}."
            )
        return [label for label in labels if label.recording in wanted]

    def _infos(self, recording: IndexedRecording, path: Path, labels: list[Labels], done: int) -> list[dict]:
        """What mmdet is told of each labelled time of a recording."""
        self._check(recording, path, [label.time for label in labels])
        other = next((label for label in labels if label.size not in (None, recording.size)), None)
        if other is not None:
            raise ValueError(
                f"{self.ann_file}: image {other.image_id} has {other.size} pixels (height, width), and the sensor of {path} has "
                f"{recording.size}; boxes are in its pixels. If the file does not say its size: sensor={other.size}."
            )
        stops = [label.time for label in labels]
        ends = recording.number_before(stops)
        if self.window is not None:
            starts = [time - self.window for time in stops]
            begins = recording.number_before(starts)
        else:
            begins = [max(0, end - self.count) for end in ends]  # type: ignore[operator]
            starts = [min(t, stop - 1) for t, stop in zip(recording.times(begins), stops, strict=True)]
        height, width = recording.size
        infos = []
        for i, label in enumerate(labels):
            infos.append(
                dict(
                    img_id=done + i if label.image_id is None else label.image_id,
                    img_path=str(path),
                    height=height,
                    width=width,
                    time=(label.time, recording.first),
                    window=(starts[i], stops[i]),
                    event_range=(begins[i], ends[i]),
                    recording=asdict(recording),
                    instances=_instances(label, recording.size),
                )
            )
        return infos

    def _check(self, recording: IndexedRecording, path: Path, times: list[int]) -> None:
        """Raise ``ValueError`` unless labels and windows lie in the recording."""
        length = recording.last - recording.first
        if self.window is not None and self.window > length:
            raise ValueError(
                f"`window` is {self.window} µs, and the events of {path} last {length} µs; give a shorter one."
            )
        if self.count is not None and self.count > recording.number:
            raise ValueError(f"`count` is {self.count}, and {path} has {recording.number} events; give fewer.")
        if times[-1] > recording.last + (self.window or length) or times[-1] <= recording.first:
            raise ValueError(
                f"{path}: its labels are at {times[0]} to {times[-1]} µs, and its events at {recording.first} to "
                f"{recording.last} µs; `time_unit` {self.time_unit!r} may be wrong: us, ms or s. Labels and events must count from "
                f"the same moment."
            )


def _name(path: Path) -> Path:
    """A recording's name as users give it: without "_td" at its end, in one spelling."""
    return path.with_name(spelling(path.name).removesuffix("_td"))


def _instances(label: Labels, size: tuple[int, int]) -> list[dict]:
    """Boxes as mmdet has them; those outside the image, or smaller than a pixel, are left out, as in ``CocoDataset``."""
    instances = []
    for (x, y, w, h), number, crowd in zip(label.boxes.tolist(), label.classes, label.crowd, strict=True):
        if w >= 1 and h >= 1 and x < size[1] and y < size[0] and x + w > 0 and y + h > 0:
            instances.append(dict(bbox=[x, y, x + w, y + h], bbox_label=number, ignore_flag=int(crowd)))
    return instances
