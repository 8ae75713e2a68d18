"""How much memory a piece of work takes at most, on a CPU or a GPU."""

import ctypes
import gc
import re
from collections.abc import Callable
from pathlib import Path

import torch


def peak_bytes(work: Callable[[], object], device: str) -> int | None:
    """Bytes that ``work()`` takes at most, beyond those before it; ``None`` where the system does not tell.

    On a GPU they are those of tensors. On a CPU they are the resident set's, as Linux counts it; memory that was freed is
    given back to the system first, so that it does not hide the peak.
    """
    gc.collect()
    if torch.device(device).type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        work()
        return torch.cuda.max_memory_allocated() - before
    status = Path("/proc/self/status")
    if not status.is_file():
        return None
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts again from the present
    before = _kib(status, "VmRSS")
    work()
    return (_kib(status, "VmHWM") - before) << 10


def _kib(status: Path, name: str) -> int:
    """A memory field of this process, in KiB."""
    return int(re.findall(rf"{name}:\s+(\d+)", status.read_text())[0])
