"""Covariant stems against nn.Conv2d, norse 1.1.0 and SpikingJelly: the goals G1 to G10, both sides in one process.

    python benchmarks/stems.py --out benchmarks/results/stems_cpu.json      # needs the extra `norse`
    python benchmarks/stems.py --device cuda --out benchmarks/results/stems_cuda.json

Each number is a ratio of medians of calls that alternate between the sides; above 1 means ours is the faster one,
except G1 and G2, which are ours / nn.Conv2d.
"""

import copy
import math
import statistics
import warnings
from functools import partial

import torch
from saved import Results, begin, options
from spikingjelly.activation_based import neuron
from timing import in_turn
from torch import nn

from sterf_plugins.stems import CovariantRFConv2d, CovariantSTStem, RFBank, TemporalRF

warnings.simplefilter("ignore")
LEARN = ("sigma", "ratio", "angle")


def medians(device, repeats, *calls):
    """Median seconds of the calls, taken in turn after a warm-up."""
    times = in_turn(dict(enumerate(calls)), repeats, device)
    return [statistics.median(kept) for kept in times.values()]


def step(module, x):
    """A call that goes forward and backward through ``module(x)``; the input needs a gradient too."""
    x = x.clone().requires_grad_()

    def call():
        y = module(x)
        y = y[0] if isinstance(y, tuple) else y
        y.backward(torch.ones_like(y))
        x.grad = None
        for p in module.parameters():
            p.grad = None

    return call


def forward(module, x):
    """A call that goes forward through ``module(x)`` without gradients."""

    def call():
        with torch.no_grad():
            return module(x)

    return call


