"""Import times, each in fresh processes, in turn; prints seconds and ratios.

python benchmarks/import_time.py
"""

import json
import statistics
import subprocess
import sys
import time

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


def main() -> None:
    times: dict[str, list[float]] = {name: [] for name in CASES}
    for _ in range(6):
        for name, statement in CASES.items():
            times[name].append(seconds(statement))
    median = {name: statistics.median(values[1:]) for name, values in times.items()}  # the first fills the disk cache
    bare = median["nothing"]
    result = {
        "seconds above a bare interpreter": {name: value - bare for name, value in median.items() if name != "nothing"},
        "sterf_plugins.timm / (timm + spikingjelly)": (median["sterf_plugins.timm"] - bare)
        / (median["timm + spikingjelly"] - bare),
    }
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
