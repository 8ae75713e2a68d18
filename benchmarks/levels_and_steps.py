"""Does one network train faster with D = 4 integer levels than with T = 4 time steps of LIF neurons, and how much?

The same layers and weights, a training step each: with integer spikes of D = 4 levels; with LIF neurons that run for T = 4
steps (SpikingJelly's, which on a GPU chooses between CUDA and Triton; in plain PyTorch; and ours, whose backward pass on a
CPU is a closed form); and with binary spikes in one step, which is what a step costs at least. Two networks: SDT-V3, which
was made for D, and Meta-SDT (SDT-V2), which was made for T. With T, images are held, and layers see T*B images.

    python benchmarks/levels_and_steps.py --threads 1 --out benchmarks/results/levels_and_steps_cpu.json
    python benchmarks/levels_and_steps.py --device cuda --out benchmarks/results/levels_and_steps_cuda.json

Seconds are CPU time with `--threads 1`, else time of the wall; medians of runs that take turns, with lowest and highest.
"""

from collections.abc import Callable
from functools import partial

import timm
import torch
from saved import Results, begin, options
from spikingjelly.activation_based import neuron
from timing import ratios, take_turns
from torch import Tensor, nn
from torch.nn import functional as F

import sterf_plugins.timm  # noqa: F401  (registers the models)
from sterf_plugins.layers import IntegerSpike, StatelessNode, lif_node
from sterf_plugins.layers.merged_time import MergedTimeNeuron

T = D = 4
KINDS = ("SpikingJelly", "plain PyTorch", "ours")  # of LIF neurons; the second is SpikingJelly's SimpleLIFNode


def lif(kind: str) -> StatelessNode:
    """A LIF neuron of one of the kinds in ``KINDS``."""
    if kind == "ours":
        return lif_node(tau=2.0, detach_reset=True)
    make = neuron.SimpleLIFNode if kind == "plain PyTorch" else neuron.LIFNode
    return StatelessNode(make(tau=2.0, decay_input=True, detach_reset=True, step_mode="m"))


class Held(nn.Module):
    """A network of images over T steps, all in one batch: (B, C, H, W) -> logits (B, classes), the mean over the steps."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x.repeat(T, 1, 1, 1)).unflatten(0, (T, -1)).mean(0)


def with_neurons(model: nn.Module, make: Callable[[], nn.Module]) -> nn.Module:
    """The model with a new neuron in the place of each of its own."""
    for name, child in list(model.named_modules()):
        if isinstance(child, IntegerSpike | StatelessNode):
            model.set_submodule(name, make())
    return model


def network(name: str, levels: int | None, kind: str) -> nn.Module:
    """One side: integer spikes of so many levels in one step, or (``None``) LIF neurons of a kind in T steps."""
    torch.manual_seed(0)
    timed = not name.startswith("sdtv3")  # made for time steps
    model = timm.create_model(name, num_classes=100, **(dict(T=1 if levels else T) if timed else {}))
    if levels:
        return with_neurons(model, lambda: IntegerSpike(levels))
    if timed:
        return with_neurons(model, lambda: lif(kind))
    return Held(with_neurons(model, lambda: MergedTimeNeuron(lif(kind), T)))


def step(model: nn.Module, images: Tensor) -> None:
    """Forward and backward pass."""
    model.zero_grad(set_to_none=True)
    F.cross_entropy(model(images), torch.arange(len(images), device=images.device)).backward()


def compare(name: str, batch: int, size: int, args) -> dict[str, dict]:
    """Seconds and memory of each side, with ratios to D = 4."""
    sides = {f"D={D}": (D, ""), **{f"T={T}, {kind}": (None, kind) for kind in KINDS}, "D=1": (1, "")}
    images = torch.randn(batch, 3, size, size, device=args.device)
    models = {side: network(name, *neurons).to(args.device).train() for side, neurons in sides.items()}
    works = {side: partial(step, model, images) for side, model in models.items()}
    found = take_turns(works, args.repeats, args.device)
    ratios(found, f"D={D}")
    return found


def main() -> None:
    args = begin(options(__doc__, repeats=5, threads=1))
    batch, size = (32, 224) if args.device == "cuda" else (4, 160)
    rows = ["sdtv3_tiny", "meta_sdt_15m"]
    if args.device == "cuda":
        rows.append("sdtv3_base")
    if args.tiny:
        batch, size, rows = 1, 32, ["sdtv3_nano"]
    results = Results.of(args, batch=batch, size=size)
    for name in rows:
        results.once(partial(compare, name, batch, size, args), name)


if __name__ == "__main__":
    main()
