"""Effective receptive fields of any model: numbers, pictures and a report.

    sterf erf sdtv3_tiny_srb --layers 'stages.*' --out work_dirs/erf
    sterf erf swin_tiny_patch4_window7_224 --pretrained --images photos/ --untrained --out work_dirs/swin
    sterf erf configs/shapes/fpn_sdtv3-t-srb_shapes.py CHECKPOINT.pth --images val --out work_dirs/fpn
    sterf erf configs/erf/neurons.py --out work_dirs/neurons
    sterf erf before.pth after.pth --model NAME --images val --out work_dirs/change
    sterf erf configs/sd_track/sdtrack-tiny-4x1_srb-e4_fe108.py CHECKPOINT.pth --images val --out work_dirs/track
    sterf erf NAME CHECKPOINT.pth --against baseline.npz --fail-if 'area_90>5%' --out work_dirs/check
    sterf erf torchvision.models.video:r3d_18 --inputs clips.npy --axes NCTHW --layers 'layer*' --out work_dirs/video

A model is a timm name, an OpenMMLab config (a path, mmdet::…, mmseg::…) or module:factory, with options in parentheses
and a label before an equals sign if wanted: "LIF=sterf_plugins.backbones:SpikingCNN(neuron='lif', tau=4.0)". A study is
a file with `study = dict(models=[...], ...)`, whose other keys are options of this tool.

A tracker (configs/sd_track) has two fields for each layer, over the template and over the search region, where position
is a place of the search region; inputs are random events, or of the config's test (val) or another folder of its layout
(DIR), with the object in the middle. With several time steps, it has fields in time as well.
"""

import argparse
import json
import math
import sys
from pathlib import Path
from typing import Any, NamedTuple

from sterf_plugins.cli.begin import OptionParser, begin

begin()

import numpy as np
import torch

from sterf_plugins.cli.checkpoints import add_checkpoint_option
from sterf_plugins.cli.console import add_device_option, check_counts, check_device, check_writable, run_tool
from sterf_plugins.cli.erf.check import CHECK_FILES, add_check_options, asked_changes, check_models
from sterf_plugins.cli.erf.comparison import (
    TABLE,
    add_comparison_options,
    check_baseline,
    check_comparison,
    compared,
    compared_models,
    tell,
)
from sterf_plugins.cli.erf.curves import add_curve_options, print_theory, sizes_of
from sterf_plugins.cli.erf.inputs import add_input_options, entries, given_inputs, is_noise
from sterf_plugins.cli.erf.options import PEAK, add_field_options, number_or, parse_position, protocol_of
from sterf_plugins.cli.erf.requests import digest, request_of, stored
from sterf_plugins.cli.erf.study import check_entries, read_study
from sterf_plugins.cli.images import displayed, inputs_for
from sterf_plugins.cli.loading import Loaded, default_size, load_model
from sterf_plugins.cli.progress import progress_bar
from sterf_plugins.cli.specs import check_pretrained, is_timm, parse_spec, slug_of
from sterf_plugins.erf import ERFResult, compute_erf, theoretical_rf
from sterf_plugins.erf.figures.wording import facts, named
from sterf_plugins.erf.outputs.targets import match_layers
from sterf_plugins.erf.protocols import table
from sterf_plugins.erf.report.folder import REPORT_FILES, VECTORS, write_report
from sterf_plugins.erf.summary import counted
from sterf_plugins.erf.theory.field import add_theory
from sterf_plugins.files import check_claim, claim

UNTRAINED = " (untrained)"  # what the label of a model with random weights ends in, beside the trained one


