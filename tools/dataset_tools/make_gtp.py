"""Make the event images of a tracking data set from its recordings.

    sterf make-gtp data/FE108 --layout fe108 --steps 4
    sterf make-gtp data/VisEvent --layout visevent --steps 1 --jobs 8
    sterf make-gtp data/mine --layout fe108 --interval 25000       # recordings without frames

For each sequence SPLIT/NAME: SPLIT/NAME/inter{T}_stack_3008/NNNN_k.png, the T parts of an image for each label. Images lie between
the times of the camera's frames: in FE108 from the frame that pair.txt names, without one and in VisEvent from the first.
A sequence appears when it is whole; the same command goes on after an interruption. gtp.json in the folder of a sequence says with
which settings its images were made, for how many labels, from which frame on and of which recording (its name and length); others
are refused.
"""

import argparse
import json
import multiprocessing
import os
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from pathlib import Path

from sterf_plugins.cli.begin import OptionParser, begin, end_with_parent

begin()

import cv2
from tqdm import tqdm

from sterf_plugins.checks import positive_int
from sterf_plugins.cli import console
from sterf_plugins.events import gtp
from sterf_plugins.events.arrays import sensor_size
from sterf_plugins.events.gtp import RULES, STEPS
from sterf_plugins.files import replacing_folder, settings_in
from sterf_plugins.tracking.recordings import boundaries, first_frame, recording_of, recordings_in, with_events
from sterf_plugins.tracking.sequences import IMAGES, LAYOUTS, MARKER, SPLITS, read_boxes

MADE = ("*.png", MARKER)
WORDS = {"count": "number of labels", "first": "number of the first frame", "bytes": "length of the recording"}


def parse_args() -> argparse.Namespace:
    p = OptionParser(description=__doc__)
    p.add_argument("root", type=Path, help="folder with train/ and test/")
    p.add_argument("--layout", choices=list(LAYOUTS), required=True, help="whose folders these are")
    p.add_argument("--steps", type=int, choices=STEPS, default=1, help="T, parts of an image (default: 1)")
    p.add_argument("--rule", choices=RULES, default="clean", help="parity: event for event what FE108's script does")
    p.add_argument("--amount", type=int, default=30, help="of one event (default: 30)")
    p.add_argument("--trajectory", type=int, default=30, help="of a beginning (default: 30)")
    p.add_argument("--decay", type=float, default=0.8, help="of the trajectory (default: 0.8)")
    p.add_argument("--interval", type=int, metavar="µs", help="equal intervals instead of the times of frames")
    p.add_argument(
        "--sensor", type=int, nargs=2, metavar=("H", "W"), help="size of the sensor, where recordings do not say it"
    )
    p.add_argument("--jobs", type=int, default=1, metavar="N", help="processes at a time (default: 1)")
    p.add_argument("--overwrite", action="store_true", help="replace images of other settings")
    return p.parse_args()


