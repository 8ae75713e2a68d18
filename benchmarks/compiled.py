"""``torch.compile`` of each backbone: a training step as it is, compiled, and compiled without the choice of layouts.

Inductor chooses the memory format of convolutions by itself, which is known to slow some networks down; the third side has
``layout_optimization=False``. A compilation must be one graph; its seconds (the first step, time of the wall; less where
Inductor's cache has kernels of an earlier one) are recorded, and how far logits and gradients are from the uncompiled
ones. ResNet-18 is there as a network without spikes, and "shallow" is SDT-V3 tiny with one block in each stage, since a
compiler for CPUs takes minutes for twelve.

    python benchmarks/compiled.py --device cuda --out benchmarks/results/compiled_cuda.json
    python benchmarks/compiled.py --models resnet18 shallow --size 64 --batch 4 --out benchmarks/results/compiled_cpu.json

Seconds of steps are CPU time with `--threads 1`, else time of the wall; medians of runs that take turns.
"""

import copy
import time
from functools import partial

import timm
import torch
from saved import Results, attempted, begin, options
from timing import ratios, take_turns
from torch import Tensor, nn
from torch.nn import functional as F

import sterf_plugins.timm  # noqa: F401  (registers the models)

MODELS = (
    "sdtv3_tiny", "sdtv3_tiny_srb", "sdtv3_tiny_mlpixer", "spikformer_8_384", "sdtv1_8_384", "meta_sdt_15m", "qkformer_10_384",
    "max_former_10_384", "scale_covariant_net_spiking", "covrf_resnet18", "resnet18",
)  # fmt: skip
SHALLOW = dict(embed_dims=(32, 64, 128, 192), num_heads=8, depths=(1, 1, 1, 1, 1))
SIDES = {"eager": None, "compiled": {}, "compiled, layout_optimization=False": dict(layout_optimization=False)}


def step(model: nn.Module, images: Tensor) -> list[Tensor]:
    """Forward and backward pass; the logits and all gradients."""
    model.zero_grad(set_to_none=True)
    logits = model(images)
    F.cross_entropy(logits, torch.arange(len(images), device=images.device)).backward()
    return [logits.detach(), *(p.grad for p in model.parameters() if p.grad is not None)]


def difference(found: list[Tensor], expected: list[Tensor]) -> dict[str, float]:
    """Relative distance of the logits, and of all gradients together; of logits that are all zero, the distance itself."""
    parts = [
        [torch.cat([t.flatten() for t in ts]).double() for ts in (side[:1], side[1:])] for side in (found, expected)
    ]
    names = ("logits", "gradients")
    return {name: ((a - b).norm() / (b.norm() or 1)).item() for name, a, b in zip(names, *parts, strict=True)}


def compare(name: str, args) -> dict[str, dict]:
    """Seconds and memory of a step, ratios to the eager one, and what each compilation took."""
    torch.manual_seed(0)
    model, settings = ("sdtv3_tiny", dict(arch=SHALLOW)) if name == "shallow" else (name, {})
    eager = timm.create_model(model, num_classes=100, **settings).to(args.device).train()
    images = torch.randn(args.batch, 3, args.size, args.size, device=args.device)
    expected = step(eager, images)
    works, found = {"eager": partial(step, eager, images)}, {}
    for side, settings in SIDES.items():
        if settings is None or (args.tiny and settings):
            continue

        def prepare(side=side, settings=settings):
            torch.compiler.reset()  # or else torch would not compile the ninth model of a kind
            model = copy.deepcopy(eager)
            if args.tiny:
                model.compile(fullgraph=True, dynamic=False, backend="eager")
            else:
                model.compile(fullgraph=True, dynamic=False, options=settings)
            start = time.perf_counter()
            result = step(model, images)
            works[side] = partial(step, model, images)
            return dict(compilation_seconds=time.perf_counter() - start, differs_by=difference(result, expected))

        found[side] = attempted(prepare)
    measured = take_turns(works, args.repeats, args.device)
    ratios(measured, "eager")
    return {side: found.get(side, {}) | measured.get(side, {}) for side in SIDES if side in found or side in measured}


def main() -> None:
    p = options(__doc__, repeats=5, threads=1)
    p.add_argument("--models", nargs="+", default=MODELS)
    p.add_argument("--size", type=int, default=224)
    p.add_argument("--batch", type=int, default=32)
    args = begin(p)
    if args.tiny:
        args.models, args.size, args.batch = ("resnet18",), 32, 2
    results = Results.of(args, size=args.size, batch=args.batch)
    for name in args.models:
        results.once(partial(compare, name, args), name)


if __name__ == "__main__":
    main()
