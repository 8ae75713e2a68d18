"""Effective receptive fields: the engine against one forward and one backward per (layer, input).

The published scripts run a whole forward and a whole backward, with parameter gradients, for every layer and input.
Both sides compute the same maps here, in this process, in turn; medians and ratios are printed.

    python benchmarks/erf.py --threads 2 --out benchmarks/results/erf_cpu.json
    python benchmarks/erf.py --threads 1 --parts loop order openerf --out benchmarks/results/erf_cpu_one_thread.json
    python benchmarks/erf.py --device cuda --out benchmarks/results/erf_cuda.json
"""

import itertools
import json
import statistics
import tempfile
from functools import partial
from pathlib import Path
from unittest import mock

import numpy as np
import timm
import torch
from PIL import Image
from plain_erf import contiguous_gradients, published, simple_loop
from plain_sdtv3 import PlainSDTV3
from plain_spikformer import PlainSpikformer, calibrate
from saved import Results, begin, options
from timing import in_turn, peak_mib, seconds

import sterf_plugins.timm  # noqa: F401
from sterf_plugins.backbones import SDTV3, Spikformer
from sterf_plugins.erf import compute_erf
from sterf_plugins.erf.passes.starts import maps_by_name


def compare(sides, repeats, device="cpu", inputs=None):
    """Median seconds, and the result, of each side, run in turn; per input where ``inputs`` counts those of each side.

    There is no warm-up where each side runs only once.
    """
    results = {}

    def keep(name):
        results[name] = sides[name]()

    times = in_turn({name: partial(keep, name) for name in sides}, repeats, device, min(1, repeats - 1))
    return {
        name: statistics.median(values) / (inputs[name] if inputs else 1) for name, values in times.items()
    }, results


def largest_difference(a, b):
    """Largest difference between the maps of both sides, relative to the maximum of each map of ``b``."""
    return max(float(np.abs(a[k] - b[k]).max() / np.abs(b[k]).max()) for k in b)


def sdtv3(args):
    """SDT-V3: the published method against the engine, at eight attention projections."""
    torch.manual_seed(0)
    ours = calibrate(SDTV3("tiny", "conv"), torch.randn(8, 3, args.size, args.size)).to(args.device)
    plain = PlainSDTV3(ours).to(args.device).eval()
    contiguous_gradients(plain)
    layers = [f"stages.{s}.blocks.{i}.attn.proj" for s, n in ((3, 6), (4, 2)) for i in range(n)]
    images = torch.randn(args.inputs, 3, args.size, args.size, device=args.device)
    few = images[: args.reference_inputs]
    own, theirs = dict(ours.named_modules()), dict(plain.named_modules())
    sides = {
        "published method, plain model": lambda: published(plain, few, {n: theirs[f"{n}.bn"] for n in layers}),
        "published method, our model": lambda: published(ours, few, {n: own[n] for n in layers}),
        "engine, our model": lambda: compute_erf(ours, images, layers).spatial,
    }
    inputs = {name: len(few) if "published" in name else len(images) for name in sides}
    seconds, maps = compare(sides, args.repeats, args.device, inputs)
    same = compute_erf(ours, few, layers).spatial
    return report(
        "SDT-V3 tiny conv, 8 attention projections", args, seconds, largest_difference(same, maps[next(iter(sides))])
    )


