"""Everything worth measuring on a GPU in one go, saved after each step; needs no network.

    python benchmarks/gpu.py --out benchmarks/results/gpu.json                  # parts in order, most important first
    python benchmarks/gpu.py --out tiny.json --tiny --device cpu                # tries every part, small, on a CPU

Parts: `correctness` (every variant on the device against the CPU: float64, float32, bf16, compiled, spikes as bytes,
fused norms; on a CPU fused norms need `TRITON_INTERPRET=1`, or else are the plain passes),
`table` (training step, plain and ours), `inference`, `erf` (benchmarks/erf.py), `training` (five tiny detectors on
rendered shapes, through tools/train.py and tools/test.py). Plain is the straightforward implementation of the spec in
the same process. A part that has its result is not repeated, a failed one is; give another --out to start anew.
"""

import argparse
import copy
import datetime
import gc
import itertools
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch
from plain_sdtv3 import PlainSDTV3, step

from sterf_plugins.backbones import SDTV3
from sterf_plugins.deploy import reparameterize
from sterf_plugins.neurons import fuse_norms

ROOT = Path(__file__).resolve().parents[1]
MIXERS = ("conv", "mlpixer", "srb")
VARIANTS = [("conv", "raster"), *itertools.product(MIXERS[1:], ("raster", "channel"))]


def attempted(function) -> dict:
    """The result, or any failure as its message, so that it does not end the rest."""
    try:
        return function()
    except Exception as error:
        return dict(error=f"{type(error).__name__}: {error}".splitlines()[0])


class Results:
    """A JSON file that is replaced after each step."""

    def __init__(self, path: Path, device: str):
        self.path, self.values = path, json.loads(path.read_text()) if path.is_file() else {}
        hardware = torch.cuda.get_device_name() if device == "cuda" else platform.machine()
        self.values |= dict(device=device, hardware=hardware, torch=torch.__version__, python=platform.python_version())
        self.values |= dict(date=datetime.date.today().isoformat())

    def once(self, part: str, key: str, function) -> None:
        """Compute ``function()`` unless the file has it; a failure is kept as its message until the next call."""
        if "error" not in self.values.setdefault(part, {}).get(key, dict(error="not run")):
            return
        value = attempted(function)
        self.values[part][key] = value
        print(f"{part} {key}: {json.dumps(value)}", flush=True)
        partial = self.path.with_name(self.path.name + ".partial")
        partial.write_text(json.dumps(self.values, indent=1) + "\n")
        os.replace(partial, self.path)
        gc.collect()
        if self.values["device"] == "cuda":
            torch.cuda.empty_cache()


def outputs_and_gradient(model, x, dtype=None):
    x = x.clone().requires_grad_()
    with torch.autocast(x.device.type, dtype, enabled=dtype is not None):
        outputs = model(x)
    (gradient,) = torch.autograd.grad(sum(y.float().square().mean() for y in outputs), x)
    return [*(y.detach().double().cpu() for y in outputs), gradient.double().cpu()]


def difference(a, b) -> float:
    """Largest relative distance (2-norm) of outputs and input gradient."""
    return max(((p - q).norm() / q.norm().clamp_min(1e-30)).item() for p, q in zip(a, b, strict=True))


def fused(model, x, exact) -> dict:
    """Norms and spikes in one pass: in evaluation against the CPU, in training against the plain passes."""
    fuse_norms(model)
    found = dict(float64_fused=difference(outputs_and_gradient(model, x), exact))
    training = outputs_and_gradient(model.train(), x)
    fuse_norms(model, False)
    return found | dict(float64_fused_training=difference(training, outputs_and_gradient(model, x)))


def correctness(results: Results, args) -> None:
    arch, size = ("nano", 32) if args.tiny else ("tiny", 64)
    for mixer, layout in VARIANTS:

        def compare(mixer=mixer, layout=layout):
            torch.manual_seed(0)
            model = SDTV3(arch, mixer, layout=layout, norm_hidden=mixer != "conv").eval()
            x = torch.randn(2, 3, size, size)
            exact = outputs_and_gradient(copy.deepcopy(model).double(), x.double())
            there = copy.deepcopy(model).to(args.device)
            there64, x64 = copy.deepcopy(there).double(), x.double().to(args.device)
            found = dict(float64=difference(outputs_and_gradient(there64, x64), exact))
            compiled = copy.deepcopy(there64)
            compiled.compile(fullgraph=True, backend="aot_eager" if args.tiny else "inductor")
            found["float64_compiled"] = difference(outputs_and_gradient(compiled, x64), exact)
            there64.memory_efficient = True
            found["float64_memory_efficient"] = difference(outputs_and_gradient(there64, x64), exact)
            # one flipped spike of float32 changes all behind it: these two are what to expect, not tolerances
            found["float32"] = difference(outputs_and_gradient(there, x.to(args.device)), exact)
            found["bfloat16"] = difference(outputs_and_gradient(there, x.to(args.device), torch.bfloat16), exact)
            there64.memory_efficient = False
            return found | attempted(lambda: fused(there64, x64, exact))

        results.once("correctness", f"{mixer} {layout}", compare)


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


