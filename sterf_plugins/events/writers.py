"""Write recordings: AEDAT4 by the camera maker's library, HDF5 and NPZ as Tonic's and SpikingJelly's users read them."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from ..checks import require
from ..files import replacing
from .recording import Events, Frame

FORMATS = (".aedat4", ".h5", ".hdf5", ".npz")
CAMERA = "sterf_plugins"  # the name of the camera in AEDAT4 files


def write_recording(
    path: str | Path, events: Events | Iterable[Events], size: tuple[int, int], frames: Iterable[Frame] = ()
) -> Path:
    """Write events to a file, which appears under its name when it is whole.

    Args:
        path: the file; its suffix is .aedat4, .h5, .hdf5 or .npz.
        events: in the order of time, all at once or in pieces.
        size: (height, width) of the sensor.
        frames: pictures taken beside the events, for AEDAT4.

    Returns:
        The path.

    Raises:
        ValueError: the suffix is another one, the format holds no frames, or an event is out of order or outside the sensor.
        ImportError: a package is missing; the message names the pip command.
    """
    path, frames = Path(path), list(frames)
    if path.suffix not in FORMATS:
        raise ValueError(f"{path} ends with none of {', '.join(FORMATS)}; these formats can be written.")
    if frames and path.suffix != ".aedat4":
        raise ValueError(f"{path} cannot hold frames; write an .aedat4 file.")
    pieces = [events] if isinstance(events, Events) else events
    with replacing(path) as partial:
        if path.suffix == ".aedat4":
            _write_aedat4(partial, pieces, size, frames)
        elif path.suffix == ".npz":
            everything = Events.joined(list(pieces))
            _check(everything, size)
            with partial.open("wb") as file:
                np.savez_compressed(file, **_compact(everything), height=size[0], width=size[1])
        else:
            _write_hdf5(partial, pieces, size)
    return path


def _check(events: Events, size: tuple[int, int], last: int | None = None) -> int | None:
    """Raise ``ValueError`` unless a piece may be written; return its last time."""
    if not events.number:
        return last
    if (np.diff(events.t) < 0).any() or (last is not None and events.t[0] < last):
        raise ValueError("`events` go back in time; sort them by t.")
    for name, values, limit in (("x", events.x, size[1]), ("y", events.y, size[0])):
        if not 0 <= values.min() <= values.max() < limit:
            raise ValueError(
                f"`events` have {name} from {values.min()} to {values.max()}; `size` {size} allows 0 to {limit - 1}."
            )
    return int(events.t[-1])


def _compact(events: Events) -> dict[str, Any]:
    return dict(t=events.t, x=events.x.astype(np.int16), y=events.y.astype(np.int16), p=events.p.astype(bool))


def _write_hdf5(path: Path, pieces: Iterable[Events], size: tuple[int, int]) -> None:
    import h5py

    with h5py.File(path, "w") as file:
        columns = {}
        last = None
        for events in pieces:
            last = _check(events, size, last)
            for name, values in _compact(events).items():
                if name not in columns:
                    options: dict[str, Any] = dict(
                        maxshape=(None,), chunks=(1 << 16,), compression="gzip", shuffle=True
                    )
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

    config = dv.io.MonoCameraWriter.Config(CAMERA)
    config.addEventStream(size[::-1])
    if frames:
        config.addFrameStream(size[::-1])
    writer = dv.io.MonoCameraWriter(str(path), config)
    waiting, last = iter([*frames, None]), None
    frame = next(waiting)
    for events in pieces:
        last = _check(events, size, last)
        store = dv.EventStore()
        for t, x, y, p in zip(*(column.tolist() for column in events), strict=True):
            store.push_back(t, x, y, bool(p))
        writer.writeEvents(store)
        while frame is not None and events.number and frame.t <= events.t[-1]:
            writer.writeFrame(dv.Frame(frame.t, frame.pixels))
            frame = next(waiting)
    while frame is not None:
        writer.writeFrame(dv.Frame(frame.t, frame.pixels))
        frame = next(waiting)
