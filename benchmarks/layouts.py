"""Raster against channel: detectors with each mixer and layout, trained alike; accuracy, distance, receptive fields, sizes.

Each run trains the Mask R-CNN of the shapes with SDT-V3 tiny through tools/train.py, and tests it on images of the trained
size and of others. Recorded are AP by class, how often the long-range pair is told apart against the distance of its
mark, the receptive fields before and after the training, and the firing rates of the mixers' hidden spikes. All layouts of
one seed come before the next seed; a training that was interrupted goes on.

    python benchmarks/layouts.py --device cuda --out benchmarks/results/layouts_cuda.json
    python benchmarks/layouts.py --narrow --scenes 800 --val 200 --threads 1 --out benchmarks/results/layouts_cpu.json
"""

import json
import subprocess
import sys
import time
from argparse import Namespace
from functools import partial
from pathlib import Path

from correctness import VARIANTS
from saved import Results, begin, options

from sterf_plugins.erf import ERFResult

ROOT = Path(__file__).resolve().parents[1]
CONFIG = str(ROOT / "configs/shapes/mask-rcnn_sdtv3-t-srb_fpn_shapes.py")
TINY_ARCH = ["model.backbone.arch=tiny", "model.neck.in_channels=[32,64,128,192]"]  # the config's is narrower
SIZES = (96, 160, 192)  # of the images in the test, besides the trained one


def tool(name: str, *arguments: str) -> None:
    """Run a tool of this repository; a failure raises an error."""
    subprocess.run([sys.executable, str(ROOT / "tools" / name), *arguments], check=True)


def train_and_test(folder: Path, data: Path, mixer: str, layout: str, seed: int, args: Namespace) -> dict:
    """Train one detector, or go on with it, and test it; seconds and scores."""
    truth = data / "annotations" / "instances_val2017.json"
    changes = [f"{p}_dataloader.dataset.data_root={data}/" for p in ("train", "val", "test")]
    changes += [f"{e}_evaluator.ann_file={truth}" for e in ("val", "test")]
    changes += [f"model.backbone.mixer={mixer}", f"model.backbone.layout={layout}", f"randomness.seed={seed}"]
    changes += [f"train_cfg.max_epochs={args.epochs}", f"train_cfg.val_interval={args.epochs}"]
    changes += [f"param_scheduler.1.end={args.epochs}"]
    if args.tiny:
        changes += [
            "model.train_cfg.rcnn.sampler.num=8",
            "default_hooks.erf.num_samples=1",
            "default_hooks.erf.input_size=32",
        ]
    elif not args.narrow:
        changes += [*TINY_ARCH, "train_dataloader.num_workers=4"]
    changes += ["default_hooks.firing.type=sterf_plugins.FiringRateHook", "default_hooks.firing.operations=False"]
    seconds_file = folder / "seconds"  # written only if the training ran in one piece
    from_start = not (folder / "last_checkpoint").is_file()
    start = time.time()
    tool("train.py", CONFIG, "--work-dir", str(folder), "--resume", "--cfg-options", *changes)
    if from_start:
        seconds_file.write_text(f"{time.time() - start}")
    fields = sorted(folder.glob("2*/vis_data/erf/*.npz"), key=lambda path: int(path.stem))
    found = dict(
        seconds=float(seconds_file.read_text()) if seconds_file.is_file() else None,
        erf_before=shares(fields[0]),
        erf_after=shares(fields[-1]),
        hidden_rates=hidden_rates(folder),
    )
    for size in args.test_sizes:
        out = folder / f"test{size}"
        scale = f"test_dataloader.dataset.pipeline.1.scale=({size},{size})"
        checkpoint = str(folder / f"epoch_{args.epochs}.pth")
        prefix = f"test_evaluator.outfile_prefix={out / 'coco'}"
        tool("test.py", CONFIG, checkpoint, "--work-dir", str(out), "--cfg-options", *changes, scale, prefix)
        found[f"test at {size}"] = scores(out, truth)
    return found


