"""Follow an object through a recording of an event camera: a video with its box and the scores, and the boxes as text.

    sterf track driving.aedat4 --box 120 80 40 30 --config CONFIG --checkpoint FILE --out followed.mp4
    sterf track driving.raw --box 120 80 40 30 --interval 25000 --config … --checkpoint … --out pictures/
    sterf track data/FE108/test/bike/events.aedat4 --config … --checkpoint … --out bike.mp4

An image is made of the events between two frames of the camera, or of each interval. OUT is a video, or a folder for one picture
after another; the boxes go beside it, OUT.txt, a line x, y, w, h for each image. Without --box the images are those of the labels
in the recording's folder, which are drawn, too.
"""

import argparse
import time
from pathlib import Path

from sterf_plugins.cli.begin import OptionParser, begin

begin(openmmlab=True)

import cv2
import numpy as np
from tqdm import tqdm

from sterf_plugins.checks import positive_int
from sterf_plugins.cli import console
from sterf_plugins.cli.checkpoints import add_checkpoint_option
from sterf_plugins.cli.loading import Loaded, build_config, load_weights
from sterf_plugins.cli.progress import seconds_between_states
from sterf_plugins.cli.training import add_model_options, changed_config
from sterf_plugins.events import Recording, open_recording
from sterf_plugins.events.arrays import UNITS, sensor_size
from sterf_plugins.files import check_made, check_new, replacing, replacing_folder
from sterf_plugins.openmmlab.configs.types import type_name
from sterf_plugins.tracking import Follower, recordings
from sterf_plugins.tracking.box_metrics import curves
from sterf_plugins.tracking.crops import check_box
from sterf_plugins.tracking.drawing import draw_step
from sterf_plugins.tracking.sequences import read_absent, write_boxes

PICTURES = ("*.png",)


def parse_args() -> argparse.Namespace:
    p = OptionParser(description=__doc__)
    p.add_argument("recording", type=Path, help="an event file: .aedat4, .raw, .dat, .es, .h5, .npz, .csv")
    p.add_argument(
        "--box",
        type=float,
        nargs=4,
        metavar=("X", "Y", "W", "H"),
        help="in the first image (default: the first label of the sequence in whose folder the recording is)",
    )
    p.add_argument("--config", required=True, help="config of an SDTrack")
    p.add_argument("--checkpoint", required=True, metavar="FILE", help="its weights")
    p.add_argument("--out", type=Path, required=True, metavar="OUT", help="a video such as a.mp4, or a folder")
    p.add_argument("--interval", type=int, metavar="µs", help="of an image (default: between the camera's frames)")
    p.add_argument(
        "--sensor",
        type=int,
        nargs=2,
        metavar=("H", "W"),
        help="size of the sensor, where the recording does not say it",
    )
    p.add_argument(
        "--time-unit",
        choices=list(UNITS),
        default="us",
        help="of the times in an .h5, .npz or .csv file (default: us, microseconds)",
    )
    p.add_argument("--start", type=int, default=0, metavar="µs", help="after the first event or frame (default: 0)")
    p.add_argument("--fps", type=float, default=25, help="of the video (default: 25)")
    console.add_device_option(p)
    p.add_argument("--overwrite", action="store_true", help="replace OUT")
    add_model_options(p)
    add_checkpoint_option(p)
    p.set_defaults(launcher="none")
    return p.parse_args()


def boundaries(args: argparse.Namespace, recording: Recording) -> np.ndarray:
    """Times between which the images lie.

    Raises:
        ValueError: the recording has no frames, or its frames go back in time, and no interval is given, or it is over before
            two images.
    """
    if args.interval is None:
        times = recordings.frame_times(recording)
        times = times[times >= times[0] + args.start]
    else:
        pieces = [(events.number, int(events.t[0]), int(events.t[-1])) for events in recording]
        first, last = (pieces[0][1] + args.start, pieces[-1][2] + 1) if pieces else (0, 0)
        count, number = sum(piece[0] for piece in pieces), (last - first) // args.interval
        if number > max(count, 1):
            raise ValueError(
                f"{args.recording} has {count} events, and gives {number} images; give a larger --interval, or the --time-unit of "
                f"a file that does not count microseconds."
            )
        times = np.arange(first, last + args.interval, args.interval)
    if len(times) < 3:
        raise ValueError(
            f"{args.recording} gives {max(0, len(times) - 1)} images; at least two are needed: a smaller --interval or --start."
        )
    return times


