"""A training step with less memory: ours, ``memory_efficient``, gradient checkpointing, and SpikingJelly's ``memopt``.

All of them compute parts of the forward pass a second time in the backward pass. ``memory_efficient`` keeps the results of
convolutions and matrix products and repeats the rest; ``grad_checkpointing`` keeps the input of each stage. SpikingJelly's
``memopt.optimize_memory(level=1)`` repeats whole modules and packs their inputs to bits where these are zeros and ones;
its levels 2 to 4 search by measuring CUDA's memory, and the highest is tried on a GPU. The sides take turns in one process.

    python benchmarks/memopt.py --threads 1 --repeats 3 --out benchmarks/results/memopt_cpu.json
    python benchmarks/memopt.py --device cuda --size 224 --batch 32 --out benchmarks/results/memopt_cuda.json

Seconds are CPU time with `--threads 1`, else time of the wall; memory is that of tensors on a GPU, and the resident set on a CPU.
"""

import copy
from functools import partial

import timm
import torch
from saved import Results, begin, options
from spikingjelly.activation_based.memopt import optimize_memory
from timing import ratios, take_turns
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.checkpoint import set_checkpoint_early_stop

import sterf_plugins.timm  # noqa: F401  (registers the models)
from sterf_plugins.backbones.meta_sdt import MetaConvBlock
from sterf_plugins.layers import MixerBlock, TransformerBlock
from sterf_plugins.layers.lif_layers import MembraneBlock, SpikingBlock, SpikingConv

MODELS = {
    "spikformer_8_384": dict(depth=4),
    "qkformer_10_384": {},
    "meta_sdt_15m": {},
    "sdtv3_tiny_srb": {},
}
BLOCKS = (SpikingBlock, MembraneBlock, MetaConvBlock, MixerBlock, TransformerBlock)
# side -> the modules that memopt repeats (convolution, norm and neuron each, or whole blocks), and its level
MEMOPT = {"memopt, layers": (SpikingConv, 1), "memopt, blocks": (BLOCKS, 1)}


def build(side: str, model: nn.Module, images: Tensor) -> nn.Module:
    """A copy of the model that computes its training step in the way of this side."""
    model = copy.deepcopy(model)
    model.memory_efficient = side == "memory_efficient"
    model.grad_checkpointing = side == "grad_checkpointing"
    if side in MEMOPT:
        targets, level = MEMOPT[side]
        optimize_memory(model, targets, lambda m: m(images[:2]), level=level)  # it looks at the layers' inputs
    return model


def step(model: nn.Module, images: Tensor) -> Tensor:
    """Run forward and backward pass; all gradients in one vector.

    Repeated passes run to their ends, those of ``memopt`` too: where PyTorch ends them, memory is lost with each step.
    """
    model.zero_grad(set_to_none=True)
    with set_checkpoint_early_stop(False):
        cross_entropy(model(images), torch.arange(len(images), device=images.device)).backward()
    return torch.cat([p.grad.flatten() for p in model.parameters()])


def differences(sides: tuple[str, ...], model: nn.Module, images: Tensor) -> dict[str, float]:
    """Relative distance of each side's gradients from ours, in float64: in float32 rounding may flip spikes."""
    model, images = copy.deepcopy(model).double(), images.double()
    exact, *others = (step(build(side, model, images), images) for side in sides)
    return {side: float((g - exact).norm() / exact.norm()) for side, g in zip(sides[1:], others, strict=True)}


def compare(name: str, settings: dict, args) -> dict[str, dict]:
    """Seconds and memory of each side, with ratios to ours, and how far its gradients are from ours."""
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=100, **settings).to(args.device).train()
    images = torch.randn(args.batch, 3, args.size, args.size, device=args.device)
    has_layers = any(isinstance(m, SpikingConv) for m in model.modules())
    sides = (
        "ours",
        "memory_efficient",
        "grad_checkpointing",
        *(s for s in MEMOPT if s != "memopt, layers" or has_layers),
    )
    works = {side: partial(step, build(side, model, images), images) for side in sides}
    found = take_turns(works, args.repeats, args.device)
    ratios(found, "ours")
    for side, error in differences(sides, model, images[:2, :, :64, :64]).items():
        found[side]["gradients_differ_by"] = error
    return found


def main() -> None:
    p = options(__doc__, repeats=5)
    p.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    p.add_argument("--size", type=int, default=128)
    p.add_argument("--batch", type=int, default=4)
    args = begin(p)
    if args.tiny:
        args.models, args.size, args.batch = ["spikformer_8_384"], 32, 2
    if args.device == "cuda":
        MEMOPT["memopt, blocks, level 4"] = (BLOCKS, 4)
    results = Results.of(args, size=args.size, batch=args.batch)
    for name in args.models:
        settings = dict(depth=1, dim=64, num_heads=4) if args.tiny else MODELS[name]
        results.once(partial(compare, name, settings, args), "models", name)


if __name__ == "__main__":
    main()
