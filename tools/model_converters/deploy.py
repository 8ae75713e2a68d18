"""Fold a trained model's norms into its weights, and write it for deployment, with what it gains.

    sterf deploy sdtv3_tiny_srb ours.pth --out work_dirs/deploy --onnx
    sterf deploy 'sdtv3_base(num_classes=0)' --out work_dirs/deploy --spike-driven
    sterf deploy configs/sd_track/sdtrack-tiny-4x1_conv_fe108.py tracker.pth --onnx

Writes NAME.pt2 (torch.export), and NAME.onnx on request; a model without norms that can be folded is written as it is.
The folded or spike-driven model is compared with the given one in float64, and each file, loaded again, with the model
that was written into it, in float32, where rounding may flip a spike. A model whose outputs do not depend on the image
is refused, since any comparison would succeed. Without a checkpoint BatchNorms get the statistics of noise. With --onnx
the file is timed in ONNX Runtime too, which is the way to run a model on a CPU without PyTorch:

    session = onnxruntime.InferenceSession("NAME.onnx", providers=["CPUExecutionProvider"])
    outputs = session.run(None, dict(images=images))

A tracker has the inputs template and search, of the sizes in its config, and the outputs score, offset and size.
"""

import argparse
import copy
import json
import re
import statistics
import time
from collections.abc import Callable
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from sterf_plugins.cli.begin import OptionParser, begin

begin()

import torch
from torch import Tensor
from tqdm import tqdm

from sterf_plugins.checks import require
from sterf_plugins.cli.checkpoints import add_checkpoint_option
from sterf_plugins.cli.console import check_counts, check_writable, run_tool
from sterf_plugins.cli.loading import Loaded, load_model
from sterf_plugins.cli.specs import parse_spec
from sterf_plugins.deploy import reparameterize, to_spike_driven
from sterf_plugins.deploy.probe import compared_values, largest_error, run, tensors_in
from sterf_plugins.erf.calibrate import CALIBRATION, calibrate, uncalibrated
from sterf_plugins.files import check_new, replacing


def parse_args() -> argparse.Namespace:
    p = OptionParser(description=__doc__)
    p.add_argument("model", metavar="MODEL", help="timm name, config or module:factory, with options in parentheses")
    p.add_argument("checkpoint", metavar="CHECKPOINT", nargs="?", help="its weights (random ones without)")
    add_checkpoint_option(p)
    p.add_argument("--out", default="work_dirs/deploy", help="folder to write to (default: %(default)s)")
    p.add_argument("--overwrite", action="store_true", help="replace files of an earlier run")
    p.add_argument("--input-size", type=int, nargs=2, metavar=("H", "W"), help="default: the model's own")
    p.add_argument(
        "--batch", type=int, default=1, help="images, or pairs of a tracker, per pass (default: %(default)s)"
    )
    p.add_argument("--spike-driven", action="store_true", help="binary spikes over D steps in front of every weight")
    p.add_argument("--onnx", action="store_true", help="write ONNX too, and run it in ONNX Runtime if that is there")
    p.add_argument("--repeats", type=int, default=10, help="timed runs of each (default: %(default)s)")
    return p.parse_args()


