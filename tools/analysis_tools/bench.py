"""Time and memory of models side by side: inference, or a training step, each in turn in one process.

    sterf bench sdtv3_tiny_srb resnet18 --batch 8 --train
    sterf bench sdtv3_tiny_srb 'sdtv3_tiny_srb(memory_efficient=True)' --train --json

A model is a timm name, an OpenMMLab config (its backbone) or module:factory, as for sterf erf. Inputs are noise, weights are
random, and BatchNorms have the statistics of some inputs, since with the initial ones hardly a neuron fires. The ratio is that
of the first model.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from typing import Any

from sterf_plugins.cli.begin import OptionParser, begin

begin()

import torch
from torch import Tensor, nn
from tqdm import tqdm

from sterf_plugins.cli.console import add_device_option, check_counts, check_device, run_tool
from sterf_plugins.cli.loading import Loaded, load_model
from sterf_plugins.cli.memory import peak_bytes
from sterf_plugins.erf.calibrate import calibrate, uncalibrated


def parse_args() -> argparse.Namespace:
    p = OptionParser(description=__doc__)
    p.add_argument("models", nargs="+", metavar="MODEL_OR_CONFIG", help="what to measure; the first is the reference")
    p.add_argument("--train", action="store_true", help="a forward and a backward pass instead of inference")
    p.add_argument("--batch", type=int, default=1, help="inputs per pass (default 1)")
    p.add_argument("--size", type=int, nargs=2, metavar=("H", "W"), help="default: the first model's own size")
    p.add_argument(
        "--repeats", type=int, default=5, help="timed passes of each model, after two that are not (default 5)"
    )
    p.add_argument("--amp", choices=["bfloat16", "float16"], help="autocast to this type")
    p.add_argument("--compile", action="store_true", help="torch.compile each model")
    p.add_argument("--channels-last", action="store_true", help="weights and inputs in channels-last order")
    p.add_argument("--threads", type=int, help="threads of PyTorch on a CPU")
    add_device_option(p)
    p.add_argument("--json", action="store_true", help="print the figures as JSON instead of a table")
    return p.parse_args()


def prepared(loaded: Loaded, args: argparse.Namespace, size: tuple[int, int]) -> tuple[nn.Module, Tensor]:
    """The model with norms that have statistics, and noise as its images, in the mode and memory order that are asked for."""
    if loaded.is_tracker:
        raise ValueError(
            f"{loaded.label} takes a template and a search region, and not one image; its times: sterf deploy {loaded.label}."
        )
    model: Any = loaded.model if loaded.config is None else getattr(loaded.model, "backbone", None)
    if model is None:
        raise ValueError(f"{loaded.label} has no backbone, which is what is timed of the model of a config.")
    model = model.to(args.device)
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(args.batch, len(loaded.mean), *size, generator=generator).to(args.device)
    if uncalibrated(model):
        calibrate(model, images if len(images) > 1 else images.repeat(2, 1, 1, 1))
    model.train(args.train)
    if args.channels_last:
        return model.to(memory_format=torch.channels_last), images.to(memory_format=torch.channels_last)
    return model, images


def one_pass(model: Callable[[Tensor], Any], images: Tensor, args: argparse.Namespace) -> Callable[[], None]:
    """What is timed."""
    kind = torch.device(args.device).type
    dtype = getattr(torch, args.amp) if args.amp else None

    def run() -> None:
        with torch.autocast(kind, dtype, enabled=dtype is not None), torch.set_grad_enabled(args.train):
            outputs = model(images)
        if args.train:
            several = outputs if isinstance(outputs, (tuple, list)) else [outputs]
            torch.stack([y.float().square().mean() for y in several]).sum().backward()
        if kind == "cuda":
            torch.cuda.synchronize()

    return run


def main() -> None:
    args = parse_args()
    twice = next((spec for spec in args.models if args.models.count(spec) > 1), None)
    if twice is not None:
        raise ValueError(f"{twice} is given twice; give it once, or another label to one of them: 'again={twice}'.")
    check_counts(args, "batch", "repeats", "size", "threads")
    check_device(args.device)
    if args.threads:
        torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    size: Any = tuple(args.size) if args.size else None
    runs: dict[str, Callable[[], None]] = {}
    rows: dict[str, dict[str, Any]] = {}
    for spec in args.models:
        loaded = load_model(spec)
        size = size or loaded.size
        model, images = prepared(loaded, args, size)
        run = runs[spec] = one_pass(torch.compile(model) if args.compile else model, images, args)
        run()
        run()
        rows[spec] = dict(
            parameters=sum(p.numel() for p in model.parameters()), peak_bytes=peak_bytes(run, args.device)
        )
    seconds: dict[str, list[float]] = {spec: [] for spec in runs}
    for _ in tqdm(range(args.repeats), desc="repeats", delay=5, leave=False, disable=None):
        for spec, run in runs.items():
            start = time.perf_counter()
            run()
            seconds[spec].append(time.perf_counter() - start)
    first = statistics.median(seconds[args.models[0]])
    for spec, values in seconds.items():
        median = statistics.median(values)
        rows[spec] |= dict(seconds=median, fastest=min(values), slowest=max(values), ratio=median / first)
    if args.json:
        setting = dict(size=size, batch=args.batch, train=args.train, amp=args.amp, compiled=args.compile)
        setting |= dict(device=args.device, threads=torch.get_num_threads(), torch=torch.__version__)
        print(json.dumps(dict(setting=setting, models=rows)))
        return
    what = "training step" if args.train else "inference"
    print(
        f"{what}, {args.batch} x {size[0]}x{size[1]}, {args.device}, {torch.get_num_threads()} threads, torch {torch.__version__}"
    )
    label = max(map(len, rows))
    print(f"{'model':<{label}} {'M params':>9} {'ms':>9} {'range':>17} {'ratio':>6} {'peak MiB':>9}")
    for spec, r in rows.items():
        spread = f"{r['fastest'] * 1e3:.1f}-{r['slowest'] * 1e3:.1f}"
        peak = "?" if r["peak_bytes"] is None else f"{r['peak_bytes'] / 2**20:.0f}"
        print(
            f"{spec:<{label}} {r['parameters'] / 1e6:9.2f} {r['seconds'] * 1e3:9.1f} {spread:>17} {r['ratio']:6.2f} {peak:>9}"
        )


if __name__ == "__main__":
    run_tool(main)
