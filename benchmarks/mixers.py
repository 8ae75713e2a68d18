"""What the channel mixer of a small detector is worth: accuracy and firing rates over several seeds.

Each run trains the demo's Mask R-CNN through tools/train.py (400 iterations on 800 rendered scenes) with another mixer
or seed, and tests it on 120 scenes. The rows are SRB as released (its hidden spikes have no BatchNorm in front of
them), SRB with the BatchNorm of the paper's formula in both layouts, and the 3x3 convolutions of SDT-V3. Results are
saved after each run; the same command goes on where it was interrupted.

    python benchmarks/mixers.py --seeds 5 --out benchmarks/results/mixers_cpu.json
    python benchmarks/mixers.py --tiny
"""

import json
import statistics
from functools import partial
from pathlib import Path

from layouts import CONFIG, ROOT, tool
from saved import Results, begin, options

ROWS = {
    "SRB, released (no BN), raster": dict(mixer="srb", norm_hidden=False, layout="raster"),
    "SRB, BN, raster": dict(mixer="srb", norm_hidden=True, layout="raster"),
    "SRB, BN, channel": dict(mixer="srb", norm_hidden=True, layout="channel"),
    "3x3 convolutions": dict(mixer="conv"),
}


def run(data: Path, folder: Path, seed: int, settings: dict, args) -> dict:
    """Train and test one detector: box and mask AP, and the firing rate of each mixer's hidden spikes."""
    changes = [f"model.backbone.{name}={value}" for name, value in settings.items()]
    changes += [f"{part}_dataloader.dataset.data_root={data}/" for part in ("train", "val", "test")]
    changes += [f"{part}_evaluator.ann_file={data / 'annotations/instances_val2017.json'}" for part in ("val", "test")]
    changes += [f"train_cfg.max_epochs={args.epochs}", f"train_cfg.val_interval={args.epochs}"]
    changes += [f"param_scheduler.1.end={args.epochs}", f"randomness.seed={seed}"]
    changes += ["default_hooks.erf=None", "default_hooks.firing.type=sterf_plugins.FiringRateHook"]
    changes += ["default_hooks.firing.input_size=128", "default_hooks.firing.operations=False"]
    tool("train.py", CONFIG, "--work-dir", str(folder), "--resume", "--cfg-options", *changes)
    lines = (max(folder.glob("2*")) / "vis_data" / "scalars.json").read_text().splitlines()
    scores = json.loads(lines[-1])
    rates = json.loads(max(folder.glob("2*/vis_data/firing_rate/*.json")).read_text())["layers"]
    hidden = {name: layer["rate"] for name, layer in rates.items() if name.endswith("mixer.spike2")}
    return dict(box_ap=scores["coco/bbox_mAP"], mask_ap=scores["coco/segm_mAP"], hidden_rates=hidden)


def main() -> None:
    """Train all rows with each seed, save, and print a table."""
    p = options(__doc__, repeats=1)
    p.add_argument("--seeds", type=int, default=5, help="number of seeds (default: 5)")
    p.add_argument("--epochs", type=int, default=4, help="epochs of 100 iterations (default: 4)")
    p.add_argument("--work", type=Path, default=ROOT / "work_dirs" / "mixers", help="folder of data and trainings")
    args = begin(p)
    rows = ROWS
    if args.tiny:
        args.epochs, args.seeds, rows = 1, 1, dict(list(ROWS.items())[-1:])
    args.work = args.work.resolve() / f"{args.device}_{'tiny' if args.tiny else 'full'}"
    args.work.mkdir(parents=True, exist_ok=True)
    data = args.work / "shapes"
    train, val = ("8", "4") if args.tiny else ("800", "120")
    tool("dataset_tools/make_shapes.py", str(data), "--num-train", train, "--num-val", val)
    args.out = args.out or args.work / "results.json"
    results = Results.of(args, epochs=args.epochs, what="Mask R-CNN on shapes, SDT-V3, 128^2, batch 8")
    for seed in range(args.seeds):
        for i, (name, settings) in enumerate(rows.items()):
            folder = args.work / f"row{i}_seed{seed}"
            results.once(partial(run, data, folder, seed, settings, args), name, f"seed {seed}")
    print(f"{'':32}{'box AP: median':>16}{'lowest':>9}{'highest':>9}   hidden firing rates (median over seeds)")
    for name in ROWS:
        runs = [r for r in results.values.get(name, {}).values() if "box_ap" in r]
        if not runs:
            continue
        ap = [r["box_ap"] for r in runs]
        rates = [statistics.median(column) for column in zip(*(r["hidden_rates"].values() for r in runs), strict=True)]
        listed = " ".join(f"{rate:.3f}" for rate in rates)
        print(f"{name:32}{statistics.median(ap):16.3f}{min(ap):9.3f}{max(ap):9.3f}   {listed}")


if __name__ == "__main__":
    main()
