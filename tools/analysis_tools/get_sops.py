"""Firing rates, synaptic operations and energy of a spiking model, by layer.

    sterf get-sops sdtv3_tiny_srb --num 4
    sterf get-sops sdtv3_tiny_srb --model memory --maps maps.png
    sterf get-sops configs/shapes/fpn_sdtv3-t-srb_shapes.py CHECKPOINT.pth --images val --csv sops.csv

A model is a timm name, an OpenMMLab config or module:factory, as for sterf erf. Without a checkpoint its weights are
random, and its BatchNorms get the statistics of 8 inputs, since with the initial ones hardly a neuron fires.

Energy has a column for the computation alone (45 nm), and by --model one for the spiking network and one for its
quantised equivalent, whose activations have ceil(log2(T D + 1)) bits. Below the break-even firing rate the spiking layer
takes less. --csv and --json have the numbers of all three models; docs/energy.md says what they count.
"""

import argparse
import json
from pathlib import Path
from typing import Any

from sterf_plugins.cli.begin import OptionParser, begin

begin()

import torch

from sterf_plugins.activity import (
    ENERGY,
    FiringMaps,
    FiringRates,
    Operations,
    count_operations,
    draw_firing_maps,
    estimate_energy,
)
from sterf_plugins.activity.energy import MODELS
from sterf_plugins.cli.checkpoints import add_checkpoint_option
from sterf_plugins.cli.console import add_device_option, check_counts, check_device, run_tool
from sterf_plugins.cli.images import add_image_options, inputs_for, joined
from sterf_plugins.cli.loading import Loaded, default_size, load_model
from sterf_plugins.cli.progress import layers_bar
from sterf_plugins.cli.specs import check_pretrained
from sterf_plugins.erf.calibrate import CALIBRATION, calibrate, uncalibrated
from sterf_plugins.files import check_new, replacing, write_csv


def parse_args() -> argparse.Namespace:
    p = OptionParser(description=__doc__)
    p.add_argument("model", metavar="MODEL_OR_CONFIG", help="what to count in")
    p.add_argument("checkpoint", nargs="?", metavar="CHECKPOINT", help="the model's weights; random ones otherwise")
    add_checkpoint_option(p)
    add_image_options(p, "DIR|noise|val|photographs", num=4)
    p.add_argument("--time-steps", type=int, metavar="T", help="hold each image for T steps and give (T, B, C, H, W)")
    p.add_argument("--pretrained", action="store_true", help="timm's own weights")
    add_device_option(p)
    p.add_argument("--seed", type=int, default=0, help="seed of weights and noise")
    p.add_argument(
        "--model", dest="energy", choices=list(MODELS), default="full", help="energy model of the table (default full)"
    )
    p.add_argument("--maps", type=Path, metavar="PNG", help="draw where neurons never fire, or always at the maximum")
    p.add_argument("--csv", type=Path, metavar="FILE", help="write the table")
    p.add_argument("--overwrite", action="store_true", help="replace the files of --csv and --maps if they exist")
    p.add_argument("--json", action="store_true", help="print everything as JSON instead of the table")
    return p.parse_args()


def table(operations: Operations, rates: FiringRates, maps: FiringMaps) -> list[dict]:
    """A row per layer with operations or with neurons, and one for all; operations, and energies in µJ, are per input."""
    n = operations.num_inputs
    energies = {model: estimate_energy(operations, model) for model in MODELS}
    total = operations.total
    rows: dict[str, dict[str, Any]] = {name: dict(layer=name) for name in (*operations.layers, *rates.layers, "total")}
    for name, o in (*operations.layers.items(), ("total", total)):
        rows[name] |= dict(macs=o.macs / n, acs=o.acs / n, dense=o.dense / n)
    for name, row in rows.items():
        for model in MODELS:
            found = energies[model][name]
            row[f"{model}_uj"], row[f"{model}_quantised_uj"] = found.spiking / n / 1e6, found.quantised / n / 1e6
            if found.break_even is not None:
                row[f"{model}_break_even"] = found.break_even
    for name, o in operations.layers.items():
        if o.levels and o.dense > o.macs:
            rows[name]["input_rate"] = o.acs / (o.dense - o.macs) / o.levels
    for name, r in rates.layers.items():
        rows[name] |= dict(rate=r.rate, nonzero=r.nonzero, dead=r.dead, levels=r.levels) | maps.layers[name].as_dict()
    rows["total"] |= dict(rate=rates.rate, input_rate=rates.rate, dead=rates.dead)
    return list(rows.values())


# Those of the table as a file.
COLUMNS = [
    *("layer", "macs", "acs", "dense", "input_rate"),
    *(f"{model}_{column}" for model in MODELS for column in ("uj", "quantised_uj", "break_even")),
    *("rate", "nonzero", "dead", "levels", "never", "always", "full", "local_saturation"),
]


def show(title: str, rows: list[dict], columns: list[tuple[str, str, float, int]]) -> None:
    """Print those rows that have the first of the columns; a column is a key, its head, a divisor, and decimal places."""
    width = max(len(r["layer"]) for r in rows)
    print(f"{title:<{width}} " + " ".join(f"{head:>10}" for _, head, _, _ in columns))
    for r in rows:
        if columns[0][0] in r:
            cells = (f"{r[key] / by:10.{places}f}" if key in r else " " * 10 for key, _, by, places in columns)
            print(f"{r['layer']:<{width}} " + " ".join(cells))
    print()