def parser() -> argparse.ArgumentParser:
    """The parser of the command line."""
    p = OptionParser(description=__doc__)
    p.add_argument("model", metavar="MODEL_OR_CONFIG", help="what to look at, or a study; a checkpoint with --model")
    p.add_argument("checkpoint", nargs="?", metavar="CHECKPOINT", help="the model's weights")
    add_checkpoint_option(p)
    add_comparison_options(p)
    p.add_argument("--out", required=True, metavar="DIR", help="folder of the results")
    p.add_argument(
        "--compare",
        nargs="+",
        action="append",
        default=[],
        metavar=("NAME", "CKPT"),
        help="one more model; may be repeated",
    )
    p.add_argument(
        "--layers", nargs="+", metavar="GLOB", help="modules (default: feature levels; * stays within a level)"
    )
    p.add_argument(
        "--images",
        default="noise",
        metavar="DIR|noise|val|photographs",
        help="inputs (default: standard normal noise); photographs: twelve of the extra [examples]",
    )
    add_field_options(p)
    add_input_options(p)
    add_check_options(p)
    add_curve_options(p)
    p.add_argument("--seed", type=int, default=0, help="seed of weights, noise and projections")
    p.add_argument("--batch-size", type=int, help="inputs per pass (default: measured)")
    add_device_option(p)
    p.add_argument("--title", help="title of the report")
    p.add_argument(
        "--vector", default="pdf", choices=[*VECTORS, "none"], help="second format of the figures beside PNG"
    )
    p.add_argument("--json", action="store_true", help="print the numbers as JSON")
    p.add_argument(
        "--overwrite",
        action="store_true",
        help="replace results of other settings, or a report not made here",
    )
    return p


def arguments() -> argparse.Namespace:
    """Read the command line; if it names a study, the study's entries are the defaults of the other options."""
    p = parser()
    args = p.parse_args()
    first = compared_models(args.model, args.checkpoint, args.of)
    args.models = [*first, *([*m, None][:2] for m in args.compare)]
    for extra in args.compare:
        if len(extra) > 2:
            raise ValueError(f"--compare takes NAME and, if wanted, CKPT; got {' '.join(extra)}. Repeat the option.")
    study = read_study(args.model) if args.of is None else None
    if study is None:
        return args
    if args.checkpoint is not None:
        raise ValueError(
            f"{args.checkpoint}: the study {args.model} names the checkpoints of its models; write it there, as [NAME, CHECKPOINT]."
        )
    models, settings = study
    p.set_defaults(**check_entries(args.model, settings, parser(), set(vars(args)) - {"models"}))
    args = p.parse_args()
    args.models = [*models, *([*m, None][:2] for m in args.compare)]
    return args


class Job(NamedTuple):
    """A model to compute.

    Attributes:
        label: its name in the results.
        spec: its specification.
        checkpoint: file of its weights; ``None`` without one.
        untrained: whether its weights are random.
    """

    label: str
    spec: str
    checkpoint: str | None
    untrained: bool


def build(spec: str, checkpoint: str | None, pretrained: bool, seed: int) -> Loaded:
    """Load a model; weights that it does not get from a file are drawn with this seed."""
    torch.manual_seed(seed)
    return load_model(spec, checkpoint, pretrained and is_timm(spec))


def load(args: argparse.Namespace, job: Job) -> Loaded:
    """The model of a job with its weights."""
    return build(job.spec, job.checkpoint, args.pretrained and not job.untrained, args.seed)


def jobs(args: argparse.Namespace) -> list[Job]:
    """The models to compute."""
    if args.pretrained:
        check_pretrained([spec for spec, _ in args.models])
    found = []
    for spec, checkpoint in args.models:
        label = parse_spec(spec)[0]
        label = Path(label).stem if label.endswith(".py") else label
        trained = bool(checkpoint) or (args.pretrained and is_timm(spec))
        found.append(Job(label, spec, checkpoint, not trained))
        if args.untrained and trained:
            found.append(Job(f"{label}{UNTRAINED}", spec, None, True))
    slugs = [slug_of(job.label) for job in found]
    for job in found:
        if slugs.count(slug_of(job.label)) > 1:
            raise ValueError(f"two models are called {job.label!r}; give one a label: 'LABEL=NAME'.")
    return found


