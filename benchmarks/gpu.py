"""Everything worth measuring on a GPU in one go, saved after each step; needs no network.

    python benchmarks/gpu.py --out benchmarks/results/gpu.json                  # parts in order, most important first
    python benchmarks/gpu.py --out tiny.json --tiny --device cpu                # tries every part, small, on a CPU

Parts: `correctness` (every model on the device against the CPU: float64, float32, bf16, with torch.compile, and with
memory_efficient), `table` (a training step: plain, ours, ours with torch.compile, ours with memory_efficient),
`inference` (plain, ours and folded), `floor` (benchmarks/floor.py: what a step costs at least, and a profile), `erf`
(benchmarks/erf.py), `training` (five tiny detectors on rendered shapes, through tools/train.py and tools/test.py).
Plain is the model as PyTorch's users would write it (benchmarks/plain_sdtv3.py), measured in the same process. What the
file has is not repeated, and what failed is tried again; give another --out to start anew. The script may be killed at
any time and called again.
"""

import argparse
from pathlib import Path

import torch
from gpu_correctness import correctness
from gpu_speed import erf, floor, inference, table
from gpu_training import training
from saved import Results, facts

PARTS = dict(correctness=correctness, table=table, inference=inference, floor=floor, erf=erf, training=training)


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--out", type=Path, required=True, help="JSON file; what it has is not repeated")
    p.add_argument("--parts", nargs="+", default=list(PARTS), choices=list(PARTS))
    p.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", choices=["cpu", "cuda"])
    p.add_argument("--tiny", action="store_true", help="small sizes, to try the script")
    p.add_argument("--repeats", type=int, default=10, help="of each timing (default: %(default)s)")
    p.add_argument("--epochs", type=int, default=3, help="of each training (default: %(default)s)")
    p.add_argument("--train-limit", type=float, default=500, help="seconds for one training (default: %(default)s)")
    p.add_argument(
        "--work", type=Path, default=Path("work_dirs/gpu"), help="data and trainings (default: work_dirs/gpu)"
    )
    args = p.parse_args()
    args.out, args.work = args.out.resolve(), args.work.resolve()
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.work.mkdir(parents=True, exist_ok=True)
    if args.tiny:
        args.repeats, args.epochs = 1, 1
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False  # float32 means float32
    results = Results(args.out, facts(args.device, tiny=args.tiny, epochs=args.epochs, repeats=args.repeats))
    for part in args.parts:
        PARTS[part](results, args)


if __name__ == "__main__":
    main()
