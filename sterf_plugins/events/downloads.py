"""Public data sets whose files SpikingJelly converts: CIFAR10-DVS (AEDAT 2.0) and DVS128 Gesture (AEDAT 3.1).

``open_recording`` reads neither format.
"""

import os
import shutil
from pathlib import Path
from uuid import uuid4

# Layout -> module and class of SpikingJelly, and what lies in ROOT/extract once the download is unpacked.
_CONVERTED = {
    "cifar10_dvs": ("cifar10_dvs", "CIFAR10DVS", "airplane"),
    "dvs128_gesture": ("dvs128_gesture", "DVS128Gesture", "DvsGesture/trials_to_train.txt"),
}


def converted(root: Path, layout: str) -> Path:
    """The folder of the recordings of a data set: ROOT itself, or ROOT/events_np, which is made unless it is there.

    Raises:
        ValueError: there is nothing to convert, or SpikingJelly was interrupted when it converted.
    """
    if layout not in _CONVERTED:
        return root
    module, name, expected = _CONVERTED[layout]
    done, unfinished = root / "events_np", root / "events_np.building"
    if unfinished.exists():
        raise ValueError(f"SpikingJelly has not finished {done}; delete {done} and {unfinished}, to make it anew.")
    if done.is_dir():
        return done
    if not (root / "extract" / expected).exists():
        raise ValueError(
            f"there is no {root / 'extract' / expected}; unpack the download of {name} into {root / 'extract'}."
        )
    import importlib

    dataset = getattr(importlib.import_module(f"spikingjelly.datasets.{module}"), name)
    # Not of the process's number, which in a container is often that of a process before.
    partial = root / f".events_np.{uuid4().hex[:8]}"
    partial.mkdir()
    try:
        dataset.create_raw_from_extracted(root / "extract", partial)
        try:
            os.replace(partial, done)
        except OSError:
            if not done.is_dir():  # otherwise another process was first
                raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return done
