"""Training steps, inference and receptive fields on a device: plain and ours, from one process."""

import json
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

import torch
from gpu_correctness import compiled
from plain_sdtv3 import PlainSDTV3, step
from saved import attempted

from sterf_plugins.backbones import SDTV3
from sterf_plugins.deploy import reparameterize
from sterf_plugins.erf import calibrate

HERE = Path(__file__).resolve().parent


def measured(function, args) -> dict:
    """Median seconds after warm-up, CUDA events where there are any, and the peak of allocated memory."""
    cuda = args.device == "cuda"
    for _ in range(1 if args.tiny else 5):
        function()
    if cuda:
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
    seconds = []
    for _ in range(args.repeats):
        if cuda:
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            function()
            end.record()
            end.synchronize()
            seconds.append(start.elapsed_time(end) / 1e3)
        else:
            start = time.perf_counter()
            function()
            seconds.append(time.perf_counter() - start)
    memory = torch.cuda.max_memory_allocated() / 2**20 if cuda else None
    return dict(seconds=statistics.median(seconds), peak_mib=memory)


class Way(NamedTuple):
    """One way to compute a training step."""

    dtype: torch.dtype | None = None  # of autocast, which is off if ``None``
    mode: str | None = None  # of torch.compile, which is left out if ``None``
    ours: bool = True  # our model, or else the plain implementation
    memory_efficient: bool = False  # of our model


PLAIN = "plain float32"
WAYS = {
    PLAIN: Way(ours=False),
    "ours bf16 compiled": Way(torch.bfloat16, "default"),
    "ours float32": Way(),
    "ours float32 memory_efficient": Way(memory_efficient=True),
    "ours float32 compiled": Way(mode="default"),
    "ours bf16": Way(torch.bfloat16),
    "ours bf16 memory_efficient": Way(torch.bfloat16, memory_efficient=True),
    "ours bf16 CUDA graphs": Way(torch.bfloat16, "reduce-overhead"),
    "plain bf16": Way(torch.bfloat16, ours=False),
}
FIRST = list(WAYS)[:4]  # Every row of the table has these ways; its first two rows have all ways.


def train_step(arch: str, mixer: str, size: int, batch: int, way: Way, args) -> dict:
    """Seconds, peak memory and images per second of a training step."""
    torch.manual_seed(0)
    model = SDTV3(arch, mixer, memory_efficient=way.memory_efficient).train()
    model = (model if way.ours else PlainSDTV3(model).train()).to(args.device)
    images = torch.randn(batch, 3, size, size, device=args.device)
    if way.mode:
        compiled(model, args, way.mode)

    def run():
        model.zero_grad(set_to_none=True)
        with torch.autocast(args.device, way.dtype, enabled=way.dtype is not None):
            step(model, images)

    found = measured(run, args)
    return found | dict(images_per_second=batch / found["seconds"])


def compare(results, keys: tuple[str, ...], ways: dict) -> None:
    """Each way's figures, saved one by one, with their ratios to the plain one's from this process."""
    if all(results.has(*keys, name) for name in ways):
        return
    base = results.save(attempted(ways[PLAIN]), *keys, PLAIN)
    for name, function in ways.items():
        if name == PLAIN or results.has(*keys, name):
            continue
        found = attempted(function)
        torch.compiler.reset()  # frees the memory of a CUDA graph before the next way
        if "error" not in found and "error" not in base:
            found |= dict(plain_seconds=base["seconds"], speedup=base["seconds"] / found["seconds"])
            if base["peak_mib"]:
                found["memory_ratio"] = found["peak_mib"] / base["peak_mib"]
        results.save(found, *keys, name)


def table(results, args) -> None:
    """Training steps of several models and sizes, in each way."""
    rows = [("base", "srb", 512, 8), ("tiny", "srb", 224, 64)]
    for arch, size, batch in (("base", 512, 8), ("tiny", 224, 64), ("tiny", 512, 8), ("base", 224, 64)):
        rows += [row for mixer in ("srb", "conv", "mlpixer") if (row := (arch, mixer, size, batch)) not in rows]
    if args.tiny:
        rows = [("nano", "srb", 64, 2)]
    for number, row in enumerate(rows):
        arch, mixer, size, batch = row
        ways = {
            name: lambda row=row, way=way: train_step(*row, way, args)
            for name, way in WAYS.items()
            if number < 2 or name in FIRST
        }
        compare(results, ("table", f"{arch} {mixer} {size} batch {batch}"), ways)


def inference(results, args) -> None:
    """Inference of one model: plain, ours and folded, in each way."""
    arch, size, batch = ("nano", 64, 2) if args.tiny else ("tiny", 224, 64)

    def run(kind: str, dtype: torch.dtype | None, mode: str | None):
        torch.manual_seed(0)
        model = calibrate(SDTV3(arch, "srb"), torch.randn(4, 3, size, size))  # or else most layers would be silent
        images = torch.randn(batch, 3, size, size, device=args.device)
        model = {"plain": PlainSDTV3, "ours": lambda m: m, "folded": reparameterize}[kind](model)
        model = model.eval().to(args.device)
        if mode:
            compiled(model, args, mode)
        with torch.no_grad(), torch.autocast(args.device, dtype, enabled=dtype is not None):
            found = measured(lambda: model(images), args)
        return found | dict(images_per_second=batch / found["seconds"])

    bf16 = torch.bfloat16
    ways = {
        PLAIN: ("plain", None, None),
        "folded bf16 compiled": ("folded", bf16, "default"),
        "folded bf16 CUDA graphs": ("folded", bf16, "reduce-overhead"),
        "folded float32": ("folded", None, None),
        "folded bf16": ("folded", bf16, None),
        "ours float32": ("ours", None, None),
        "ours bf16 compiled": ("ours", bf16, "default"),
    }
    functions = {name: lambda way=way: run(*way) for name, way in ways.items()}
    compare(results, ("inference", f"{arch} srb {size} batch {batch}"), functions)


def script(results, args, name: str, *options: str) -> dict:
    """Run another benchmark of this folder on the same device, and return the figures from its own result file."""
    out = args.out.with_name(f"{name}_{args.out.name}")
    command = [sys.executable, str(HERE / f"{name}.py"), "--device", args.device, "--out", str(out), *options]
    status = subprocess.run(command, check=False).returncode
    found = json.loads(out.read_text()) if out.is_file() else {}
    return found | (dict(error=f"{name}.py ended with code {status}") if status else {})


def floor(results, args) -> None:
    sizes = ["--archs", "nano", "--sizes", "64", "--pixels", "8192", "--repeats", "1"] if args.tiny else []
    results.once(lambda: script(results, args, "floor", *sizes), "floor", "all")


def erf(results, args) -> None:
    few = ["--size", "64", "--inputs", "2", "--reference-inputs", "1", "--repeats", "1", "--parts", "sdtv3"]
    results.once(lambda: script(results, args, "erf", *(few if args.tiny else [])), "erf", "all")
