"""Where SDTrack looks: fields of the score over the whole canvas, for mixers and layouts, before and after a training.

    python docs/tracker_fields.py CONFIG DATA WEIGHTS --out docs/images/tracker_fields.png

CONFIG is of a small tracker of the variant 1x4, DATA a data set of its layout, and WEIGHTS a folder with a checkpoint NAME.pth
for each of the networks below; where one is missing, only its random weights are shown. The picture, and the numbers in a
JSON file beside it, say how much of the gradient falls on the template, the search region, the canvas's empty quadrants, and
the tokens that are padding; the numbers are means over pairs with their standard errors.
"""

import argparse
import json
from pathlib import Path

import matplotlib
import numpy as np
import torch
from matplotlib.cm import ScalarMappable
from matplotlib.colors import PowerNorm
from PIL import Image

from sterf_plugins.checkpoints.reading import read_checkpoint
from sterf_plugins.cli.erf.tracker_inputs import tracker_inputs
from sterf_plugins.cli.loading import load_model
from sterf_plugins.erf.calibrate import tracking_norms
from sterf_plugins.erf.figures.plot import mark_target, pixel_axes
from sterf_plugins.erf.figures.sheet import TITLE, Sheet, write
from sterf_plugins.erf.figures.wording import error_text
from sterf_plugins.firing import FiringRates

NETWORKS = {
    "conv": dict(mixer="conv"),
    "mlpixer_raster": dict(mixer="mlpixer", layout="raster"),
    "mlpixer_channel": dict(mixer="mlpixer", layout="channel"),
    "srb_raster": dict(mixer="srb", layout="raster"),
    "srb_channel": dict(mixer="srb", layout="channel"),
}
POINTS = ("backbone.stages.0", "backbone.stages.1", "backbone.stages.2", "head.branches.score")
DRAWN = (1, 3)  # of the points, those in the picture


@torch.no_grad()
def set_norm_statistics(network, template, search):
    """Give the norms of random weights the statistics of these pairs, without which no neuron fires."""
    for norm in tracking_norms(network):
        norm.momentum = None  # a plain mean, also where a norm is called for template, search region and padding
    network.train()(template, search)
    network.eval()


def fields(network, template, search):
    """Point -> |gradient| of each pair over the canvas (B, S+Z, S+Z), and of the score also over the tokens (B, n).

    A point is read in the middle of the search region.
    """
    kept = {}

    def leaf(module, arguments):
        kept["canvas"] = arguments[0].detach().requires_grad_()
        return (kept["canvas"], *arguments[1:])

    def tokens(module, arguments):
        kept["tokens"] = arguments[0]

    stages = network.backbone.stages
    handles = [stages[0].register_forward_pre_hook(leaf), stages[3].blocks.register_forward_pre_hook(tokens)]
    for name in POINTS:
        hook = network.get_submodule(name).register_forward_hook
        handles.append(hook(lambda module, arguments, y, name=name: kept.update({name: y})))
    network(template, search)
    for handle in handles:
        handle.remove()
    share = search.shape[-1] / (search.shape[-1] + template.shape[-1])
    found = {}
    for name in POINTS:
        y = kept[name]
        middle = int(y.shape[-1] * (1 if "head" in name else share)) // 2
        leaves = [kept["canvas"], *([kept["tokens"]] if "head" in name else [])]
        canvas, *rest = torch.autograd.grad(y[..., middle, middle].sum(), leaves, retain_graph=True)
        found[name] = canvas.abs().mean(1).numpy(), *(g.abs().sum(1).flatten(1).numpy() for g in rest)
    return found


def shares(field, sides):
    """Shares of fields over the canvas (B, S+Z, S+Z) that fall on search region, template, and the empty quadrants."""
    s = sides[1]
    search, template, total = (part.sum((1, 2)) for part in (field[:, :s, :s], field[:, s:, s:], field))
    return averages(search=search / total, template=template / total, empty=1 - (search + template) / total)


def averages(**values):
    """Mean over pairs and its standard error, by name."""
    return {name: (float(v.mean()), float(v.std(ddof=1) / len(v) ** 0.5)) for name, v in values.items()}


