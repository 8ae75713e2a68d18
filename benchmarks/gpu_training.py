"""Five tiny detectors, trained for the same number of steps through the tools; accuracy by class and by distance."""

import json
import subprocess
import sys
import time
from pathlib import Path

from gpu_correctness import VARIANTS

from sterf_plugins.erf import ERFResult

ROOT = Path(__file__).resolve().parents[1]
CONFIG = str(ROOT / "configs/shapes/mask-rcnn_sdtv3-t-srb_fpn_shapes.py")
TINY_ARCH = ["model.backbone.arch=tiny", "model.neck.in_channels=[32,64,128,192]"]  # the config's is narrower


def training(results, args) -> None:
    """Render the shapes, then train and test a detector with each mixer and layout."""
    sys.path.insert(0, str(ROOT / "tools"))
    train, size = (16, 96) if args.tiny else (8000, 128)
    data = args.work / f"shapes{train}"
    make = [str(ROOT / "tools/dataset_tools/make_shapes.py"), str(data), "--num-train", str(train), "--size", str(size)]
    subprocess.run([sys.executable, *make, "--num-val", str(8 if args.tiny else 500)], check=True)
    for mixer, layout in VARIANTS:
        folder = args.work / args.out.stem / f"{mixer}_{layout}"
        results.once(
            lambda folder=folder, mixer=mixer, layout=layout: train_and_test(folder, data, mixer, layout, args),
            "training",
            f"{mixer} {layout}",
        )


def train_and_test(folder: Path, data: Path, mixer: str, layout: str, args) -> dict:
    """Train one detector, or go on with it, and test it; seconds and scores."""
    truth = data / "annotations" / "instances_val2017.json"
    options = [f"{p}_dataloader.dataset.data_root={data}/" for p in ("train", "val", "test")]
    options += [f"{e}_evaluator.ann_file={truth}" for e in ("val", "test")]
    options += [f"model.backbone.mixer={mixer}", f"model.backbone.layout={layout}"]
    options += [f"train_cfg.max_epochs={args.epochs}", f"param_scheduler.1.end={args.epochs}"]
    if not args.tiny:
        options += [*TINY_ARCH, "train_dataloader.num_workers=4"]

    def tool(name: str, *arguments: str) -> None:
        command = [sys.executable, str(ROOT / "tools" / name), CONFIG, *arguments]
        subprocess.run([*command, "--cfg-options", *options], check=True, timeout=args.train_limit)

    seconds_file = folder / "seconds"  # written only if the training ran in one piece
    from_start = not (folder / "last_checkpoint").is_file()
    start = time.time()
    tool("train.py", "--work-dir", str(folder), "--resume")
    if from_start:
        seconds_file.write_text(f"{time.time() - start}")
    options.append(f"test_evaluator.outfile_prefix={folder / 'coco'}")
    tool("test.py", str(folder / f"epoch_{args.epochs}.pth"), "--work-dir", str(folder / "test"))
    return dict(seconds=float(seconds_file.read_text()) if seconds_file.is_file() else None, **scores(folder, truth))


def scores(folder: Path, truth: Path) -> dict:
    """Average precision by class and by distance of twins, and the receptive fields before and after the training."""
    from demo_report import average_precision, quiet_coco, twin_accuracy
    from pycocotools.coco import COCO

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
    test = json.loads(max((folder / "test").glob("2*/2*.json")).read_text())
    found["ap"] = {k.split("/")[-1]: v for k, v in test.items() if k.endswith("mAP")}
    fields = sorted(folder.glob("2*/vis_data/erf/*.npz"), key=lambda path: int(path.stem))
    return found | dict(
        long_range_by_distance=[
            dict(zip(("distance", "objects", "found", "right"), row, strict=True))
            for row in twin_accuracy(coco, folder / "coco.bbox.json")
        ],
        erf_before=shares(fields[0]),
        erf_after=shares(fields[-1]),
    )


def shares(path: Path) -> dict[str, dict[str, float]]:
    """Share of input pixels that holds half and nine tenths of the receptive field's mass, by layer."""
    result = ERFResult.load(path)
    return {layer: {f"{mass:.0%}": result.area_ratio(layer, mass) for mass in (0.5, 0.9)} for layer in result.spatial}
