"""Sequences of event images with a box in each, in the folders of FE108 and VisEvent.

A folder of a data set has ``train/`` and ``test/`` with one folder per sequence; in that are the labels, one line x, y, w, h per
image, and ``inter{T}_stack_3008/NNNN_k.png``, the T parts of each image (``tools/dataset_tools/make_gtp.py`` makes them), or the
recording from which they are made.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..checks import as_path, entries, one_of
from ..events.arrays import are_pixels, corners_beyond
from ..events.gtp import STEPS
from ..files import lines_of, replacing, settings_in, spelling, text_of

# layout -> file of the labels, number of the first image
LAYOUTS = {"fe108": ("groundtruth_rect.txt", 1), "visevent": ("groundtruth.txt", 0)}
ABSENCES = "absent_label.txt"  # VisEvent's: a line for each image, 1 where the object is there and 0 where it is not
SPLITS = ("train", "test")
IMAGES = "inter{}_stack_3008"
MAKE = "sterf make-gtp"
MARKER = (
    "gtp.json"  # beside images that this tool has made: its settings, of which these are about the values of pixels
)
MADE_WITH = ("rule", "amount", "trajectory", "decay", "interval")
# Lists of the sequences of published splits, by name; where they are from: docs/tracking.md.
PUBLISHED = {path.stem: path for path in sorted((Path(__file__).parent / "sequence_lists").glob("*.txt"))}


@dataclass(frozen=True)
class Sequence:
    """Event images and boxes of one recording; subclasses say where the images are.

    Args:
        name: the folder's name.
        boxes: float64 (frames, 4), x, y, w, h in pixels.
        absent: for each frame whether the object is not there; ``None`` where the data set does not say it.
    """

    name: str
    boxes: NDArray[np.float64]
    absent: NDArray[np.bool_] | None = field(default=None, kw_only=True)

    def __len__(self) -> int:
        return len(self.boxes)

    @property
    def valid(self) -> NDArray[np.bool_]:
        """For each frame, whether its box has an area; others are not counted."""
        return have_area(self.boxes)

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of its images."""
        raise NotImplementedError

    def image(self, frame: int) -> NDArray[np.uint8]:
        """An event image, uint8 (H, W, 3) or (T, H, W, 3): trajectory, negative, positive."""
        raise NotImplementedError

    def is_whole(self, frame: int) -> bool:
        """Whether an image has all its parts."""
        return True

    def made_with(self) -> dict[str, Any] | None:
        """The settings of images that have been made beforehand, as far as they are known."""
        return None

    def images(self) -> Iterator[NDArray[np.uint8]]:
        """All event images, one after another."""
        return map(self.image, range(len(self)))


@dataclass(frozen=True)
class ImageFiles(Sequence):
    """A sequence whose images are PNG files.

    Args:
        files: the files of each image, T of them.
    """

    files: tuple[tuple[Path, ...], ...]

    @cached_property
    def size(self) -> tuple[int, int]:  # type: ignore[override]  # a property that is computed once
        height, width, _ = _read(self.files[0][0]).shape
        return height, width

    def image(self, frame: int) -> NDArray[np.uint8]:
        """An event image; as in the release, the first part stands for one that FE108's script has not written.

        Raises:
            ValueError: a file is missing, no image, or of another size than the first.
        """
        first, *rest = self.files[frame]
        paths = [first, *(path if path.exists() else first for path in rest)]
        parts = [_read(path) for path in paths]
        for path, part in zip(paths, parts, strict=True):
            if part.shape[:2] != self.size:
                raise ValueError(
                    f"{path} has {part.shape[1]} x {part.shape[0]} pixels, and {self.files[0][0].name} {self.size[1]} x "
                    f"{self.size[0]}; all images of a sequence must be of one size: delete {path.parent} "
                    f"and make them again: {MAKE}."
                )
        return np.stack(parts) if len(parts) > 1 else parts[0]

    def is_whole(self, frame: int) -> bool:
        return all(path.exists() for path in self.files[frame][1:])

    def made_with(self) -> dict[str, Any] | None:
        found = settings_in(self.files[0][0].parent / MARKER)
        return None if found is None else {key: found.get(key) for key in MADE_WITH}


def _read(path: Path) -> NDArray[np.uint8]:
    import cv2

    # Not by OpenCV's own reader of files, which fails silently for some names.
    data = np.frombuffer(path.read_bytes(), np.uint8) if path.is_file() else np.empty(0, np.uint8)
    image = cv2.imdecode(data, cv2.IMREAD_COLOR_RGB) if len(data) else None
    if image is None:
        what = "cannot be read as an image" if path.is_file() else "is missing"
        raise ValueError(f"{path} {what}; delete {path.parent} and make the event images again: {MAKE}.")
    return image.astype(np.uint8, copy=False)


