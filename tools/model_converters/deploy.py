"""Fold a trained model's norms into its weights, and write it for deployment, with what it gains.

    sterf deploy sdtv3_tiny_srb ours.pth --out work_dirs/deploy --onnx
    sterf deploy 'sdtv3_base(num_classes=0)' --out work_dirs/deploy --spike-driven

Writes NAME.pt2 (torch.export), and NAME.onnx on request. The folded or spike-driven model is compared with the given one
in float64, and each file, loaded again, with the model that was written into it, in float32, where rounding may flip a
spike. A model whose outputs do not depend on the image is refused, since any comparison would succeed. Without a
checkpoint BatchNorms get the statistics of noise. With --onnx the file is timed in ONNX Runtime too, which is the way to
run a model on a CPU without PyTorch:

    session = onnxruntime.InferenceSession("NAME.onnx", providers=["CPUExecutionProvider"])
    outputs = session.run(None, {session.get_inputs()[0].name: images})
"""

import argparse
import copy
import json
import re
import statistics
import time
from collections.abc import Callable
from pathlib import Path

from sterf_plugins.cli.begin import OptionParser, begin

begin()

import torch
from torch import Tensor
from tqdm import tqdm

from sterf_plugins.checks import require
from sterf_plugins.cli.checkpoints import add_checkpoint_option
from sterf_plugins.cli.console import check_counts, check_writable, run_tool
from sterf_plugins.cli.loading import load_model, parse_spec
from sterf_plugins.deploy import reparameterize, to_spike_driven
from sterf_plugins.deploy.probe import compared_values, largest_error, run, tensors_in
from sterf_plugins.erf.calibrate import CALIBRATION, calibrate, uncalibrated
from sterf_plugins.files import check_new, replacing


def parse_args() -> argparse.Namespace:
    p = OptionParser(description=__doc__)
    p.add_argument("model", metavar="MODEL", help="timm name or module:factory, with options in parentheses")
    p.add_argument("checkpoint", metavar="CHECKPOINT", nargs="?", help="its weights (random ones without)")
    add_checkpoint_option(p)
    p.add_argument("--out", default="work_dirs/deploy", help="folder to write to (default: %(default)s)")
    p.add_argument("--overwrite", action="store_true", help="replace files of an earlier run")
    p.add_argument("--input-size", type=int, nargs=2, metavar=("H", "W"), help="default: the model's own")
    p.add_argument("--batch", type=int, default=1, help="images per pass (default: %(default)s)")
    p.add_argument("--spike-driven", action="store_true", help="binary spikes over D steps in front of every weight")
    p.add_argument("--onnx", action="store_true", help="write ONNX too, and run it in ONNX Runtime if that is there")
    p.add_argument("--repeats", type=int, default=10, help="timed runs of each (default: %(default)s)")
    return p.parse_args()


