"""Event images of a sequence from its recording: which file, between which times, and where images wait that were made."""

import os
import shutil
import tempfile
import weakref
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..checks import one_of, positive_int
from ..events import EventImage, Recording, gtp, open_recording
from ..events.arrays import sensor_size
from ..events.damage import explained
from ..events.gtp import STEPS
from ..events.new_hdf5 import new_hdf5
from ..events.readers import FORMATS
from ..files import lines_of, replacing, spelling
from .sequences import LAYOUTS, Sequence, check_unit, read_absent, read_boxes, sequence_folders


def recordings_in(folder: Path) -> list[Path]:
    """The files of a sequence that are its recording by their names: ``events.*``, or the name of the folder."""
    names = {f"{stem}{suffix}" for stem in ("events", folder.name) for suffix in FORMATS}
    return sorted(
        path for path in folder.iterdir() if path.name in names or f"{path.stem}{path.suffix.lower()}" in names
    )


def recording_of(folder: Path, sensor: tuple[int, int] | None = None) -> Recording:
    """The recording of a sequence; ``sensor`` is (height, width) for files that do not say it.

    Raises:
        ValueError: there is none, or several, or it cannot be read.
    """
    found = recordings_in(folder)
    if len(found) != 1:
        raise ValueError(f"{folder} has {len(found)} recordings events.* or {folder.name}.*; it must have one.")
    return open_recording(found[0], sensor)


def first_frame(root: Path, layout: str, name: str, interval: int | None = None) -> int:
    """Number, from 0, of the camera's frame with which a sequence's images begin; with an interval they begin with the first event.

    Raises:
        ValueError: pair.txt, which FE108 has, lacks the sequence, or has no number for it, or one that an interval contradicts.
    """
    pairs = root / "pair.txt"
    if layout != "fe108" or not pairs.is_file():
        return 0
    name = spelling(name)
    lines = [spelling(line).rsplit(maxsplit=1) for line in lines_of(pairs) if len(line.split()) > 1]
    numbers = dict(lines)
    if sum(line[0] == name for line in lines) > 1:
        raise ValueError(f"{pairs} has two lines for {name!r}; keep one of them.")
    if interval and numbers.get(name, "0").strip("0"):
        raise ValueError(
            f"{pairs} says that the labels of {name!r} begin with frame {numbers[name]}, and with an interval images begin with "
            f"the first event; leave out the interval, or the line if labels begin there."
        )
    if interval:
        return 0
    if name not in numbers:
        raise ValueError(f"{pairs} has no line for {name!r}; it names the frame with which each sequence begins.")
    if not numbers[name].isdecimal():
        raise ValueError(f"{pairs} has {numbers[name]!r} for {name!r}; it must be the number of a frame, from 0 on.")
    return int(numbers[name])


def layout_in(folder: Path) -> str | None:
    """The layout whose labels a folder has; ``None`` if it has none."""
    return next((layout for layout, (file, _) in LAYOUTS.items() if (folder / file).is_file()), None)


def folder_of(recording: Path) -> Path:
    """The folder of a recording's sequence: where it lies, or, if labels are only there, where the file lies that it links to."""
    own, other = Path(os.path.abspath(recording)).parent, recording.resolve().parent
    return other if layout_in(own) is None and layout_in(other) is not None else own


def labels_beside(recording: Recording, interval: int | None = None) -> tuple[NDArray[np.float64], int]:
    """The boxes in the folder of a recording, and the number of the camera's frame with which their images begin, unless those
    are of an interval.

    Raises:
        ValueError: there are none, or they cannot be read.
    """
    folder = folder_of(recording.path)
    layout = layout_in(folder)
    if layout is None:
        files = " or ".join(file for file, _ in LAYOUTS.values())
        raise ValueError(f"give --box X Y W H, where the object is in the first image; {folder} has no {files}.")
    labels = folder / LAYOUTS[layout][0]
    boxes = read_boxes(labels)
    check_unit(boxes, recording.size, labels)
    return boxes, first_frame(folder.parent.parent, layout, folder.name, interval)


def frame_times(recording: Recording, first: int = 0) -> NDArray[np.int64]:
    """Times of the camera's frames from number ``first`` on, each later than the one before, as images lie between them.

    Raises:
        ValueError: there are no frames, or they go back in time.
    """
    times = recording.frame_times()[first:]
    back = np.flatnonzero(np.diff(times) <= 0)
    if len(back):
        i = back[0]
        raise ValueError(
            f"{recording.path}: frame {first + i + 1} is at {times[i + 1]} µs, and the one before at {times[i]}; give times in "
            f"another way, such as an interval."
        )
    return times


def boundaries(recording: Recording, count: int, first: int = 0, interval: int | None = None) -> NDArray[np.int64]:
    """The ``count + 1`` times between which a sequence's images lie.

    Args:
        recording: the sequence's.
        count: number of its images.
        first: number of the camera's frame with which the first one begins.
        interval: microseconds of an image, from the first event on; ``None`` for the times of the camera's frames.

    Raises:
        ValueError: the recording has no events, or too few frames, or they go back in time.
    """
    if interval:
        start = next((events.t[0] for events in recording), None)
        if start is None:
            raise ValueError(f"{recording.path} has no events; leave out the sequence.")
        return np.asarray(start + interval * np.arange(count + 1))
    times = frame_times(recording, first)
    if len(times) < max(count, 2):
        raise ValueError(f"{recording.path} has {len(times)} frames from number {first} on, and {count} labels.")
    if len(times) == count:  # the last image ends an interval after its frame
        times = np.append(times, 2 * times[-1] - times[-2])
    return times[: count + 1]