def find_sequences(
    root: str | Path, layout: str, split: str, T: int = 1, names: Iterable[str] | str | Path | None = None
) -> list[Sequence]:
    """The sequences of a data set whose images are PNG files.

    Args:
        root: its folder.
        layout: "fe108" or "visevent".
        split: "train" or "test".
        T: parts of each image.
        names: which sequences, a text file with one name a line, or the name of a published list, such as "visevent-test";
            ``None`` for ``SPLIT/SPLIT.txt``, ``SPLIT/test.txt`` if there is one of them, and otherwise every folder that has
            labels.

    Raises:
        ValueError: a folder or file is missing, labels cannot be read, or there are not as many as images.
    """
    one_of("T", T, STEPS)
    return [_files_of(folder, layout, T) for folder in sequence_folders(root, layout, split, names)]


def sequence_folders(
    root: str | Path, layout: str, split: str, names: Iterable[str] | str | Path | None = None
) -> list[Path]:
    """The folders of a data set's sequences; arguments as in ``find_sequences``.

    Raises:
        ValueError: there is no such folder, or no sequence in it.
    """
    one_of("layout", layout, LAYOUTS)
    one_of("split", split, SPLITS)
    labels, _ = LAYOUTS[layout]
    folder = as_path("data_root", root) / split
    if not folder.is_dir():
        raise ValueError(f"{folder} is no folder; a data set of layout {layout!r} has {root}/train and {root}/test.")
    wanted = _names(folder, split, labels, names)
    if not wanted:
        others = [f"{other!r}" for other, (file, _) in LAYOUTS.items() if any(folder.glob(f"*/{file}"))]
        raise ValueError(
            f"{folder} has no folder with {labels}, so no sequence of layout {layout!r}"
            + (f"; its sequences are of layout {', '.join(others)}." if others else ".")
        )
    return [folder / name for name in wanted]


def _names(folder: Path, split: str, labels: str, names: Iterable[str] | str | Path | None) -> list[str]:
    if names is None:
        listed = next((p for p in (folder / f"{split}.txt", folder / "test.txt") if p.is_file()), None)
        if listed is None:
            return sorted(p.parent.name for p in folder.glob(f"[!.]*/{labels}"))
        names = listed
    where = "`names`"
    if isinstance(names, (str, Path)):
        where = str(names)
        file = PUBLISHED.get(where, Path(names))
        if not file.is_file():
            raise ValueError(
                f"`names` is {where!r}, which is no file; give one with a sequence's name a line, or a published list: "
                f"{', '.join(PUBLISHED)}."
            )
        names = lines_of(file)
    given = entries("names", names)
    if not given:
        raise ValueError(f"{where} names no sequence; leave it out for all of {folder}.")
    other = next((name for name in given if not isinstance(name, str) or name != Path(name).name or not name), None)
    if other is not None:
        raise ValueError(f"{where} names {other!r}; it must be the name of a folder in {folder}.")
    there = {spelling(path.name): path.name for path in folder.iterdir()}
    found = [name if (folder / name).is_dir() else there.get(spelling(name), name) for name in given]
    twice = next((name for name in found if found.count(name) > 1), None)
    if twice is not None:
        raise ValueError(f"{where} names the sequence {twice!r} twice; name each one once.")
    lacking = [name for name in found if not (folder / name).is_dir()]
    if lacking:
        raise ValueError(f"{where} names {lacking[0]!r}, and there is no folder {folder / lacking[0]}.")
    return found


def _files_of(folder: Path, layout: str, T: int) -> Sequence:
    labels, number = LAYOUTS[layout]
    boxes = read_boxes(folder / labels)
    images = folder / IMAGES.format(T)
    if not images.is_dir():
        raise ValueError(
            f"{images} is missing: make the event images, {MAKE} {folder.parents[1]} --layout {layout} --steps {T}."
        )
    files = tuple(tuple(images / f"{number + i:04d}_{k}.png" for k in range(1, T + 1)) for i in range(len(boxes)))
    there = {path.name for path in images.glob("*_1.png")}
    lacking = [first for first, *_ in files if first.name not in there]
    if len(there) != len(boxes):
        raise ValueError(
            f"{folder / labels} has {len(boxes)} boxes, and {images} has {len(there)} images"
            + (f", of which {lacking[0].name} is missing" if lacking else "")
            + f"; there must be a line for each image, from {number:04d}_1.png on."
        )
    if lacking:
        raise ValueError(f"{lacking[0]} is missing; images are counted from {number:04d}_1.png on, one for each label.")
    sequence = ImageFiles(folder.name, boxes, files, absent=read_absent(folder, len(boxes)))
    check_unit(boxes, sequence.size, folder / labels)
    return sequence


