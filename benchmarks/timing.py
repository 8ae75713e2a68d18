"""Time and memory of the sides of a comparison, in one process, on a CPU or a GPU."""

import statistics
import time
from collections.abc import Callable

import torch

from sterf_plugins.cli.memory import peak_bytes


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


def peak_mib(work: Callable[[], object], device: str = "cpu") -> float:
    """Memory that ``work()`` takes at most, in MiB, beyond what is taken before it; 0 where the system does not tell."""
    return (peak_bytes(work, device) or 0) / 2**20


def in_turn(
    sides: dict[str, Callable[[], object]], repeats: int, device: str, warm_up: int = 1
) -> dict[str, list[float]]:
    """Seconds of each call of each side; the sides take turns, after some rounds that do not count."""
    times: dict[str, list[float]] = {name: [] for name in sides}
    for turn in range(warm_up + repeats):
        for name, work in sides.items():
            spent = seconds(work, device)
            if turn >= warm_up:
                times[name].append(spent)
    return times


def take_turns(sides: dict[str, Callable[[], object]], repeats: int, device: str) -> dict[str, dict]:
    """Seconds (median, lowest, highest) and peak memory of each side."""
    times = in_turn(sides, repeats, device)
    return {name: spread(times[name]) | dict(peak_mib=peak_mib(work, device)) for name, work in sides.items()}


def ratio(value: float, base: float) -> float | None:
    """``value / base``; ``None`` where the base is too small to be seen, such as memory of less than a page."""
    return value / base if base > 0 else None


def ratios(measured: dict[str, dict], base: str) -> None:
    """Add to each side its time and memory over those of the side ``base``."""
    first = measured[base]
    for side in measured.values():
        side |= {key: ratio(side[of], first[of]) for key, of in (("time", "seconds"), ("memory", "peak_mib"))}
