"""Render recordings of a moving shape with its box, in the folders and files of FE108 or of VisEvent.

    sterf make-tracking data/tracking/fe108 --layout fe108
    sterf make-tracking data/tracking/visevent --layout visevent --train 0 --test 8

A shape moves through the image, turns, and in some sequences grows and shrinks; in some a second one of the same shape but of
the other contrast, the distractor, moves elsewhere. Pixels emit events where brightness changes, and noise; the camera also
takes frames, at irregular times. A few lines of the labels are 0,0,0,0, as where an annotator saw nothing.

    fe108     OUT/pair.txt  OUT/SPLIT/test.txt  OUT/SPLIT/NAME/{events.aedat4, img/NNNN.png, groundtruth_rect.txt}
    visevent  OUT/SPLIT/NAME/{NAME.aedat4, vis_imgs/frameNNNN.png, groundtruth.txt}

OUT/attributes.txt names the difficulties of each sequence. sterf make-gtp makes the event images. The recordings
depend on the options and on nothing else. An interrupted run leaves no data set behind.
"""

import argparse
import json
import math
from dataclasses import dataclass
from pathlib import Path

from sterf_plugins.cli.begin import OptionParser, begin

begin()

import cv2
import numpy as np
from tqdm import tqdm

from sterf_plugins.cli import console
from sterf_plugins.events import Events, Frame, write_recording
from sterf_plugins.files import is_taken, replacing_folder, settings_in
from sterf_plugins.tracking.sequences import LAYOUTS

CORNERS = {"disc": 40, "square": 4, "triangle": 3}
SUBSTEPS = 4  # times at which an interval between two frames is rendered
THRESHOLD = 0.4  # change of brightness that a pixel emits an event for; a shape is 1 brighter or darker than its ground
NOISE = 0.003  # events of a pixel from one frame to the next
GAP = 30_000, 50_000  # microseconds from one frame to the next
EMPTY = 0.02  # share of labels without a box
FORMAT_VERSION = 1
MADE = (
    "tracking.json",
    "pair.txt",
    "attributes.txt",
    "t*/test.txt",
    *(
        f"t*/{shape}[0-9][0-9]*/{file}"
        for shape in CORNERS
        for file in (
            "*.aedat4",
            "img/[0-9]*.png",
            "vis_imgs/frame[0-9]*.png",
            "groundtruth*.txt",
            "inter*_stack_3008/*",
        )
    ),
)


@dataclass(frozen=True)
class Mover:
    """A shape at a number of times.

    Args:
        outlines: (times, corners, 2), x and y in pixels, where pixel 0 covers 0 to 1.
        contrast: how much brighter it is than the ground, 1 or -1.
        attributes: what makes it difficult.
    """

    outlines: np.ndarray
    contrast: int
    attributes: tuple[str, ...]

    def boxes(self) -> np.ndarray:
        """(times, 4), x, y, w, h of the smallest upright box around it."""
        low, high = self.outlines.min(1), self.outlines.max(1)
        return np.concatenate([low, high - low], 1)


def mover(
    rng: np.random.Generator, shape: str, radius: float, contrast: int, times: np.ndarray, size: tuple[int, int]
) -> Mover:
    """A shape that moves straight on, is reflected by the image's borders, turns, and perhaps grows and shrinks.

    Args:
        rng: where everything else is drawn from.
        shape: one of ``CORNERS``.
        radius: of the circle through its corners at the start, in pixels.
        contrast: 1 or -1.
        times: in intervals between two frames.
        size: (height, width) of the image.
    """
    growth, turn, speed = rng.choice([0, 0.3]), rng.choice([0, 0.03, 0.12]), rng.uniform(1.5, 4)
    radii = radius * (1 + growth * np.sin(2 * math.pi * (times / rng.uniform(30, 60) + rng.random())))
    direction, limits = rng.uniform(0, 2 * math.pi), np.array(size[::-1])
    low = radii.max() + 1
    room = limits - 2 * low
    way = rng.uniform(0, room) + speed * times[:, None] * np.array([math.cos(direction), math.sin(direction)])
    centre = low + room - np.abs(way % (2 * room) - room)
    count = CORNERS[shape]
    angle = rng.uniform(0, 2 * math.pi) + turn * times[:, None] + 2 * math.pi * np.arange(count) / count
    corners = centre[:, None] + radii[:, None, None] * np.stack([np.cos(angle), np.sin(angle)], 2)
    named = {"growing": growth > 0, "turning": turn > 0.1 and shape != "disc", "fast": speed > 3}
    return Mover(corners, contrast, tuple(name for name, there in named.items() if there))


