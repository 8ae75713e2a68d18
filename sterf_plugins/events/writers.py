"""Write recordings: AEDAT4 by the camera maker's library, HDF5 and NPZ as Tonic's and SpikingJelly's users read them."""

import errno
import os
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..checks import as_path, entries, require, whole_number
from ..files import replacing
from .arrays import Events, check_events, sensor_size
from .new_hdf5 import new_hdf5
from .recording import Frame

FORMATS = (".aedat4", ".h5", ".hdf5", ".npz")
CAMERA = "sterf_plugins"  # the name of the camera in AEDAT4 files
AEDAT4_EVENT = 16  # bytes of an event in AEDAT4, before they are compressed


def write_recording(
    path: str | Path, events: Events | Iterable[Events], size: tuple[int, int], frames: Iterable[Frame] = ()
) -> Path:
    """Write events to a file, which appears under its name when it is whole.

    Args:
        path: the file; its suffix is .aedat4, .h5, .hdf5 or .npz.
        events: in the order of time, all at once or in pieces.
        size: (height, width) of the sensor.
        frames: pictures taken beside the events, for AEDAT4; of a frame one time is written, so that ``start`` is 0, or ``t``.

    Returns:
        The path.

    Raises:
        TypeError, ValueError: the suffix is another one, events or frames are out of order, no numbers that a recording has, or
            outside the sensor, or the format does not hold them.
        ImportError: a package is missing; the message names the pip command.
    """
    path, frames, size = as_path("path", path), list(entries("frames", frames)), sensor_size(size)
    suffix = path.suffix.lower()
    if suffix not in FORMATS:
        raise ValueError(f"{path} ends with none of {', '.join(FORMATS)}; these formats can be written.")
    if suffix == ".aedat4" != path.suffix:  # a file of another name ends the process in dv_processing
        raise ValueError(f"{path} ends with {path.suffix}, and dv_processing writes files that end with .aedat4.")
    if frames and suffix != ".aedat4":
        raise ValueError(f"{path} cannot hold frames; write an .aedat4 file.")
    _check_frames(frames, size)
    pieces = _checked([events] if isinstance(events, Events) else events, size)
    with replacing(path) as partial:
        if suffix == ".aedat4":
            _write_aedat4(partial, pieces, size, frames)
        elif suffix == ".npz":
            everything = Events.joined(list(pieces))
            with partial.open("wb") as file:
                np.savez_compressed(file, **_compact(everything), height=size[0], width=size[1])
        else:
            write_hdf5(partial, pieces, size, compression="gzip", shuffle=True)
    return path


def _checked(pieces: Iterable[Events], size: tuple[int, int]) -> Iterator[Events]:
    """The pieces that have events, which must be in the order of time and on the sensor."""
    if not isinstance(pieces, Iterable):
        raise TypeError(
            f"`events` is a {type(pieces).__name__}; it must be Events, or several of them: Events.of(t, x, y, p)."
        )
    last, done = None, 0
    for piece in pieces:
        if not isinstance(piece, Events):
            raise TypeError(
                f"`events` has a {type(piece).__name__}; it must be Events, or several of them: Events.of(t, x, y, p)."
            )
        events = Events.of(*piece, first=done)
        if events.number:
            check_events(events, size, "`events`", last, done)
            last, done = int(events.t[-1]), done + events.number
            yield events