def milliseconds(runs: dict[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Median time in milliseconds of each of several functions, which take turns."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    with torch.no_grad():
        for i in tqdm(range(repeats + 1), desc="timing", delay=5, leave=False, disable=None):
            for name, run in runs.items():
                start = time.perf_counter()
                run()
                if i:  # the first call of each is a warm-up
                    times[name].append(1000 * (time.perf_counter() - start))
    return {name: statistics.median(values) for name, values in times.items()}


def batches(args: argparse.Namespace, loaded: Loaded, *sizes: int) -> list[dict[str, Tensor]]:
    """Random inputs of the model by their names, a batch of each of these sizes.

    Those of a tracker are pairs of event images, (B, 3, H, W), or (T, B, 3, H, W) of several time steps.
    """
    if not loaded.is_tracker:
        size = tuple(args.input_size) if args.input_size else loaded.size
        return [dict(images=torch.randn(number, len(loaded.mean), *size)) for number in sizes]
    from sterf_plugins.cli.erf.tracker_inputs import tracker_inputs

    pairs = iter(tracker_inputs("noise", loaded, sum(sizes), seed=0))
    parts = [list(islice(pairs, number)) for number in sizes]
    return [{name: torch.cat([pair[name] for pair in part], -4) for name in part[0]} for part in parts]


class NamedMaps(torch.nn.Module):
    """A tracker whose maps are a dict: a file with the class ``CentreMaps`` could not be read without this package."""

    def __init__(self, network: torch.nn.Module):
        super().__init__()
        self.network = network

    def forward(self, template: Tensor, search: Tensor) -> dict[str, Tensor]:
        maps = self.network(template, search)
        return dict(score=maps.score, offset=maps.offset, size=maps.size)


def files_at(args: argparse.Namespace) -> Path:
    """Where the files of the model go, without their endings; ``ValueError`` if they are there and must not be replaced."""
    folder = Path(args.out)
    check_writable(folder, "--out")
    base = folder / re.sub(r"\W+", "_", parse_spec(args.model)[0]).strip("_")
    for suffix in ("pt2", "onnx", "json") if args.onnx else ("pt2", "json"):
        check_new(Path(f"{base}.{suffix}"), args.overwrite)
    return base


def load(args: argparse.Namespace) -> Loaded:
    """The model with its weights; ``ValueError`` for a size of images that a tracker does not take."""
    loaded = load_model(args.model, args.checkpoint)
    if loaded.is_tracker and args.input_size:
        raise ValueError(
            f"--input-size is for models of one image; {args.model} takes a template and a search region, whose sizes are "
            f"template_size and search_size of the config's test_dataloader.dataset."
        )
    return loaded


def convert(
    args: argparse.Namespace, loaded: Loaded, inputs: dict[str, Tensor], others: dict[str, Tensor]
) -> tuple[dict[str, torch.nn.Module], float, str]:
    """The model and what is made of it, from one step to the next, and how far the last is from the first in float64.

    Args:
        args: the command line.
        loaded: the model.
        inputs: example inputs by name.
        others: others, by which outputs that differ between inputs are told.

    Returns:
        The modules in float32 by name, the largest relative difference, and of which values it is.
    """
    model = NamedMaps(loaded.network) if loaded.is_tracker else loaded.model
    exact, x = copy.deepcopy(model).double(), in_double(inputs)
    try:
        values = compared_values(run(exact, x), run(exact, in_double(others)))
    except (TypeError, AttributeError) as cause:
        if loaded.config is None:
            raise
        raise ValueError(
            f"{args.model} does not run on images alone, like all detectors of two stages and transformers, so that it cannot "
            f"be written ({cause}). In Python, sterf_plugins.deploy.reparameterize(model, images, forward=lambda model, images: "
            f"model.extract_feat(images)) folds its backbone and neck, and mmdet runs it as before."
        ) from cause
    models = {"model": exact}
    try:
        models["folded"] = reparameterize(exact, tuple(inputs.values()))
    except ValueError as reason:  # as of models with other norms, or with statistics over several maps
        print(f"not folded: {reason}")
    if args.spike_driven:
        models["spike-driven"] = to_spike_driven(list(models.values())[-1], x)
    what, target = list(models.items())[-1]
    error = largest_error(run(target, x), run(exact, x))
    if target is not exact:
        print(f"{what}, in float64: largest relative difference {error:.1e} {values}")
    return {name: one.float() for name, one in models.items()}, error, values


def main() -> None:
    args = parse_args()
    check_counts(args, "batch", "repeats", "input_size")
    if args.onnx:
        for package in ("onnx", "onnxscript"):
            require(package, extra="deploy")
    base = files_at(args)
    loaded = load(args)
    inputs, others, noise = batches(args, loaded, args.batch, args.batch, CALIBRATION)
    if not args.checkpoint and uncalibrated(loaded.model):
        calibrate(loaded.model, list(noise.values())[-1])
        print(f"{args.model}: random weights, BatchNorm statistics of {CALIBRATION} noise inputs")
    models, error, values = convert(args, loaded, inputs, others)
    shapes = {name: list(tensor.shape) for name, tensor in inputs.items()}
    facts: dict = dict(model=args.model, checkpoint=args.checkpoint, inputs=shapes, float64_error=error)
    x, target = tuple(inputs.values()), list(models.values())[-1]
    runs: dict[str, Callable[[], Any]] = {name: partial(one, *x) for name, one in models.items()}
    expected = run(target, x)
    with torch.no_grad():
        program = torch.export.export(target, x)
        facts["export_error"] = largest_error(write_program(program, Path(f"{base}.pt2"))(*x), expected)
    print(f"{base}.pt2: largest relative difference {facts['export_error']:.1e} {values}")
    session = write_onnx(program, list(inputs), expected, Path(f"{base}.onnx")) if args.onnx else None
    if session is not None:
        runs["ONNX Runtime"] = partial(session.run, None, {name: tensor.numpy() for name, tensor in inputs.items()})
        found = [torch.from_numpy(y) for y in runs["ONNX Runtime"]()]
        facts["onnx_error"] = largest_error(found, tensors_in(expected))
        print(f"{base}.onnx: largest relative difference {facts['onnx_error']:.1e} {values}")
    times = facts["milliseconds"] = milliseconds(runs, args.repeats)
    facts["speed_up"] = {name: times["model"] / time for name, time in times.items() if name != "model"}
    listed = ", ".join(f"{name} {shape}" for name, shape in shapes.items())
    shown = [f"model {times['model']:.1f} ms"]
    shown += [f"{name} {times[name]:.1f} ms ({ratio:.2f}x)" for name, ratio in facts["speed_up"].items()]
    print(f"{args.model}, {listed}, medians: {', '.join(shown)}")
    with replacing(Path(f"{base}.json")) as file:
        file.write_text(json.dumps(facts, indent=1) + "\n")


def in_double(inputs: dict[str, Tensor]) -> tuple[Tensor, ...]:
    """The inputs in float64, in their order."""
    return tuple(tensor.double() for tensor in inputs.values())


def write_program(program: torch.export.ExportedProgram, path: Path) -> torch.nn.Module:
    """Write a program of ``torch.export``, and load it again.

    What is written has PyTorch's own operators alone: SpikingJelly's neurons are one that other programs do not know.
    """
    with replacing(path) as file:
        torch.export.save(program.run_decompositions({}), file)
    return torch.export.load(path).module()


def write_onnx(program: torch.export.ExportedProgram, inputs: list[str], expected: object, path: Path):
    """Write the program as ONNX, and return an ONNX Runtime session of the file, or ``None`` if that is not installed.

    Inputs have the names that are given, and outputs those of a dict.

    Raises:
        ValueError: the model has an operator that PyTorch's exporter does not know.
    """
    outputs = list(expected) if isinstance(expected, dict) else None
    try:
        with replacing(path) as file:
            torch.onnx.export(
                program,  # type: ignore[arg-type]  # which PyTorch's annotation leaves out
                f=str(file),
                input_names=inputs,
                output_names=outputs,
                dynamo=True,
                verbose=False,
                external_data=False,
            )
    except torch.onnx.OnnxExporterError as error:
        reason = str(error.__cause__ or error).partition(". See the stack trace")[0]
        raise ValueError(
            f"--onnx: PyTorch {torch.__version__} cannot write this model ({reason}); a newer one may. "
            f"{path.with_suffix('.pt2')} is written."
        ) from error
    try:
        import onnxruntime
    except ImportError:
        print(f'{path}: written; not run, for lack of onnxruntime (pip install "sterf-plugins[deploy]")')
        return None
    return onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])


if __name__ == "__main__":
    run_tool(main)