def milliseconds(runs: dict[str, Callable], x: Tensor, repeats: int) -> dict[str, float]:
    """Median time in milliseconds of each of several ways to run a model on ``x``, which take turns."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    with torch.no_grad():
        for i in tqdm(range(repeats + 1), desc="timing", delay=5, leave=False, disable=None):
            for name, run in runs.items():
                start = time.perf_counter()
                run(x)
                if i:  # the first call of each is a warm-up
                    times[name].append(1000 * (time.perf_counter() - start))
    return {name: statistics.median(values) for name, values in times.items()}


def main() -> None:
    args = parse_args()
    check_counts(args, "batch", "repeats", "input_size")
    if args.onnx:
        for package in ("onnx", "onnxscript"):
            require(package, extra="deploy")
    folder = Path(args.out)
    check_writable(folder, "--out")
    name = re.sub(r"\W+", "_", parse_spec(args.model)[0]).strip("_")
    for suffix in ("pt2", "onnx", "json") if args.onnx else ("pt2", "json"):
        check_new(folder / f"{name}.{suffix}", args.overwrite)
    loaded = load_model(args.model, args.checkpoint)
    size = tuple(args.input_size) if args.input_size else loaded.size
    x, other = torch.randn(2, args.batch, len(loaded.mean), *size)
    if not args.checkpoint and uncalibrated(loaded.model):
        calibrate(loaded.model, torch.randn(CALIBRATION, *x.shape[1:]))
        print(f"{args.model}: random weights, BatchNorm statistics of {CALIBRATION} noise inputs")
    exact = copy.deepcopy(loaded.model).double()
    try:
        values = compared_values(run(exact, x.double()), run(exact, other.double()))
    except (TypeError, AttributeError) as cause:
        if loaded.config is None:
            raise
        raise ValueError(
            f"{args.model} does not run on images alone, like all detectors of two stages and transformers, so that it cannot "
            f"be written ({cause}). In Python, sterf_plugins.deploy.reparameterize(model, images, forward=lambda model, images: "
            f"model.extract_feat(images)) folds its backbone and neck, and mmdet runs it as before."
        ) from cause
    models = {"model": exact, "folded": reparameterize(exact, x)}
    if args.spike_driven:
        models["spike-driven"] = to_spike_driven(models["folded"], x.double())
    what, target = list(models.items())[-1]
    error = largest_error(run(target, x.double()), run(exact, x.double()))
    print(f"{what}, in float64: largest relative difference {error:.1e} {values}")
    for model in models.values():
        model.float()
    facts: dict = dict(model=args.model, checkpoint=args.checkpoint, input=list(x.shape), float64_error=error)
    expected = run(target, x)
    facts["export_error"] = write_program(target, x, expected, folder / f"{name}.pt2")
    print(f"{folder / name}.pt2: largest relative difference {facts['export_error']:.1e} {values}")
    runs: dict[str, Callable] = dict(models)
    if args.onnx:
        session = write_onnx(target, x, folder / f"{name}.onnx")
        if session is not None:
            runs["ONNX Runtime"] = lambda x: session.run(None, {session.get_inputs()[0].name: x.numpy()})
            facts["onnx_error"] = largest_error(
                [torch.from_numpy(y) for y in runs["ONNX Runtime"](x)], tensors_in(expected)
            )
            print(f"{folder / name}.onnx: largest relative difference {facts['onnx_error']:.1e} {values}")
    facts["milliseconds"] = milliseconds(runs, x, args.repeats)
    facts["speed_up"] = {
        k: facts["milliseconds"]["model"] / v for k, v in facts["milliseconds"].items() if k != "model"
    }
    print(f"{args.model}, {list(x.shape)}, medians: model {facts['milliseconds']['model']:.1f} ms, "
          + ", ".join(f"{k} {facts['milliseconds'][k]:.1f} ms ({v:.2f}x)" for k, v in facts["speed_up"].items()))  # fmt: skip
    with replacing(folder / f"{name}.json") as partial:
        partial.write_text(json.dumps(facts, indent=1) + "\n")


def write_program(model: torch.nn.Module, x: Tensor, expected: object, path: Path) -> float:
    """Write the model by ``torch.export``, load it again, and return the largest relative difference of its output."""
    with torch.no_grad():
        program = torch.export.export(model, (x,))
    with replacing(path) as partial:
        torch.export.save(program, partial)
    with torch.no_grad():
        return largest_error(torch.export.load(path).module()(x), expected)


def write_onnx(model: torch.nn.Module, x: Tensor, path: Path):
    """Write the model as ONNX, and return an ONNX Runtime session of the file, or ``None`` if that is not installed."""
    with replacing(path) as partial:
        torch.onnx.export(model, (x,), str(partial), dynamo=True, verbose=False, external_data=False)
    try:
        import onnxruntime
    except ImportError:
        print(f'{path}: written; not run, for lack of onnxruntime (pip install "sterf-plugins[deploy]")')
        return None
    return onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])


if __name__ == "__main__":
    run_tool(main)