def inputs(args: argparse.Namespace, loaded: Loaded, size: tuple[int, int], count: int) -> torch.Tensor:
    """Up to ``count`` of the inputs that ``--images`` names, with the time steps that they have or that are asked for."""
    images = joined(inputs_for(args.images, loaded, size, count, args.seed)).to(args.device)
    if not args.time_steps:
        return images
    if images.ndim == 5:
        raise ValueError(
            f"--time-steps {args.time_steps}: {args.images} has {len(images)} time steps already; leave it out."
        )
    return images.expand(args.time_steps, *images.shape)


def prepare_weights(args: argparse.Namespace, loaded: Loaded, size: tuple[int, int]) -> str:
    """What the weights are, in words; untrained BatchNorms get the statistics of some of the inputs."""
    if args.checkpoint:
        return "; ".join(loaded.notes)
    if args.pretrained:
        return "timm's own weights"
    if not uncalibrated(loaded.model):
        return "no checkpoint: random weights, unless the model loads its own"
    images = inputs(args, loaded, size, CALIBRATION)
    count = images.shape[images.ndim - 4]
    if count < 2:
        raise ValueError(
            f"--images {args.images} has one image, from which the BatchNorms of untrained weights get no statistics; "
            f"give a checkpoint, more images, or --images noise."
        )
    calibrate(loaded.model, images)
    return f"random weights, BatchNorm statistics of {count} inputs"


def as_json(operations: Operations, rates: FiringRates, rows: list[dict], weights: str, heads_left_out: bool) -> str:
    """Everything that was counted, as JSON; the totals per input are those of the table, with energies in mJ beside them."""
    total, n = operations.total, operations.num_inputs
    summary = rows[-1] | dict(
        dense_energy_mj=total.dense / n * ENERGY.e_mac_pj / 1e9, energy_mj=total.energy / n / 1e9,
        firing_rate=rates.rate, inputs=n,
    )  # fmt: skip
    histograms = {name: layer.as_dict() for name, layer in rates.layers.items()}
    record = dict(
        total=summary, layers=rows[:-1], neurons=histograms, weights=weights, not_counted=operations.not_counted
    )
    left_out = dict(left_out="heads") if heads_left_out else {}
    return json.dumps(record | left_out | dict(assumptions=operations.assumptions()))


def print_report(
    energy_model: str,
    operations: Operations,
    rates: FiringRates,
    rows: list[dict],
    weights: str,
    heads_left_out: bool,
) -> None:
    """Print the tables of layers and of neurons, and what the numbers hold for."""
    energy = (f"{energy_model}_uj", f"{energy_model} µJ", 1, 3)
    show("layer", rows, [
        ("macs", "M MAC", 1e6, 3), ("acs", "M AC", 1e6, 3),
        ("compute_uj", "compute µJ", 1, 3), *([energy] if energy_model != "compute" else []),
        (f"{energy_model}_quantised_uj", "quantised", 1, 3), (f"{energy_model}_break_even", "break-even", 1, 4),
        ("input_rate", "rate", 1, 4),
    ])  # fmt: skip
    show("neurons", rows, [
        ("levels", "D", 1, 0), ("rate", "rate", 1, 4), ("nonzero", "non-zero", 1, 4), ("dead", "dead", 1, 4),
        ("never", "never", 1, 4), ("always", "always", 1, 4), ("local_saturation", "locally", 1, 4), energy,
    ])  # fmt: skip
    total, n = operations.total, operations.num_inputs
    print(
        f"per input: {total.macs / n / 1e6:.3f} M MACs, {total.acs / n / 1e6:.3f} M ACs, {total.energy / n / 1e9:.4f} mJ "
        f"({total.dense / n * ENERGY.e_mac_pj / 1e9:.4f} mJ if all were dense MACs); "
        f"firing rate {rates.rate:.4f}, dead channels {rates.dead:.1%}\nweights: {weights}"
    )
    if heads_left_out:
        print("backbone and neck alone: the heads did not run, and are in no number")
    if operations.not_counted:
        calls = ", ".join(f"{name} ({number} calls)" for name, number in operations.not_counted.items())
        print(f"NOT COUNTED, so that the numbers are too small: {calls}")
    print(f"\n{operations.assumptions()}")


def check_options(args: argparse.Namespace) -> None:
    """Raise an error if an option cannot be used, before anything is built."""
    check_counts(args, "num", "input_size", "time_steps")
    check_device(args.device)
    for path in filter(None, (args.csv, args.maps)):
        check_new(path, args.overwrite)
    if args.maps and args.maps.suffix.lower() != ".png":
        raise ValueError(f"--maps {args.maps} is written as PNG; give a name that ends in .png.")
    if args.maps and args.csv and args.maps.resolve() == args.csv.resolve():
        raise ValueError(f"--csv and --maps are both {args.maps}; give each a name of its own.")
    if args.pretrained:
        check_pretrained([args.model])


def main() -> None:
    args = parse_args()
    check_options(args)
    torch.manual_seed(args.seed)
    loaded = load_model(args.model, args.checkpoint, args.pretrained)
    size = tuple(args.input_size) if args.input_size else default_size(loaded)
    model = loaded.model.to(args.device)
    images = inputs(args, loaded, size, args.num)
    weights = prepare_weights(args, loaded, size)
    with FiringRates(model) as rates, FiringMaps(model) as maps, layers_bar(model, "counting"):
        operations = count_operations(model, images)
    rows = table(operations, rates, maps)
    if args.csv:
        write_csv(args.csv, rows, COLUMNS)
    if args.maps:
        with replacing(args.maps) as partial:
            draw_firing_maps(maps.layers).savefig(partial, format="png", dpi=150)
    heads_left_out = hasattr(model, "extract_feat") and hasattr(model, "backbone")
    if args.json:
        print(as_json(operations, rates, rows, weights, heads_left_out))
    else:
        print_report(args.energy, operations, rates, rows, weights, heads_left_out)


if __name__ == "__main__":
    run_tool(main)