def _check_frames(frames: list[Frame], size: tuple[int, int]) -> None:
    """Raise ``ValueError`` unless the frames are pictures of the sensor, in the order of time."""
    for i, frame in enumerate(frames):
        if not isinstance(frame, Frame) or not isinstance(frame.pixels, np.ndarray):
            raise TypeError(
                f"`frames[{i}]` is a {type(frame).__name__}; it must be Frame(t, start, pixels), pixels an array."
            )
        pixels = frame.pixels
        if pixels.dtype != np.uint8 or pixels.shape not in (size, (*size, 3)):
            raise ValueError(
                f"frame {i} is {pixels.dtype} {pixels.shape}; it must be uint8 of the sensor's size, {size} or {(*size, 3)}."
            )
        if whole_number(f"frames[{i}].t", frame.t) < (frames[i - 1].t if i else 0):
            raise ValueError(f"frame {i} is at {frame.t} µs; frames must be in the order of time, from 0 on.")
        if frame.start not in (0, frame.t):
            raise ValueError(
                f"frame {i} began at {frame.start} µs and has the time {frame.t} µs; AEDAT4 is written with one time of a frame: "
                f"give frame._replace(t=frame.start), which `frame_times` says of it, or frame._replace(start=0)."
            )


def _compact(events: Events) -> dict[str, Any]:
    return dict(t=events.t, x=events.x.astype(np.uint16), y=events.y.astype(np.uint16), p=events.p.astype(bool))


def write_hdf5(path: Path, pieces: Iterable[Events], size: tuple[int, int], **storage: Any) -> None:
    """Write events to an HDF5 file.

    Args:
        path: the file.
        pieces: the events, which are in order and on the sensor.
        size: (height, width) of the sensor.
        **storage: options of h5py's data sets, such as ``compression``.
    """
    with new_hdf5(path) as file:
        columns = {}
        for events in pieces:
            for name, values in _compact(events).items():
                if name not in columns:
                    options = dict(maxshape=(None,), chunks=(1 << 16,), **storage)
                    columns[name] = file.create_dataset(f"events/{name}", (0,), values.dtype, **options)
                columns[name].resize((len(columns[name]) + len(values),))
                columns[name][len(columns[name]) - len(values) :] = values
        if not columns:
            for name, values in _compact(Events.joined([])).items():
                file.create_dataset(f"events/{name}", data=values)
        file.attrs.update(height=size[0], width=size[1])


def _write_aedat4(path: Path, pieces: Iterable[Events], size: tuple[int, int], frames: list[Frame]) -> None:
    require("dv_processing", extra="events")
    import dv_processing as dv

    if max(size) > 2**15:
        raise ValueError(
            f"`size` is {size}; AEDAT4 holds sensors of up to {2**15:,} columns and rows; write an .h5 file."
        )
    config = dv.io.MonoCameraWriter.Config(CAMERA)
    config.addEventStream(size[::-1])
    if frames:
        config.addFrameStream(size[::-1])
    pictures = sum(frame.pixels.nbytes for frame in frames)
    _check_room(path, pictures)
    path.touch()  # a folder that cannot be written is an OSError, and not one of dv_processing
    writer = dv.io.MonoCameraWriter(str(path), config)
    waiting = iter([*frames, None])
    frame = next(waiting)
    for events in pieces:
        if events.t[0] < 0:
            raise ValueError(
                f"`events` begin at {events.t[0]} µs, and AEDAT4 holds times from 0 on; add an offset to them."
            )
        _check_room(path, pictures + AEDAT4_EVENT * events.number)
        store = dv.EventStore()
        for t, x, y, p in zip(*(column.tolist() for column in events), strict=True):
            store.push_back(t, x, y, bool(p))
        writer.writeEvents(store)
        while frame is not None and frame.t <= events.t[-1]:
            writer.writeFrame(dv.Frame(frame.t, _in_their_order(frame.pixels)))
            frame = next(waiting)
    while frame is not None:
        writer.writeFrame(dv.Frame(frame.t, _in_their_order(frame.pixels)))
        frame = next(waiting)


def _check_room(path: Path, count: int) -> None:
    """Raise ``OSError`` for a disk on which so many bytes have no room: a failure of dv_processing's threads ends the process."""
    if shutil.disk_usage(path.parent).free < count:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))


def _in_their_order(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """A picture in AEDAT4's order of colours: blue, green, red."""
    return pixels if pixels.ndim == 2 else pixels[..., ::-1]