def inputs_of(
    args: argparse.Namespace, loaded: Loaded, layers: list[str] | None, size: tuple[int, int]
) -> tuple[Any, list[str] | None, dict[str, Any]]:
    """The inputs of a model, its layers, and the arguments of ``compute_erf`` that depend on what kind of model it is."""
    model = loaded.network
    kinds: Any = ("spatial", "temporal", "spatiotemporal")
    if loaded.is_tracker:  # the inputs have their time steps
        inputs, layers, options = of_tracker(args, loaded, layers)
        return inputs, layers, options | dict(kinds=kinds if model.T > 1 else "spatial")
    known = getattr(model, "T", None) or loaded.test_dataset.get("t") or 4  # ``t`` is of videos
    steps = args.time_steps or (known if args.temporal or loaded.takes_videos else None)
    options = dict(layout=args.layout, time_steps=steps, kinds=kinds if args.temporal else "spatial")
    if args.inputs:
        return given_inputs(args, loaded), layers, options | dict(wrt=entries(args), axes=args.axes, kinds=None)
    inputs = inputs_for(args.images, loaded, size, args.num, args.seed, protocol_of(args).squashed)
    if loaded.images_have_time and args.images != "noise":
        options["time_steps"] = None  # images of events have their time steps
    if loaded.config is not None:
        from sterf_plugins.openmmlab.runtime.tensor_forward import forward_for

        options["forward"] = forward_for(model, layers)
    return inputs, layers, options


def compute(
    args: argparse.Namespace,
    job: Job,
    size: tuple[int, int],
    folder: Path,
    theory: bool = False,
    built: Loaded | None = None,
) -> ERFResult:
    """The result of one model: from its file if it is there, else computed and written, with its ``theory`` if wanted.

    The model is loaded, unless it is ``built`` already.
    """
    path = folder / f"{slug_of(job.label)}.npz"
    if args.against and path.exists() and path.samefile(args.against):
        raise ValueError(f"--against {args.against} is the file that this run writes; give another --out.")
    request = request_of(args, job, size, theory)
    found = stored(path, request, args.overwrite)
    if found is not None:
        print(f"{job.label}: results exist in {path}", file=sys.stderr)
        return found
    loaded = built or load(args, job)
    for note in loaded.notes:
        print(f"{job.label}: {note}", file=sys.stderr)
    check_for_tracker(args, loaded)
    # The name holds the request, so that another request never goes on with the state of this one.
    state = folder / f".{path.stem}.{digest(json.dumps(request))}.state"
    result = computed(args, job.label, loaded, size, state, theory)
    weights = "random" if job.untrained else Path(job.checkpoint).name if job.checkpoint else "pretrained"
    images = "" if args.inputs and not is_noise(args) else args.images  # "": inputs of any kind
    result.info |= dict(model=job.spec, checkpoint=job.checkpoint, request=request, weights=weights, images=images)
    result.save(path)
    notes = f" ({', '.join(result.notes)})" if result.notes else ""
    print(f"{job.label}: {counted(result.info['num_inputs'], 'input')}{notes} -> {path}", file=sys.stderr)
    return result


def computed(
    args: argparse.Namespace, label: str, loaded: Loaded, size: tuple[int, int], state: Path, theory: bool
) -> ERFResult:
    """The fields that the options ask for; an interrupted computation goes on from the file ``state``."""
    model = loaded.network.to(args.device)
    layers = args.layers
    if layers and len(args.models) > 1:  # models that are compared may call their layers differently
        layers = [pattern for pattern in layers if has_layer(model, pattern)]
    inputs, layers, options = inputs_of(args, loaded, layers, size)
    calls = number_or("--calls", args.calls, "all", "first", "last")
    same: dict[str, Any] = dict(calls=calls, target=args.target, grid=tuple(args.grid) if args.grid else None)
    torch.manual_seed(
        args.seed
    )  # of what the model draws in its forward pass, however many models have been built before
    with progress_bar(label, args.num) as show:
        result = compute_erf(
            model,
            inputs,
            layers,
            **options,
            **same,
            protocol=args.protocol,
            position=parse_position(args.position),
            reduce=args.reduce,
            channels=args.channels and number_or("--channels", args.channels, "auto", "sum", "relu", "per-channel"),
            aggregate=args.aggregate,
            tolerance=args.tolerance,
            seed=args.seed,
            calibrate=args.calibrate if args.calibrate == "auto" else args.calibrate == "always",
            batch_size=args.batch_size,
            progress=show,
            state=state,
        )
    if theory:
        shared = {name: options.get(name) for name in ("forward", "time_steps", "layout")}
        add_theory(result, theoretical_rf(model, size, layers, in_channels=len(loaded.mean), **shared, **same))
    return result


