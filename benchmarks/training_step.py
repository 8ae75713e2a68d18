"""Training step (forward + backward) of SDT-V3: ours against the straightforward implementation, on the CPU.

Both sides run in this process, in turn; prints medians and the ratios plain / ours. Peak memory is that of a child
process per side (resident set growth during the step).

    python benchmarks/training_step.py --arch tiny --mixer srb --size 224 --batch 8
"""

import argparse
import copy
import json
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch
from plain_sdtv3 import PlainSDTV3, step
from saved import write

from sterf_plugins.backbones import SDTV3


def build(args):
    """Our model, the plain model with the same weights, and random images."""
    torch.manual_seed(0)
    ours = SDTV3(args.arch, args.mixer, layout=args.layout).train()
    ours.memory_efficient = args.memory_efficient
    images = torch.randn(args.batch, 3, args.size, args.size)
    return ours, PlainSDTV3(ours).train(), images


def check_equal(ours, plain, images):
    """Both sides give the same features and input gradients, or there is nothing to compare.

    In float64: in float32 a spike that rounding flips changes all behind it.
    """
    results = []
    for side in (ours, plain):
        model = copy.deepcopy(side).double()
        x = images[:2, :, :96, :96].double().requires_grad_()
        outputs = model(x)
        (grad,) = torch.autograd.grad(sum(y.square().sum() for y in outputs), x)
        results.append((*[y.detach() for y in outputs], grad))
    for a, b in zip(*results, strict=True):
        error = ((a - b).norm() / b.norm()).item()
        if not error <= 1e-9:
            raise SystemExit(f"the two sides differ by {error:.2e} relative; the comparison would be void")


def timed(model, images):
    """Seconds of one training step."""
    model.zero_grad(set_to_none=True)
    start = time.perf_counter()
    step(model, images)
    return time.perf_counter() - start


def resident(field):
    """A memory field of this process, in KiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field))


def peak_growth(work):
    """Growth of this process's peak resident set while ``work()`` runs, in MiB; on Linux only."""
    Path("/proc/self/clear_refs").write_text("5")  # The peak starts again from the present.
    before = resident("VmRSS")
    work()
    return (resident("VmHWM") - before) / 1024


def peak_memory(args, side):
    """Growth of the peak resident set over one step, in MiB, in a fresh process."""
    command = [sys.executable, __file__, "--only-memory", side]
    for name in ("arch", "mixer", "layout", "size", "batch", "threads"):
        command += [f"--{name}", str(getattr(args, name))]
    command += ["--memory-efficient"] * args.memory_efficient
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arch", default="tiny")
    parser.add_argument("--mixer", default="srb")
    parser.add_argument("--layout", default="raster")
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--memory-efficient", action="store_true", help="ours computes norms and spikes again")
    parser.add_argument("--out", type=Path, help="write the figures as JSON")
    parser.add_argument("--only-memory", choices=["ours", "plain"], help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    ours, plain, images = build(args)
    if args.only_memory:
        model = {"ours": ours, "plain": plain}[args.only_memory]
        small = images[:1, :, :64, :64].repeat(2, 1, 1, 1)
        step(model, small)  # The caches of the allocator and of the kernels are not part of the step.
        print(peak_growth(lambda: step(model, images)))
        return
    check_equal(ours, plain, images)
    times = {"ours": [], "plain": []}
    for i in range(args.repeats + 1):
        for name, model in (("ours", ours), ("plain", plain)):
            seconds = timed(model, images)
            if i:  # the first is warm-up
                times[name].append(seconds)
    median = {name: statistics.median(values) for name, values in times.items()}
    memory = {side: peak_memory(args, side) for side in ("ours", "plain")}
    result = {
        "what": f"training step, SDT-V3 {args.arch} {args.mixer} {args.layout}, {args.size}^2, batch {args.batch}, CPU",
        "threads": args.threads,
        "torch": torch.__version__,
        "machine": platform.machine(),
        "seconds": median,
        "speedup": median["plain"] / median["ours"],
        "peak_mib": memory,
        "memory_ratio": memory["ours"] / memory["plain"],
    }
    print(json.dumps(result, indent=1))
    if args.out:
        write(args.out, result)


if __name__ == "__main__":
    main()
