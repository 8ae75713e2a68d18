"""Trackers on events: event images, files, forward pass, training step and loader, each beside the straightforward way.

    python benchmarks/tracking.py --threads 1 --out benchmarks/results/tracking_cpu.json
    python benchmarks/tracking.py --device cuda --parts forward step variants --out benchmarks/results/tracking_cuda.json

Seconds are CPU time with `--threads 1`, else time of the wall; medians of runs that take turns. Memory is the growth of the
peak resident set, on a GPU that of tensors. Images, files and loader have nothing to do with a GPU.
"""

import copy
import tempfile
from functools import partial
from pathlib import Path
from statistics import median

import cv2
import numpy as np
import torch
from deploy import onnx_file, runtimes
from plain_sdtrack import PlainSDTrack
from saved import Results, begin, options
from timing import in_turn, peak_mib, ratio, seconds

from sterf_plugins.deploy import reparameterize
from sterf_plugins.erf.calibrate import tracking_norms
from sterf_plugins.events import Events, gtp, open_recording, write_recording
from sterf_plugins.events.recording import Recording
from sterf_plugins.tracking import SDTrack
from sterf_plugins.tracking.box_losses import centre_losses
from sterf_plugins.tracking.centre_head import CentreMaps
from sterf_plugins.tracking.crops import SEARCH_FACTOR, square_crop
from sterf_plugins.tracking.follow import Follower
from sterf_plugins.tracking.pairs import TrackingPairs
from sterf_plugins.tracking.recordings import find_recorded_sequences
from sterf_plugins.tracking.sequences import find_sequences

SIZE = 260, 346  # height and width of a DAVIS346
INTERVAL = 25_000  # microseconds of an event image
RATE = 25_000  # events in it
AMOUNT, DECAY = 30, 0.8


def median_seconds(args, repeats, **sides):
    """Median seconds of each side, run in turn; the first run is warm-up."""
    times = in_turn(sides, repeats, args.device)
    return {name: median(values) for name, values in times.items()}


def random_events(rng, number, start, stop):
    """Events all over the sensor, in the order of time."""
    t = np.sort(rng.integers(start, stop, number))
    return Events.of(t, rng.integers(0, SIZE[1], number), rng.integers(0, SIZE[0], number), rng.integers(0, 2, number))


def pieces_of(images):
    """So many images' events, image by image."""
    rng = np.random.default_rng(0)
    for i in range(images):
        yield random_events(rng, RATE, i * INTERVAL, (i + 1) * INTERVAL)


def times_of(images):
    return np.arange(images + 1) * INTERVAL


def add(counts, event):
    """Count one event, a row (t, x, y, p)."""
    x, y, p = int(event[1]), int(event[2]), int(event[3])
    if 0 <= x < SIZE[1] and 0 <= y < SIZE[0]:
        counts[p][y][x] = min(255, counts[p][y][x] + float(AMOUNT))


def next_track(track, counts, before):
    """The trajectory behind an image that is no first one."""
    track = track * DECAY
    for now, then in zip(counts, before, strict=True):
        track[(then == 0) & (now != 0)] += AMOUNT
    return np.clip(track, 0, 255)


def event_by_event(events, times):
    """Event images in the way of the published script: a loop over the rows of a matrix of events; but by the clean rule."""
    images, track, before, i = [], np.zeros(SIZE), None, 0
    counts = [np.zeros(SIZE, np.uint8) for _ in range(2)]
    parts = np.linspace(times[0], times[1], 2)  # the borders of an image's parts, of which there is one
    for event in np.stack(events, 1):
        while event[0] >= times[i + 1]:
            track = track if before is None else next_track(track, counts, before)
            images.append(np.stack([track.astype(np.uint8), *counts], -1))
            before, counts, i = counts, [np.zeros(SIZE, np.uint8) for _ in range(2)], i + 1
            parts = np.linspace(times[i], times[i + 1], 2)
        if event[0] < parts[1]:
            add(counts, event)
    images.append(np.stack([next_track(track, counts, before).astype(np.uint8), *counts], -1))
    return images


def event_images(args):
    """Our event images beside the loop's, which must be equal; then the memory that a long recording takes."""
    count = 2 if args.tiny else 20
    events = Events.joined(list(pieces_of(count)))
    recording = Recording(Path("memory"), SIZE, lambda: iter([events]))

    def ours():
        return [image.pixels for image in gtp(recording, times_of(count))]

    loop = partial(event_by_event, events, times_of(count))
    for a, b in zip(ours(), loop(), strict=True):
        if not np.array_equal(a, b):
            raise ValueError("the two sides make other images; the comparison would be void")
    spent = median_seconds(args, args.repeats, ours=ours, loop=loop)
    per_image = {name: 1e3 * value / count for name, value in spent.items()}
    return dict(
        events_per_image=RATE,
        milliseconds_per_image=per_image,
        ratio=spent["loop"] / spent["ours"],
        events=(100_000 if args.tiny else 50_000_000),
        peak_mib=long_recording(args),
    )


