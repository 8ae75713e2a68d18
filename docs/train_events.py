"""Train one of our models with time steps to classify event recordings.

    python docs/train_events.py                                  # writes a small data set, and trains on it
    python docs/train_events.py data/recordings --size 128 128   # any ROOT/CLASS/FILE, or ROOT/{train,test}/CLASS/FILE
    python docs/train_events.py data/DVS128 --layout dvs128_gesture --steps 16 --model-kwargs depth=2 dim=256

Without a folder, recordings of moving shapes are written to OUT/data: circles, squares and triangles that move in one of
four directions, 12 classes. Half of the shapes are brighter than what is behind them and half are darker, so that only the
order of the time steps tells the direction. After an interruption the same command goes on with --resume.
"""

import argparse
import sys
from collections.abc import Callable
from contextlib import nullcontext
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from timm.optim import create_optimizer_v2
from timm.scheduler import create_scheduler_v2
from timm.utils import AverageMeter, ParseKwargs
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader
from torchvision.transforms.v2 import Resize
from tqdm import tqdm

import sterf_plugins.timm  # noqa: F401
from sterf_plugins.checkpoints.reading import read_checkpoint
from sterf_plugins.checks import number
from sterf_plugins.cli.console import check_counts, check_device, check_writable, run_tool
from sterf_plugins.events import SHAPES, EventFolder, Events, Motion, collate_time_first, render, write_recording
from sterf_plugins.events.folder import LAYOUTS
from sterf_plugins.events.representations import REPRESENTATIONS
from sterf_plugins.files import replacing
from sterf_plugins.firing import FiringRates, neuron_layers, silence

# The recordings that are written: pixels, frames, microseconds of a frame; videos rendered at once.
SIZE, FRAMES, FRAME, BATCH = (32, 32), 16, 1000, 64
MOTION = Motion(translate=0.4, size=8)
ORDERS = 5  # random orders of the time steps, over which the accuracy in random order is averaged
DIRECTIONS = ("up-left", "up-right", "down-left", "down-right")
# Options that a training keeps when it goes on.
LASTING = ("model", "model_kwargs", "layout", "steps", "kind", "by", "size", "sensor", "epochs", "batch_size", "lr", "seed")


def parse_args() -> argparse.Namespace:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("data", type=Path, nargs="?", help="folder of the data set (default: one is written to OUT/data)")
    p.add_argument("--layout", default="folders", choices=LAYOUTS, help="of the folder (default: %(default)s)")
    p.add_argument("--recordings", type=int, default=80, help="to write of each class (default: %(default)s)")
    p.add_argument("--model", default="spikformer_8_384", help="a timm name (default: %(default)s)")
    p.add_argument(
        "--model-kwargs", nargs="*", action=ParseKwargs, metavar="NAME=VALUE", default=dict(depth=2, dim=64, num_heads=4),
        help="arguments of the model (default: depth=2 dim=64 num_heads=4)",
    )  # fmt: skip
    p.add_argument("--steps", type=int, default=8, help="T, time steps of a recording (default: %(default)s)")
    p.add_argument("--kind", default="histogram", choices=REPRESENTATIONS, help="representation (default: %(default)s)")
    p.add_argument(
        "--by", default="time", choices=["time", "count"], help="what steps have alike (default: %(default)s)"
    )
    p.add_argument("--size", type=int, nargs=2, metavar=("ROWS", "COLUMNS"), help="of samples (default: the sensor's)")
    p.add_argument(
        "--sensor", type=int, nargs=2, metavar=("H", "W"), help="that holds all recordings (default: the first one's)"
    )
    p.add_argument("--epochs", type=int, default=15, help="(default: %(default)s)")
    p.add_argument("--batch-size", type=int, default=32, help="(default: %(default)s)")
    p.add_argument("--lr", type=float, default=2e-3, help="learning rate (default: %(default)s)")
    p.add_argument("--workers", type=int, default=0, help="processes that read recordings (default: %(default)s)")
    p.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="(default: %(default)s)")
    p.add_argument("--out", type=Path, default=Path("work_dirs/events"), help="(default: %(default)s)")
    p.add_argument("--resume", action="store_true", help="go on from OUT/last.pth")
    p.add_argument("--overwrite", action="store_true", help="start anew where OUT has the checkpoint of a training")
    p.add_argument("--seed", type=int, default=0, help="of weights, order and split (default: %(default)s)")
    return p.parse_args()


