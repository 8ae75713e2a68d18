"""Recordings in one folder for each class, as a data set of (T, C, H, W) samples."""

import warnings
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from ..checks import as_path, fraction, one_of, positive_int, whole_number
from ..files import files_below
from .arrays import sensor_size
from .downloads import converted
from .readers import FORMATS, open_recording
from .representations import REPRESENTATIONS, channels_of, equal_counts, equal_times
from .splits import by_number, by_seed, equal_files, in_list, in_natural_order

SPLITS = ("train", "test")
# What folders of splits are called elsewhere: no names of classes, where a data set has no others.
OTHER_SPLITS = {"train", "training", "val", "valid", "validation", "test", "testing"}


class Layout(NamedTuple):
    """Where a data set keeps its recordings.

    Args:
        folder: in the data set's folder, that of the classes of a split; "{split}" stands for "train" or "test".
        sensor: (height, width) of the sensor, where files do not say it.
        rule: which recordings are for testing, where no folder says it; ``None`` for ``splits.by_seed``.
    """

    folder: str = ""
    sensor: tuple[int, int] | None = None
    rule: Callable[[Sequence[str]], set[str]] | None = None


LAYOUTS = {
    "folders": Layout(),
    "cifar10_dvs": Layout(sensor=(128, 128), rule=by_number),
    "dvs128_gesture": Layout("{split}", (128, 128)),
    "n_cars": Layout("n-cars_{split}", (100, 120)),
}


