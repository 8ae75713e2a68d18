"""Fold a trained model's norms into its weights, and write it for deployment, with what it gains.

    python tools/model_converters/deploy.py sdtv3_tiny_srb ours.pth --out work_dirs/deploy --onnx
    python tools/model_converters/deploy.py 'sdtv3_base(num_classes=0)' --out work_dirs/deploy --spike-driven

Writes NAME.pt2 (torch.export), and NAME.onnx on request; each is loaded again and compared with the model. "packed" in
the timings is `sterf_plugins.deploy.pack_for_cpu(folded)`, for inference in PyTorch on a CPU; it has no file format.
"""

import argparse
import json
import os
import re
import statistics
import time
from pathlib import Path

import torch

from sterf_plugins.checks import require
from sterf_plugins.cli.console import check_writable, run_tool
from sterf_plugins.cli.loading import load_model
from sterf_plugins.deploy import pack_for_cpu, reparameterize, to_spike_driven
from sterf_plugins.deploy.probe import largest_error


def parse_args() -> argparse.Namespace:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("model", metavar="MODEL", help="timm name or module:factory, with options in parentheses")
    p.add_argument("checkpoint", metavar="CHECKPOINT", nargs="?", help="its weights (random ones without)")
    p.add_argument("--out", default="work_dirs/deploy", help="folder to write to (default: %(default)s)")
    p.add_argument("--input-size", type=int, nargs=2, metavar=("H", "W"), help="default: the model's own")
    p.add_argument("--batch", type=int, default=1)
    p.add_argument("--spike-driven", action="store_true", help="binary spikes over D steps in front of every weight")
    p.add_argument("--onnx", action="store_true", help="write ONNX too, and run it in onnxruntime if that is there")
    p.add_argument("--repeats", type=int, default=10, help="timed runs of each (default: %(default)s)")
    return p.parse_args()


def milliseconds(models: dict, x: torch.Tensor, repeats: int) -> dict[str, float]:
    """Medians, the models in turn."""
    spent: dict[str, list[float]] = {name: [] for name in models}
    with torch.no_grad():
        for i in range(repeats + 1):
            for name, model in models.items():
                start = time.perf_counter()
                model(x)
                if i:  # the first is warm-up
                    spent[name].append(1000 * (time.perf_counter() - start))
    return {name: statistics.median(values) for name, values in spent.items()}


def main() -> None:
    args = parse_args()
    if args.batch < 1 or args.repeats < 1:
        raise ValueError(f"--batch {args.batch} and --repeats {args.repeats} must be at least 1.")
    if args.onnx:
        for package in ("onnx", "onnxscript"):
            require(package, extra="deploy")
    folder = Path(args.out)
    check_writable(folder, "--out")
    loaded = load_model(args.model, args.checkpoint)
    size = tuple(args.input_size) if args.input_size else loaded.size
    x = torch.randn(args.batch, len(loaded.mean), *size)
    models = {"model": loaded.model, "folded": reparameterize(loaded.model, x)}
    facts: dict = dict(model=args.model, checkpoint=args.checkpoint, input=list(x.shape))
    target = models["folded"]
    if torch.backends.mkldnn.is_available():
        models["packed"] = pack_for_cpu(target, x)
        with torch.no_grad():
            facts["packed_error"] = largest_error(models["packed"](x), target(x))
    if args.spike_driven:
        target = models["spike-driven"] = to_spike_driven(target, x)
    name = re.sub(r"\W+", "_", loaded.label).strip("_")
    facts["milliseconds"] = milliseconds(models, x, args.repeats)
    facts["speed_up"] = facts["milliseconds"]["model"] / facts["milliseconds"]["folded"]
    print(f"{args.model}: folded is {facts['speed_up']:.2f}x as fast as the model ({list(x.shape)}, medians, ms: "
          + ", ".join(f"{k} {v:.1f}" for k, v in facts["milliseconds"].items()) + ")")  # fmt: skip
    with torch.no_grad():
        expected = target(x)
        program = torch.export.export(target, (x,))
    torch.export.save(program, folder / f".{name}.pt2")
    os.replace(folder / f".{name}.pt2", folder / f"{name}.pt2")
    with torch.no_grad():
        facts["export_error"] = largest_error(torch.export.load(folder / f"{name}.pt2").module()(x), expected)
    print(f"{folder / name}.pt2: largest relative difference {facts['export_error']:.1e}")
    if args.onnx:
        facts["onnx_error"] = write_onnx(target, x, expected, folder / f"{name}.onnx")
    (folder / f".{name}.json").write_text(json.dumps(facts, indent=1) + "\n")
    os.replace(folder / f".{name}.json", folder / f"{name}.json")


def write_onnx(model: torch.nn.Module, x: torch.Tensor, expected, path: Path) -> float | None:
    """Write the file; the error of onnxruntime's output, if it is installed."""
    partial = path.with_name(f".{path.name}")
    torch.onnx.export(model, (x,), str(partial), dynamo=True, verbose=False, external_data=False)
    os.replace(partial, path)
    try:
        import onnxruntime
    except ImportError:
        print(f'{path}: written; not run, for lack of onnxruntime (pip install "sterf-plugins[deploy]")')
        return None
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    found = [torch.from_numpy(y) for y in session.run(None, {session.get_inputs()[0].name: x.numpy()})]
    error = largest_error(found, [expected] if isinstance(expected, torch.Tensor) else expected)
    print(f"{path}: largest relative difference in onnxruntime {error:.1e}")
    return error


if __name__ == "__main__":
    run_tool(main)