WAYS = {  # (autocast, compiled, options of the model; None: the plain implementation)
    "plain float32": (None, False, None),
    "ours float32": (None, False, {}),
    "ours float32 bytes": (None, False, dict(memory_efficient=True)),
    "ours bf16": (torch.bfloat16, False, {}),
    "ours bf16 bytes": (torch.bfloat16, False, dict(memory_efficient=True)),
    "ours bf16 compiled": (torch.bfloat16, True, {}),
    "ours float32 fused": (None, False, dict(fuse_norms=True)),
    "ours bf16 fused": (torch.bfloat16, False, dict(fuse_norms=True)),
    "ours bf16 fused bytes": (torch.bfloat16, False, dict(fuse_norms=True, memory_efficient=True)),
}


def table(results: Results, args) -> None:
    if args.device == "cuda":  # float32 means float32
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    settings = (
        [("nano", 64, 2)] if args.tiny else [("base", 512, 8), ("tiny", 224, 64), ("tiny", 512, 8), ("base", 224, 64)]
    )
    mixers = ("srb",) if args.tiny else ("srb", "conv", "mlpixer")
    for mixer, (arch, size, batch) in itertools.product(mixers, settings):

        def row(mixer=mixer, arch=arch, size=size, batch=batch):
            found = {}
            for name, (dtype, compiled, options) in WAYS.items():
                torch.manual_seed(0)
                model = SDTV3(arch, mixer, **(options or {})).train()
                model = (PlainSDTV3(model).train() if options is None else model).to(args.device)
                images = torch.randn(batch, 3, size, size, device=args.device)
                if compiled:
                    model.compile(backend="aot_eager" if args.tiny else "inductor")

                def run(model=model, images=images, dtype=dtype):
                    model.zero_grad(set_to_none=True)
                    with torch.autocast(args.device, dtype, enabled=dtype is not None):
                        step(model, images)

                found[name] = attempted(lambda run=run: measured(run, args))
                if "seconds" in found[name]:
                    found[name]["images_per_second"] = batch / found[name]["seconds"]
                del model, run
                gc.collect()
            base = found["plain float32"]
            for value in found.values():
                if "seconds" in value and "seconds" in base:
                    value["speedup"] = base["seconds"] / value["seconds"]
                if value.get("peak_mib") and base.get("peak_mib"):
                    value["memory_ratio"] = value["peak_mib"] / base["peak_mib"]
            return found

        results.once("table", f"{arch} {mixer} {size} batch {batch}", row)


def inference(results: Results, args) -> None:
    arch, size, batch = ("nano", 64, 2) if args.tiny else ("tiny", 224, 64)

    def row():
        torch.manual_seed(0)
        model = SDTV3(arch, "srb").eval()
        images = torch.randn(batch, 3, size, size, device=args.device)
        plain, folded = PlainSDTV3(model).eval().to(args.device), reparameterize(model).to(args.device)
        folded.compile(backend="aot_eager" if args.tiny else "inductor")
        found = {}
        with torch.no_grad():
            found["plain float32"] = measured(lambda: plain(images), args)
            with torch.autocast(args.device, torch.bfloat16):
                found["folded bf16 compiled"] = measured(lambda: folded(images), args)
        found["speedup"] = found["plain float32"]["seconds"] / found["folded bf16 compiled"]["seconds"]
        return found

    results.once("inference", f"{arch} srb {size} batch {batch}", row)


def erf(results: Results, args) -> None:
    def row():
        out = args.out.with_name("erf_" + args.out.name)
        command = [sys.executable, str(ROOT / "benchmarks" / "erf.py"), "--device", args.device, "--out", str(out)]
        if args.tiny:
            command += [
                "--size",
                "64",
                "--inputs",
                "2",
                "--reference-inputs",
                "1",
                "--repeats",
                "1",
                "--parts",
                "sdtv3",
            ]
        subprocess.run(command, check=True)
        return json.loads(out.read_text())

    results.once("erf", "all", row)


