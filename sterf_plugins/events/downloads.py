"""Public data sets whose files SpikingJelly converts: CIFAR10-DVS (AEDAT 2.0) and DVS128 Gesture (AEDAT 3.1).

``open_recording`` reads neither format.
"""

import importlib
import os
import shutil
import struct
from pathlib import Path

import numpy as np

# Layout -> module and class of SpikingJelly, and what lies in ROOT/extract once the download is unpacked.
_CONVERTED = {
    "cifar10_dvs": ("cifar10_dvs", "CIFAR10DVS", ()),  # and a folder of each class
    "dvs128_gesture": (
        "dvs128_gesture",
        "DVS128Gesture",
        ("DvsGesture/trials_to_train.txt", "DvsGesture/trials_to_test.txt"),
    ),
}


def converted(root: Path, layout: str) -> Path:
    """The folder of the recordings of a data set: ROOT itself, or ROOT/events_np, which is made unless it is there.

    A process waits for another one that is making it. What one that was killed has left is cleared.

    Raises:
        ValueError: there is nothing to convert, or it cannot be converted, or SpikingJelly was interrupted when it did.
    """
    if layout not in _CONVERTED:
        return root
    done, unfinished = root / "events_np", root / "events_np.building"
    if unfinished.exists():
        raise ValueError(f"SpikingJelly has not finished {done}; delete {done} and {unfinished}, to make it anew.")
    if done.is_dir():
        return done
    name, files, extract = *_CONVERTED[layout][1:], root / "extract"
    module = importlib.import_module(f"spikingjelly.datasets.{_CONVERTED[layout][0]}")
    expected = files or module.CIFAR10DVS_CLASS_NAMES
    missing = next((extract / one for one in expected if not (extract / one).exists()), None)
    if missing is not None:
        raise ValueError(f"there is no {missing}; unpack the download of {name} into {extract}.")
    for path in sorted(extract.glob("DvsGesture/*.aedat")):
        _check_whole(path, name)
    from filelock import FileLock

    partial, lock = root / ".events_np.partial", root / ".events_np.lock"
    with FileLock(lock):  # which the system gives back, even of a process that is killed
        if not done.is_dir():  # otherwise another process was first
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir()
            try:
                getattr(module, name).create_raw_from_extracted(extract, partial)
                _check_events(partial)
                os.replace(partial, done)
            except Exception as error:  # of any kind: SpikingJelly does not look at the files
                raise ValueError(
                    f"SpikingJelly cannot convert the files of {extract} ({type(error).__name__}: {error}); unpack the download of "
                    f"{name} there again, and keep nothing else in it."
                ) from error
            finally:
                shutil.rmtree(partial, ignore_errors=True)
    lock.unlink(missing_ok=True)
    return done


def _check_whole(path: Path, name: str) -> None:
    """Check that an AEDAT 3.1 file ends with a whole packet: SpikingJelly makes a shorter recording of one that was cut.

    The 28 bytes in front of each packet say how many bytes it has.
    """
    end = path.stat().st_size
    with path.open("rb") as file:
        while (line := file.readline()).startswith(b"#") and not line.startswith(b"#!END-HEADER"):
            pass
        while file.tell() + 28 <= end:
            size, capacity = struct.unpack("<4xI8xI8x", file.read(28))
            file.seek(size * capacity, os.SEEK_CUR)
        if file.tell() != end:
            raise ValueError(
                f"{path} is cut off, in the middle of a packet; unpack the download of {name} there again."
            )


def _check_events(folder: Path) -> None:
    """Check that every converted recording has events: a file that was cut has none for its last trials, and no other sign."""
    for path in sorted(folder.rglob("*.npz")):
        with np.load(path) as arrays:
            if not arrays["t"].size:
                raise ValueError(f"there are no events for {path.relative_to(folder)}")