def write_shapes(root: Path, recordings: int) -> None:
    """Write recordings of moving shapes, ROOT/SHAPE-DIRECTION/NUMBER.h5; those that are there stay."""
    total = recordings * len(SHAPES) * len(DIRECTIONS)
    with tqdm(total=total, unit="recording", desc=str(root), disable=None) as bar:
        for s, shape in enumerate(SHAPES):
            files = {d: [root / f"{shape}-{d}" / f"{i:04d}.h5" for i in range(recordings)] for d in DIRECTIONS}
            if all(file.exists() for group in files.values() for file in group):
                bar.update(recordings * len(DIRECTIONS))
                continue
            for batch in count():
                if not any(files.values()):
                    break
                videos, centres = render(BATCH, FRAMES, SIZE, MOTION, (shape,), seed=1000 * s + batch)
                signs = centres[:, :, 0].diff(dim=0).sign()  # (frames - 1, videos, 2)
                straight = (signs == signs[0]).all(0).all(-1)  # those that have not met the border
                for i in straight.nonzero()[:, 0].tolist():
                    down, right = (signs[0, i] > 0).tolist()
                    waiting = files[DIRECTIONS[2 * down + right]]
                    if waiting:
                        file = waiting.pop(0)
                        if not file.exists():
                            events = events_of(videos[:, i], np.random.default_rng([s, batch, i]))
                            write_recording(file, events, SIZE)
                        bar.update()


def events_of(video: torch.Tensor, rng: np.random.Generator) -> Events:
    """Events of bool frames (T, 2, H, W): at random times within their frames, and of a shape bright or dark at random."""
    frame, p, y, x = video.numpy().nonzero()
    t = frame * FRAME + rng.integers(0, FRAME, len(frame))
    order = np.argsort(t, kind="stable")
    return Events.of(*(column[order] for column in (t, x, y, p ^ rng.integers(0, 2))))


def data_sets(args: argparse.Namespace) -> tuple[EventFolder, EventFolder]:
    """Training and test set."""
    root = args.data or args.out / "data"
    if args.data is None:
        write_shapes(root, args.recordings)
    options: dict[str, Any] = dict(T=args.steps, kind=args.kind, by=args.by, layout=args.layout)
    options |= dict(seed=args.seed, sensor=args.sensor)
    transform = Resize(args.size) if args.size else None
    train, test = (EventFolder(root, split, transform=transform, **options) for split in ("train", "test"))
    return train, test


def read_once(dataset: EventFolder) -> None:
    """Read every recording, so that none stops the training later."""
    with tqdm(total=len(dataset), unit="recording", desc="reading", disable=None, leave=False) as bar:
        dataset.check(lambda done, total: bar.update())


def build(args: argparse.Namespace, channels: int, classes: int) -> torch.nn.Module:
    """The model, on the device.

    Raises:
        ValueError: it has no time axis, or does not take ``--model-kwargs``.
    """
    try:
        model = timm.create_model(args.model, in_chans=channels, num_classes=classes, **args.model_kwargs)
    except TypeError as error:
        if not any(f"'{name}'" in str(error) for name in args.model_kwargs):
            raise
        raise ValueError(f"--model-kwargs {args.model_kwargs} are not those of {args.model}: {error}") from error
    if not hasattr(model, "T"):
        raise ValueError(
            f"--model {args.model} takes images (B, C, H, W) and has no time steps; give a Spikformer, SDT-V1, Meta-SDT, "
            f"QKFormer or Max-Former, such as spikformer_8_384."
        )
    return model.to(args.device)


@torch.no_grad()
def score(
    model: torch.nn.Module, loader: DataLoader, device: str, order: Callable[[int], torch.Tensor] = torch.arange
) -> float:
    """Accuracy in percent; ``order`` gives the order of the time steps."""
    model.eval()
    right = AverageMeter()
    for x, y in loader:
        hit = model(x[order(len(x))].to(device)).argmax(1).cpu() == y
        right.update(hit.float().mean().item(), len(y))
    return 100 * right.avg