def movers(rng: np.random.Generator, shape: str, two: bool, times: np.ndarray, size: tuple[int, int]) -> list[Mover]:
    """The target, and the distractor if there shall be ``two``: smaller, of the other contrast, and apart from it.

    How far apart they stay is tried again and again, with a little less each time, since there is less room in long sequences.
    """
    radius, contrast = rng.uniform(0.07, 0.11) * min(size) * math.sqrt(2), int(rng.choice([-1, 1]))
    apart = 3 * radius
    while True:
        target = mover(rng, shape, radius, contrast, times, size)
        if not two:
            return [target]
        other = mover(rng, shape, 0.7 * radius, -contrast, times, size)
        distance = np.linalg.norm(target.outlines.mean(1) - other.outlines.mean(1), axis=1)
        if distance.min() > apart:
            return [Mover(target.outlines, contrast, (*target.attributes, "distractor")), other]
        apart *= 0.99


def brightness(shapes: list[Mover], time: int, size: tuple[int, int]) -> np.ndarray:
    """The image at one of the times, (height, width), with the ground at 0."""
    image = np.zeros(size, np.float32)
    for shape in shapes:
        canvas = np.zeros(size, np.uint8)
        corners = np.round((shape.outlines[time] - 0.5) * 16).astype(np.int32)
        image += shape.contrast / np.float32(255) * cv2.fillPoly(canvas, [corners], 255, cv2.LINE_AA, 4)
    return image


def record(rng: np.random.Generator, images: list[np.ndarray], times: np.ndarray) -> Events:
    """The events of a camera that sees these images at these times in microseconds, and its noise."""
    size = images[0].shape
    membrane = rng.uniform(-THRESHOLD, THRESHOLD, size).astype(np.float32)
    parts = []
    for before, after, start, stop in zip(images, images[1:], times, times[1:], strict=False):
        membrane += after - before
        fired = np.trunc(membrane / THRESHOLD).astype(int)
        membrane -= THRESHOLD * fired
        y, x = np.nonzero(fired)
        number = np.abs(fired[y, x])
        y, x, p = (np.repeat(column, number) for column in (y, x, fired[y, x] > 0))
        noise = rng.poisson(NOISE / SUBSTEPS * membrane.size)
        x = np.concatenate([x, rng.integers(0, size[1], noise)])
        y = np.concatenate([y, rng.integers(0, size[0], noise)])
        p = np.concatenate([p, rng.integers(0, 2, noise).astype(bool)])
        parts.append(Events.of(np.sort(rng.integers(start, stop, len(x))), x, y, p))
    return Events.joined(parts)


def write_sequence(
    folder: Path, layout: str, name: str, two: bool, frames: int, size: tuple[int, int], rng: np.random.Generator
) -> tuple[int, tuple[str, ...]]:
    """Render and write one sequence; the number of its first frame that counts, and its attributes."""
    labels, first = LAYOUTS[layout]
    unused = int(rng.integers(1, 4)) if layout == "fe108" else 0  # frames of the recording before the first label
    taken = unused + frames + 1
    times = np.arange((taken - 1) * SUBSTEPS + 1) / SUBSTEPS
    clock = 1_600_000_000_000_000 + np.concatenate([[0], np.cumsum(rng.integers(*GAP, taken - 1))])
    shapes = movers(rng, name.rstrip("0123456789"), two, times, size)
    images = [brightness(shapes, i, size) for i in range(len(times))]
    events = record(rng, images, np.interp(times, np.arange(taken), clock).astype(np.int64))
    grain = rng.uniform(-20, 20, size)
    photos = [np.clip(110 + grain + 70 * image, 0, 255).astype(np.uint8) for image in images[::SUBSTEPS]]
    boxes = shapes[0].boxes()[::SUBSTEPS][unused : unused + frames]
    boxes[1:][rng.random(frames - 1) < EMPTY] = 0
    folder = folder / name
    pictures = folder / ("img" if layout == "fe108" else "vis_imgs")
    pictures.mkdir(parents=True)
    for i in range(frames):
        number = f"{first + i:04d}.png"
        cv2.imwrite(str(pictures / (number if layout == "fe108" else f"frame{number}")), photos[unused + i])
    recording = folder / ("events.aedat4" if layout == "fe108" else f"{name}.aedat4")
    stills = [Frame(int(t), int(t), photo) for t, photo in zip(clock, photos, strict=True)]
    write_recording(recording, events, size, stills)
    np.savetxt(folder / labels, boxes, "%.2f", ",")
    return unused, shapes[0].attributes


