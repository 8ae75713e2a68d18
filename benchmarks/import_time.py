"""Import times, each in fresh processes, in turn: seconds above a bare interpreter, and a ratio.

python benchmarks/import_time.py --out benchmarks/results/import_time.json
"""

import statistics
import subprocess
import sys
import time
from functools import partial

from saved import Results, begin, options

CASES = {
    "nothing": "pass",
    "sterf_plugins": "import sterf_plugins",
    "timm + spikingjelly": "import timm, spikingjelly.activation_based",
    "sterf_plugins.timm": "import sterf_plugins.timm",
}


def seconds(statement: str) -> float:
    """Seconds of a fresh interpreter that runs a statement."""
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", statement], check=True)
    return time.perf_counter() - start


def measure(repeats: int) -> dict:
    """Median seconds of each import above a bare interpreter, and those of ours over those of what it imports."""
    times: dict[str, list[float]] = {name: [] for name in CASES}
    for repeat in range(repeats + 1):
        for name, statement in CASES.items():
            spent = seconds(statement)
            if repeat:  # the first fills the disk cache
                times[name].append(spent)
    bare = statistics.median(times.pop("nothing"))
    above = {name: statistics.median(values) - bare for name, values in times.items()}
    ratio = above["sterf_plugins.timm"] / above["timm + spikingjelly"]
    return {"seconds above a bare interpreter": above, "sterf_plugins.timm / (timm + spikingjelly)": ratio}


def main() -> None:
    args = begin(options(__doc__, repeats=5))
    results = Results.of(args)
    results.once(partial(measure, args.repeats), "import")


if __name__ == "__main__":
    main()