def main() -> None:
    args = parse_args()
    check_counts(args, "recordings", "steps", "size", "epochs", "batch_size")
    number("--lr", args.lr, lambda lr: 0 <= lr < np.inf, "a learning rate from 0 on")
    if args.workers < 0:
        raise ValueError(f"--workers is {args.workers}; it must be at least 0.")
    check_device(args.device)
    check_writable(args.out, "--out")
    if (args.out / "last.pth").exists() and not (args.resume or args.overwrite):
        raise ValueError(
            f"{args.out} has the checkpoint of a training: give --resume to go on with it, another --out, or --overwrite to "
            f"replace it."
        )
    train, test = data_sets(args)
    torch.manual_seed(args.seed)
    model = build(args, train.channels, len(train.classes))
    order = torch.Generator()
    common: dict[str, Any] = dict(batch_size=args.batch_size, num_workers=args.workers, collate_fn=collate_time_first)
    batches = DataLoader(train, shuffle=True, drop_last=True, generator=order, **common)
    test_batches = DataLoader(test, **common)
    if not len(batches):
        raise ValueError(f"there are {len(train)} recordings to train on, fewer than --batch-size {args.batch_size}.")
    optimizer = create_optimizer_v2(model, "adamw", lr=args.lr, weight_decay=0.05)
    scheduler, epochs = create_scheduler_v2(
        optimizer, "cosine", num_epochs=args.epochs, warmup_epochs=min(2, args.epochs - 1), warmup_lr=args.lr / 10
    )
    settings = {name: getattr(args, name) for name in LASTING} | dict(classes=train.classes)
    start = restore(args.out / "last.pth", settings, model, optimizer) if args.resume else 0
    read_once(train)
    read_once(test)

    targets = [target for _, target in test.samples]
    chance = 100 * max(map(targets.count, set(targets))) / len(targets)
    print(f"{len(train)} recordings to train on, {len(test)} to test on, {len(train.classes)} classes", flush=True)
    for epoch in range(start, epochs):
        scheduler.step(epoch)
        order.manual_seed(args.seed * 100_000 + epoch)
        losses = AverageMeter()
        model.train()
        for x, y in tqdm(batches, desc=f"epoch {epoch + 1}/{epochs}", unit="batch", disable=None, leave=False):
            loss = cross_entropy(model(x.to(args.device)), y.to(args.device))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.update(loss.item(), len(y))
        watched = epoch in (0, epochs - 1) and bool(neuron_layers(model))
        with FiringRates(model) if watched else nullcontext() as rates:
            right = score(model, test_batches, args.device)
        results = f"loss {losses.avg:.4f}, test accuracy {right:.1f} % (chance {chance:.1f} %)"
        print(f"epoch {epoch + 1}/{epochs}: {results}", flush=True)
        line = silence(rates.layers) if rates else None
        if line:
            print(f"epoch {epoch + 1}, test recordings: {line}", file=sys.stderr)
        with replacing(args.out / "last.pth") as partial:
            state = dict(
                state_dict=model.state_dict(), optimizer=optimizer.state_dict(), epoch=epoch, settings=settings,
                random=torch.get_rng_state(),
            )  # fmt: skip
            torch.save(state, partial)
    right = score(model, test_batches, args.device)
    mixed = sum(score(model, test_batches, args.device, torch.randperm) for _ in range(ORDERS)) / ORDERS
    print(f"test accuracy {right:.1f} %, with the time steps in random order {mixed:.1f} %, by chance {chance:.1f} %")


def restore(path: Path, settings: dict, model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> int:
    """Load a checkpoint of a training with these settings; the number of the next epoch.

    Raises:
        ValueError: there is no checkpoint, or it is of other settings.
    """
    if not path.is_file():
        raise ValueError(f"--resume: there is no {path}; leave it out to begin a training.")
    saved = read_checkpoint(path)
    if not {"settings", "state_dict", "optimizer", "epoch", "random"} <= saved.keys():
        raise ValueError(f"--resume: {path} is of another program, or of an older one; give another --out.")
    old = saved["settings"]
    other = [f"{name} = {old.get(name)}" for name in settings if old.get(name) != settings[name]]
    if other:
        raise ValueError(
            f"--resume: {path} was trained with {', '.join(other)}; give the same options and data, or another --out."
        )
    model.load_state_dict(saved["state_dict"])
    optimizer.load_state_dict(saved["optimizer"])
    torch.set_rng_state(saved["random"])
    return saved["epoch"] + 1


if __name__ == "__main__":
    run_tool(main, again="the same command and --resume")
