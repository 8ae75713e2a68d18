"""A training step of our Spikformer with less memory: ``memory_efficient`` against SpikingJelly's ``memopt``, on a CPU.

Both compute parts of the forward pass a second time in the backward pass. Ours keeps the results of convolutions and
matrix products and repeats the rest. ``memopt.optimize_memory(level=1)`` repeats whole modules and packs their inputs
to bits where these are zeros and ones; its levels 2 to 4 search by measuring CUDA's memory, so they need a GPU. The
sides take turns in one process, and the peak memory of each is measured in a process of its own.

    python benchmarks/memopt.py --size 128 --batch 4 --threads 2
"""

import argparse
import copy
import json
import subprocess
import sys
import time
from pathlib import Path
from statistics import median

import timm
import torch
from saved import facts, write
from spikingjelly.activation_based.memopt import optimize_memory
from torch.nn.functional import cross_entropy
from training_step import peak_growth

import sterf_plugins.timm  # noqa: F401  (registers the models)
from sterf_plugins.layers.lif_layers import SpikingBlock, SpikingConv

# The modules that memopt repeats: convolution, norm and neuron each, or whole transformer blocks.
TARGETS = {"memopt, layers": SpikingConv, "memopt, blocks": SpikingBlock}
SIDES = ("ours", "memory_efficient", *TARGETS)


def build(side: str, model: torch.nn.Module, images: torch.Tensor) -> torch.nn.Module:
    """A copy of the model that computes its training step in the way of this side."""
    model = copy.deepcopy(model)
    model.memory_efficient = side == "memory_efficient"
    if side in TARGETS:
        # It looks at the layers' inputs in a pass of its own. That pass is a small one, because the free blocks that a
        # large one leaves behind would hide the peak.
        optimize_memory(model, TARGETS[side], lambda m: m(images[:2, :, :64, :64]), level=1)
    return model


def step(model: torch.nn.Module, images: torch.Tensor) -> torch.Tensor:
    """Run forward and backward pass; all gradients in one vector."""
    model.zero_grad(set_to_none=True)
    cross_entropy(model(images), torch.arange(len(images))).backward()
    return torch.cat([p.grad.flatten() for p in model.parameters()])


def differences(model: torch.nn.Module, images: torch.Tensor) -> dict[str, float]:
    """Relative distance of each side's gradients from ours, in float64: in float32 rounding may flip spikes."""
    model, images = copy.deepcopy(model).double(), images.double()
    exact, *others = (step(build(side, model, images), images) for side in SIDES)
    return {side: float((g - exact).norm() / exact.norm()) for side, g in zip(SIDES[1:], others, strict=True)}


def peak_mib(args: argparse.Namespace, side: str) -> float:
    """Growth of the peak resident set over one step, measured in a fresh process."""
    command = [sys.executable, __file__, "--only-memory", side, "--model", args.model]
    for name in ("depth", "size", "batch", "threads"):
        command += [f"--{name}", str(getattr(args, name))]
    return float(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()[-1])


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--model", default="spikformer_8_384")
    p.add_argument("--depth", type=int, default=8, help="number of transformer blocks")
    p.add_argument("--size", type=int, default=128)
    p.add_argument("--batch", type=int, default=4)
    p.add_argument("--repeats", type=int, default=5)
    p.add_argument("--threads", type=int, default=torch.get_num_threads())
    p.add_argument("--out", type=Path, help="write the figures as JSON")
    p.add_argument("--only-memory", choices=SIDES, help=argparse.SUPPRESS)
    args = p.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    model = timm.create_model(args.model, depth=args.depth).train()
    images = torch.randn(args.batch, 3, args.size, args.size)
    if args.only_memory:
        model = build(args.only_memory, model, images)
        step(model, images[:2, :, :64, :64])  # The caches of the allocator and of the kernels are not part of the step.
        print(peak_growth(lambda: step(model, images)))
        return
    models = {side: build(side, model, images) for side in SIDES}
    times: dict[str, list[float]] = {side: [] for side in SIDES}
    for i in range(args.repeats + 1):
        for side, m in models.items():
            start = time.perf_counter()
            step(m, images)
            if i:  # The first round is a warm-up.
                times[side].append(time.perf_counter() - start)
    sides = {side: dict(seconds=median(times[side]), peak_mib=peak_mib(args, side)) for side in SIDES}
    ours = sides["ours"]
    for side, error in differences(model, images[:2, :, :64, :64]).items():
        seconds, mib = sides[side]["seconds"], sides[side]["peak_mib"]
        sides[side] |= dict(time=seconds / ours["seconds"], memory=mib / ours["peak_mib"], gradients_differ_by=error)
    what = (
        f"training step, {args.model}, depth {args.depth}, {args.size}^2, batch {args.batch}; time and memory over ours"
    )
    result = dict(facts("cpu", threads=args.threads), what=what, sides=sides)
    print(json.dumps(result, indent=1))
    if args.out:
        write(args.out, result)


if __name__ == "__main__":
    main()