def make(args: argparse.Namespace, folder: Path) -> str:
    """Make the images of one sequence; what was done, in a word."""
    settings = {
        key: getattr(args, key)
        for key in ("layout", "steps", "rule", "amount", "trajectory", "decay", "interval", "sensor")
    }
    labels, start = LAYOUTS[args.layout]
    count = len(read_boxes(folder / labels))
    first = first_frame(args.root, args.layout, folder.name, args.interval)
    settings |= dict(count=count, first=first)
    found = recordings_in(folder)
    if len(found) == 1:  # without it, as where it was deleted for room, images that are there stay
        settings |= dict(recording=found[0].name, bytes=found[0].stat().st_size)
    out = folder / IMAGES.format(args.steps)
    if out.exists():
        made_with = settings_in(out / MARKER)
        if made_with is None:
            raise ValueError(f"{out} has no {MARKER}, so another program made it; it is not deleted: move it away.")
        # Markers of version 0.1 have neither count nor first, nor what the recording is, nor the number of files; nor a sensor.
        known = dict(settings, sensor=None) | made_with
        other = next((key for key, value in settings.items() if known[key] != value), None)
        if other is None and len(list(out.glob("*.png"))) >= made_with.get("files", 0):
            return "there"
        if other is not None and not args.overwrite:
            raise ValueError(
                f"{out} has images of another {WORDS.get(other, other)}: {known[other]}, and here it is {settings[other]}; move it "
                f"away or give --overwrite."
            )
    recording = recording_of(folder, args.sensor)
    times = boundaries(recording, count, first, args.interval)
    images = gtp(recording, times, args.steps, args.amount, args.trajectory, args.decay, args.rule)
    try:
        with replacing_folder(out, MADE) as unfinished:
            for interval, part, pixels in with_events(images, recording, times):
                path = unfinished / f"{start + interval:04d}_{part + 1}.png"
                path.write_bytes(cv2.imencode(".png", pixels[..., ::-1])[1].tobytes())
            files = len(list(unfinished.iterdir()))
            (unfinished / MARKER).write_text(json.dumps(dict(settings, files=files)))
    except OSError as error:
        raise ValueError(
            f"{out} cannot be written ({error.strerror}); nothing of it was left there: mend that, and run this again."
        ) from error
    return "made"


def attempt(args: argparse.Namespace, folder: Path) -> str | ValueError:
    """``make``, whose mistakes in the data do not keep the other sequences from being made."""
    try:
        return make(args, folder)
    except ValueError as error:
        return error


def in_processes(
    work: Callable[[Path], str | ValueError], folders: list[Path], jobs: int, bar: tqdm
) -> list[str | ValueError]:
    """What ``work`` gives for each folder, by ``jobs`` processes, in the order in which they end.

    Raises:
        ValueError: the system has killed one of the processes, for whose sequence the others would wait for ever.
    """
    with ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn"), end_with_parent) as pool:
        try:
            made = as_completed([pool.submit(work, folder) for folder in folders])
            return [(future.result(), bar.update())[0] for future in made]
        except BrokenProcessPool as error:
            raise ValueError(
                f"--jobs {jobs}: one of the processes was killed, as the system does where memory is short; give fewer, and the "
                f"sequences that are made stay."
            ) from error
        except BaseException:  # Ctrl-C: nobody waits for the sequences that the processes are at
            pool.shutdown(wait=False, cancel_futures=True)
            for process in multiprocessing.active_children():
                process.terminate()
            raise


def main() -> None:
    args = parse_args()
    for name in ("interval", "jobs"):
        if getattr(args, name) is not None:
            positive_int(f"--{name}", getattr(args, name))
    if args.sensor is not None:
        sensor_size(args.sensor, "--sensor")
    labels, _ = LAYOUTS[args.layout]
    folders = sorted(path.parent for split in SPLITS for path in args.root.glob(f"{split}/[!.]*/{labels}"))
    if not folders:
        raise ValueError(
            f"{args.root} has no train/*/{labels} or test/*/{labels}, so no sequence of layout {args.layout}."
        )
    console.check_writable(args.root, "ROOT")
    work = partial(attempt, args)
    jobs = min(args.jobs, len(folders), os.cpu_count() or 1)
    with tqdm(total=len(folders), desc="sequences") as bar:
        if jobs == 1:
            done = [(bar.set_postfix_str(folder.name), work(folder), bar.update())[1] for folder in folders]
        else:
            done = in_processes(work, folders, jobs, bar)
    failed = [result for result in done if isinstance(result, ValueError)]
    if failed:
        others = f" (and {len(failed) - 1} more of {len(folders)} sequences failed)" if failed[1:] else ""
        raise ValueError(f"{failed[0]}{others}")
    print(f"{done.count('made')} sequences made, {done.count('there')} were there: {args.root}")
    if args.layout == "fe108" and args.interval is None and not (args.root / "pair.txt").is_file():
        print(
            f"there is no {args.root / 'pair.txt'}: images begin with the first frame of each recording, as labels must."
        )


if __name__ == "__main__":
    console.run_tool(main)