def have_area(boxes: NDArray[np.floating]) -> NDArray[np.bool_]:
    """Which boxes (frames, 4) say where the object is: those of finite numbers, with a width and height above 0."""
    return np.asarray(np.isfinite(boxes).all(1) & (boxes[:, 2:] > 0).all(1))


def check_unit(boxes: NDArray[np.float64], size: tuple[int, ...], labels: Path) -> None:
    """Raise ``ValueError`` for boxes that are not x, y, w, h in pixels of these images: shares of them, or two corners.

    Args:
        boxes: (frames, 4).
        size: (height, width) of the images.
        labels: the boxes' file, for messages.
    """
    boxes = boxes[have_area(boxes)]
    if not len(boxes):
        return
    if boxes.max() <= 1:
        raise ValueError(f"{labels} has no number above 1; boxes are x, y, w, h in pixels, not shares of the image.")
    height, width = size
    beyond = corners_beyond(boxes, (width, height))
    if beyond:
        raise ValueError(
            f"{labels}: {beyond} of {len(boxes)} boxes reach beyond the image of {width} x {height} pixels, and look like two "
            f"corners; boxes are x, y, w, h: write w = x2 - x1 and h = y2 - y1."
        )
    x, y, w, h = boxes.T
    outside = (x + w / 2 < 0) | (x + w / 2 > width) | (y + h / 2 < 0) | (y + h / 2 > height)
    if outside.mean() > 0.5:
        raise ValueError(
            f"{labels}: the middles of {outside.sum()} of {len(boxes)} boxes lie outside the image of {width} x {height} pixels; "
            f"they must be labels of this sensor."
        )


def read_boxes(path: Path) -> NDArray[np.float64]:
    """The boxes of a label or result file, (frames, 4): four numbers a line, between commas, tabs or spaces.

    A box of NaN, or without a size, says that the object is not there. An empty line between others is an error, since without it
    the boxes below would be of other images.

    Raises:
        ValueError: the file is missing, empty, or has another line.
    """
    rows = []
    for i, line in enumerate(text_of(path).rstrip().splitlines(), 1):
        line = line.strip()
        if not line:
            raise ValueError(
                f"{path} line {i} is empty, and there is a line for each image: write NaN,NaN,NaN,NaN where the object is not."
            )
        try:
            row = [float(part) for part in re.split(r"\s*,\s*|\s+", line)]
        except ValueError:
            row = []
        if len(row) != 4 or not are_pixels(np.nan_to_num(row)):
            raise ValueError(
                f"{path} line {i} is {line[:60]!r}; it must be four finite numbers x, y, w, h between commas, tabs or spaces, in "
                f"pixels."
            )
        rows.append(row)
    if not rows:
        raise ValueError(f"{path} has no boxes; it must have a line x, y, w, h for each image.")
    return np.array(rows)


def read_absent(folder: Path, count: int) -> NDArray[np.bool_] | None:
    """For each labelled image of a sequence, whether the object is not there; ``None`` if no file ``ABSENCES`` says it.

    Args:
        folder: the sequence's.
        count: number of its labels. VisEvent's begin where the object is there first, and the file with the recording.

    Raises:
        ValueError: the file has other lines than 0 and 1, or is of another number of images.
    """
    path = folder / ABSENCES
    if not path.exists():
        return None
    flags = lines_of(path)
    wrong = next((flag for flag in flags if flag not in ("0", "1")), None)
    if wrong is not None:
        raise ValueError(
            f"{path} has the line {wrong[:40]!r}; it must be 1 where the object is there, and 0 where it is not."
        )
    if len(flags) != count and "1" in flags:
        flags = flags[flags.index("1") :]
    if len(flags) != count:
        raise ValueError(
            f"{path} has {len(flags)} lines from the first 1 on, and there are {count} labels; each needs one."
        )
    return np.array(flags) == "0"


def write_boxes(path: Path, boxes: NDArray[np.floating], integers: bool = False) -> None:
    """Write a result file: a line x, y, w, h between tabs for each image, cut to integers if wanted."""
    rows = np.trunc(boxes).astype(int) if integers else boxes
    with replacing(path) as partial:
        partial.write_text("".join("\t".join(map(repr, row)) + "\n" for row in rows.tolist()))