def long_recording(args):
    """Memory of making the event images of a file with 50 million events."""
    count = (100_000 if args.tiny else 50_000_000) // RATE
    with tempfile.TemporaryDirectory() as folder:
        path = write_recording(Path(folder) / "long.h5", pieces_of(count), SIZE)

        def work():
            for image in gtp(open_recording(path), times_of(count)):
                assert image.pixels.any()

        return peak_mib(work)


def aedat4(args):
    """Reading AEDAT4: ours, which checks events and makes int64 of them, beside the library's bare iterator."""
    import faery

    with tempfile.TemporaryDirectory() as folder:
        path = write_recording(Path(folder) / "a.aedat4", pieces_of(4 if args.tiny else 80), SIZE)

        def library():
            return sum(len(piece) for piece in faery.events_stream_from_file(path))

        def ours():
            return sum(events.number for events in open_recording(path))

        assert library() == ours()
        spent = median_seconds(args, args.repeats, ours=ours, library=library)
    return dict(events=RATE * (4 if args.tiny else 80), seconds=spent, ratio=spent["ours"] / spent["library"])


def settings(args, **options):
    """Arguments of a Tiny tracker, or of a much smaller one."""
    return options | (dict(arch=dict(embed_dims=(8, 8, 16, 16), num_heads=2), head_width=16) if args.tiny else {})


def sides_of(args):
    """Sides of template and search region."""
    return (64, 128) if args.tiny else (128, 256)


def pairs(args, batch, T, sides):
    """Sparse event images: template and search region, (B, 3, H, W) or (T, B, 3, H, W)."""
    generator = torch.Generator().manual_seed(0)
    lead = (batch,) if T == 1 else (T, batch)
    shapes = [(*lead, 3, side, side) for side in sides]
    return tuple(30.0 * torch.poisson(torch.full(shape, 0.2), generator=generator).to(args.device) for shape in shapes)


def built(args, images, **options):
    """A tracker with random weights, and norms that have the statistics of the images, so that its neurons fire."""
    torch.manual_seed(0)
    network = SDTrack(**settings(args, **options)).to(args.device).train()
    for norm in tracking_norms(network):
        norm.momentum = None  # a plain mean: one pass is enough
    with torch.no_grad():
        network(*images)
    return network.eval()


def largest_difference(a, b):
    """Largest difference of the maps of two sides."""
    return max(float((x - y).detach().abs().max()) for x, y in zip(a, b, strict=True))


def same(network, others, images):
    """How far maps of the other sides are from the network's, in float64: in float32 rounding may flip spikes."""
    images = [x.double() for x in images]
    with torch.no_grad():
        expected = network.double()(*images)
        found = {name: largest_difference(other.double()(*images), expected) for name, other in others.items()}
    if expected.offset.std() < 1e-3:
        raise ValueError("the network gives constants; the comparison would be void")
    for module in (network, *others.values()):
        module.float()
    if max(found.values()) > 1e-4:
        raise ValueError(f"the sides differ by {found}; the comparison would be void")
    return found


@torch.no_grad()
def forward(args):
    """A forward pass of one pair: folded, as it is, and the plain implementation."""
    network = built(args, pairs(args, 4, 1, sides_of(args)))
    images = pairs(args, 1, 1, sides_of(args))
    others = dict(folded=reparameterize(network, images), plain=PlainSDTrack(network).eval())
    differences = same(network, others, images)
    sides = {name: partial(side, *images) for name, side in dict(ours=network, **others).items()}
    runs = in_runtimes(args, others["folded"], images)
    spent = median_seconds(args, args.repeats, **sides, **runs)
    return dict(
        seconds=spent,
        ratio=spent["plain"] / spent["folded"],
        runtimes={name: spent["plain"] / spent[name] for name in runs},
        unfolded=spent["plain"] / spent["ours"],
        differences=differences,
        share_of_convolutions=convolution_shares(others, images),
    )


def in_runtimes(args, network, images):
    """The network as a file in each runtime that is installed; none on other devices than a CPU, or where all is small."""
    if args.device != "cpu" or args.tiny:  # writing the file takes seconds, however small the network is
        return {}
    with tempfile.TemporaryDirectory() as folder:
        runs = runtimes(onnx_file(network, images, Path(folder)), args)
    arrays = [x.numpy() for x in images]
    return {name: partial(run, *arrays) for name, run in runs.items()}


def convolution_shares(sides, images):
    """Share of the time inside convolutions, which no implementation gets around, as the profiler measures it."""
    found = {}
    for name, side in sides.items():
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
            side(*images)
        seconds = {e.key: e.self_cpu_time_total for e in profile.key_averages()}
        inside = sum(seconds.get(f"aten::{k}", 0) for k in ("mkldnn_convolution", "_slow_conv2d_forward"))
        found[name] = inside / sum(seconds.values())
    return found