class EventFolder(Dataset):
    """Event recordings of several classes, as ``timm.data.ImageDataset`` has images.

    A sample is float32 (T, C, H, W) and the number of its class; ``collate_time_first`` makes batches (T, B, C, H, W).
    Files are of any format that ``open_recording`` reads, also of several.

    Args:
        root: folder of the data set.
        split: "train", "test", ``None`` for all recordings, or the path of a text file (.txt) that names some of them, such
            as "CLASS/NAME".
        T: number of time steps.
        kind: the representation: "histogram" (C = 2), "voxel_grid", "time_surface" or "gtp"; see
            ``events.representations``.
        by: "time" for steps of equal length, "count" for steps of equally many events.
        layout: "folders" for ROOT/{train,test}/CLASS/FILE, and for ROOT/CLASS/FILE, which are split by their names and
            ``seed``; or a public data set as it is downloaded, with its usual split: "n_cars"; "cifar10_dvs" and
            "dvs128_gesture", unpacked into ROOT/extract, which SpikingJelly converts into ROOT/events_np the first time.
        sensor: (height, width) of all samples; smaller recordings are at the top left. ``None`` for that of the first
            recording, which all others must have.
        share: share of the recordings for testing, where names and seed split them.
        seed: seed of that split.
        transform: function of a sample (T, C, H, W); those of ``torchvision.transforms.v2`` treat all steps alike.
        target_transform: function of the number of the class.
        **options: of the representation.

    Attributes:
        classes: names of the classes, in natural order.
        samples: (path, number of the class) of each recording, in natural order.
        size: (height, width) of the samples before ``transform``.
        channels: C of the samples before ``transform``.

    Raises:
        ValueError: a folder is missing, a class is empty, a list names a recording that is not there, or an argument is out
            of range. Recordings that cannot be used are errors when they are read; ``check`` reads all.
    """

    def __init__(
        self,
        root: str | Path,
        split: str | Path | None = None,
        T: int = 8,
        kind: str = "histogram",
        by: str = "time",
        layout: str = "folders",
        sensor: tuple[int, int] | None = None,
        share: float = 0.2,
        seed: int = 0,
        transform: Callable[[Tensor], Tensor] | None = None,
        target_transform: Callable[[int], Any] | None = None,
        **options: Any,
    ):
        one_of("layout", layout, LAYOUTS)
        one_of("by", by, ("time", "count"))
        if not str(split).endswith(".txt"):
            one_of("split", split, ("train", "test", None), "Or give the path of a .txt file that names recordings.")
        self.T = positive_int("T", T)
        share, seed = fraction("share", share), whole_number("seed", seed)
        for name, function in (("transform", transform), ("target_transform", target_transform)):
            if function is not None and not callable(function):
                raise TypeError(
                    f"`{name}` is {function!r} ({type(function).__name__}); it must be a function, or left out."
                )
        self.kind, self.by, self.options = kind, by, options
        self.channels = channels_of(kind, **options)
        if (kind, T) == ("gtp", 1):
            raise ValueError(
                "`T` is 1, and the trajectory of 'gtp' is of the steps before; give more, or another `kind`."
            )
        self.transform, self.target_transform = transform, target_transform

        self.root = converted(as_path("root", root), layout)
        folder, known, rule = LAYOUTS[layout]
        if not folder and (self.root / "train").is_dir():
            folder = "{split}"
        paths = _recordings(self.root, folder, split)
        labels = {name: name.split("/")[bool(folder)] for name in paths}
        if folder:
            _check_classes(self.root, folder, labels)
        self.classes = in_natural_order(set(labels.values()))
        self._first = next(iter(paths.values()))
        self.sensor = known if sensor is None else sensor_size(sensor, "sensor")
        self.size = self.sensor or open_recording(self._first).size

        chosen = _in_split(list(paths), split, folder, rule or partial(by_seed, share=share, seed=seed))
        self._every = {path: (labels[name], name in chosen) for name, path in paths.items()}
        self.samples = [(path, self.classes.index(label)) for path, (label, own) in self._every.items() if own]
        if not self.samples:
            raise ValueError(
                f"none of {len(paths)} recordings in {self.root} is of `split` {split!r}; give another one."
            )

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> tuple[Tensor, Any]:
        path, target = self.samples[index]
        x = torch.from_numpy(self.read(path))
        if self.transform is not None:
            x = self.transform(x)
        return x, target if self.target_transform is None else self.target_transform(target)

    def read(self, path: Path) -> NDArray[np.float32]:
        """The representation (T, C, H, W) of one recording.

        Raises:
            ValueError: it cannot be read, has another sensor, or too few events or microseconds for the steps.
        """
        recording = open_recording(path, self.sensor)
        if recording.size != self.size:
            raise ValueError(
                f"{path} has a sensor of {recording.size} (height, width), and {self._first} of {self.size}; give `sensor`, a "
                f"size that holds all of them."
            )
        events = recording.events()
        if events.number < self.T:
            raise ValueError(
                f"{path} has {events.number} events, fewer than T = {self.T} steps; leave it out, or lower T."
            )
        try:
            by_time = self.by == "time"
            times = equal_times(events.t[0], events.t[-1] + 1, self.T) if by_time else equal_counts(events, self.T)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error
        return REPRESENTATIONS[self.kind](events, self.size, times, **self.options)

    def check(self, progress: Callable[[int, int], None] | None = None) -> None:
        """Read every recording once, so that one that cannot be used is found before a training begins.

        It warns of files with the same bytes that are of two classes, or of which one alone is of this split.

        Args:
            progress: function that is called with (recordings done, number of recordings) after each.

        Raises:
            ValueError: a recording cannot be used.
        """
        for done, (path, _) in enumerate(self.samples, 1):
            self.read(path)
            if progress is not None:
                progress(done, len(self))
        for first, *others in equal_files(self._every):
            label, _ = self._every[first]
            other = next((path for path in others if self._every[path] != self._every[first]), None)
            if other is not None:
                own = self._every[other][0]
                what = f"classes {label} and {own}" if own != label else "which one alone is in this split"
                warnings.warn(f"{first} and {other} are the same recording, of {what}; delete one.", stacklevel=2)
                return

    def filename(self, index: int, basename: bool = False, absolute: bool = False) -> str:
        """Name of a recording's file, relative to the data set's folder, as timm's data sets have it."""
        path = self.samples[index][0]
        return path.name if basename else str(path if absolute else path.relative_to(self.root))

    def filenames(self, basename: bool = False, absolute: bool = False) -> list[str]:
        """Names of all recordings' files."""
        return [self.filename(i, basename, absolute) for i in range(len(self))]


