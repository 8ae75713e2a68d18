"""Inference on a CPU: a model as trained, folded, and folded in ONNX Runtime and OpenVINO; medians of runs in turn.

    pip install "sterf-plugins[deploy]" openvino
    python benchmarks/deploy.py --threads 2 --out benchmarks/results/deploy_cpu.json

The models are untrained, so two things make all their layers fire: the norms have the statistics of rendered scenes
(tools/dataset_tools/make_shapes.py), and MLPixer and SRB have the hidden norm of the paper's formula. A model in which
a layer stays silent is refused. Each output is compared with the folded model's: the median of the differences over the
largest value, since in float32 rounding may flip single spikes.
"""

import argparse
import json
import platform
import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import timm
import torch
from saved import write
from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

import sterf_plugins.timm  # noqa: F401  (registers the models)
from sterf_plugins.activity import FiringRates
from sterf_plugins.deploy import reparameterize
from sterf_plugins.erf import calibrate

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tools/dataset_tools"))
from make_shapes import render


def scenes(count: int, size: int) -> torch.Tensor:
    """Rendered images with ImageNet's normalisation, (count, 3, size, size)."""
    pixels = np.stack([render(0, "train", i, size).image for i in range(count)])
    images = torch.from_numpy(pixels).permute(0, 3, 1, 2) / 255
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD))
    return ((images - mean) / std).contiguous()


def lowest_rate(model: torch.nn.Module, x: torch.Tensor) -> float:
    """Share of non-zero spikes in the layer that has the fewest."""
    with FiringRates(model) as rates:
        model.forward_features(x)
    return min(layer.nonzero for layer in rates.layers.values())


def onnx_file(model: torch.nn.Module, x: torch.Tensor, folder: Path) -> Path:
    """Write the model as ONNX into a folder; the file's path."""
    path = folder / "model.onnx"
    torch.onnx.export(model, (x,), str(path), dynamo=True, verbose=False, external_data=False)
    return path


def onnx_runtime(path: Path, threads: int):
    """A function of an image as a numpy array, run by ONNX Runtime."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda x: session.run(None, {name: x})[0]


def open_vino(path: Path, threads: int):
    """A function of an image as a numpy array, run by OpenVINO in float32; ``None`` where it is not installed."""
    try:
        import openvino
    except ImportError:
        return None
    core = openvino.Core()
    settings = {"INFERENCE_NUM_THREADS": threads, "INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY"}
    model = core.compile_model(core.read_model(str(path)), "CPU", settings)
    return lambda x: model(x)[0]


def compare(name: str, args: argparse.Namespace) -> dict:
    """Seconds of each way to run a model, ratios as trained / way, and how far the outputs differ."""
    torch.manual_seed(0)
    images = scenes(8 + args.batch, args.size)
    x = images[8:].contiguous()
    model = calibrate(timm.create_model(name, norm_hidden=True), images[:8])
    lowest = lowest_rate(model, x)
    if not lowest:
        raise SystemExit(f"{name}: a layer never fires; the comparison would be void")
    folded = reparameterize(model, x)
    expected = folded.forward_features(x)
    features = {"as trained": model.forward_features, "folded": folded.forward_features}
    folded.forward = folded.forward_features
    ways = {key: (lambda x, run=run: run(torch.from_numpy(x)).numpy()) for key, run in features.items()}
    with tempfile.TemporaryDirectory() as folder:
        path = onnx_file(folded, x, Path(folder))
        ways["ONNX Runtime"] = onnx_runtime(path, args.threads)
        if (run := open_vino(path, args.threads)) is not None:
            ways["OpenVINO"] = run
    image, spent = x.numpy(), {key: [] for key in ways}
    for i in range(args.repeats + 2):
        for key, run in ways.items():
            start = time.perf_counter()
            run(image)
            if i > 1:  # The first two are a warm-up.
                spent[key].append(time.perf_counter() - start)
    ratios = {
        key: statistics.median(a / b for a, b in zip(spent["as trained"], values, strict=True))
        for key, values in spent.items()
        if key != "as trained"
    }
    scale = float(expected.abs().max())
    differences = {
        k: float((torch.from_numpy(run(image)) - expected).abs().median()) / scale for k, run in ways.items()
    }
    seconds = {key: statistics.median(values) for key, values in spent.items()}
    return dict(seconds=seconds, ratios=ratios, median_differences=differences, largest_value=scale, lowest_rate=lowest)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--models", nargs="+", default=["sdtv3_base", "sdtv3_base_mlpixer", "sdtv3_base_srb", "sdtv3_tiny_srb"]
    )
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--out", type=Path, help="write the figures as JSON")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.set_grad_enabled(False)
    results = dict(
        device="cpu", hardware=platform.machine(), threads=args.threads, torch=torch.__version__, size=args.size
    )
    for name in args.models:
        results[name] = compare(name, args)
        print(name, json.dumps(results[name]), flush=True)
    if args.out:
        write(args.out, results)


if __name__ == "__main__":
    main()
