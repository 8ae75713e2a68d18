"""Inference of a folded model, and a folded and packed one, against the model they come from; medians of paired runs.

python benchmarks/deploy.py --threads 2 --out benchmarks/results/deploy_cpu.json
"""

import argparse
import json
import platform
import statistics
import time
from pathlib import Path

import timm
import torch
from saved import write

import sterf_plugins.timm  # noqa: F401
from sterf_plugins.deploy import pack_for_cpu, reparameterize


def seconds(model, x):
    start = time.perf_counter()
    model(x)
    if x.is_cuda:
        torch.cuda.synchronize()
    return time.perf_counter() - start


def compare(name, args):
    model = timm.create_model(name).eval().to(args.device)
    x = torch.randn(args.batch, 3, args.size, args.size, device=args.device)
    folded = reparameterize(model, x)
    models = {"model": model, "folded": folded}
    if args.device == "cpu":
        models["packed"] = pack_for_cpu(folded, x)
    spent = {key: [] for key in models}
    with torch.no_grad():
        for i in range(args.repeats + 2):
            for key, other in models.items():
                value = seconds(other, x)
                if i > 1:
                    spent[key].append(value)
    ratios = {
        key: statistics.median(a / b for a, b in zip(spent["model"], values, strict=True))
        for key, values in spent.items()
        if key != "model"
    }
    return dict(seconds={key: statistics.median(values) for key, values in spent.items()}, ratios=ratios)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["sdtv3_base", "sdtv3_base_mlpixer", "sdtv3_base_srb"])
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=30)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--out", type=Path, help="write the figures as JSON")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    results = dict(
        device=args.device, hardware=platform.machine(), threads=args.threads, torch=torch.__version__, size=args.size
    )
    for name in args.models:
        results[name] = compare(name, args)
        print(name, json.dumps(results[name]), flush=True)
    if args.out:
        write(args.out, results)


if __name__ == "__main__":
    main()
