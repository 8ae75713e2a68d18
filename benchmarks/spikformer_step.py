"""A training step of our Spikformer against SpikingJelly's own class of the same size, in turn; medians and the ratio.

python benchmarks/spikformer_step.py --threads 2 --out benchmarks/results/spikformer_step_cpu.json
"""

import argparse
import json
import platform
import statistics
import time
from pathlib import Path

import torch
from saved import write
from spikingjelly.activation_based import functional
from spikingjelly.activation_based.model.spikformer import Spikformer as Theirs

from sterf_plugins.backbones import Spikformer


def step(model, x, y, repeats_images):
    """Seconds of a forward and backward pass; ``repeats_images`` if the model itself repeats images over time."""
    start = time.perf_counter()
    functional.reset_net(model)
    logits = model(x) if repeats_images else model(x.expand(4, *x.shape))
    logits = logits if logits.ndim == 2 else logits.mean(0)
    torch.nn.functional.cross_entropy(logits, y).backward()
    model.zero_grad(set_to_none=True)
    if x.is_cuda:
        torch.cuda.synchronize()
    return time.perf_counter() - start


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--depth", type=int, default=8)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--out", type=Path, help="write the figures as JSON")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    size = dict(img_size_h=args.size, img_size_w=args.size)
    theirs = Theirs(T=4, embed_dims=args.dim, depths=args.depth, num_heads=8, **size).to(args.device).train()
    ours = Spikformer(args.depth, args.dim, 8, num_classes=1000).to(args.device).train()
    x = torch.randn(args.batch, 3, args.size, args.size, device=args.device)
    y = torch.zeros(args.batch, dtype=torch.long, device=args.device)
    theirs_repeats = repeats_images_itself(theirs, x)
    seconds = [(step(theirs, x, y, theirs_repeats), step(ours, x, y, True)) for _ in range(args.repeats + 1)][1:]
    result = dict(
        device=args.device,
        hardware=platform.machine(),
        threads=args.threads,
        torch=torch.__version__,
        what=f"Spikformer-{args.depth}-{args.dim}, T=4, batch {args.batch}, {args.size}x{args.size}, training step",
        spikingjelly=statistics.median(a for a, _ in seconds),
        ours=statistics.median(b for _, b in seconds),
        ratio=statistics.median(a / b for a, b in seconds),
    )
    print(json.dumps(result, indent=1))
    if args.out:
        write(args.out, result)


def repeats_images_itself(model, x):
    """Whether a model repeats images over time by itself; versions of SpikingJelly's class differ in this."""
    functional.reset_net(model)
    try:
        with torch.no_grad():
            model(x[:1])
        return True
    except (RuntimeError, ValueError, IndexError, TypeError):
        return False


if __name__ == "__main__":
    main()
