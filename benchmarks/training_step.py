"""Training step (forward and backward pass) of SDT-V3: ours against the straightforward implementation, each in turn.

    python benchmarks/training_step.py --threads 2 --out benchmarks/results/training_step_cpu.json
    python benchmarks/training_step.py --rows base,srb,512,2                                     # another model, size, batch
    python benchmarks/training_step.py --device cuda --out benchmarks/results/training_step_cuda.json

Plain is the model as PyTorch's users would write it (plain_sdtv3.py). Ours is measured as it is and with memory_efficient, and on
a GPU with bf16, torch.compile and CUDA graphs, too; each beside plain in float32, with which it takes turns. Before anything
is measured, features and input gradients of both are compared in float64: in float32 a spike that rounding flips
changes all behind it. Seconds are CPU time with `--threads 1`, else time of the wall; memory is that of tensors on a GPU, and
the resident set on a CPU.
"""

import copy
from functools import partial
from typing import NamedTuple

import torch
from plain_sdtv3 import PlainSDTV3, step
from saved import Results, begin, options
from timing import ratio, take_turns
from torch import Tensor, nn

from sterf_plugins.backbones import SDTV3


class Row(NamedTuple):
    """A model, and its images."""

    arch: str
    mixer: str
    size: int
    batch: int


def row(text: str) -> Row:
    """A row from "arch,mixer,size,batch"."""
    arch, mixer, size, batch = text.split(",")
    return Row(arch, mixer, int(size), int(batch))


class Way(NamedTuple):
    """One way to compute a training step."""

    dtype: torch.dtype | None = None  # of autocast, which is off if ``None``
    mode: str | None = None  # of torch.compile, which is left out if ``None``
    ours: bool = True  # our model, or else the plain implementation
    memory_efficient: bool = False  # of our model


PLAIN = Way(ours=False)
CPU = {"ours": Way(), "ours, memory_efficient": Way(memory_efficient=True)}
BF16 = torch.bfloat16
CUDA = {
    "ours, bf16 compiled": Way(BF16, "default"),
    **CPU,
    "ours, compiled": Way(mode="default"),
    "ours, bf16": Way(BF16),
    "ours, bf16, memory_efficient": Way(BF16, memory_efficient=True),
    "ours, bf16, CUDA graphs": Way(BF16, "reduce-overhead"),
    "plain, bf16": Way(BF16, ours=False),
}
CPU_ROWS = ("tiny,srb,224,8",)
CUDA_ROWS = ("base,srb,512,8", "tiny,srb,224,64", "base,conv,512,8", "tiny,conv,224,64", "base,mlpixer,512,8")


def work(way: Way, ours: SDTV3, images: Tensor, args):
    """The training step of one way."""
    model: nn.Module = copy.deepcopy(ours)
    model.memory_efficient = way.memory_efficient
    model = model if way.ours else PlainSDTV3(model)
    model = model.to(args.device).train()
    if way.mode:
        torch.compiler.reset()  # or else torch would not compile the ninth model of a kind
        model.compile(fullgraph=True, dynamic=False, mode=way.mode)

    def run() -> None:
        model.zero_grad(set_to_none=True)
        with torch.autocast(args.device, way.dtype, enabled=way.dtype is not None):
            step(model, images)

    return run


def check_equal(ours: SDTV3, images: Tensor) -> None:
    """Both sides give the same features and input gradients, or there is nothing to compare."""
    results = []
    for side in (ours, PlainSDTV3(ours)):
        model = copy.deepcopy(side).train().double()
        x = images[:2, :, :96, :96].double().requires_grad_()
        outputs = model(x)
        (grad,) = torch.autograd.grad(sum(y.square().sum() for y in outputs), x)
        results.append([*outputs, grad])
    for a, b in zip(*results, strict=True):
        error = ((a - b).norm() / b.norm()).item()
        if not error <= 1e-9:
            raise ValueError(f"the two sides differ by {error:.2e} relative; the comparison would be void")


def measure(row: Row, way: Way, args) -> dict:
    """Both sides of one way: seconds, memory, and how many times as fast as plain it is."""
    torch.manual_seed(0)
    ours = SDTV3(row.arch, row.mixer, layout=args.layout)
    images = torch.randn(row.batch, 3, row.size, row.size)
    if way == Way():
        check_equal(ours, images)
    images = images.to(args.device)
    sides = {"plain": work(PLAIN, ours, images, args), "this": work(way, ours, images, args)}
    found = take_turns(sides, args.repeats, args.device)
    plain, this = found["plain"], found["this"]
    return this | dict(
        plain=plain,
        speedup=ratio(plain["seconds"], this["seconds"]),
        memory_ratio=ratio(this["peak_mib"], plain["peak_mib"]),
        images_per_second=row.batch / this["seconds"],
    )


def main() -> None:
    p = options(__doc__, repeats=7)
    p.add_argument("--rows", nargs="+", metavar="ARCH,MIXER,SIZE,BATCH", help="models and images")
    p.add_argument("--layout", default="raster")
    args = begin(p)
    rows, ways = (CUDA_ROWS, CUDA) if args.device == "cuda" else (CPU_ROWS, CPU)
    rows = ("nano,srb,32,2",) if args.tiny else args.rows or rows
    results = Results.of(args, layout=args.layout)
    for text in rows:
        for name, way in ways.items():
            results.once(partial(measure, row(text), way, args), text, name)


if __name__ == "__main__":
    main()