def train(network, images):
    """Forward pass, losses and backward pass; the gradients stay."""
    network.zero_grad(set_to_none=True)
    batch = images[0].shape[-4]
    boxes = torch.tensor([0.4, 0.3, 0.2, 0.25], device=images[0].device).expand(batch, 4)
    sum(centre_losses(CentreMaps(*network(*images)), boxes).values()).backward()


def training_step(args):
    """A training step of a batch of eight with SRB, and its memory."""
    images = pairs(args, 2 if args.tiny else 8, 1, sides_of(args))
    torch.manual_seed(0)
    network = SDTrack(**settings(args, mixer="srb", sep_conv=True)).to(args.device).train()
    efficient = copy.deepcopy(network)
    efficient.backbone.memory_efficient = True
    sides = {"ours": network, "plain": PlainSDTrack(network).train(), "ours, memory_efficient": efficient}
    works = {name: partial(train, side, images) for name, side in sides.items()}
    spent = median_seconds(args, max(1, args.repeats // 2), **works)
    peak = {name: peak_mib(work, args.device) for name, work in works.items()}
    return dict(
        seconds=spent,
        ratio=spent["plain"] / spent["ours"],
        peak_mib=peak,
        memory={name: ratio(value, peak["plain"]) for name, value in peak.items() if name != "plain"},
    )


@torch.no_grad()
def four_steps(args):
    """The variant of four time steps beside four passes of the one without time."""
    one, four = (
        built(args, pairs(args, 2, T, sides_of(args)), variant=variant) for variant, T in (("1x4", 1), ("4x1", 4))
    )
    inputs = {T: pairs(args, 1, T, sides_of(args)) for T in (1, 4)}
    spent = median_seconds(args, args.repeats, **{"1x4": partial(one, *inputs[1]), "4x1": partial(four, *inputs[4])})
    return dict(seconds=spent, ratio=spent["4x1"] / spent["1x4"])


def data_set(root, frames):
    """A sequence in the layout of FE108: a recording of random events, a box that moves, and the event images as PNG."""
    folder = Path(root) / "train" / "sequence" / "inter1_stack_3008"
    folder.mkdir(parents=True)
    path = write_recording(folder.parent / "events.aedat4", pieces_of(frames), SIZE)
    for image in gtp(open_recording(path), times_of(frames)):
        cv2.imwrite(str(folder / f"{image.interval + 1:04d}_1.png"), image.pixels[..., ::-1])
    boxes = [f"{100 + i % 60},{80 + i % 40},40,30" for i in range(frames)]
    (folder.parent / "groundtruth_rect.txt").write_text("\n".join(boxes))


def loader(args):
    """Pairs per second of one process, and the frames per second of a test, crop and network apart."""
    with tempfile.TemporaryDirectory() as root:
        data_set(root, 24 if args.tiny else 60)
        return dict(loaded_pairs(args, root), **tested_frames(args, *find_sequences(root, "fe108", "train")))


def loaded_pairs(args, root):
    """Pairs per second from PNG files and from the recording, whose images are all made when the first one is needed."""
    count = 4 if args.tiny else 40
    sequences = find_recorded_sequences(root, "fe108", "train", interval=INTERVAL)
    made = seconds(lambda: sequences[0].image(0), args.device)
    found = dict(png=find_sequences(root, "fe108", "train"), events=sequences)
    sets = {name: TrackingPairs(side, 10_000, *sides_of(args)) for name, side in found.items()}

    def draw(dataset):
        for i in range(count):
            dataset[i]

    spent = median_seconds(args, args.repeats, **{name: partial(draw, dataset) for name, dataset in sets.items()})
    return dict(
        pairs_per_second={name: count / value for name, value in spent.items()},
        images_made_per_second=len(sequences[0]) / made,
    )


def tested_frames(args, sequence):
    """Milliseconds of a frame of a test by its parts, and frames per second."""
    sides = sides_of(args)
    box = sequence.boxes[1]
    network = built(args, pairs(args, 2, 1, sides))
    follower = Follower(network, sequence.image(0), sequence.boxes[0], *sides)
    image, inputs = sequence.image(1), pairs(args, 1, 1, sides)

    def run_network():
        with torch.no_grad():
            network(*inputs)

    spent = median_seconds(
        args,
        args.repeats,
        read=lambda: sequence.image(1),
        crop=lambda: square_crop(image, box, SEARCH_FACTOR, sides[1]),
        network=run_network,
        step=lambda: follower.step(image),
    )
    return dict(
        milliseconds_per_frame={name: 1e3 * value for name, value in spent.items()},
        frames_per_second=1 / (spent["read"] + spent["step"]),
    )


PARTS = dict(
    images=event_images, aedat4=aedat4, forward=forward, step=training_step, variants=four_steps, loader=loader
)


def main():
    p = options(__doc__, repeats=5, threads=1)
    p.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    args = begin(p)
    results = Results.of(args)
    for name in args.parts:
        results.once(partial(PARTS[name], args), name)


if __name__ == "__main__":
    main()