def scores(folder: Path, truth: Path) -> dict:
    """Average precision by class and by distance of twins."""
    from pycocotools.coco import COCO

    from sterf_plugins.cli.demo.scores import average_precision, quiet_coco, twin_accuracy

    coco = quiet_coco(lambda: COCO(str(truth)))
    found = {}
    for kind, name in (("box", "bbox"), ("mask", "segm")):
        by_class = average_precision(coco, folder / f"coco.{name}.json", name).by_class
        by_class = {k: v for k, v in by_class.items() if v == v}  # a class without instances has none
        twins = [v for k, v in by_class.items() if k.startswith("twin")]
        found[f"{kind}_ap50"] = dict(
            all=sum(by_class.values()) / max(1, len(by_class)),
            long_range=sum(twins) / max(1, len(twins)),
            by_class=by_class,
        )
    test = json.loads(max(folder.glob("2*/2*.json")).read_text())
    found["ap"] = {k.split("/")[-1]: v for k, v in test.items() if k.endswith("mAP")}
    keys = ("distance", "objects", "found", "right")
    rows = twin_accuracy(coco, folder / "coco.bbox.json")
    return found | dict(long_range_by_distance=[dict(zip(keys, row, strict=True)) for row in rows])


def shares(path: Path) -> dict[str, dict[str, float]]:
    """Share of input pixels that holds half and nine tenths of the receptive field's mass, by layer."""
    result = ERFResult.load(path)
    return {layer: {f"{mass:.0%}": result.area_ratio(layer, mass) for mass in (0.5, 0.9)} for layer in result.spatial}


def hidden_rates(folder: Path) -> dict[str, float]:
    """Firing rate of the hidden spikes of each mixer after the training: zero is a mixer that is a constant."""
    files = sorted(folder.glob("2*/vis_data/firing_rate/*.json"), key=lambda path: int(path.stem))
    layers = json.loads(files[-1].read_text())["layers"]
    return {name: layer["rate"] for name, layer in layers.items() if name.endswith("mixer.spike2")}


def main() -> None:
    p = options(__doc__, repeats=1)
    p.add_argument("--scenes", type=int, default=8000, help="of the training (default: %(default)s)")
    p.add_argument("--val", type=int, default=500, help="scenes of the test (default: %(default)s)")
    p.add_argument(
        "--narrow", action="store_true", help="the configuration's own widths, for two CPU cores, in place of tiny's"
    )
    p.add_argument("--epochs", type=int, default=3, help="of each training (default: %(default)s)")
    p.add_argument("--seeds", type=int, default=3, help="number of seeds (default: %(default)s)")
    p.add_argument("--work", type=Path, default=ROOT / "work_dirs" / "layouts", help="folder of data and trainings")
    args = begin(p)
    size, variants, args.test_sizes = 128, VARIANTS, (128, *SIZES)
    if args.tiny:
        args.scenes, args.val, args.epochs, args.seeds = 8, 4, 1, 1
        size, variants, args.test_sizes = 64, VARIANTS[-1:], (64,)
    widths = "narrow" if args.narrow or args.tiny else "tiny"
    args.work = args.work.resolve() / f"{args.device}_{widths}_{args.scenes}_{args.val}_{args.epochs}"
    data = args.work / "shapes"
    made = ("--num-train", str(args.scenes), "--num-val", str(args.val), "--size", str(size))
    tool("dataset_tools/make_shapes.py", str(data), *made)
    results = Results.of(args, epochs=args.epochs, scenes=args.scenes, val=args.val, widths=widths)
    for seed in range(args.seeds):
        for mixer, layout in variants:
            folder = args.work / f"{mixer}_{layout}_{seed}"
            run = partial(train_and_test, folder, data, mixer, layout, seed, args)
            results.once(run, f"{mixer} {layout}", f"seed {seed}")


if __name__ == "__main__":
    main()