def of_tracker(
    args: argparse.Namespace, loaded: Loaded, layers: list[str] | None
) -> tuple[Any, list[str], dict[str, Any]]:
    """Pairs of template and search region for a tracker, its layers, and what ``compute_erf`` must know of it."""
    from sterf_plugins.cli.erf.tracker_inputs import tracker_inputs
    from sterf_plugins.tracking.fields import LAYERS, field_options

    inputs = tracker_inputs(args.images, loaded, args.num, args.seed, args.position == PEAK)
    return inputs, layers or list(LAYERS), field_options(loaded.network, *loaded.region_sizes)


def check_for_tracker(args: argparse.Namespace, loaded: Loaded) -> None:
    """Raise ``ValueError`` if an option is for trackers alone and the model is none, or the other way round."""
    if not loaded.is_tracker and args.position == PEAK:
        raise ValueError(f"--position {PEAK} is where a tracker's score is highest; {loaded.label} is no tracker.")
    others = ("theory", "check", "sizes", "input_size", "time_steps", "layout", "grid", "inputs")
    unsuitable = [name.replace("_", "-") for name in others if getattr(args, name)]
    if loaded.is_tracker and unsuitable:
        raise ValueError(
            f"--{unsuitable[0]} is for models of one image; {loaded.label} takes a template and a search region, whose sizes are "
            f"template_size and search_size of the config's test_dataloader.dataset."
        )


def has_layer(model: torch.nn.Module, pattern: str) -> bool:
    """Whether a pattern matches a layer of the model."""
    try:
        return bool(match_layers(model, pattern))
    except ValueError:
        return False


def first_model(args: argparse.Namespace) -> Loaded:
    """The first model; all are built once, so that a mistake in the last is found before the others have taken their time.

    Models that are compared may call their layers differently: each has a layer, and each pattern is one of some model.
    """
    models = [build(spec, checkpoint, args.pretrained, args.seed) for spec, checkpoint in args.models]
    for pattern in args.layers or ():
        if not any(has_layer(loaded.network, pattern) for loaded in models):
            match_layers(models[0].network, pattern)  # raises an error that names layers
    for loaded in models:
        if args.layers and not any(has_layer(loaded.network, pattern) for pattern in args.layers):
            match_layers(loaded.network, args.layers[0])
    return models[0]


def image_sizes(args: argparse.Namespace, first: Loaded) -> list[tuple[int, int]]:
    """The sizes (H, W) of images to compute at, from the smallest to the largest: those that are given, or the first model's."""
    own = args.input_size or protocol_of(args).size
    stated = args.sizes or args.inputs  # these say how large the inputs are
    sizes = sizes_of(args, tuple(own or (first.size if stated else default_size(first))))
    if min(sizes[0]) < 1:
        raise ValueError(
            f"{'--sizes' if args.sizes else '--input-size'} {min(sizes[0])}: an image has at least 1 pixel a side."
        )
    return sizes


def shown_image(args: argparse.Namespace, first: Loaded, size: tuple[int, int]) -> np.ndarray | None:
    """The first input as a picture (H, W, 3) for the report; ``None`` of noise and of trackers, whose inputs are pairs."""
    if args.images == "noise" or first.is_tracker:
        return None
    images = inputs_for(args.images, first, size, args.num, args.seed, protocol_of(args).squashed)
    return displayed(next(iter(images)), first)


