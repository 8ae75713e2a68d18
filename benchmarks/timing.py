"""Time and memory of the sides of a comparison, in one process, on a CPU or a GPU."""

import ctypes
import gc
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch


def now(device: str) -> float:
    """Seconds: of this process on the CPU, which other programs hardly change, if it has one thread; else of the clock.

    A GPU finishes its work first.
    """
    if device == "cuda":
        torch.cuda.synchronize()
    elif torch.get_num_threads() == 1:
        return time.process_time()
    return time.perf_counter()


def seconds(work: Callable[[], object], device: str) -> float:
    """Seconds that ``work()`` takes."""
    start = now(device)
    work()
    return now(device) - start


def spread(times: list[float]) -> dict[str, float]:
    """Median, lowest and highest of some times."""
    return dict(seconds=statistics.median(times), lowest=min(times), highest=max(times))


def resident(field: str) -> int:
    """A memory field of this process, in KiB; on Linux alone."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field))


def peak_mib(work: Callable[[], object], device: str = "cpu") -> float:
    """Memory that ``work()`` takes at most, in MiB, beyond what is taken before it.

    On a GPU this is memory of tensors; on a CPU the resident set, in which memory that was freed does not hide the peak,
    because it is given back to the system first.
    """
    gc.collect()
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        work()
        return (torch.cuda.max_memory_allocated() - before) / 2**20
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts again from the present
    before = resident("VmRSS")
    work()
    return (resident("VmHWM") - before) / 1024


def take_turns(sides: dict[str, Callable[[], object]], repeats: int, device: str) -> dict[str, dict]:
    """Seconds (median, lowest, highest) and peak memory of each side; sides take turns, after one round of warm-up."""
    times: dict[str, list[float]] = {name: [] for name in sides}
    for repeat in range(repeats + 1):
        for name, work in sides.items():
            spent = seconds(work, device)
            if repeat:
                times[name].append(spent)
    return {name: spread(times[name]) | dict(peak_mib=peak_mib(work, device)) for name, work in sides.items()}


def ratio(value: float, base: float) -> float | None:
    """``value / base``; ``None`` where the base is too small to be seen, such as memory of less than a page."""
    return value / base if base > 0 else None


def ratios(measured: dict[str, dict], base: str) -> None:
    """Add to each side its time and memory over those of the side ``base``."""
    first = measured[base]
    for side in measured.values():
        side |= {key: ratio(side[of], first[of]) for key, of in (("time", "seconds"), ("memory", "peak_mib"))}
