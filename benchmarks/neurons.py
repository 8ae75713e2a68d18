"""A linear layer or a convolution with LIF neurons behind it, over many time steps: our nodes beside other libraries'.

The form of Open Neuromorphic's comparison of frameworks: a linear layer and LIF neurons, batch 16, T = 500, several widths,
forward and backward pass timed apart; and the same with a 3x3 convolution on maps. All sides have the same weights and the
same neuron (tau = 2, threshold 1, hard reset to 0), each with its library's surrogate function; how many of their spikes
differ from SpikingJelly's is recorded. "no neuron" is the layer alone, which no neuron gets around. SpikingJelly's LIFNode
has an operator of its own for whole sequences; on a GPU it chooses between CUDA and Triton, and ours is the same there.

    python benchmarks/neurons.py --threads 1 --out benchmarks/results/neurons_cpu.json        # the extras norse, and snntorch
    python benchmarks/neurons.py --device cuda --out benchmarks/results/neurons_cuda.json     # larger widths

Seconds are CPU time with `--threads 1`, else time of the wall; medians of runs that take turns, with lowest and highest.
"""

import warnings
from collections.abc import Callable
from functools import partial

import torch
from saved import Results, begin, options, versions
from spikingjelly.activation_based import neuron
from timing import now, peak_mib, ratio, spread
from torch import Tensor, nn

from sterf_plugins.layers import lif_node

LIBRARIES = ("norse", "snntorch", "triton")
Node = Callable[[Tensor], Tensor]  # currents (T, B, ...) -> spikes (T, B, ...)


def spikingjelly(plain: bool) -> Node:
    """SpikingJelly's node, with its operator for whole sequences or as plain PyTorch."""
    make = neuron.SimpleLIFNode if plain else neuron.LIFNode
    node = make(tau=2.0, decay_input=True, detach_reset=True, step_mode="m")

    def run(x: Tensor) -> Tensor:
        node.reset()
        return node(x)

    return run


def norse(device: str) -> Node:
    """Norse's cell without a synaptic current, step by step."""
    from norse.torch import LIFBoxCell, LIFBoxParameters

    cell = LIFBoxCell(LIFBoxParameters(tau_mem_inv=torch.as_tensor(500.0)), dt=1e-3).to(device)  # 1 / (500 dt) = tau

    def run(x: Tensor) -> Tensor:
        state, spikes = None, []
        for current in x:
            s, state = cell(current, state)
            spikes.append(s)
        return torch.stack(spikes)

    return run


def snntorch(device: str) -> Node:
    """SnnTorch's neuron, step by step; it does not divide currents by tau."""
    import snntorch

    node = snntorch.Leaky(beta=0.5, reset_mechanism="zero", reset_delay=False).to(device)

    def run(x: Tensor) -> Tensor:
        potential, spikes = node.init_leaky(), []
        for current in x / 2:
            s, potential = node(current, potential)
            spikes.append(s)
        return torch.stack(spikes)

    return run


def nodes(device: str) -> dict[str, Callable[[], Node]]:
    """Side -> function that makes its neuron."""
    return {
        "no neuron": lambda: lambda x: x,
        "ours": lambda: lif_node(tau=2.0, detach_reset=True),
        "SpikingJelly": partial(spikingjelly, plain=False),
        "SpikingJelly, plain PyTorch": partial(spikingjelly, plain=True),
        "norse": partial(norse, device),
        "snnTorch": partial(snntorch, device),
    }


class OverTime(nn.Module):
    """A layer that sees all time steps as one batch: (T, B, ...) -> (T, B, ...)."""

    def __init__(self, layer: nn.Module):
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x.flatten(0, 1)).unflatten(0, x.shape[:2])


def compare(layer: nn.Module, x: Tensor, device: str, repeats: int) -> dict[str, dict]:
    """Forward and backward seconds, and peak memory of both, of each side, with ratios to ours."""
    layer, x = OverTime(layer).to(device), x.to(device)
    sides: dict[str, Node] = {}
    found: dict[str, dict] = {}
    for name, make in nodes(device).items():
        try:
            sides[name] = make()
        except ImportError as error:
            found[name] = dict(not_installed=str(error))
    times = {name: ([], []) for name in sides}

    def step(node: Node) -> tuple[float, float]:
        layer.zero_grad(set_to_none=True)
        start = now(device)
        y = node(layer(x))
        middle = now(device)
        y.sum().backward()
        return middle - start, now(device) - middle

    for repeat in range(repeats + 1):
        for name, node in sides.items():
            for kept, spent in zip(times[name], step(node), strict=True):
                if repeat:
                    kept.append(spent)
    with torch.no_grad():
        expected = sides["SpikingJelly"](layer(x))
        for name, node in sides.items():
            forward, backward = times[name]
            total = spread([f + b for f, b in zip(forward, backward, strict=True)])
            found[name] = dict(forward=spread(forward), backward=spread(backward), step=total)
            if name != "no neuron":
                found[name]["other_spikes"] = (node(layer(x)) != expected).double().mean().item()
    for name, node in sides.items():
        found[name]["peak_mib"] = peak_mib(lambda node=node: step(node), device)
    ours = found["ours"]
    for name in sides:
        side = found[name]
        side["time_over_ours"] = ratio(side["step"]["seconds"], ours["step"]["seconds"])
        side["memory_over_ours"] = ratio(side["peak_mib"], ours["peak_mib"])
    return found


def main() -> None:
    args = begin(options(__doc__, repeats=5, threads=1))
    warnings.simplefilter("ignore")
    T, batch = (20, 2) if args.tiny else (500, 16)
    widths, maps = ((4096, 8192, 16384), (32, 32, 100)) if args.device == "cuda" else ((256, 512, 1024), (16, 16, 50))
    if args.tiny:
        widths, maps = (32,), (4, 8, 10)
    results = Results.of(args, **versions(*LIBRARIES))
    torch.manual_seed(0)
    for width in widths:
        run = partial(compare, nn.Linear(width, width), 4 * torch.rand(T, batch, width), args.device, args.repeats)
        results.once(run, f"linear, {width} neurons, T={T}, batch {batch}")
    channels, side, T = maps
    conv, x = nn.Conv2d(channels, channels, 3, padding=1), 4 * torch.rand(T, batch, channels, side, side)
    run = partial(compare, conv, x, args.device, args.repeats)
    results.once(run, f"convolution, {channels} maps of {side}x{side}, T={T}, batch {batch}")


if __name__ == "__main__":
    main()