def spikformer(args):
    """Spikformer: the published method against the engine, at the attention projections of all blocks."""
    torch.manual_seed(0)
    depth, dim, heads = args.spikformer
    ours = calibrate(Spikformer(depth, dim, heads), torch.randn(2, 3, args.size, args.size)).to(args.device)
    plain = PlainSpikformer(depth, dim, heads).copy_weights(ours).to(args.device).eval()
    contiguous_gradients(plain)
    layers = {f"stages.{i}.blocks.0.attn.proj": f"blocks.{i}.attn.proj" for i in range(depth)}
    side = args.size // 16
    images = torch.randn(args.spikformer_inputs, 3, args.size, args.size, device=args.device)
    few = images[: args.reference_inputs]
    modules = dict(plain.named_modules())

    def reference():  # by definition, the upstream gradient is one at all T steps, and the sum is divided by T
        maps = published(plain, few, {own: modules[name] for own, name in layers.items()}, (side, side))
        return {k: v / plain.T for k, v in maps.items()}

    sides = {
        "published method, plain model": reference,
        "engine, plain model": lambda: compute_erf(plain, images, list(layers.values()), layout="BCN").spatial,
        "engine, our model": lambda: compute_erf(ours, images, list(layers)).spatial,
    }
    inputs = {name: len(few) if "published" in name else len(images) for name in sides}
    seconds, maps = compare(sides, max(1, args.repeats // 2), args.device, inputs)
    # In float32 a membrane potential within an ulp of the threshold fires in one model and not in the other.
    plain, ours, few = plain.double(), ours.double(), few[:1].double()
    same = compute_erf(ours, few, list(layers)).spatial
    maps["published method, plain model"] = reference()
    name = f"Spikformer-{depth}-{dim}, T=4, {len(layers)} attention projections"
    return report(name, args, seconds, largest_difference(same, maps["published method, plain model"]))


def report(what, args, seconds, difference):
    """Print and return the figures of a comparison, with the ratios of the other sides to the engine on our model."""
    engine = seconds["engine, our model"]
    ratios = {k: v / engine for k, v in seconds.items() if v is not engine}
    result = dict(
        what=what, size=args.size, seconds_per_input=seconds, ratios=ratios, largest_relative_difference=difference
    )
    print(json.dumps(result, indent=1), flush=True)
    return result


def cost(args):
    """Seconds for several numbers of layers, inputs, pixels and time steps, each with a fit of the expected growth."""
    torch.manual_seed(0)
    model = calibrate(SDTV3("tiny", "srb"), torch.randn(4, 3, args.size, args.size)).to(args.device)
    blocks = [f"stages.3.blocks.{i}" for i in range(6)] + [f"stages.4.blocks.{i}" for i in range(2)]
    size, few = args.size, 4
    noise = lambda n, s=size: torch.randn(n, 3, s, s, device=args.device)  # noqa: E731
    series = {
        "layers": {n: (model, noise(few), blocks[-n:], {}) for n in (1, 2, 4, 8)},
        "inputs": {n: (model, noise(n), blocks[-2:], {}) for n in (2, 4, 8, 16)},
        "pixels": {s * s: (model, noise(few, s), blocks[-2:], {}) for s in (size // 2, size, size * 3 // 2)},
    }
    chain = PlainSpikformer(2, 64, 4, T=2).to(args.device)
    calibrate(chain, noise(2, size // 2))
    for kind in ("spatial", "temporal", "spatiotemporal"):
        options = dict(kinds=kind, layout="BCN")
        small = size // 2
        series[f"T, {kind}"] = {
            T: (chain, torch.randn(T, 2, 3, small, small, device=args.device), ["blocks.1"], options)
            for T in (1, 2, 4, 8)
        }
    results = {}
    for name, cases in series.items():
        x, y = [], []
        for value, (net, images, layers, options) in cases.items():
            work = lambda: compute_erf(net, images, layers, **options)  # noqa: B023, E731
            seconds(work, args.device)
            x.append(value)
            y.append(statistics.median(seconds(work, args.device) for _ in range(args.repeats)))
        power = 2 if name.endswith("spatiotemporal") else 1  # T outputs, each back through up to T steps
        slope, offset = np.polyfit(np.array(x, float) ** power, y, 1)
        fit = slope * np.array(x, float) ** power + offset
        r2 = 1 - ((np.array(y) - fit) ** 2).sum() / ((np.array(y) - np.mean(y)) ** 2).sum()
        results[name] = dict(values=x, seconds=y, power=power, slope=slope, offset=offset, r2=float(r2))
        print(name, json.dumps(results[name]), flush=True)
    return results


def hook(args):
    """What an evaluation of the hook costs, in training steps of the same backbone: 16 images, four layers."""
    torch.manual_seed(0)
    model = SDTV3("tiny", "srb").to(args.device).train()
    batch = torch.randn(8, 3, args.size, args.size, device=args.device)
    samples = torch.randn(16, 3, args.size, args.size, device=args.device)

    def train():
        sum(y.square().mean() for y in model(batch)).backward()
        model.zero_grad(set_to_none=True)

    layers = [f"stages.{i}" for i in (1, 2, 3, 4)]
    sides = {
        "training step, batch 8": train,
        "hook, 16 images, 4 layers": lambda: compute_erf(model, samples, layers, batch_size=4),
    }
    seconds, _ = compare(sides, args.repeats, args.device)
    step, evaluation = seconds.values()
    steps = evaluation / step
    result = dict(
        size=args.size, seconds=seconds, training_steps=steps, share_of_an_epoch_of_1000_steps=steps / (1000 + steps)
    )
    print(json.dumps(result, indent=1), flush=True)
    return result


# Eight layers of each model, from its beginning to its end.
LAYERS = {
    "resnet50": [f"layer{s}.{i}" for s, i in ((1, 1), (1, 2), (2, 1), (2, 3), (3, 1), (3, 3), (3, 5), (4, 1))],
    "swin_tiny_patch4_window7_224": [
        f"layers.{s}.blocks.{i}" for s, i in ((0, 0), (0, 1), (1, 0), (1, 1), (2, 1), (2, 3), (2, 5), (3, 1))
    ],
    "vit_small_patch16_224": [f"blocks.{i}" for i in (0, 1, 3, 5, 6, 8, 10, 11)],
    "convnext_tiny": [
        f"stages.{s}.blocks.{i}" for s, i in ((0, 0), (0, 2), (1, 0), (1, 2), (2, 1), (2, 4), (2, 8), (3, 2))
    ],
    "sdtv3_tiny": [
        "stages.1", "stages.2", *(f"stages.{s}.blocks.{i}" for s, i in ((3, 0), (3, 2), (3, 3), (3, 5), (4, 0), (4, 1)))
    ],
    "spikformer_8_384": [f"stages.{i}" for i in range(8)],
}  # fmt: skip


def engine(model, images, layers, **options):
    """The maps of the engine, with a plain sum over channels."""
    return compute_erf(model, images, layers, channels="sum", **options).spatial


def eight_runs(compute, model, folder, layers):
    """The results of the package openerf, which takes one layer in a run."""
    return [compute(model, image_dir=folder, target_layer=name, show_progress=False) for name in layers]


def loop(args):
    """CPU time and memory of one, four and eight layers beside those of simple loops."""
    results = {}
    for model_name in args.models:
        torch.manual_seed(0)
        model = timm.create_model(model_name).eval()
        if model_name in ("sdtv3_tiny", "spikformer_8_384", "resnet50"):
            calibrate(model, torch.randn(4, 3, args.size, args.size))
        images = torch.randn(args.loop_inputs, 3, args.size, args.size)
        names = LAYERS[model_name]
        for layers in ([names[4]], names[1::2], names):
            sides = {
                "loop": partial(simple_loop, model, images, layers, False),
                "loop with parameter gradients": partial(simple_loop, model, images, layers, True),
                "engine": partial(engine, model, images, layers),
            }
            if len(layers) == 1:
                sides["engine, batch_size=1"] = partial(engine, model, images, layers, batch_size=1)
            seconds, maps = compare(sides, args.repeats)
            entry = dict(
                seconds_per_input={name: value / len(images) for name, value in seconds.items()},
                ratios={name: value / seconds["engine"] for name, value in seconds.items() if name != "engine"},
                largest_relative_difference=largest_difference(maps["engine"], maps["loop"]),
            )
            if len(layers) == 1:
                entry["peak_mib"] = {name: peak_mib(work) for name, work in sides.items()}
            results.setdefault(model_name, {})[len(layers)] = entry
            print(model_name, len(layers), json.dumps(entry), flush=True)
    return results


def openerf(args):
    """CPU time of eight layers in one call beside eight runs of the package openerf, on four images of a folder."""
    from openerf import compute_erf as theirs

    results = {}
    with tempfile.TemporaryDirectory() as folder:
        generator = np.random.default_rng(0)
        for i in range(args.loop_inputs):
            Image.fromarray(generator.integers(0, 255, (256, 256, 3), np.uint8)).save(f"{folder}/{i}.png")
        for model_name in ("resnet50", "vit_small_patch16_224", "swin_tiny_patch4_window7_224"):
            torch.manual_seed(0)
            model, layers = timm.create_model(model_name).eval(), LAYERS[model_name]
            data = timm.data.resolve_model_data_config(model)
            transform = timm.data.create_transform(**data)
            pixels = [transform(Image.open(path)) for path in sorted(Path(folder).iterdir())]
            sides = {
                "openerf": partial(eight_runs, theirs, model, folder, layers),
                "engine": partial(engine, model, torch.stack(pixels), layers, calibrate=False),
            }
            seconds, _ = compare(sides, args.repeats)
            results[model_name] = dict(seconds=seconds, ratio=seconds["openerf"] / seconds["engine"])
            print(model_name, json.dumps(results[model_name]), flush=True)
    return results


def order(args):
    """What share of the CPU time the check of the order of tokens takes, which looks at the first inputs alone.

    Fields that lie around their target need no check, as those of the random weights here. So they do not count as such.
    """
    results = {}
    for model_name in args.models:
        torch.manual_seed(0)
        model = timm.create_model(model_name).eval()
        images = torch.randn(args.loop_inputs, 3, args.size, args.size)
        names = LAYERS[model_name]
        for layers, few in itertools.product(([names[4]], names), (images[:1], images)):
            with mock.patch("sterf_plugins.erf.passes.order.maps_by_name", wraps=maps_by_name) as passes:
                doubted(model, few, layers)
            sides = {
                "checked": partial(doubted, model, few, layers),
                "unchecked": partial(unchecked, model, few, layers),
            }
            seconds, maps = compare(sides, args.repeats)
            entry = dict(
                seconds=seconds,
                share=1 - seconds["unchecked"] / seconds["checked"],
                forward_passes=passes.call_count,
                largest_relative_difference=largest_difference(maps["checked"], maps["unchecked"]),
            )
            results.setdefault(model_name, {})[f"{len(layers)} layers, {len(few)} inputs"] = entry
            print(model_name, len(layers), len(few), json.dumps(entry), flush=True)
    return results


def doubted(model, images, layers):
    """The maps of the engine, to which no field shows its place by itself."""
    with mock.patch("sterf_plugins.erf.passes.order.near_target", return_value=False):
        return engine(model, images, layers, calibrate=False)


def unchecked(model, images, layers):
    """The maps of the engine, which takes the order that it infers for the right one."""
    with mock.patch("sterf_plugins.erf.passes.fields.wrongly_read", return_value=({}, {}, set())):
        return engine(model, images, layers, calibrate=False)


PARTS = {
    "loop": loop,
    "order": order,
    "openerf": openerf,
    "sdtv3": sdtv3,
    "spikformer": spikformer,
    "cost": cost,
    "hook": hook,
}


def main():
    parser = options(__doc__, repeats=5)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--inputs", type=int, default=20, help="inputs for the engine")
    parser.add_argument(
        "--reference-inputs", type=int, default=2, help="inputs for the published method, whose cost is linear"
    )
    parser.add_argument("--spikformer", type=int, nargs=3, default=(8, 512, 8), metavar=("DEPTH", "DIM", "HEADS"))
    parser.add_argument("--spikformer-inputs", type=int, default=4)
    parser.add_argument(
        "--models", nargs="+", choices=LAYERS, default=list(LAYERS), help="models of the parts loop and order"
    )
    parser.add_argument("--loop-inputs", type=int, default=4, help="inputs of the parts loop, order and openerf")
    args = begin(parser)
    if args.tiny:
        args.parts, args.models, args.size = ["sdtv3", "loop", "order"], ["resnet50"], 32
        args.inputs, args.reference_inputs, args.loop_inputs = 2, 1, 2
    settings = ("size", "inputs", "reference_inputs", "spikformer_inputs", "models", "loop_inputs")
    results = Results.of(args, **{name: getattr(args, name) for name in settings}, depth_dim_heads=args.spikformer)
    for part in args.parts:
        results.once(partial(PARTS[part], args), part)


if __name__ == "__main__":
    main()