def print_results(args: argparse.Namespace, results: dict[str, ERFResult]) -> None:
    """Print the numbers of all models, as JSON or as tables."""
    if args.json:
        print(as_json(results))
        return
    summarise(results)
    if args.protocol == "all":
        for label, result in results.items():
            print(f"{label}\n{table(result)}")
    print_theory(results)


def main() -> None:
    args = arguments()
    if args.num is None:
        args.num = protocol_of(args).num_images
    check_counts(args, "num", "time_steps")
    check_device(args.device)
    folder = Path(args.out)
    check_writable(folder, "--out")
    check_claim(folder, "erf", (*REPORT_FILES, TABLE, *(CHECK_FILES if args.check else ())), args.overwrite)
    rules, baseline = check_comparison(args)
    work = {job.label: job for job in jobs(args)}
    first = first_model(args)
    sizes = image_sizes(args, first)
    size = sizes[-1]
    check_baseline(args, baseline, first, size)
    asked_changes(args, size)
    given_inputs(args, first)
    sweeps: dict[str, dict[tuple[int, int], ERFResult]] = {label: {} for label in work}
    for number, (label, job) in enumerate(work.items()):
        for s in sizes:
            one = Job(f"{label} {s[0]}px", *job[1:]) if args.sizes else job
            sweeps[label][s] = compute(args, one, s, folder, args.theory and s == size, None if number else first)
    results = {label: sweep[size] for label, sweep in sweeps.items()}
    for label, result in results.items():
        for line in result.warnings:
            print(f"{label}: warning: {line}", file=sys.stderr)
    image = shown_image(args, first, size)
    found = compared(args, {k: r for k, r in results.items() if not k.endswith(UNTRAINED)}, baseline)
    claim(folder, "erf")
    print_results(args, results)
    checks, randomised = check_models(args, results, lambda label: load(args, work[label]), size, folder)
    page = write_report(
        results,
        folder,
        args.title or f"Effective receptive fields: {', '.join(results)}",
        image,
        sweeps=sweeps if len(sizes) > 1 else None,
        frequency=args.frequency,
        checks=checks,
        randomised=randomised,
        difference=found,
        vector=None if args.vector == "none" else args.vector,
    )
    print(f"report: {page}", file=sys.stderr if args.json else sys.stdout)
    if broken := tell(args, found, rules):
        print("\n".join(["the field has changed:", *broken]), file=sys.stderr)
        raise SystemExit(1)


def as_json(results: dict[str, ERFResult]) -> str:
    """All numbers with their errors, by model and layer; ``null`` for what is not finite, which JSON does not have."""
    tables = {label: {layer: result.numbers(layer) for layer in result.layers} for label, result in results.items()}
    return json.dumps(
        {
            label: {
                layer: {name: [v if math.isfinite(v) else None for v in number] for name, number in numbers.items()}
                for layer, numbers in layers.items()
            }
            for label, layers in tables.items()
        }
    )


def summarise(results: dict[str, ERFResult]) -> None:
    """Print the main numbers of each model's layers."""
    width = max(len(named(r, layer)) for r in results.values() for layer in r.layers)
    for label, result in results.items():
        print(f"{label}: {'; '.join(facts(result).values())}")
        for layer in result.layers:
            numbers = result.numbers(layer)
            parts = [
                f"{name} {numbers[key]}"
                for key, name in (
                    ("area_50", "area 50 %"), ("area_90", "90 %"), ("anisotropy", "anisotropy"), ("mean_lag", "mean lag"),
                )
                if key in numbers
            ]  # fmt: skip
            print(f"  {named(result, layer):<{width}}  {', '.join(parts)}")


if __name__ == "__main__":
    run_tool(main, again="the same command: what is done is kept")