def with_events(images: Iterable[EventImage], recording: Recording, times: NDArray[np.int64]) -> Iterator[EventImage]:
    """The images, of which the later half must have an event, too: otherwise their times are of another clock or unit.

    Raises:
        ValueError: all of them, or all of the later half were empty.
    """
    filled, count = 0, len(times) - 1
    for image in images:
        if image.pixels[..., 1:].any():  # not by what the trajectory remembers
            filled = image.interval + 1
        yield image
    if not filled:
        raise ValueError(
            f"{recording.path} has no event from {times[0]} to {times[-1]} µs, the times of its images; its events and frames "
            f"must have times of one clock, in microseconds."
        )
    if 2 * filled < count:
        raise ValueError(
            f"{recording.path} has no event in the last {count - filled} of {count} images, from {times[filled]} µs on; give a "
            f"shorter interval, or frames and labels of this recording."
        )


def event_images(recording: Recording, times: NDArray[np.int64], T: int) -> Iterator[NDArray[np.uint8]]:
    """The event images between the times, uint8 (H, W, 3) or of T parts (T, H, W, 3).

    Raises:
        ValueError: all of the later half of them are empty.
    """
    for _, parts in groupby(with_events(gtp(recording, times, T), recording, times), lambda image: image.interval):
        pixels = [part.pixels for part in parts]
        yield np.stack(pixels) if T > 1 else pixels[0]


class Scratch:
    """A folder for images that were made, which goes with the process that asked for it; worker processes share it."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="event_images_"))
        weakref.finalize(self, _remove, self.folder, os.getpid())


def _remove(folder: Path, owner: int) -> None:
    if os.getpid() == owner:  # and not a worker process that ends
        shutil.rmtree(folder, ignore_errors=True)


@dataclass(frozen=True)
class RecordedSequence(Sequence):
    """A sequence whose images are made from its recording; they equal those of ``tools/dataset_tools/make_gtp.py``.

    One after another they are made from a piece of the recording at a time. A single one needs all before it, since its
    trajectory remembers them: the first time, all images of the sequence are made and wait in a temporary file, compressed.

    Args:
        folder: the sequence's.
        T: parts of each image.
        first: number of the camera's frame with which the first image begins.
        interval: microseconds of an image; ``None`` for the times of the camera's frames.
        scratch: where images wait.
        sensor: (height, width) of the sensor, for files that do not say it.
    """

    folder: Path
    T: int
    first: int
    interval: int | None
    scratch: Scratch
    sensor: tuple[int, int] | None = None

    @cached_property
    def size(self) -> tuple[int, int]:  # type: ignore[override]  # a property that is computed once
        return recording_of(self.folder, self.sensor).size

    def images(self) -> Iterator[NDArray[np.uint8]]:
        recording = recording_of(self.folder, self.sensor)
        return event_images(recording, boundaries(recording, len(self), self.first, self.interval), self.T)

    def image(self, frame: int) -> NDArray[np.uint8]:
        import h5py

        made = self.scratch.folder / f"{self.name}.h5"
        if not made.is_file():
            self._make(made)
        with explained(made), h5py.File(made, "r") as file:
            return np.asarray(file["images"][frame])

    def _make(self, path: Path) -> None:
        try:
            with replacing(path) as partial, new_hdf5(partial) as file:
                for i, image in enumerate(self.images()):
                    if i == 0:
                        shape, chunks = (len(self), *image.shape), (1, *image.shape)
                        stored = file.create_dataset("images", shape, np.uint8, chunks=chunks, compression=1)
                    stored[i] = image
        except OSError as error:
            raise ValueError(
                f"the images of {self.folder} cannot be kept in {path.parent} ({error}); free space there, or set TMPDIR to "
                f"another folder."
            ) from error


def find_recorded_sequences(
    root: str | Path,
    layout: str,
    split: str,
    T: int = 1,
    names: Iterable[str] | str | Path | None = None,
    interval: int | None = None,
    sensor: Iterable[int] | None = None,
) -> list[Sequence]:
    """The sequences of a data set, with images that are made from its recordings.

    Args:
        root: as all arguments but the last two in ``find_sequences``.
        layout: "fe108" or "visevent".
        split: "train" or "test".
        T: parts of each image.
        names: which sequences, a text file of them, or a published list (see ``find_sequences``); ``None`` for all.
        interval: microseconds of an image; ``None`` for the times of the camera's frames.
        sensor: (height, width) of the sensor of all recordings, for files that do not say it.

    Raises:
        ValueError: a folder, recording or file is missing, or labels cannot be read.
    """
    one_of("T", T, STEPS)
    if interval is not None:
        positive_int("interval", interval)
    size = None if sensor is None else sensor_size(sensor, "sensor")
    scratch, sequences = Scratch(), []
    for folder in sequence_folders(root, layout, split, names):
        labels = folder / LAYOUTS[layout][0]
        boxes = read_boxes(labels)
        first = first_frame(Path(root), layout, folder.name, interval)
        absent = read_absent(folder, len(boxes))
        sequence = RecordedSequence(folder.name, boxes, folder, T, first, interval, scratch, size, absent=absent)
        check_unit(boxes, sequence.size, labels)
        sequences.append(sequence)
    return list(sequences)
