"""Energy of spiking models beside that of their quantised equivalents, by three models, with break-even firing rates.

    python benchmarks/energy.py --out benchmarks/results/energy_cpu.json
    python benchmarks/energy.py --out benchmarks/results/energy_cpu.json --table

The models are untrained: their BatchNorms have the statistics of eight rendered scenes (tools/dataset_tools/make_shapes.py),
and spikes are counted on others. So the firing rates are those of random weights; the break-even rates of the layers depend
on their shapes, T and D, and on no weight. Each model is saved when it is done; what the file has is kept.
"""

import argparse
import statistics

import timm
import torch
from deploy import scenes
from saved import Results, begin, kept, options

import sterf_plugins.timm  # noqa: F401  (registers the models)
from sterf_plugins.activity import ENERGY, FiringMaps, FiringRates, count_operations, estimate_energy
from sterf_plugins.activity.energy import MODELS as ENERGY_MODELS
from sterf_plugins.erf import calibrate

MODELS = (
    "sdtv3_tiny", "sdtv3_tiny_mlpixer", "sdtv3_tiny_srb", "sdtv3_base", "sdtv3_base_srb", "spikformer_8_384",
    "sdtv1_8_384", "meta_sdt_15m", "qkformer_10_384", "max_former_10_384",
)  # fmt: skip


def measure(name: str, args: argparse.Namespace) -> dict:
    """Millijoules per image, spiking and quantised, and at which firing rates they are equal."""
    torch.manual_seed(0)
    images = scenes(8 + args.images, args.size).to(args.device)
    model = calibrate(timm.create_model(name).to(args.device), images[:8])
    with FiringRates(model) as rates, FiringMaps(model) as maps:
        operations = count_operations(model, *images[8:].split(1))
    n, total = operations.num_inputs, operations.total
    record = dict(
        levels=max(o.levels for o in operations.neurons.values()), steps=max(o.steps for o in operations.neurons.values()),
        parameters=sum(p.numel() for p in model.parameters()), rate=rates.rate, dead=rates.dead,
        never=statistics.mean(m.never.mean() for m in maps.layers.values()),
        always=statistics.mean(m.always.mean() for m in maps.layers.values()),
        local_saturation=max(m.local_saturation for m in maps.layers.values()),
        macs=total.macs / n, acs=total.acs / n, dense=total.dense / n, dense_mj=total.dense / n * ENERGY.e_mac_pj / 1e9,
        not_counted=operations.not_counted,
    )  # fmt: skip
    for energy_model in ENERGY_MODELS:
        energies = estimate_energy(operations, energy_model)
        total_energy = energies.pop("total")
        layers = [(o, energies[name].break_even) for name, o in operations.layers.items()]
        driven = [(o.acs / (o.dense - o.macs) / o.levels, even) for o, even in layers if even is not None]
        evens = sorted(even for _, even in driven)
        record[energy_model] = dict(
            spiking_mj=total_energy.spiking / n / 1e9, quantised_mj=total_energy.quantised / n / 1e9,
            break_even=total_energy.break_even, below=sum(rate < even for rate, even in driven), driven_layers=len(driven),
            layers_break_even=dict(lowest=evens[0], median=statistics.median(evens), highest=evens[-1]),
        )  # fmt: skip
    return record


def table(values: dict) -> str:
    """The results as a Markdown table: mJ per image as spiking / quantised, and the break-even rate in brackets."""
    heads = ["model", "T", "D", "rate", "compute (45 nm)", "memory", "full", "layers below break-even", "never fire"]
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    for name, r in values["models"].items():
        energies = [
            f"{e['spiking_mj']:.2f} / {e['quantised_mj']:.2f} ({e['break_even']:.3f})"
            for e in (r[m] for m in ENERGY_MODELS)
        ]
        below = ", ".join(f"{r[m]['below']}" for m in ENERGY_MODELS) + f" of {r['full']['driven_layers']}"
        cells = [f"`{name}`", r["steps"], r["levels"], f"{r['rate']:.3f}", *energies, below, f"{r['never']:.2f}"]
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = options(__doc__, repeats=1)
    parser.add_argument("--models", nargs="+", default=MODELS)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--images", type=int, default=4, help="scenes on which spikes are counted (default 4)")
    parser.add_argument("--table", action="store_true", help="print the table of --out and measure nothing")
    args = begin(parser)
    if args.table:
        print(table(kept(parser, args)))
        return
    if args.tiny:
        args.models, args.size, args.images = ("sdtv3_nano", "qkformer_10_384"), 32, 1
    torch.set_grad_enabled(False)
    weights = "untrained, BatchNorm statistics of 8 other scenes"
    results = Results.of(args, size=args.size, images=args.images, weights=weights)
    for name in args.models:
        results.once(lambda name=name: measure(name, args), "models", name)


if __name__ == "__main__":
    main()
