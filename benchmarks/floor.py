"""What a forward pass and a training step of SDT-V3 cost at least on this machine, what they cost, and where it goes.

Counts operations (torch.utils.flop_counter, multiply and add are two; a step has three products of the forward's size
per layer, but for the first one, whose images need no gradient) and the bytes that separate passes have to move
(each convolution, linear, norm and spike layer reads its inputs and writes its outputs once per pass), measures the
machine's matrix product and copy, and times the model. The floor is the larger of operations / peak and
bytes / bandwidth; the sum of both is what passes that do not overlap would take. The profile is PyTorch's: the share of
each kind of operation, in time of the CPU or of the GPU's kernels.

    python benchmarks/floor.py --archs tiny base --sizes 224 512
"""

import statistics
from functools import partial

import torch
from saved import Results, begin, options
from timing import seconds
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from sterf_plugins.backbones import SDTV3
from sterf_plugins.layers import IntegerSpike

# Kind of layer -> for the forward and the backward pass, how often they read or write a tensor of the size of (the
# input, the output).
PASSES = {
    "conv": ((1, 1), (2, 2)),  # backward: gradient of the input and of the weight
    "norm": ((2, 1), (2, 3)),  # statistics and values; two sums and values
    "spike": ((1, 1), (2, 1)),
}


def kind_of(module: nn.Module) -> str | None:
    """Key of ``PASSES`` for a layer, or ``None`` if its passes are not counted."""
    if isinstance(module, (nn.Conv2d, nn.Linear)):
        return "conv"
    if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)):
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


def median(function, repeats: int, device: str) -> float:
    """Median seconds of ``function()`` after one warm-up call."""
    function()
    return statistics.median(seconds(function, device) for _ in range(repeats))


def machine(args) -> dict:
    """GFLOP/s of a matrix product in float32 (and on a GPU in bfloat16), GB/s of a copy (bytes read and written)."""
    repeats, device = args.repeats, args.device
    n, words = (8192, 2**28) if device == "cuda" else (256, 2**16) if args.tiny else (2048, 2**26)
    a, b = torch.randn(2, n, n, device=device)
    source = torch.randn(words, device=device)
    target = torch.empty_like(source)
    rates = dict(
        gflops=2 * n**3 / median(lambda: a @ b, repeats, device) / 1e9,
        gbytes=2 * 4 * words / median(lambda: target.copy_(source), repeats, device) / 1e9,
    )
    if device == "cuda":
        a, b = a.bfloat16(), b.bfloat16()
        rates["gflops_bf16"] = 2 * n**3 / median(lambda: a @ b, repeats, device) / 1e9
    return rates


# kind -> parts of its operations' names; an operation belongs to the first kind that fits
KINDS = {
    "convolutions, backward": ("convolution_backward",),
    "convolutions, forward": ("conv",),
    "norms": ("batch_norm",),
    "spikes": ("clamp", "round", "hardtanh", "div_", "IntegerFire"),
    "products": ("mm", "linear"),
    "sums": ("add",),
    "copies": ("copy_", "cat"),
}


def profile(function, device: str) -> dict:
    """Share of each kind of operation in the time of one call."""
    activities = [torch.profiler.ProfilerActivity.CPU]
    if device == "cuda":
        activities.append(torch.profiler.ProfilerActivity.CUDA)
    with torch.profiler.profile(activities=activities, acc_events=True) as trace:
        function()
        if device == "cuda":
            torch.cuda.synchronize()
    spent = dict.fromkeys((*KINDS, "others"), 0.0)
    for event in trace.key_averages():
        if event.device_type != torch.autograd.DeviceType.CPU:
            continue  # the time of a kernel is counted with the operation that launched it
        own = event.self_device_time_total if device == "cuda" else event.self_cpu_time_total
        kind = next((k for k, parts in KINDS.items() if any(part in event.key for part in parts)), "others")
        spent[kind] += own
    total = sum(spent.values()) or 1.0
    return {kind: own / total for kind, own in spent.items()}


def rows(arch: str, size: int, limits: dict, args) -> dict:
    """The forward pass and the step of one model and size."""
    torch.manual_seed(0)
    batch = max(1, round(args.pixels / size**2))
    model = SDTV3(arch, args.mixer).to(args.device).train()
    x = torch.randn(batch, 3, size, size, device=args.device)
    counts = count(model, x)

    def forward():
        with torch.no_grad():
            model(x)

    def step():
        model.zero_grad(set_to_none=True)
        sum(y.square().mean() for y in model(x)).backward()

    found = dict(batch=batch)
    for name, function in (("forward", forward), ("step", step)):
        found[name] = measure(name, function, counts, limits, args)
        found[name]["per_pixel"] = found[name]["seconds"] / batch / size**2
    return found


def main() -> None:
    p = options(__doc__, repeats=5)
    p.add_argument("--archs", nargs="+", default=["tiny", "base"])
    p.add_argument("--mixer", default="srb")
    p.add_argument("--sizes", type=int, nargs="+", default=[224, 512])
    p.add_argument(
        "--pixels", type=int, help="pixels of a batch, by default 8 of 224x224, on a GPU 64; sets each batch"
    )
    args = begin(p)
    args.pixels = args.pixels or (64 if args.device == "cuda" else 8) * 224 * 224
    if args.tiny:
        args.archs, args.sizes, args.pixels = ["nano"], [32], 2048
    results = Results.of(args, mixer=args.mixer, pixels=args.pixels)
    results.once(lambda: machine(args), "limits")
    for arch in args.archs:
        for size in args.sizes:
            results.once(partial(rows, arch, size, results.values["limits"], args), "rows", f"{arch}, {size}")


def measure(name: str, function, counts: dict, limits: dict, args) -> dict:
    """One row: operations and bytes, the least seconds for each, the measured seconds, how many times the floor, the profile."""
    gflop, gbyte = counts["gflop"][name], counts["gbyte"][name]
    compute, memory = gflop / limits["gflops"], gbyte / limits["gbytes"]
    measured = median(function, args.repeats, args.device)
    return dict(
        gflop=gflop,
        gbyte=gbyte,
        compute=compute,
        memory=memory,
        seconds=measured,
        over_floor=measured / max(compute, memory),
        over_sum=measured / (compute + memory),
        profile=profile(function, args.device),
    )


if __name__ == "__main__":
    main()