def fields_of(n):
    """Arguments of our bank of ``n`` kernels, and norse's rows (scale, angle, ratio, derivatives) of as many."""
    derivatives = [(0, 0), (1, 0), (0, 1), (1, 1)]
    count = n // 4
    sizes = [1.0 + 0.15 * i for i in range(count // 12)]
    bank = dict(sigmas=sizes, ratios=(1.2, 1.5, 2.0), n_angles=4, orders=derivatives)
    rows = [
        (s * s, k * math.pi / 4, r**0.5, dx, dy)
        for s in sizes
        for r in bank["ratios"]
        for k in range(4)
        for dx, dy in derivatives
    ]
    return bank, torch.tensor(rows)


def space(args):
    """G1 to G4: the convolution by receptive fields, frozen and learned."""
    device, repeats = args.device, args.repeats
    from norse.torch import SpatialReceptiveField2d

    results = {}
    bank, rows = fields_of(48 if args.tiny else 192)
    cases = {
        "k=13, (4,2,64,64) -> 32": (13, 2, 32, 1, torch.randn(4, 2, 64, 64)),
        "k=7, (4,3,112,112) -> 64, s2": (7, 3, 64, 2, torch.randn(4, 3, 112, 112)),
        "k=11, (4,3,112,112) -> 64, s2": (11, 3, 64, 2, torch.randn(4, 3, 112, 112)),
    }
    for name, (size, channels, out, stride, x) in list(cases.items())[: 1 if args.tiny else None]:
        x = x.to(device)
        plain = nn.Conv2d(channels, out, size, stride, size // 2, bias=False).to(device)
        frozen = CovariantRFConv2d(channels, out, RFBank(**bank, kernel_size=size), stride).to(device).eval()
        learned = CovariantRFConv2d(channels, out, RFBank(**bank, kernel_size=size, learn=LEARN), stride).to(device)

        def norse(optimize, size=size, channels=channels, out=out, stride=stride):
            field = SpatialReceptiveField2d(
                channels, size, rows, aggregate=True, optimize_fields=optimize, stride=stride, padding=size // 2
            )
            return nn.Sequential(field, nn.Conv2d(len(rows), out, 1, bias=False)).to(device)

        theirs, theirs_frozen = norse(True), norse(False)

        def norse_step(theirs=theirs, x=x):
            with torch.no_grad():  # as an optimiser does; without a change norse cannot go backward a second time
                theirs[0].rf_parameters.add_(1e-6)
            theirs[0].has_updated = True
            leaf = x.clone().requires_grad_()
            y = theirs(leaf)
            y.backward(torch.ones_like(y))
            theirs.zero_grad()

        p, f, n = medians(device, repeats, forward(plain, x), forward(frozen, x), forward(theirs_frozen, x))
        pt, lt, nt = medians(device, max(3, repeats // 3), step(plain, x), step(learned, x), norse_step)
        results[name] = {
            "G1 folded forward / Conv2d": f / p,
            "G2 learnable step / Conv2d": lt / pt,
            "G3 norse learnable step / ours": nt / lt,
            "G4 norse frozen forward / ours": n / f,
        }
    return results


def building(args):
    """G5: the computation of the kernels from their parameters."""
    device, repeats = args.device, args.repeats
    from norse.torch.functional.receptive_field import spatial_receptive_fields_with_derivatives

    bank, rows = fields_of(192)
    ours = RFBank(**bank, kernel_size=13, learn=LEARN).to(device)
    with torch.no_grad():
        theirs, mine = medians(
            device,
            repeats,
            lambda: spatial_receptive_fields_with_derivatives(rows.to(device), 13, domain=8),
            ours.kernels,
        )
    return {"G5 kernel build, N=192, k=13, norse / ours": theirs / mine, "ours, ms": mine * 1e3}


def time_fields(args):
    """G6 and G7: temporal fields, a sequence at once against norse's loop over its steps."""
    device, repeats = args.device, args.repeats
    from norse.torch import TemporalReceptiveField

    rows, forwards, steps = {}, [], []
    for shape in ((2, 8, 8, 8),) if args.tiny else ((2, 8, 32, 32), (2, 8, 11, 11), (2, 8, 8, 8)):
        for length in (4,) if args.tiny else (16, 64, 128):
            x = torch.randn(length, *shape, device=device)
            theirs = TemporalReceptiveField(shape[1:], n_scales=4, min_scale=4).to(device)
            mine = TemporalRF((2.0, 4.0, 8.0, 16.0), method="euler").to(device)

            def loop(sequence, theirs=theirs):
                state, outputs = None, []
                for frame in sequence:
                    y, state = theirs(frame, state)
                    outputs.append(y)
                return torch.stack(outputs)

            def loop_step(x=x, theirs=theirs, loop=loop):
                leaf = x.clone().requires_grad_()
                y = loop(leaf)
                y.backward(torch.ones_like(y))

            with torch.no_grad():
                a, b = medians(device, repeats, lambda x=x, loop=loop: loop(x), lambda x=x, mine=mine: mine(x))
            c, d = medians(device, repeats, loop_step, step(mine, x))
            rows[f"T={length}, {math.prod(shape)} values per step"] = {"forward": a / b, "step": c / d}
            forwards.append(a / b)
            steps.append(c / d)
    return {
        "G6 norse loop forward / ours": {"least": min(forwards), "geometric mean": statistics.geometric_mean(forwards)},
        "G7 norse loop step / ours": {"least": min(steps), "geometric mean": statistics.geometric_mean(steps)},
        "each": rows,
    }


def last_step(args):
    """G8: only the last step is asked for; time before space against space before time."""
    device, repeats = args.device, args.repeats
    x = torch.randn(4 if args.tiny else 64, 2, 2, 64, 64, device=device)
    bank = RFBank.for_kernel_size(13)
    first = CovariantSTStem(2, 16, bank, TemporalRF((2.0, 8.0), combine="last"), norm=None, act=None).to(device).eval()
    stacked = copy.deepcopy(first)

    def space_first(x):
        return stacked.time(stacked.space(x))[0]

    a, b = medians(device, repeats, forward(space_first, x), forward(first, x))
    return {"G8 space-first / time-first, T=64": a / b}


def lif(args):
    """G9: a training step of spiking temporal fields against SpikingJelly's neuron."""
    device, repeats = args.device, args.repeats
    rows = {}
    for shape in ((2, 8, 8, 8),) if args.tiny else ((2, 8, 32, 32), (2, 8, 8, 8)):
        for length in (4,) if args.tiny else (16, 64):
            x = torch.randn(length, *shape, device=device)
            mine = TemporalRF((4.0,), "lif", method="euler").to(device)
            theirs = neuron.ParametricLIFNode(init_tau=4.0, step_mode="m").to(device)

            def stateless(x, theirs=theirs):
                theirs.reset()
                return theirs(x)

            stateless.parameters = theirs.parameters
            a, b = medians(device, repeats, step(stateless, x), step(mine, x))
            rows[f"T={length}, {math.prod(shape)} values per step"] = a / b
    return {"G9 SpikingJelly step / ours": {"least": min(rows.values()), "each": rows}}


def graphs(args):
    """G10: whether one stem compiles to one graph for images and for sequences."""
    module = CovariantSTStem(3, 8, RFBank.for_kernel_size(7, learn=LEARN), static_T=3, stride=2).to(args.device)
    passed = []
    for x in (torch.randn(2, 3, 32, 32, device=args.device), torch.randn(3, 2, 3, 32, 32, device=args.device)):
        torch.compiler.reset()
        compiled = torch.compile(module, fullgraph=True, backend="aot_eager")
        y, _ = compiled(x)
        y.sum().backward()
        passed.append(bool(torch.isfinite(y).all()))
    return {"G10 fullgraph compile, images and sequences": all(passed)}


PARTS = dict(space=space, building=building, time=time_fields, last=last_step, lif=lif)


def main():
    args = begin(options(__doc__, repeats=15, threads=1))  # the goals are for one thread
    torch.manual_seed(0)
    results = Results.of(args)
    for name, part in PARTS.items():
        results.once(partial(part, args), name)
    if not args.tiny:
        results.once(partial(graphs, args), "compile")


if __name__ == "__main__":
    main()
