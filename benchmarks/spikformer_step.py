"""A training step of our Spikformer against SpikingJelly's own class of the same size, in turn; medians and the ratio.

python benchmarks/spikformer_step.py --threads 2 --out benchmarks/results/spikformer_step_cpu.json
python benchmarks/spikformer_step.py --device cuda --batch 32 --out benchmarks/results/spikformer_step_cuda.json
"""

from functools import partial

import torch
from saved import Results, begin, options
from spikingjelly.activation_based import functional
from spikingjelly.activation_based.model.spikformer import Spikformer as Theirs
from timing import ratios, take_turns

from sterf_plugins.backbones import Spikformer


def step(model, x, y, repeats_images):
    """A forward and backward pass; ``repeats_images`` if the model itself repeats images over time."""
    functional.reset_net(model)
    logits = model(x) if repeats_images else model(x.expand(4, *x.shape))
    logits = logits if logits.ndim == 2 else logits.mean(0)
    torch.nn.functional.cross_entropy(logits, y).backward()
    model.zero_grad(set_to_none=True)


def repeats_images_itself(model, x):
    """Whether a model repeats images over time by itself; versions of SpikingJelly's class differ in this."""
    functional.reset_net(model)
    try:
        with torch.no_grad():
            model(x[:1])
        return True
    except (RuntimeError, ValueError, IndexError, TypeError):
        return False


def compare(args):
    """Seconds and memory of both, with ratios to ours."""
    torch.manual_seed(0)
    size = dict(img_size_h=args.size, img_size_w=args.size)
    theirs = Theirs(T=4, embed_dims=args.dim, depths=args.depth, num_heads=8, **size).to(args.device).train()
    ours = Spikformer(args.depth, args.dim, 8, num_classes=1000).to(args.device).train()
    x = torch.randn(args.batch, 3, args.size, args.size, device=args.device)
    y = torch.zeros(args.batch, dtype=torch.long, device=args.device)
    sides = dict(
        spikingjelly=partial(step, theirs, x, y, repeats_images_itself(theirs, x)), ours=partial(step, ours, x, y, True)
    )
    found = take_turns(sides, args.repeats, args.device)
    ratios(found, "ours")
    return found


def main():
    p = options(__doc__, repeats=3)
    p.add_argument("--dim", type=int, default=512)
    p.add_argument("--depth", type=int, default=8)
    p.add_argument("--size", type=int, default=224)
    p.add_argument("--batch", type=int, default=2)
    args = begin(p)
    if args.tiny:
        args.dim, args.depth, args.size, args.batch = 64, 1, 32, 2
    results = Results.of(args, size=args.size, batch=args.batch)
    results.once(partial(compare, args), f"Spikformer-{args.depth}-{args.dim}, T=4")


if __name__ == "__main__":
    main()