class Pictures:
    """Writes pictures to a video, or to a folder where there is one."""

    def __init__(self, path: Path, fps: float):
        self.path, self.fps = path, fps
        self.video: cv2.VideoWriter | None = None
        self.count = 0

    def write(self, picture: np.ndarray) -> None:
        """Add a picture; the first one says how large the video is."""
        if self.path.is_dir():
            (self.path / f"{self.count:05d}.png").write_bytes(cv2.imencode(".png", picture)[1].tobytes())
        else:
            if self.video is None:
                size = picture.shape[1], picture.shape[0]
                self.video = cv2.VideoWriter(str(self.path), cv2.VideoWriter.fourcc(*"mp4v"), self.fps, size)
                if not self.video.isOpened():
                    raise ValueError(
                        f"--out: OpenCV cannot encode a video of type {self.path.suffix} with {self.fps:g} pictures a second here; "
                        f"give one that ends in .mp4 and --fps 25, or a folder, for pictures."
                    )
            self.video.write(picture)
        self.count += 1

    def close(self) -> None:
        """End the video.

        Raises:
            ValueError: it does not have all pictures.
        """
        if self.video is not None:
            self.video.release()
            written = int(cv2.VideoCapture(str(self.path)).get(cv2.CAP_PROP_FRAME_COUNT))
            if written != self.count:
                raise ValueError(
                    f"--out: {written} of {self.count} pictures were written to the video; is the disk full?"
                )


def check_numbers(args: argparse.Namespace) -> None:
    """Raise ``ValueError`` if an interval, a rate or a time is none."""
    if args.interval is not None:
        positive_int("--interval", args.interval)
    if not 0 < args.fps <= 1000 or args.start < 0:
        raise ValueError(
            f"--fps is {args.fps:g}, and --start {args.start}; give up to 1000 pictures, more than 0, and a time from 0 on."
        )


def first_box(args: argparse.Namespace, recording: Recording) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """The box in the first image, the times between which the images lie, and the labels if the box is the first of them."""
    if args.box is not None:
        check_box(args.box, recording.size, "--box")
        return np.array(args.box), boundaries(args, recording), None
    if args.start:
        raise ValueError("--start goes with --box; labels say themselves with which image they begin.")
    labels, first = recordings.labels_beside(recording, args.interval)
    check_box(labels[0], recording.size, "the first label")
    return np.array(labels[0]), recordings.boundaries(recording, len(labels), first, args.interval), labels


def boxes_beside(out: Path, overwrite: bool) -> Path:
    """The file of boxes beside OUT; ``ValueError`` if it or OUT cannot be written, or must not be replaced."""
    check_new(out, overwrite)
    if out.is_dir():
        check_made(out, PICTURES)
    elif cv2.haveImageWriter(str(out)):  # of which OpenCV would write one after another, under names of its own
        raise ValueError(f"--out is {out}, a single picture; give a video such as a.mp4, or a folder, for pictures.")
    boxes_file = out.with_name(f"{out.name}.txt")
    check_new(boxes_file, overwrite)
    console.check_writable(out.parent, "--out")
    return boxes_file


def load(args: argparse.Namespace) -> Loaded:
    """The tracker of the config with the weights of the checkpoint; ``ValueError`` if the config has another model."""
    config = changed_config(args)
    if type_name(config.model) != "SDTrack":
        raise ValueError(f"--config {args.config} is no tracker: give one of an SDTrack, as in configs/sd_track.")
    loaded = build_config(config, args.config)
    load_weights(loaded, args.checkpoint)
    loaded.model.eval().to(args.device)
    return loaded


def follow(
    loaded: Loaded,
    recording: Recording,
    times: np.ndarray,
    box: np.ndarray,
    labels: np.ndarray | None,
    pictures: Pictures,
) -> np.ndarray:
    """Follow the object from the box in the first image on, and draw each image; the boxes of all images, (N, 4)."""
    network = loaded.network
    boxes = [box]
    follower: Follower | None = None
    images = recordings.event_images(recording, times, network.T)
    bar = tqdm(images, total=len(times) - 1, unit="image", mininterval=seconds_between_states())
    for i, image in enumerate(bar):
        start, step = time.perf_counter(), None
        if follower is None:
            follower = Follower(network, image, box, *loaded.region_sizes)
        else:
            step = follower.step(image)
            boxes.append(step.box)
        rate = 1 / max(time.perf_counter() - start, 1e-6)
        words = f"{(times[i] - times[0]) / 1e6:.3f} s   {rate:.1f} images a second"
        pictures.write(draw_step(image, step, boxes[-1], words, None if labels is None else labels[i]))
    return np.stack(boxes)


def main() -> None:
    args = parse_args()
    console.check_device(args.device)
    check_numbers(args)
    sensor = None if args.sensor is None else sensor_size(args.sensor, "--sensor")
    recording = open_recording(args.recording, sensor, args.time_unit)
    box, times, labels = first_box(args, recording)
    absent = None if labels is None else read_absent(recordings.folder_of(recording.path), len(labels))
    boxes_file = boxes_beside(args.out, args.overwrite)
    loaded = load(args)
    is_folder = args.out.is_dir() or not args.out.suffix
    with replacing_folder(args.out, PICTURES) if is_folder else replacing(args.out) as out:
        pictures = Pictures(out, args.fps)
        try:
            boxes = follow(loaded, recording, times, box, labels, pictures)
        finally:
            pictures.close()
    write_boxes(boxes_file, boxes)
    print(f"{len(boxes)} images -> {args.out}, boxes -> {boxes_file}")
    if labels is not None:
        numbers = curves(boxes, labels, absent).numbers()
        print("beside the labels, in per cent: " + ", ".join(f"{key} {value:.1f}" for key, value in numbers.items()))


if __name__ == "__main__":
    console.run_tool(main)
