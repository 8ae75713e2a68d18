"""Inference on a CPU: a model as trained, folded, and folded in ONNX Runtime and OpenVINO; medians of paired runs.

    pip install "sterf-plugins[deploy]" openvino
    python benchmarks/deploy.py --threads 2 --out benchmarks/results/deploy_cpu.json

The norms have the statistics of random images, so that all layers fire. Each runtime's output is compared with the
folded model's: the median of the differences over the largest value, since rounding may flip a spike in float32.
"""

import argparse
import json
import platform
import statistics
import tempfile
import time
from pathlib import Path

import timm
import torch
from saved import write

import sterf_plugins.timm  # noqa: F401
from sterf_plugins.deploy import reparameterize
from sterf_plugins.erf import calibrate


def onnx_file(model, x, folder: Path) -> Path:
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
    torch.manual_seed(0)
    x = torch.randn(args.batch, 3, args.size, args.size)
    model = calibrate(timm.create_model(name), torch.randn(4, 3, args.size, args.size))
    folded = reparameterize(model, x)
    expected = folded.forward_features(x)
    if float(expected.std(0).mean() if args.batch > 1 else expected.std()) == 0:
        raise SystemExit(f"{name}: the features are constant; the comparison would be void")
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
            if i > 1:  # the first two are warm-up
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
    return dict(seconds=seconds, ratios=ratios, median_differences=differences, largest_value=scale)


def main():
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
