"""Predictions of a detector or segmentor for images: pictures, JSON, and the receptive field behind a detection.

    sterf infer photos/ --config work_dirs/x/CONFIG.py --checkpoint work_dirs/x/epoch_12.pth --out work_dirs/seen
    sterf infer a.jpg 'more/*.png' --config mmdet::mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py --checkpoint FILE.pth --out seen
    sterf infer a.jpg --config … --checkpoint … --out seen --erf --detection 2

For each image NAME: NAME.png (drawn by the library's visualizer), NAME.json (all detections, the highest score first, or the
share of each class), NAME-map.png (the label of each pixel, of segmentors and panoptic models). With --erf: NAME-erf.png and
NAME-erf.npz, the effective receptive field of the feature at the middle of a detection. Which level that feature lies on, the
RoI extractor says; in detectors without one, it is the coarsest level whose stride is at most a 14th of the box's side.
"""

import argparse
import json
import sys
from pathlib import Path

from sterf_plugins.cli.begin import OptionParser, begin

begin(openmmlab=True)

from PIL import Image
from tqdm import tqdm

from sterf_plugins.cli import console
from sterf_plugins.cli.checkpoints import add_checkpoint_option
from sterf_plugins.cli.erf.detection import LAYER, detection_field
from sterf_plugins.cli.images import displayed, named_images
from sterf_plugins.cli.loading import Loaded, build_config, load_weights
from sterf_plugins.cli.predictions import Predictor, check_image, detections, label_map
from sterf_plugins.cli.progress import seconds_between_states
from sterf_plugins.cli.training import add_model_options, changed_config
from sterf_plugins.files import check_claim, claim, replacing


def parse_args() -> argparse.Namespace:
    p = OptionParser(description=__doc__)
    p.add_argument("images", nargs="+", metavar="IMAGES", help="files, folders, or patterns such as 'photos/*.jpg'")
    p.add_argument("--config", required=True, help="config file, or mmdet::…, mmseg::…, sterf_plugins::…")
    p.add_argument("--checkpoint", required=True, metavar="FILE", help="the model's weights")
    p.add_argument("--out", required=True, metavar="DIR", help="folder of the results")
    p.add_argument("--score-thr", type=float, default=0.3, metavar="P", help="lowest score that is drawn (default 0.3)")
    console.add_device_option(p)
    p.add_argument("--erf", action="store_true", help="the field behind the detection with the highest score")
    p.add_argument("--detection", type=int, metavar="N", help="the field behind the N-th detection in the JSON, from 0")
    p.add_argument("--overwrite", action="store_true", help="replace files that this tool did not write")
    add_model_options(p)
    add_checkpoint_option(p)
    p.set_defaults(launcher="none")
    return p.parse_args()


def write_field(args: argparse.Namespace, loaded: Loaded, inputs, sample, rows: list[dict], stem: Path) -> dict | None:
    """Compute, draw and save the field behind the chosen detection; what the JSON says of it, or ``None`` without one."""
    number = args.detection or 0
    if number >= len(rows):
        print(f"{sample.img_path}: no detection {number}, there are {len(rows)}", file=sys.stderr)
        return None
    chosen = rows[number]
    across, down = sample.get("scale_factor", (1.0, 1.0))[:2]
    box = [side * scale for side, scale in zip(chosen["box"], (across, down, across, down), strict=True)]
    field = detection_field(loaded.model, inputs, box)
    for line in field.result.warnings:
        print(f"{sample.img_path}: warning: {line}", file=sys.stderr)
    field.result.info |= dict(checkpoint=str(args.checkpoint or ""), images=Path(sample.img_path).name)
    height, width = sample.img_shape[:2]  # without what pads the batch
    image = displayed(inputs, loaded)[:height, :width]
    picture, file = (stem.with_name(f"{stem.name}-erf.{suffix}") for suffix in ("png", "npz"))
    field.draw(image, f"{number}: {chosen['class']} {chosen['score']:.2f}", picture)
    field.result.save(file)
    area = field.result.numbers(LAYER)["area_50"].value
    return dict(detection=number, level=field.level, stride=field.stride, place=field.place, area_50=area)


def write_results(args: argparse.Namespace, loaded: Loaded, predictor: Predictor, path: Path, stem: Path) -> bool:
    """Predict one image and write its files; returns whether a field is among them."""
    inputs, sample = predictor.predict(path)
    predictor.draw(path, sample, args.score_thr, stem.with_name(f"{stem.name}.png"))
    height, width = sample.ori_shape[:2]
    record: dict = dict(image=str(path), height=height, width=width)
    classes = tuple(predictor.meta.get("classes") or ())
    if hasattr(sample, "pred_instances"):
        record["detections"] = detections(sample, classes)
    if labels := label_map(sample, classes):
        picture, words = labels
        record |= words
        with replacing(stem.with_name(f"{stem.name}-map.png")) as partial:
            Image.fromarray(picture).save(partial)
    if args.erf:
        if "detections" not in record:
            raise ValueError(
                f"--erf needs a model that detects objects, and {args.config} has none; for a place of your choice: "
                f"sterf erf {args.config} {args.checkpoint} --images DIR --position ROW,COL --out DIR"
            )
        record["field"] = write_field(args, loaded, inputs, sample, record["detections"], stem)
    with replacing(stem.with_name(f"{stem.name}.json")) as partial:
        partial.write_text(json.dumps(record))
    return bool(record.get("field"))


def main() -> None:
    args = parse_args()
    if args.detection is not None:
        if args.detection < 0:
            raise ValueError(f"--detection {args.detection}: detections are counted from 0.")
        args.erf = True
    if not 0 <= args.score_thr <= 1:
        raise ValueError(f"--score-thr {args.score_thr}: scores lie between 0 and 1; with 0 all detections are drawn.")
    console.check_device(args.device)
    folder = Path(args.out)
    images = named_images(args.images, folder)
    for path in images.values():
        check_image(path)
    console.check_writable(folder, "--out")
    suffixes = (".png", ".json", "-map.png", *(("-erf.png", "-erf.npz") if args.erf else ()))
    check_claim(folder, "infer", [f"{name}{suffix}" for name in images for suffix in suffixes], args.overwrite)
    loaded = build_config(changed_config(args), args.config)
    load_weights(loaded, args.checkpoint)
    loaded.model.eval().to(args.device)
    predictor = Predictor(loaded)
    claim(folder, "infer")
    quiet = len(images) == 1
    bar = tqdm(images.items(), unit="image", disable=quiet, mininterval=seconds_between_states())
    fields = [write_results(args, loaded, predictor, path, folder / name) for name, path in bar]
    if args.erf and not any(fields):
        raise ValueError(f"no image has a detection {args.detection or 0}, so no field was computed.")
    print(f"{len(images)} image{'s' * (len(images) > 1)} -> {folder}")


if __name__ == "__main__":
    console.run_tool(main)
