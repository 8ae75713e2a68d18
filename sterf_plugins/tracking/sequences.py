"""Sequences of event images with a box in each, in the folders of FE108 and VisEvent.

A folder of a data set has ``train/`` and ``test/`` with one folder per sequence; in that are the labels, one line x, y, w, h per
image, and ``inter{T}_stack_3008/NNNN_k.png``, the T parts of each image (``tools/dataset_tools/make_gtp.py`` makes them).
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..checks import one_of

# layout -> file of the labels, number of the first image
LAYOUTS = {"fe108": ("groundtruth_rect.txt", 1), "visevent": ("groundtruth.txt", 0)}
SPLITS = ("train", "test")
IMAGES = "inter{}_stack_3008"


@dataclass(frozen=True)
class Sequence:
    """Event images and boxes of one recording.

    Args:
        name: the folder's name.
        boxes: float64 (frames, 4), x, y, w, h in pixels.
        files: the PNG files of each image, T of them.
    """

    name: str
    boxes: NDArray[np.float64]
    files: tuple[tuple[Path, ...], ...]

    def __len__(self) -> int:
        return len(self.boxes)

    @property
    def valid(self) -> NDArray[np.bool_]:
        """Which boxes have an area."""
        return np.asarray((self.boxes[:, 2:] > 0).all(1))

    def image(self, frame: int) -> NDArray[np.uint8]:
        """An event image, uint8 (H, W, 3) or (T, H, W, 3): trajectory, negative, positive.

        Raises:
            ValueError: a file is missing, no image, or of another size than the image's other parts.
        """
        parts = [_read(path) for path in self.files[frame]]
        if len({part.shape for part in parts}) > 1:
            raise ValueError(f"the parts of {self.files[frame][0]} have different sizes: {[p.shape for p in parts]}.")
        return np.stack(parts) if len(parts) > 1 else parts[0]

    def images(self) -> Iterator[NDArray[np.uint8]]:
        """All event images, one after another."""
        return map(self.image, range(len(self)))


def _read(path: Path) -> NDArray[np.uint8]:
    import cv2

    image = cv2.imread(str(path), cv2.IMREAD_COLOR_RGB)
    if image is None:
        what = "cannot be read as an image" if path.is_file() else "is missing"
        raise ValueError(f"{path} {what}; make the event images again: tools/dataset_tools/make_gtp.py.")
    return image.astype(np.uint8, copy=False)


def find_sequences(
    root: str | Path, layout: str, split: str, T: int = 1, names: Iterable[str] | str | Path | None = None
) -> list[Sequence]:
    """The sequences of a data set.

    Args:
        root: its folder.
        layout: "fe108" or "visevent".
        split: "train" or "test".
        T: parts of each image.
        names: which sequences, or a text file with one name a line; ``None`` for ``SPLIT/SPLIT.txt``, ``SPLIT/test.txt`` if
            there is one of them, and otherwise every folder that has labels.

    Raises:
        ValueError: a folder or file is missing, or labels cannot be read.
    """
    one_of("layout", layout, LAYOUTS)
    one_of("split", split, SPLITS)
    labels, first = LAYOUTS[layout]
    folder = Path(root) / split
    if not folder.is_dir():
        raise ValueError(f"{folder} is no folder; a data set of layout {layout!r} has {root}/train and {root}/test.")
    wanted = _names(folder, split, labels, names)
    sequences = [_sequence(folder / name, labels, first, T) for name in wanted]
    if not sequences:
        raise ValueError(f"{folder} has no folder with {labels}, so no sequence.")
    return sequences


def _names(folder: Path, split: str, labels: str, names: Iterable[str] | str | Path | None) -> list[str]:
    if names is None:
        listed = next((p for p in (folder / f"{split}.txt", folder / "test.txt") if p.is_file()), None)
        if listed is None:
            return sorted(p.parent.name for p in folder.glob(f"*/{labels}"))
        names = listed
    if isinstance(names, (str, Path)):
        path = Path(names)
        if not path.is_file():
            raise ValueError(f"`names` is {str(names)!r}, which is no file; give one with a sequence's name a line.")
        names = [line.split()[0] for line in path.read_text().splitlines() if line.strip()]
    return list(names)


def _sequence(folder: Path, labels: str, first: int, T: int) -> Sequence:
    boxes = read_boxes(folder / labels)
    images = folder / IMAGES.format(T)
    if not images.is_dir():
        raise ValueError(
            f"{images} is missing: make the event images, tools/dataset_tools/make_gtp.py {folder.parents[1]}."
        )
    files = tuple(tuple(images / f"{first + i:04d}_{k}.png" for k in range(1, T + 1)) for i in range(len(boxes)))
    return Sequence(folder.name, boxes, files)


def read_boxes(path: Path) -> NDArray[np.float64]:
    """The boxes of a label or result file, (frames, 4): four numbers a line, between commas, tabs or spaces.

    Raises:
        ValueError: the file is missing, empty, or has another line.
    """
    if not path.is_file():
        raise ValueError(f"there is no file of boxes {path}.")
    rows = []
    for i, line in enumerate(path.read_text().splitlines(), 1):
        if not line.strip():
            continue
        try:
            row = [float(part) for part in re.split(r"[,\s]+", line.strip())]
        except ValueError:
            row = []
        if len(row) != 4:
            raise ValueError(f"{path} line {i} is {line[:60]!r}; it must be four numbers: x, y, w, h.")
        rows.append(row)
    if not rows:
        raise ValueError(f"{path} has no boxes; it must have a line x, y, w, h for each image.")
    return np.array(rows)


def write_boxes(path: Path, boxes: NDArray[np.floating], integers: bool = False) -> None:
    """Write a result file: a line x, y, w, h between tabs for each image, cut to integers if wanted."""
    from ..files import replacing

    rows = np.trunc(boxes).astype(int) if integers else boxes
    with replacing(path) as partial:
        partial.write_text("".join("\t".join(map(repr, row)) + "\n" for row in rows.tolist()))
