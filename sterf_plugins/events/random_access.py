"""Any window of a recording at once: its events in an uncompressed HDF5 file, which is made once and read where it is needed."""

import hashlib
from bisect import bisect_left
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..checks import as_path
from ..files import replacing
from .arrays import Events
from .damage import explained
from .readers import open_recording
from .writers import write_hdf5


@dataclass(frozen=True)
class IndexedRecording:
    """Events of a recording by their numbers; ``index_recording`` makes one.

    Args:
        path: the HDF5 file, which ``open_recording`` reads, too.
        size: (height, width) of the sensor.
        number: number of events.
        first: time of the first event, in microseconds; 0 if there is none.
        last: time of the last one.
    """

    path: Path
    size: tuple[int, int]
    number: int
    first: int
    last: int

    def number_before(self, times: list[int]) -> list[int]:
        """Number of events before each of the times."""
        with _opened(self.path) as file:
            return [bisect_left(file["events/t"], time) for time in times]

    def times(self, numbers: list[int]) -> list[int]:
        """Times of the events of these numbers; after the last one, the last time."""
        with _opened(self.path) as file:
            return [int(file["events/t"][min(number, self.number - 1)]) for number in numbers]

    def events(self, start: int, stop: int) -> Events:
        """The events of the numbers from ``start`` until before ``stop``."""
        with _opened(self.path) as file:
            return Events.of(*(file[f"events/{name}"][start:stop] for name in "txyp"))


def index_recording(path: str | Path, folder: str | Path, size: tuple[int, int] | None = None) -> IndexedRecording:
    """A recording of any format for access to any window; its events are copied into ``folder`` at the first time.

    A recording that has changed since is copied again. An event takes 13 bytes.

    Args:
        path: the recording.
        folder: where the copies are.
        size: (height, width) of the sensor; ``None`` for what ``open_recording`` finds.

    Raises:
        ValueError: the recording cannot be read, has events outside the sensor, or cannot be copied.
    """
    path, folder = as_path("path", path), as_path("folder", folder)
    if not path.is_file():
        raise ValueError(f"there is no event file {path}.")
    state = path.stat()
    stamp = f"{path.resolve()} {state.st_size} {state.st_mtime_ns}{size or ''}"
    copy = folder / f"{path.stem}-{hashlib.sha256(stamp.encode()).hexdigest()[:12]}.h5"
    if not copy.is_file():
        recording = open_recording(path, size)
        try:
            with replacing(copy) as partial:
                write_hdf5(partial, recording.slices(count=1 << 20), recording.size)
        except OSError as error:
            raise ValueError(
                f"{path} cannot be copied to {copy} ({error}); free space there, or give another folder: `cache`."
            ) from error
    with _opened(copy) as file:
        t, size = file["events/t"], (int(file.attrs["height"]), int(file.attrs["width"]))
        first, last = (int(t[0]), int(t[-1])) if len(t) else (0, 0)
        return IndexedRecording(copy, size, len(t), first, last)


@contextmanager
def _opened(copy: Path) -> Iterator[Any]:
    """The file of a copy.

    Raises:
        ValueError: it is damaged.
    """
    import h5py

    hint = "It is a copy of a recording: delete it, and it is made anew."
    with explained(copy, ValueError, hint=hint), h5py.File(copy, "r") as file:
        yield file
