"""Make a small detection data set of event recordings: moving circles, squares and triangles, with their boxes.

    sterf make-event-detection data/event_shapes

It has the boxes both as Prophesee's structured arrays and as COCO's json:

    OUT/train/shapes000_td.h5      events; with --format also .npz or .aedat4
    OUT/train/shapes000_bbox.npy   t, x, y, w, h, class_id, track_id, class_confidence
    OUT/annotations/train.json     COCO: each image has the name of a recording and a time t in microseconds
    OUT/train.txt                  names of the recordings; the same for test

A frame of the renderer is a millisecond; boxes come every --interval milliseconds. Recordings depend on the options and the seed
and on nothing else.
"""

import argparse
import json
from pathlib import Path

from sterf_plugins.cli.begin import OptionParser, begin

begin()

import numpy as np
import torch
from tqdm import tqdm

from sterf_plugins.checks import require
from sterf_plugins.cli import console
from sterf_plugins.events import SHAPES, Events, Motion, render, write_recording
from sterf_plugins.events.render import check_video
from sterf_plugins.files import check_new, empty_folder, replacing

BOX = np.dtype([("t", "<i8"), ("x", "<f4"), ("y", "<f4"), ("w", "<f4"), ("h", "<f4"), ("class_id", "u1"),
                ("track_id", "<u4"), ("class_confidence", "<f4")])  # fmt: skip
FRAME = 1_000  # microseconds
MADE = (
    *("t*/shapes[0-9]*_td.*", "t*/shapes[0-9]*_bbox.npy", "annotations/t*.json", "train.txt", "test.txt"),
    "event_cache/shapes*_td-*.h5",
)


def parse_args() -> argparse.Namespace:
    p = OptionParser(description=__doc__)
    p.add_argument("out", type=Path, help="folder to create")
    p.add_argument("--train", type=int, default=16, help="recordings to train on (default: %(default)s)")
    p.add_argument("--test", type=int, default=4, help="recordings to test on (default: %(default)s)")
    p.add_argument("--milliseconds", type=int, default=1000, help="of each recording (default: %(default)s)")
    p.add_argument("--interval", type=int, default=25, help="milliseconds from boxes to boxes (default: %(default)s)")
    p.add_argument(
        "--resolution", type=int, nargs=2, default=(96, 128), metavar=("ROWS", "COLUMNS"), help="(default: 96 128)"
    )
    p.add_argument(
        "--sizes", type=float, nargs="+", default=[18, 26, 34], help="of the shapes in pixels (default: 18 26 34)"
    )
    p.add_argument("--velocity", type=float, default=0.3, help="pixels per millisecond along each axis (default: 0.3)")
    p.add_argument("--background", type=float, default=0.001, help="noise (default: %(default)s)")
    p.add_argument(
        "--format", default="h5", choices=["h5", "npz", "aedat4"], help="of the recordings (default: %(default)s)"
    )
    p.add_argument("--seed", type=int, default=0, help="(default: %(default)s)")
    p.add_argument("--overwrite", action="store_true", help="replace a data set that this tool made")
    return p.parse_args()


def main() -> None:
    args = parse_args()
    console.check_counts(args, "train", "test", "milliseconds", "interval")
    if args.interval > args.milliseconds:
        raise ValueError(
            f"--interval is {args.interval}, longer than the --milliseconds {args.milliseconds} of a recording."
        )
    if args.seed < 0:
        raise ValueError(f"--seed is {args.seed}; it must be at least 0.")
    for size in args.sizes:  # before anything is deleted
        motion = Motion(translate=args.velocity, size=size)
        check_video(1, args.milliseconds, tuple(args.resolution), motion, background=args.background)
    if args.format == "aedat4":
        require("dv_processing", extra="events")
    check_new(args.out, args.overwrite)
    if args.out.is_dir() and any(args.out.iterdir()):
        empty_folder(args.out, MADE)
    console.check_writable(args.out, "OUT")
    with tqdm(total=args.train + args.test, unit="recording", disable=None) as bar:
        for number, split in enumerate(("train", "test")):
            boxes = {}
            for i in range(getattr(args, split)):
                name = f"shapes{i:03d}"
                boxes[name] = make_recording(
                    args, args.out / split / name, args.sizes[i % len(args.sizes)], 2 * i + number
                )
                bar.update()
            write_coco(args.out / "annotations" / f"{split}.json", boxes, args)
            with replacing(args.out / f"{split}.txt") as partial:
                partial.write_text("".join(f"{name}\n" for name in boxes))
    print(f"{args.out}: {args.train} recordings to train on and {args.test} to test on, {args.milliseconds} ms each")


def make_recording(args: argparse.Namespace, path: Path, size: float, number: int) -> np.ndarray:
    """Write a recording and its boxes, which are returned."""
    motion = Motion(translate=args.velocity, size=size, angle=0.0)
    seed = args.seed * 1_000_003 + number
    events, centres = render(
        1, args.milliseconds, tuple(args.resolution), motion, background=args.background, upsampling=2, seed=seed
    )
    frame, p, y, x = (column.numpy() for column in events[:, 0].nonzero(as_tuple=True))
    t = frame * FRAME + np.random.default_rng(seed).integers(0, FRAME, len(frame))  # a frame's events at any time in it
    order = np.argsort(t, kind="stable")
    columns = (column[order] for column in (t, x, y, p))
    write_recording(path.with_name(f"{path.name}_td.{args.format}"), Events.of(*columns), tuple(args.resolution))
    boxes = boxes_of(centres[:, 0].numpy(), size, args.interval)
    with replacing(path.with_name(f"{path.name}_bbox.npy")) as partial:
        np.save(partial, boxes)
    return boxes


def boxes_of(centres: np.ndarray, size: float, interval: int) -> np.ndarray:
    """Prophesee's array of boxes of the shapes at the end of every ``interval``-th frame; centres are (T, shapes, 2)."""
    frames = np.arange(interval - 1, len(centres), interval)
    boxes = np.zeros((len(frames), len(SHAPES)), BOX)
    boxes["t"] = (frames[:, None] + 1) * FRAME
    boxes["y"], boxes["x"] = np.moveaxis(centres[frames] + 0.5 - size / 2, -1, 0)  # a pixel's centre is at half
    boxes["w"] = boxes["h"] = size
    boxes["class_id"] = boxes["track_id"] = np.arange(len(SHAPES))
    boxes["class_confidence"] = 1
    return boxes.ravel()


def write_coco(path: Path, boxes: dict[str, np.ndarray], args: argparse.Namespace) -> None:
    """The boxes of all recordings as one COCO file."""
    images: list[dict] = []
    annotations: list[dict] = []
    for name, own in boxes.items():
        for t in np.unique(own["t"]):
            height, width = args.resolution
            images.append(
                dict(id=len(images), file_name=f"{name}_td.{args.format}", t=int(t), height=height, width=width)
            )
            for box in own[own["t"] == t]:
                x, y, w, h = (float(box[key]) for key in "xywh")
                annotations.append(
                    dict(id=len(annotations) + 1, image_id=len(images) - 1, category_id=int(box["class_id"]),
                         bbox=[x, y, w, h], area=w * h, iscrowd=0)
                )  # fmt: skip
    categories = [dict(id=i, name=shape) for i, shape in enumerate(SHAPES)]
    with replacing(path) as partial:
        partial.write_text(json.dumps(dict(images=images, annotations=annotations, categories=categories)))


if __name__ == "__main__":
    torch.set_grad_enabled(False)
    console.run_tool(main, again="the same command and --overwrite")
