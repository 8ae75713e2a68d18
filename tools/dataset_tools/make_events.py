"""Render event videos of moving shapes, as real files.

    sterf make-events data/events48 --videos 250 --size 8 16 --velocity 0.32

One folder per combination of size, velocity and density (and shape, with --single), one file per video:

    OUT/size8-v0.32-p1.00/00000.h5   events t, x, y, p; labels: the shapes' centres; see sterf_plugins/events/files.py

Videos depend on the options and the seed and on nothing else. Files appear under their names when they are whole; the
same command goes on after an interruption, and with a larger --videos adds to what is there.
"""

import argparse
import hashlib
import itertools
import json
from pathlib import Path

from sterf_plugins.cli.begin import OptionParser, begin

begin()

import torch
from tqdm import tqdm

from sterf_plugins.cli import console
from sterf_plugins.events import SHAPES, Motion, render, write_events
from sterf_plugins.events.render import check_video
from sterf_plugins.files import empty_folder, is_taken, replacing, settings_in

BATCH = 16  # videos rendered at once; with another number, the same seed would give other videos
FORMAT_VERSION = 1
# Patterns of the files of a data set.
MADE = ("events.json", "*size*-v*-p*/[0-9]*[0-9].h5", "*size*-v*-p*/[0-9]*[0-9].npz")


def parse_args() -> argparse.Namespace:
    p = OptionParser(description=__doc__)
    p.add_argument("out", type=Path, help="folder to create or to add to")
    p.add_argument("--videos", type=int, default=250, help="per combination (default: %(default)s)")
    p.add_argument("--frames", type=int, default=128, help="per video (default: %(default)s)")
    p.add_argument(
        "--resolution", type=int, nargs=2, default=(48, 48), metavar=("ROWS", "COLUMNS"), help="(default: 48 48)"
    )
    p.add_argument("--shapes", nargs="+", default=SHAPES, choices=SHAPES, help="(default: all)")
    p.add_argument("--single", action="store_true", help="one shape per video, and a combination for each shape")
    p.add_argument("--size", type=float, nargs="+", help="of the shapes in pixels (default: a third of a side)")
    p.add_argument("--velocity", type=float, nargs="+", default=[0.32], help="pixels per frame (default: 0.32)")
    p.add_argument("--density", type=float, nargs="+", default=[1.0], help="share of events that is kept (default: 1)")
    p.add_argument("--scale", type=float, default=0.0, help="growth in pixels per frame (default: 0)")
    p.add_argument("--rotate", type=float, default=0.0, help="degrees per frame (default: 0)")
    p.add_argument("--shear", type=float, default=0.0, help="degrees per frame (default: 0)")
    p.add_argument("--background", type=float, default=0.001, help="noise (default: %(default)s)")
    p.add_argument("--format", default="h5", choices=["h5", "npz"], help="(default: %(default)s)")
    p.add_argument("--seed", type=int, default=0, help="(default: %(default)s)")
    p.add_argument("--device", default="cpu", help="where to render (default: %(default)s)")
    p.add_argument("--overwrite", action="store_true", help="replace videos that were made otherwise")
    return p.parse_args()


def prepare_folder(args: argparse.Namespace) -> None:
    """Make the folder and write the settings into it; with ``--overwrite``, delete videos of other settings before.

    Raises:
        ValueError: the folder was made with other settings, or it holds something else than event videos.
    """
    made_with = dict(version=FORMAT_VERSION, frames=args.frames, resolution=list(args.resolution), seed=args.seed)
    made_with |= dict(
        shapes=list(args.shapes), single=args.single, scale=args.scale, rotate=args.rotate, shear=args.shear
    )
    made_with |= dict(background=args.background, format=args.format)
    marker = args.out / "events.json"
    if is_taken(args.out):
        recorded = settings_in(marker)
        if recorded != made_with:
            if not args.overwrite:
                raise ValueError(
                    f"{args.out} exists and was not made with these settings; give another folder or --overwrite."
                )
            if recorded is None:
                raise ValueError(f"{args.out} holds no event videos (no {marker.name} of them); it is not deleted.")
            empty_folder(args.out, MADE)
    console.check_writable(args.out, "OUT")
    if not marker.is_file():
        with replacing(marker) as partial:
            partial.write_text(json.dumps(made_with))


def main() -> None:
    args = parse_args()
    console.check_counts(args, "videos")
    console.check_device(args.device)
    every = [(shape,) for shape in args.shapes] if args.single else [tuple(args.shapes)]
    combinations = [
        (shapes, Motion(velocity, args.scale, args.rotate, args.shear, size), density)
        for shapes, size, velocity, density in itertools.product(
            every, args.size or [None], args.velocity, args.density
        )
    ]
    resolution = tuple(args.resolution)
    for shapes, motion, density in combinations:  # all of them, before anything is written or deleted
        check_video(BATCH, args.frames, resolution, motion, shapes, density, args.background)
    prepare_folder(args)
    made = existing = 0
    with tqdm(total=args.videos * len(combinations), unit="video", disable=None) as bar:
        for shapes, motion, density in combinations:
            extent = min(resolution) / 3 if motion.size is None else motion.size
            name = f"size{extent:g}-v{in_name(motion.translate)}-p{in_name(density)}"
            folder = args.out / (f"{shapes[0]}-{name}" if args.single else name)
            bar.set_description(folder.name)
            for start in range(0, args.videos, BATCH):
                files = [folder / f"{i:05d}.{args.format}" for i in range(start, min(start + BATCH, args.videos))]
                missing = [(k, f) for k, f in enumerate(files) if not f.is_file()]
                existing += len(files) - len(missing)
                if missing:
                    events, labels = render(
                        BATCH,
                        args.frames,
                        resolution,
                        motion,
                        shapes,
                        density,
                        args.background,
                        seed=seed_of(args.seed, folder.name, start),
                        device=args.device,
                    )
                    for k, file in missing:
                        write_events(file, events[:, k], labels[:, k])
                    made += len(missing)
                bar.update(len(files))
    print(f"{args.out}: {made} videos made, {existing} were there; {len(combinations)} combination(s)")


def in_name(value: float) -> str:
    """A number with two decimals, or with all it has where these are not all: other numbers have other folders."""
    text = f"{value:.2f}"
    return text if float(text) == value else repr(value)


def seed_of(seed: int, folder: str, start: int) -> int:
    """The seed of a batch of videos, from the main seed, the folder's name and the number of its first video."""
    return int.from_bytes(hashlib.sha256(f"{seed} {folder} {start}".encode()).digest()[:7], "big")


if __name__ == "__main__":
    torch.set_grad_enabled(False)
    console.run_tool(main)