def token_shares(field, sides):
    """Shares of fields over the tokens (B, n): template, search region, padding; and the padding's share of the tokens."""
    z, s = ((side // 16) ** 2 for side in sides)
    template, search, padding = (part.sum(1) / field.sum(1) for part in np.split(field, (z, z + s), 1))
    found = averages(template=template, search=search, padding=padding)
    return found | dict(padding_of_tokens=1 - (z + s) / field.shape[1])


def strips(channels, side, s):
    """Which parts of the canvas the raster layout's groups join, on a map whose first ``s`` rows and columns are searched.

    Of the groups with pixels of the search region, the share that have empty ones, too; of those with pixels of the template,
    likewise; and the number of groups with pixels of both.
    """
    row, column = np.divmod(np.arange(side * side), side)
    kind = np.where((row < s) & (column < s), 1, np.where((row >= s) & (column >= s), 4, 2)).reshape(-1, channels)
    mixed = np.bitwise_or.reduce(kind, 1)
    return dict(
        search_and_empty=float((mixed[mixed & 1 > 0] & 2 > 0).mean()),
        template_and_empty=float((mixed[mixed & 4 > 0] & 2 > 0).mean()),
        search_and_template=int(((mixed & 5) == 5).sum()),
    )


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("config")
    p.add_argument("data")
    p.add_argument("weights", type=Path)
    p.add_argument("--num", type=int, default=8)
    p.add_argument("--out", type=Path, required=True)
    args = p.parse_args()
    numbers, maps, errors, trained = {}, {}, [], 0
    for name, options in NETWORKS.items():
        for state in ("random", "trained"):
            checkpoint = args.weights / f"{name}.pth" if state == "trained" else None
            if checkpoint is not None and not checkpoint.is_file():
                continue
            if checkpoint is not None:
                trained = read_checkpoint(checkpoint)["meta"]["iter"]
            torch.manual_seed(0)
            loaded = load_model(f"{args.config}(model={options!r})", checkpoint and str(checkpoint))
            pairs = tracker_inputs(args.data, loaded, args.num, 0)
            template, search = (torch.cat([pair[k] for pair in pairs]) for k in ("template", "search"))
            network = loaded.model.network
            if state == "random":
                set_norm_statistics(network, template, search)
            with FiringRates(network) as rates:
                found = fields(network, template, search)
            sides = loaded.region_sizes
            maps[name, state] = [found[point][0].mean(0) for point in POINTS]
            errors += [relative_error(found[POINTS[i]][0]) for i in DRAWN]
            numbers[f"{name}, {state}"] = dict(
                canvas={point: shares(found[point][0], sides) for point in POINTS},
                tokens=token_shares(found[POINTS[-1]][1], sides),
                silent=[layer for layer, rate in rates.layers.items() if rate.silent],
            )
            print(f"{name}, {state}: {json.dumps(numbers[f'{name}, {state}'])}", flush=True)
    args.out.with_suffix(".json").write_text(json.dumps(numbers, indent=1))
    draw(maps, sides, args.num, trained, error_text(*errors), args.out)
    for channels, stride in ((32, 2), (64, 4), (128, 8)):
        print(f"Tiny, 256 and 128 pixels, stride {stride}: {strips(channels, 384 // stride, 256 // stride)}")


def relative_error(each):
    """Norm of the standard error over that of the mean of a field of each pair (B, rows, columns)."""
    return float(np.linalg.norm(each.std(0, ddof=1)) / len(each) ** 0.5 / np.linalg.norm(each.mean(0)))


def draw(maps, sides, count, trained, error, out):
    """Fields over the canvas: rows for stride 4 and the score, with random weights and trained; a column for each network."""
    rows = [(state, i) for i in DRAWN for state in ("random", "trained") if any(key[1] == state for key in maps)]
    size, template = sides[1], sides[0]
    states = "random weights with the BatchNorm statistics of the pairs"
    states += f"; trained weights: {trained} iterations, alike for all networks" if trained else ""
    notes = [
        "A canvas of the search region (upper left), the template (lower right) and two empty quadrants, in pixels; white lines: "
        "their borders. White cross: the target, the middle of the search region.",
        f"{states}; {count} pairs of {size}² and {template}² pixels; mean of |∂y/∂x| over pairs and channels; {error}.",
    ]
    sheet = Sheet({f"{('stride 4', 'score')[i == 3]}, {state}": len(NETWORKS) for state, i in rows}, notes, 1.0, 1)
    colours = ScalarMappable(PowerNorm(1 / 2, 0, 1), "viridis")
    for panels, (state, i) in zip(sheet.panels.values(), rows, strict=True):
        for ax, name in zip(panels, NETWORKS, strict=True):
            ax.set_title(name.replace("_", " "), fontsize=TITLE)
            if (name, state) not in maps:
                ax.text(0.5, 0.5, "not run", ha="center", va="center", transform=ax.transAxes)
                continue
            field = maps[name, state][i]
            ax.imshow(field / np.quantile(field, 0.999), norm=colours.norm, cmap=colours.cmap)
            pixel_axes(ax, *field.shape)
            ax.axhline(size - 0.5, color="white", lw=0.6)
            ax.axvline(size - 0.5, color="white", lw=0.6)
            mark_target(ax, *(size / 2 + edge for edge in (-8, 8, -8, 8)))
    sheet.outer_numbers()
    label = "square root of |∂y/∂x| over its 99.9 % quantile (numbers at the bar: before the root)"
    sheet.colour_bar(colours, label, (0, 0.01, 0.1, 0.3, 1))
    write(sheet.figure, out)
    quantise(out)


def quantise(path):
    """Write a picture with the palette of 224 colours of viridis and 32 greys, which makes it small."""
    viridis = matplotlib.colormaps["viridis"](np.linspace(0, 1, 224))[:, :3]
    greys = np.repeat(np.linspace(0, 1, 32)[:, None], 3, 1)
    palette = Image.new("P", (1, 1))
    palette.putpalette((np.concatenate([viridis, greys]) * 255).round().astype(np.uint8).flatten().tolist())
    with Image.open(path) as picture:
        small = picture.convert("RGB").quantize(palette=palette, dither=Image.Dither.NONE)
    small.save(path, optimize=True)


if __name__ == "__main__":
    main()