def collate_time_first(samples: Sequence[tuple[Tensor, Any]]) -> tuple[Tensor, Tensor]:
    """Samples (T, C, H, W) and their targets as (T, B, C, H, W) and (B, ...), for ``DataLoader(collate_fn=…)``.

    Targets are numbers, or tensors of one shape, such as shares of the classes.

    Raises:
        ValueError: samples or targets have several shapes.
    """
    inputs, targets = zip(*samples, strict=True)
    return _stacked("samples", inputs, 1), _stacked("targets", [torch.as_tensor(target) for target in targets], 0)


def _stacked(what: str, tensors: Sequence[Tensor], axis: int) -> Tensor:
    """Tensors of one shape, one beside the other along a new axis."""
    shapes = {tuple(tensor.shape) for tensor in tensors}
    if len(shapes) > 1:
        raise ValueError(
            f"the {what} of a batch have the shapes {', '.join(map(str, sorted(shapes)))}; all must have the same: a transform "
            f"must not change them by chance."
        )
    return torch.stack(list(tensors), axis)


def _check_classes(root: Path, folder: str, labels: dict[str, str]) -> None:
    """Raise ``ValueError`` if a class is for testing alone, as one that is spelt in another way than for training."""
    training, testing = (
        {label for name, label in labels.items() if name.startswith(f"{folder.format(split=split)}/")}
        for split in SPLITS
    )
    unknown = sorted(testing - training)
    if training and unknown:
        raise ValueError(
            f"{root / folder.format(split='test')} has the class {unknown[0]}, which is not among those for training "
            f"({', '.join(in_natural_order(training))}); rename or remove it."
        )


def _in_split(
    names: list[str], split: str | Path | None, folder: str, test_names: Callable[[Sequence[str]], set[str]]
) -> set[str]:
    """Which recordings a split has.

    Args:
        names: all recordings.
        split: "train", "test", ``None`` for all, or the path of a list.
        folder: how the folder of a split is called, "{split}" for its name; "" where there are none.
        test_names: gives those for testing where there are no such folders.
    """
    if split is None:
        return set(names)
    if str(split).endswith(".txt"):
        return in_list(names, split)
    if folder:
        return {name for name in names if name.split("/")[0] == folder.format(split=split)}
    testing = test_names(names)
    return testing if split == "test" else set(names) - testing


def _recordings(root: Path, folder: str, split: str | Path | None) -> dict[str, Path]:
    """Name (path in the data set, without suffix) and file of each recording, in natural order."""
    folders = [root / folder.format(split=name) for name in SPLITS] if folder else [root]
    named = [p for p in root.glob("*") if folder and p.is_dir() and p.name.lower() in OTHER_SPLITS]
    others = [p for p in named if not any(place.is_dir() and p.samefile(place) for place in folders)]
    for place in folders:
        if not place.is_dir() and place in (folders[0], root / folder.format(split=split)):
            hint = f" If {others[0].name} is for testing, rename it: {folders[1].name}." if others else ""
            raise ValueError(f"there is no folder {place} of classes of event recordings.{hint}")
    if others and split is None:
        raise ValueError(
            f"`split` is None, for all recordings, and {others[0]} is none of the folders that are read, {folders[0].name} and "
            f"{folders[1].name}; move it away or rename it, or give split='train'."
        )
    classes = [p for place in folders if place.is_dir() for p in place.iterdir() if p.is_dir() and p.name[0] != "."]
    paths: dict[str, Path] = {}
    for place in classes:
        files = [path for path in files_below(place) if path.suffix.lower() in FORMATS]
        if not files:
            raise ValueError(f"the class folder {place} has no recording ({', '.join(FORMATS)}).")
        for path in files:
            name = path.relative_to(root).with_suffix("").as_posix()
            if name in paths:
                raise ValueError(f"{path} and {paths[name]} have the same name; keep one of them.")
            paths[name] = path
    words = {place.name.lower().replace("-", "_").rpartition("_")[2] for place in classes}  # "train" of "n-cars_train"
    if not folder and classes and words <= OTHER_SPLITS:
        raise ValueError(
            f"the folders in {root} are called {', '.join(sorted(place.name for place in classes))}, as splits are and not "
            f"classes; rename them: train and test. Or give the `layout` of a public data set: {', '.join(LAYOUTS)}."
        )
    if not paths:
        raise ValueError(f"{folders[0]} has no folders of classes with event recordings.")
    return {name: paths[name] for name in in_natural_order(paths)}