def write_split(args: argparse.Namespace, root: Path, split: str, count: int) -> None:
    """Render ``count`` sequences of a split into ``root``, every fourth of them with a distractor."""
    folder = root / split
    folder.mkdir(parents=True)
    before = args.train if split == "test" else 0  # pair.txt tells sequences of both splits by their names
    names = [f"{list(CORNERS)[i % 3]}{i // 3 + 1:02d}" for i in range(before, before + count)]
    for i, name in enumerate(tqdm(names, desc=f"{split} sequences", disable=None)):
        rng = np.random.default_rng([args.seed, list(LAYOUTS).index(args.layout), split == "test", i])
        start, attributes = write_sequence(folder, args.layout, name, i % 4 == 3, args.frames, tuple(args.size), rng)
        if args.layout == "fe108":
            with (root / "pair.txt").open("a") as file:
                file.write(f"{name} {start}\n")
        with (root / "attributes.txt").open("a") as file:
            file.write(f"{' '.join((name, *attributes))}\n")
    if args.layout == "fe108":
        (folder / "test.txt").write_text("".join(f"{name}\n" for name in names))


def parse_args() -> argparse.Namespace:
    p = OptionParser(description=__doc__)
    p.add_argument("out", type=Path, help="folder to create")
    p.add_argument("--layout", choices=list(LAYOUTS), required=True, help="whose folders")
    p.add_argument("--train", type=int, default=24, metavar="N", help="training sequences (default: %(default)s)")
    p.add_argument("--test", type=int, default=12, metavar="N", help="test sequences (default: %(default)s)")
    p.add_argument("--frames", type=int, default=60, help="labels of a sequence (default: %(default)s)")
    p.add_argument("--size", type=int, nargs=2, default=(180, 240), metavar=("H", "W"), help="default: 180 240")
    p.add_argument("--seed", type=int, default=0, help="(default: %(default)s)")
    p.add_argument("--overwrite", action="store_true", help="replace a data set that was made otherwise")
    args = p.parse_args()
    for name, least in (("train", 0), ("test", 0), ("frames", 2), ("seed", 0)):
        if getattr(args, name) < least:
            p.error(f"--{name} is {getattr(args, name)}; it must be at least {least}")
    if min(args.size) < 60:
        p.error(f"--size is {args.size[0]} {args.size[1]}; both must be at least 60")
    return args


def main() -> None:
    args = parse_args()
    settings = {key: getattr(args, key) for key in ("layout", "train", "test", "frames", "seed")}
    settings |= dict(version=FORMAT_VERSION, size=list(args.size))
    marker = args.out / "tracking.json"
    if is_taken(args.out):
        if settings_in(marker) == settings:
            print(f"{args.out} is already there, made with the same settings")
            return
        if not args.overwrite:
            raise ValueError(
                f"{args.out} exists and was not made with these settings; give another folder or --overwrite."
            )
        if not marker.is_file():
            raise ValueError(f"{args.out} holds no such data set (no {marker.name}); it is not deleted: move it away.")
    with replacing_folder(args.out, MADE) as partial:
        for split in ("train", "test"):
            write_split(args, partial, split, getattr(args, split))
        (partial / marker.name).write_text(json.dumps(settings))
    print(f"{args.train} + {args.test} sequences of {args.frames} images in {args.out}")


if __name__ == "__main__":
    console.run_tool(main)