def training(results: Results, args) -> None:
    """Five tiny detectors for the same number of steps; accuracy of the long-range pair by the distance of its mark."""
    sys.path.insert(0, str(ROOT / "tools"))
    train, size = (16, 96) if args.tiny else (8000, 128)
    data, work = args.work / f"shapes{train}", args.work / "trainings"
    make = [str(ROOT / "tools/dataset_tools/make_shapes.py"), str(data), "--num-train", str(train), "--size", str(size)]
    subprocess.run([sys.executable, *make, "--num-val", str(8 if args.tiny else 500)], check=True)
    for mixer, layout in VARIANTS:

        def row(mixer=mixer, layout=layout):
            from demo_report import average_precision, quiet_coco, scalars, twin_accuracy
            from pycocotools.coco import COCO

            folder = work / f"{mixer}_{layout}"
            options = [f"{p}_dataloader.dataset.data_root={data}/" for p in ("train", "val", "test")]
            truth = data / "annotations" / "instances_val2017.json"
            options += [f"{e}_evaluator.ann_file={truth}" for e in ("val", "test")]
            options += [f"model.backbone.mixer={mixer}", f"model.backbone.layout={layout}"]
            epochs = 1 if args.tiny else args.epochs
            options += [f"train_cfg.max_epochs={epochs}", f"param_scheduler.1.end={epochs}"]
            options += ["train_dataloader.num_workers=4"] * (not args.tiny)
            config = str(ROOT / "configs/shapes/mask-rcnn_sdtv3-t-srb_fpn_shapes.py")
            command = [sys.executable, str(ROOT / "tools/train.py"), config, "--work-dir", str(folder), "--resume"]
            start = time.time()
            subprocess.run([*command, "--cfg-options", *options], check=True, timeout=args.train_limit)
            seconds = time.time() - start
            checkpoint = folder / f"epoch_{epochs}.pth"
            test = [
                sys.executable,
                str(ROOT / "tools/test.py"),
                config,
                str(checkpoint),
                "--work-dir",
                str(folder / "test"),
            ]
            options.append(f"test_evaluator.outfile_prefix={folder / 'coco'}")
            subprocess.run([*test, "--cfg-options", *options], check=True, timeout=args.train_limit)
            coco = quiet_coco(lambda: COCO(str(truth)))
            found = {
                f"{kind}_ap50": average_precision(coco, folder / f"coco.{name}.json", name).by_class
                for kind, name in (("box", "bbox"), ("mask", "segm"))
            }
            for scores in found.values():  # a class without instances has none
                scores.update({k: None for k, v in scores.items() if v != v})
            fields = [{k: v for k, v in line.items() if "erf" in k} for line in scalars(folder)]
            fields = [line for line in fields if line]
            return dict(
                seconds=seconds,
                **found,
                long_range=twin_accuracy(coco, folder / "coco.bbox.json"),
                erf_before=fields[0] if fields else None,
                erf_after=fields[-1] if fields else None,
            )

        results.once("training", f"{mixer} {layout}", row)


PARTS = dict(correctness=correctness, table=table, inference=inference, erf=erf, training=training)


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--out", type=Path, required=True, help="JSON file; parts that it has are not repeated")
    p.add_argument("--parts", nargs="+", default=list(PARTS), choices=list(PARTS))
    p.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", choices=["cpu", "cuda"])
    p.add_argument("--tiny", action="store_true", help="small sizes, to try the script")
    p.add_argument("--repeats", type=int, default=10, help="of each timing (default: %(default)s)")
    p.add_argument("--epochs", type=int, default=3, help="of each training (default: %(default)s)")
    p.add_argument("--train-limit", type=float, default=900, help="seconds for one training (default: %(default)s)")
    p.add_argument(
        "--work", type=Path, default=Path("work_dirs/gpu"), help="data and trainings (default: work_dirs/gpu)"
    )
    args = p.parse_args()
    args.out, args.work = args.out.resolve(), args.work.resolve()
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.work.mkdir(parents=True, exist_ok=True)
    if args.tiny:
        args.repeats = 1
    results = Results(args.out, args.device)
    for part in args.parts:
        PARTS[part](results, args)


if __name__ == "__main__":
    main()
