"""What a forward pass and a training step of SDT-V3 cost at least on this machine, and what they cost.

Counts operations (torch.utils.flop_counter, multiply and add are two; a step has three products of the forward's size
per layer, but for the first one, whose images need no gradient) and the bytes that separate passes have to move
(each convolution, linear, norm and spike layer reads its inputs and writes its outputs once per pass), measures the
machine's matrix product and copy, and times the model. The floor is the larger of operations / peak and
bytes / bandwidth; the sum of both is what passes that do not overlap would take.

    python benchmarks/floor.py --archs tiny base --sizes 224 512
"""

import argparse
import json
import platform
import statistics
import sys
import time
from pathlib import Path

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from sterf_plugins.backbones import SDTV3
from sterf_plugins.neurons import IntegerSpike

# reads and writes of whole tensors, forward and backward: (of the input, of the output)
PASSES = {
    "conv": ((1, 1), (2, 2)),  # backward: gradient of the input and of the weight
    "norm": ((2, 1), (2, 3)),  # statistics and values; two sums and values
    "spike": ((1, 1), (2, 1)),
}


def kind_of(module: nn.Module) -> str | None:
    if isinstance(module, (nn.Conv2d, nn.Linear)):
        return "conv"
    if isinstance(module, nn.modules.batchnorm._BatchNorm):
        return "norm"
    return "spike" if isinstance(module, IntegerSpike) else None


def count(model: nn.Module, x: torch.Tensor) -> dict:
    """Operations and bytes of a forward pass and of a training step."""
    moved = {"forward": 0, "step": 0}

    def note(module, inputs, output):
        forward, backward = PASSES[kind_of(module)]
        sizes = [t.numel() * t.element_size() for t in (inputs[0], output)]
        moved["forward"] += sum(n * s for n, s in zip(forward, sizes, strict=True))
        moved["step"] += sum(n * s for p in (forward, backward) for n, s in zip(p, sizes, strict=True))

    handles = [m.register_forward_hook(note) for m in model.modules() if kind_of(m)]
    with FlopCounterMode(display=False) as forward, torch.no_grad():
        model(x)
    for handle in handles:
        handle.remove()
    with FlopCounterMode(display=False) as stem, torch.no_grad():
        model.stages[0].downsample(x)
    # the counter's own figure of a backward pass takes depthwise convolutions for dense ones
    total = forward.get_total_flops()
    return dict(
        gflop={"forward": total / 1e9, "step": (3 * total - stem.get_total_flops()) / 1e9},
        gbyte={k: v / 1e9 for k, v in moved.items()},
    )


def median(function, repeats: int) -> float:
    function()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def machine(repeats: int) -> dict:
    """GFLOP/s of a matrix product, GB/s of a copy (bytes read and written)."""
    a, b = torch.randn(2, 2048, 2048)
    source = torch.randn(64 * 2**20)
    target = torch.empty_like(source)
    return dict(
        gflops=2 * 2048**3 / median(lambda: a @ b, repeats) / 1e9,
        gbytes=2 * 4 * source.numel() / median(lambda: target.copy_(source), repeats) / 1e9,
    )


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--archs", nargs="+", default=["tiny", "base"])
    p.add_argument("--mixer", default="srb")
    p.add_argument("--sizes", type=int, nargs="+", default=[224, 512])
    p.add_argument("--pixels", type=int, default=8 * 224 * 224, help="of a batch; the batch follows from the size")
    p.add_argument("--threads", type=int, default=torch.get_num_threads())
    p.add_argument("--repeats", type=int, default=5)
    p.add_argument("--out", type=Path, help="write the figures as JSON")
    args = p.parse_args()
    torch.set_num_threads(args.threads)
    limits = machine(args.repeats)
    print(f"product {limits['gflops']:.0f} GFLOP/s, copy {limits['gbytes']:.1f} GB/s, {args.threads} thread(s)")
    rows = []
    for arch in args.archs:
        for size in args.sizes:
            torch.manual_seed(0)
            batch = max(1, round(args.pixels / size**2))
            model, x = SDTV3(arch, args.mixer).train(), torch.randn(batch, 3, size, size)
            found = count(model, x)

            def forward(model=model, x=x):
                with torch.no_grad():
                    model(x)

            def step(model=model, x=x):
                sum(y.square().mean() for y in model(x)).backward()

            for name, function in (("forward", forward), ("step", step)):
                compute, memory = found["gflop"][name] / limits["gflops"], found["gbyte"][name] / limits["gbytes"]
                seconds = median(function, args.repeats)
                rows.append(
                    dict(
                        arch=arch, size=size, batch=batch, what=name, gflop=found["gflop"][name],
                        gbyte=found["gbyte"][name], compute=compute, memory=memory, seconds=seconds,
                        per_pixel=seconds / batch / size**2,
                    )
                )  # fmt: skip
                print(
                    f"{arch:6s} {size:4d}^2 batch {batch:2d} {name:8s} {found['gflop'][name]:7.1f} GFLOP {compute:6.3f} s"
                    f"  {found['gbyte'][name]:6.2f} GB {memory:6.3f} s  measured {seconds:6.3f} s"
                    f"  = {seconds / max(compute, memory):.2f} x floor, {seconds / (compute + memory):.2f} x sum",
                    flush=True,
                )
    result = dict(threads=args.threads, torch=torch.__version__, machine=platform.machine(), limits=limits, rows=rows)
    if args.out:
        args.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    sys.exit(main())
