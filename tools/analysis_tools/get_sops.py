"""Firing rates, synaptic operations and energy of a spiking model, by layer.

    python tools/analysis_tools/get_sops.py sdtv3_tiny_srb --num 4
    python tools/analysis_tools/get_sops.py configs/shapes/fpn_sdtv3-t-srb_shapes.py CHECKPOINT.pth --images val --csv sops.csv

A model is a timm name, an OpenMMLab config or module:factory, as for tools/erf.py. Without a checkpoint its weights are
random, and its BatchNorms get the statistics of 8 inputs, since with the initial ones hardly a neuron fires.
"""

import argparse
import csv
import io
import json
from pathlib import Path

import torch

from sterf_plugins.activity import ENERGY, FiringRates, Operations, count_operations
from sterf_plugins.cli.checkpoints import add_checkpoint_option
from sterf_plugins.cli.console import check_device, run_tool
from sterf_plugins.cli.images import inputs_for
from sterf_plugins.cli.loading import Loaded, is_config, load_model, parse_spec
from sterf_plugins.erf.calibrate import CALIBRATION, calibrate, uncalibrated
from sterf_plugins.files import check_new, replacing


def parse_args() -> argparse.Namespace:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("model", metavar="MODEL_OR_CONFIG")
    p.add_argument("checkpoint", nargs="?", metavar="CHECKPOINT", help="the model's weights; random ones otherwise")
    add_checkpoint_option(p)
    p.add_argument(
        "--images",
        default="noise",
        metavar="DIR|noise|val|photographs",
        help="inputs (default: standard normal noise); photographs: twelve of the extra [examples]",
    )
    p.add_argument("--num", type=int, default=4, help="number of inputs (default 4)")
    p.add_argument("--input-size", type=int, nargs=2, metavar=("H", "W"), help="default: the model's own size")
    p.add_argument("--time-steps", type=int, metavar="T", help="hold each image for T steps and give (T, B, C, H, W)")
    p.add_argument("--pretrained", action="store_true", help="timm's own weights")
    p.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    p.add_argument("--seed", type=int, default=0, help="seed of weights and noise")
    p.add_argument("--csv", type=Path, metavar="FILE", help="write the table")
    p.add_argument("--overwrite", action="store_true", help="replace the FILE of --csv if it exists")
    p.add_argument("--json", action="store_true", help="print everything as JSON instead of the table")
    return p.parse_args()


def table(operations: Operations, rates: FiringRates, num_inputs: int) -> list[dict]:
    """A row per layer with operations or with neurons; operations, and the energy in µJ, are per input."""
    rows = []
    for name, o in operations.layers.items():
        macs, acs, dense = (n / num_inputs for n in (o.macs, o.acs, o.dense))
        rows.append(dict(layer=name, macs=macs, acs=acs, dense=dense, energy_uj=o.energy / num_inputs / 1e6))
    for name, r in rates.layers.items():
        rows.append(dict(layer=name, rate=r.rate, nonzero=r.nonzero, dead=r.dead, levels=r.levels))
    return rows


def write_csv(rows: list[dict], path: Path) -> None:
    """Write the rows of ``table`` as a CSV file; numbers that a row does not have stay empty."""
    text = io.StringIO()
    columns = ["layer", "macs", "acs", "dense", "energy_uj", "rate", "nonzero", "dead", "levels"]
    writer = csv.DictWriter(text, columns, restval="")
    writer.writeheader()
    writer.writerows(rows)
    with replacing(path) as partial:
        partial.write_text(text.getvalue(), encoding="utf-8")


def prepare_weights(args: argparse.Namespace, loaded: Loaded, size: tuple[int, int]) -> str:
    """What the weights are, in words; untrained BatchNorms get the statistics of some of the inputs."""
    name = parse_spec(args.model)[1]
    if args.checkpoint:
        return "; ".join(loaded.notes)
    if args.pretrained and not is_config(name) and ":" not in name:
        return "timm's own weights"
    if not uncalibrated(loaded.model):
        return "no checkpoint: random weights, unless the model loads its own"
    images = torch.cat(list(inputs_for(args.images, loaded, size, CALIBRATION, args.seed))).to(args.device)
    if len(images) < 2:
        raise ValueError(
            f"--images {args.images} has one image, from which the BatchNorms of untrained weights get no statistics; "
            f"give a checkpoint, more images, or --images noise."
        )
    calibrate(loaded.model, images.expand(args.time_steps, *images.shape) if args.time_steps else images)
    return f"random weights, BatchNorm statistics of {len(images)} inputs"


def main() -> None:
    args = parse_args()
    if args.num < 1:
        raise ValueError(f"--num {args.num}: at least one input is needed.")
    check_device(args.device)
    if args.csv:
        check_new(args.csv, args.overwrite)
    torch.manual_seed(args.seed)
    loaded = load_model(args.model, args.checkpoint, args.pretrained)
    size = tuple(args.input_size) if args.input_size else loaded.size
    model = loaded.model.to(args.device)
    images = torch.cat(list(inputs_for(args.images, loaded, size, args.num, args.seed))).to(args.device)
    if args.time_steps:
        images = images.expand(args.time_steps, *images.shape)
    weights = prepare_weights(args, loaded, size)
    with FiringRates(model) as rates:
        operations = count_operations(model, images)
    total, count = operations.total, operations.num_inputs
    rows = table(operations, rates, count)
    if args.csv:
        write_csv(rows, args.csv)
    summary = dict(
        macs=total.macs / count, acs=total.acs / count, dense=total.dense / count,
        energy_mj=total.energy / count / 1e9, dense_energy_mj=total.dense / count * ENERGY.e_mac_pj / 1e9,
        firing_rate=rates.rate, dead=rates.dead, inputs=count,
    )  # fmt: skip
    if args.json:
        histograms = {name: layer.as_dict() for name, layer in rates.layers.items()}
        record = dict(
            total=summary, layers=rows, neurons=histograms, weights=weights, not_counted=operations.not_counted
        )
        print(json.dumps(record | dict(assumptions=operations.assumptions())))
        return
    width = max(len(r["layer"]) for r in rows)
    print(f"{'layer':<{width}} {'M MAC':>9} {'M AC':>9} {'M dense':>9} {'µJ':>9}")
    for r in rows:
        if "macs" in r:
            numbers = (r["macs"] / 1e6, r["acs"] / 1e6, r["dense"] / 1e6, r["energy_uj"])
            print(f"{r['layer']:<{width}} " + " ".join(f"{n:9.3f}" for n in numbers))
    print(f"\n{'neurons':<{width}} {'rate':>9} {'non-zero':>9} {'dead':>9} {'D':>9}")
    for r in rows:
        if "rate" in r:
            print(f"{r['layer']:<{width}} {r['rate']:9.4f} {r['nonzero']:9.4f} {r['dead']:9.4f} {r['levels']:9d}")
    print(
        f"\nper input: {summary['macs'] / 1e6:.3f} M MACs, {summary['acs'] / 1e6:.3f} M ACs, "
        f"{summary['energy_mj']:.4f} mJ ({summary['dense_energy_mj']:.4f} mJ if all were dense MACs); "
        f"firing rate {rates.rate:.4f}, dead channels {rates.dead:.1%}\nweights: {weights}"
    )
    if operations.not_counted:
        calls = ", ".join(f"{name} ({number} calls)" for name, number in operations.not_counted.items())
        print(f"NOT COUNTED, so that the numbers are too small: {calls}")
    print(f"\n{operations.assumptions()}")


if __name__ == "__main__":
    run_tool(main, again="the same command")
