"""Inference: a model as trained, folded, and folded in ONNX Runtime and OpenVINO; medians of runs in turn.

    pip install "sterf-plugins[deploy]" openvino
    python benchmarks/deploy.py --threads 2 --out benchmarks/results/deploy_cpu.json
    python benchmarks/deploy.py --device cuda --batch 64 --out benchmarks/results/deploy_cuda.json

On a GPU the folded model also runs with bf16, compiled, and in CUDA graphs; OpenVINO has no such device.
The models are untrained, so two things make all their layers fire: the norms have the statistics of rendered scenes
(tools/dataset_tools/make_shapes.py), and MLPixer and SRB have the hidden norm of the paper's formula. A model in which
a layer stays silent is refused. Each output is compared with the folded model's: the median of the differences over the
largest value, since in float32 rounding may flip single spikes.
"""

import argparse
import copy
import statistics
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import timm
import torch
from saved import Results, begin, options
from timing import in_turn
from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

import sterf_plugins.timm  # noqa: F401  (registers the models)
from sterf_plugins.activity import FiringRates
from sterf_plugins.deploy import reparameterize
from sterf_plugins.erf import calibrate

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tools/dataset_tools"))
from make_shapes import render

SMALL = dict(embed_dims=(16, 32, 32, 32), num_heads=2, depths=(1, 1, 1, 1, 1))


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


def onnx_file(model: torch.nn.Module, inputs: tuple[torch.Tensor, ...], folder: Path) -> Path:
    """Write the model as ONNX into a folder; the file's path."""
    path = folder / "model.onnx"
    torch.onnx.export(model, inputs, str(path), dynamo=True, verbose=False, external_data=False)
    return path


def onnx_runtime(path: Path, threads: int, device: str):
    """A function of the inputs as numpy arrays, run by ONNX Runtime; ``None`` where it has no such device."""
    import onnxruntime

    provider = f"{device.upper()}ExecutionProvider"
    if provider not in onnxruntime.get_available_providers():
        return None

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(str(path), options, providers=[provider])
    names = [put.name for put in session.get_inputs()]
    return lambda *x: session.run(None, dict(zip(names, x, strict=True)))[0]


def open_vino(path: Path, threads: int):
    """A function of the inputs as numpy arrays, run by OpenVINO in float32; ``None`` where it is not installed."""
    try:
        import openvino
    except ImportError:
        return None
    core = openvino.Core()
    settings = {"INFERENCE_NUM_THREADS": threads, "INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY"}
    model = core.compile_model(core.read_model(str(path)), "CPU", settings)
    return lambda *x: model(x)[0]


def runtimes(path: Path, args: argparse.Namespace) -> dict[str, Callable]:
    """Functions of the inputs as numpy arrays, by the names of the runtimes that have the device."""
    found = {"ONNX Runtime": onnx_runtime(path, args.threads, args.device)}
    if args.device == "cpu":
        found["OpenVINO"] = open_vino(path, args.threads)
    return {name: run for name, run in found.items() if run is not None}


def torch_ways(trained: torch.nn.Module, folded: torch.nn.Module, args: argparse.Namespace) -> dict[str, Callable]:
    """Ways to run the model in PyTorch: functions of images as a tensor."""
    ways: dict[str, Callable] = {"as trained": trained.forward_features, "folded": folded.forward_features}
    if args.device == "cuda":
        ways["folded, bf16"] = bf16(folded.forward_features)
        for name, mode in (("folded, bf16 compiled", None), ("folded, bf16, CUDA graphs", "reduce-overhead")):
            model = copy.deepcopy(folded)
            ways[name] = bf16(torch.compile(model.forward_features, fullgraph=True, dynamic=False, mode=mode))
    return ways


def bf16(run: Callable) -> Callable:
    """The function under autocast to bf16."""

    def function(x: torch.Tensor) -> torch.Tensor:
        with torch.autocast(x.device.type, torch.bfloat16):
            return run(x)

    return function


@torch.no_grad()
def compare(name: str, args: argparse.Namespace) -> dict:
    """Seconds of each way to run a model, ratios as trained / way, and how far the outputs differ."""
    torch.manual_seed(0)
    images = scenes(8 + args.batch, args.size)
    x = images[8:].contiguous()
    trained = calibrate(
        timm.create_model(name, norm_hidden=True, **(dict(arch=SMALL) if args.tiny else {})), images[:8]
    )
    lowest = lowest_rate(trained, x)
    if not lowest:
        raise ValueError(f"{name}: a layer never fires; the comparison would be void")
    folded = reparameterize(trained, x)
    expected = folded.forward_features(x)
    with tempfile.TemporaryDirectory() as folder:
        exported = copy.deepcopy(folded)
        exported.forward = exported.forward_features
        runs = runtimes(onnx_file(exported, (x,), Path(folder)), args)
    image, on_device = x.numpy(), x.to(args.device)
    ways = {
        k: partial(run, on_device)
        for k, run in torch_ways(*(m.to(args.device) for m in (trained, folded)), args).items()
    }
    ways |= {key: partial(run, image) for key, run in runs.items()}
    spent = in_turn(ways, args.repeats, args.device, warm_up=2)
    ratios = {
        key: statistics.median(a / b for a, b in zip(spent["as trained"], values, strict=True))
        for key, values in spent.items()
        if key != "as trained"
    }
    scale = float(expected.abs().max())
    differences = {
        k: float((torch.as_tensor(run()).cpu() - expected).abs().median()) / scale for k, run in ways.items()
    }
    return dict(
        seconds={key: statistics.median(values) for key, values in spent.items()},
        ratios=ratios,
        median_differences=differences,
        largest_value=scale,
        lowest_rate=lowest,
    )


MODELS = ("sdtv3_base", "sdtv3_base_mlpixer", "sdtv3_base_srb", "sdtv3_tiny_srb")


def main() -> None:
    p = options(__doc__, repeats=20)
    p.add_argument("--models", nargs="+", default=MODELS)
    p.add_argument("--size", type=int, default=224)
    p.add_argument("--batch", type=int, default=1)
    args = begin(p)
    if args.tiny:
        args.models, args.size = ("sdtv3_nano",), 64
    results = Results.of(args, size=args.size, batch=args.batch)
    for name in args.models:
        results.once(partial(compare, name, args), name)


if __name__ == "__main__":
    main()
